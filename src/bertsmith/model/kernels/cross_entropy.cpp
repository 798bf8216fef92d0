// Softmax cross entropy over a vocabulary: of logits, a row a prediction, the losses and in their place the gradients.

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace {

// Of one row: returns the loss and whether no other token has a higher logit than the label. If `bias_sums` is there,
// the logits become the gradient of the loss by them, which is added to it too. `shares` has room for a row.
template <typename T>
float look_at(T* logits, int width, const float* bias, int64_t label, float* shares, float* bias_sums, int64_t* right) {
  Vec most = Vec{} - INFINITY;
  for_vectors(width, [&](int k, auto count) {
    const Vec value = load(logits + k, count) + load(bias + k, count);
    store(shares + k, value, count);
    const Vec seen = first_lanes(value, count, most);
    most = seen > most ? seen : most;
  });
  const float largest = largest_of(most);
  const float asked = shares[label];
  *right = asked == largest;
  Vec sums{};
  for_vectors(width, [&](int k, auto count) {
    const Vec share = exp_of(load(shares + k, count) - largest);
    sums += first_lanes(share, count);
    store(shares + k, share, count);
  });
  const float total = sum_of(sums);
  if (bias_sums) {
    const float inverse = 1.0f / total;
    shares[label] -= total;
    for_vectors(width, [&](int k, auto count) {
      const Vec change = load(shares + k, count) * inverse;
      store(logits + k, change, count);
      store(bias_sums + k, load(bias_sums + k, count) + change, count);
    });
  }
  return std::log(total) + (largest - asked);
}

template <typename T>
void look_at_all(int64_t rows, int width, T* logits, const float* bias, const int64_t* labels, float* losses,
                 int64_t* right, float* bias_gradient, float* scratch, int threads) {
  const int64_t blocks = blocks_of(rows), stride = 2 * static_cast<int64_t>(width);
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    float* sums = scratch + block * stride;
    std::fill(sums, sums + width, 0.0f);
    const int64_t end = std::min((block + 1) * kBlockRows, rows);
    for (int64_t row = block * kBlockRows; row < end; ++row)
      losses[row] = look_at(logits + row * width, width, bias, labels[row], sums + width,
                            bias_gradient ? sums : nullptr, right + row);
  }
  if (bias_gradient) sum_blocks(scratch, blocks, stride, width, bias_gradient);
}

}  // namespace

// What Python calls. `is_bfloat16` tells the type of the logits (rows, width); the bias and its gradient, which is null
// if no gradients are wanted, are float32. `scratch` has room for two rows of floats a block of rows.
extern "C" {

void cross_entropy(int is_bfloat16, int64_t rows, int width, void* logits, const float* bias, const int64_t* labels,
                   float* losses, int64_t* right, float* bias_gradient, float* scratch, int threads) {
  if (is_bfloat16)
    look_at_all(rows, width, static_cast<BFloat16*>(logits), bias, labels, losses, right, bias_gradient, scratch,
                threads);
  else
    look_at_all(rows, width, static_cast<float*>(logits), bias, labels, losses, right, bias_gradient, scratch, threads);
}
}
