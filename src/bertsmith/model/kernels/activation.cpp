// GELU of x + bias, exact (by the normal distribution's function, not by tanh), forward and backward.
//
// Inside everything is float32. The backward pass gives the gradient of x and, its sum over the rows, the bias's.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr float kInverseRootOfTwoPi = 0.3989422804014327f;

// The normal distribution's function and density at z. With a = |z| and t = 1 / (1 + c a) the tail is exp(-a^2 / 2) times a
// polynomial in t, fitted to erfc(a / sqrt 2) exp(a^2 / 2) / 2: so the left tail is precise too, where 1 + erf(z / sqrt 2)
// would cancel.
struct Normal {
  Vec below;
  Vec density;
};

inline Normal normal_from(Vec z, Vec bell, Vec tail) {
  return {z < 0.0f ? tail : 1.0f - tail, bell * kInverseRootOfTwoPi};
}

// For float32; c = 0.3, the polynomial's relative error is below 1.3e-7.
inline Normal normal_at(Vec z, float) {
  const Vec a = z < 0.0f ? -z : z;
  const Vec t = 1.0f / (1.0f + 0.3f * a);
  const Vec bell = exp_of(a * a * -0.5f);
  Vec p = t * 3.60362039e-2f - 1.58713222e-1f;
  p = p * t + 2.08963953e-1f;
  p = p * t - 5.60953214e-2f;
  p = p * t + 1.29843133e-1f;
  p = p * t + 9.95231463e-2f;
  p = p * t + 1.20816879e-1f;
  p = p * t + 1.19625166e-1f;
  return normal_from(z, bell, bell * (p * t));
}

// For bfloat16, whose rounding is twenty times the relative error here, 2e-4; c = 0.25.
inline Normal normal_at(Vec z, BFloat16) {
  const Vec a = z < 0.0f ? -z : z;
  const Vec t = about_inverse(1.0f + 0.25f * a);
  // 2^x by a polynomial on [-1/2, 1/2]; the sum's low bits are the whole part.
  Vec x = a * a * -0.72134752f;
  x = x < -126.0f ? Vec{} - 126.0f : x;
  const Vec shifted = x + 12582912.0f;
  const Vec rest = x - (shifted - 12582912.0f);
  Vec power = rest * 5.517167e-2f + 2.4261114e-1f;
  power = power * rest + 6.9326099e-1f;
  power = power * rest + 9.9992807e-1f;
  const Vec bell = same_bits<Vec>(same_bits<UintVec>(power) + (same_bits<UintVec>(shifted) << 23));
  Vec p = t * 2.4159292e-1f - 1.0386987e-1f;
  p = p * t + 1.803892e-1f;
  p = p * t + 8.0519012e-2f;
  p = p * t + 1.0134871e-1f;
  return normal_from(z, bell, bell * (p * t));
}

// x + bias from column `k` on; the bias (width,) may be null.
template <typename T, typename Count>
inline Vec sum(const T* x, const float* bias, int k, Count count) {
  return bias ? load(x, count) + load(bias + k, count) : load(x, count);
}

template <typename T>
void forward(int64_t rows, int width, const T* x, const float* bias, T* out, int threads) {
  const int64_t blocks = blocks_of(rows);
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t end = std::min((block + 1) * kBlockRows, rows);
    for (int64_t row = block * kBlockRows; row < end; ++row)
      for_vectors(width, [&](int k, auto count) {
        const Vec z = sum(x + row * width + k, bias, k, count);
        store(out + row * width + k, z * normal_at(z, T{}).below, count);
      });
  }
}

template <typename T>
void backward(int64_t rows, int width, const T* x, const float* bias, const T* out_gradient, T* x_gradient,
              float* bias_gradient, float* scratch, int threads) {
  const int64_t blocks = blocks_of(rows);
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    float* sums = scratch + block * width;
    std::fill(sums, sums + width, 0.0f);
    const int64_t end = std::min((block + 1) * kBlockRows, rows);
    for (int64_t row = block * kBlockRows; row < end; ++row)
      for_vectors(width, [&](int k, auto count) {
        const Vec z = sum(x + row * width + k, bias, k, count);
        const Normal normal = normal_at(z, T{});
        const Vec change = load(out_gradient + row * width + k, count) * (normal.below + z * normal.density);
        store(x_gradient + row * width + k, change, count);
        store(sums + k, load(sums + k, count) + change, count);
      });
  }
  sum_blocks(scratch, blocks, width, width, bias_gradient);
}

}  // namespace

// What Python calls. `is_bfloat16` tells the type of x (rows, width), of what is made of it and of both gradients; the
// bias and its gradient are float32. `scratch` has room for a row a block of rows.
extern "C" {

void gelu_forward(int is_bfloat16, int64_t rows, int width, const void* x, const float* bias, void* out, int threads) {
  if (is_bfloat16)
    forward(rows, width, static_cast<const BFloat16*>(x), bias, static_cast<BFloat16*>(out), threads);
  else
    forward(rows, width, static_cast<const float*>(x), bias, static_cast<float*>(out), threads);
}

void gelu_backward(int is_bfloat16, int64_t rows, int width, const void* x, const float* bias,
                   const void* out_gradient, void* x_gradient, float* bias_gradient, float* scratch, int threads) {
  if (is_bfloat16)
    backward(rows, width, static_cast<const BFloat16*>(x), bias, static_cast<const BFloat16*>(out_gradient),
             static_cast<BFloat16*>(x_gradient), bias_gradient, scratch, threads);
  else
    backward(rows, width, static_cast<const float*>(x), bias, static_cast<const float*>(out_gradient),
             static_cast<float*>(x_gradient), bias_gradient, scratch, threads);
}
}
