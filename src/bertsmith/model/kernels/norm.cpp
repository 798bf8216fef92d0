// Layer norm of a residual sum: norm(residual + dropout(x + bias)), forward and backward, one pass over memory each.
//
// Rows are tokens. Inside everything is float32. The forward pass remembers a mean and a deviation a row; the backward
// pass makes the sum again from the inputs, and the same dropout bits again from their counter.

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace {

// What a call works on. `bias` (width,) may be null, and x (rows, width) with it: then the residual alone is normalised.
// `inside` drops of x + bias, `outside` of the result.
template <typename T>
struct Norm {
  int64_t rows;
  int width;
  const float* residual;
  const T* x;
  const float* bias;
  const float* weight;
  Dropout inside, outside;

  // Writes a row of the sum that is normalised; returns its total.
  float sum_row(int64_t row, float* sums) const {
    const float* kept = residual + row * width;
    const T* added = x ? x + row * width : nullptr;
    const uint32_t key = inside.threshold ? inside.row_key(row) : 0;
    Vec total{};
    for_vectors(width, [&](int k, auto count) {
      Vec value = load(kept + k, count);
      if (added) {
        Vec more = load(added + k, count);
        if (bias) more += load(bias + k, count);
        if (inside.threshold) more *= inside.factors(key, k);
        value += more;
      }
      total += value;
      store(sums + k, value, count);
    });
    return sum_of(total);
  }

  void forward_row(int64_t row, const float* shift, float epsilon, float* sums, float* out, T* copy, float* mean_place,
                   float* scale_place) const {
    const float mean = sum_row(row, sums) / static_cast<float>(width);
    Vec squares{};
    for_vectors(width, [&](int k, auto count) {
      const Vec distance = first_lanes(load(sums + k, count) - mean, count);
      squares += distance * distance;
    });
    const float scale = 1.0f / std::sqrt(sum_of(squares) / static_cast<float>(width) + epsilon);
    const uint32_t key = outside.threshold ? outside.row_key(row) : 0;
    for_vectors(width, [&](int k, auto count) {
      Vec value = (load(sums + k, count) - mean) * scale * load(weight + k, count) + load(shift + k, count);
      if (outside.threshold) value *= outside.factors(key, k);
      store(out + row * width + k, value, count);
      if (copy) store(copy + row * width + k, value, count);
    });
    mean_place[row] = mean;
    scale_place[row] = scale;
  }

  // `scratch` has room for two rows; `weight_sums`, `shift_sums` and `bias_sums` are added to.
  void backward_row(int64_t row, float mean, float scale, const float* out_gradient, const T* copy_gradient,
                    float* scratch, float* residual_gradient, T* x_gradient, float* weight_sums, float* shift_sums,
                    float* bias_sums) const {
    float* normal = scratch;
    float* change = scratch + width;
    sum_row(row, normal);
    const uint32_t outside_key = outside.threshold ? outside.row_key(row) : 0;
    Vec total{}, weighted{};
    for_vectors(width, [&](int k, auto count) {
      Vec received = out_gradient ? load(out_gradient + row * width + k, count) : Vec{};
      if (copy_gradient) received += load(copy_gradient + row * width + k, count);
      if (outside.threshold) received *= outside.factors(outside_key, k);
      const Vec value = (load(normal + k, count) - mean) * scale;
      store(weight_sums + k, load(weight_sums + k, count) + received * value, count);
      store(shift_sums + k, load(shift_sums + k, count) + received, count);
      received *= load(weight + k, count);
      total += received;
      weighted += received * value;
      store(normal + k, value, count);
      store(change + k, received, count);
    });
    const float mean_change = sum_of(total) / static_cast<float>(width);
    const float along = sum_of(weighted) / static_cast<float>(width);
    const uint32_t key = inside.threshold ? inside.row_key(row) : 0;
    for_vectors(width, [&](int k, auto count) {
      Vec value = (load(change + k, count) - mean_change - load(normal + k, count) * along) * scale;
      if (residual_gradient) store(residual_gradient + row * width + k, value, count);
      if (x) {
        if (inside.threshold) value *= inside.factors(key, k);
        store(x_gradient + row * width + k, value, count);
        store(bias_sums + k, load(bias_sums + k, count) + value, count);
      }
    });
  }
};

template <typename T>
void forward(const Norm<T>& norm, const float* shift, float epsilon, float* out, T* copy, float* means, float* scales,
             float* scratch, int threads) {
  const int64_t blocks = blocks_of(norm.rows);
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t end = std::min((block + 1) * kBlockRows, norm.rows);
    for (int64_t row = block * kBlockRows; row < end; ++row)
      norm.forward_row(row, shift, epsilon, scratch + block * norm.width, out, copy, means, scales);
  }
}

template <typename T>
void backward(const Norm<T>& norm, const float* means, const float* scales, const float* out_gradient,
              const T* copy_gradient, float* residual_gradient, T* x_gradient, float* vector_gradients, float* scratch,
              int threads) {
  const int64_t blocks = blocks_of(norm.rows);
  const int width = norm.width;
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    float* sums = scratch + block * 5 * width;
    std::memset(sums, 0, sizeof(float) * 3 * static_cast<size_t>(width));
    const int64_t end = std::min((block + 1) * kBlockRows, norm.rows);
    for (int64_t row = block * kBlockRows; row < end; ++row)
      norm.backward_row(row, means[row], scales[row], out_gradient, copy_gradient, sums + 3 * width,
                        residual_gradient, x_gradient, sums, sums + width, sums + 2 * width);
  }
  sum_blocks(scratch, blocks, 5 * width, 3 * width, vector_gradients);
}

}  // namespace

// What Python calls. `is_bfloat16` tells the type of x, of the copy and of their gradients; the residual, what comes out
// and its gradient, the vectors and theirs are float32. A place that is null is not read or written. `scratch` has room
// for a row a block of rows in the forward pass, for five in the backward pass; `vector_gradients` is (3, width): the
// weight's, the shift's and the bias's.
extern "C" {

void norm_forward(int is_bfloat16, int64_t rows, int width, const float* residual, const void* x, const float* bias,
                  const float* weight, uint32_t inside_threshold, float inside_kept, uint64_t inside_seed,
                  uint32_t outside_threshold, float outside_kept, uint64_t outside_seed, const float* shift,
                  float epsilon, float* out, void* copy, float* means, float* scales, float* scratch, int threads) {
  const Dropout inside{inside_threshold, inside_kept, inside_seed};
  const Dropout outside{outside_threshold, outside_kept, outside_seed};
  if (is_bfloat16)
    forward(Norm<BFloat16>{rows, width, residual, static_cast<const BFloat16*>(x), bias, weight, inside, outside},
            shift, epsilon, out, static_cast<BFloat16*>(copy), means, scales, scratch, threads);
  else
    forward(Norm<float>{rows, width, residual, static_cast<const float*>(x), bias, weight, inside, outside}, shift,
            epsilon, out, static_cast<float*>(copy), means, scales, scratch, threads);
}

void norm_backward(int is_bfloat16, int64_t rows, int width, const float* residual, const void* x, const float* bias,
                   const float* weight, uint32_t inside_threshold, float inside_kept, uint64_t inside_seed,
                   uint32_t outside_threshold, float outside_kept, uint64_t outside_seed, const float* means,
                   const float* scales, const float* out_gradient, const void* copy_gradient,
                   float* residual_gradient, void* x_gradient, float* vector_gradients, float* scratch, int threads) {
  const Dropout inside{inside_threshold, inside_kept, inside_seed};
  const Dropout outside{outside_threshold, outside_kept, outside_seed};
  if (is_bfloat16)
    backward(Norm<BFloat16>{rows, width, residual, static_cast<const BFloat16*>(x), bias, weight, inside, outside},
             means, scales, out_gradient, static_cast<const BFloat16*>(copy_gradient), residual_gradient,
             static_cast<BFloat16*>(x_gradient), vector_gradients, scratch, threads);
  else
    backward(Norm<float>{rows, width, residual, static_cast<const float*>(x), bias, weight, inside, outside}, means,
             scales, out_gradient, static_cast<const float*>(copy_gradient), residual_gradient,
             static_cast<float*>(x_gradient), vector_gradients, scratch, threads);
}
}
