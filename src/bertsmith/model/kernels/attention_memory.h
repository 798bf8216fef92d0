// What attention works on: the sizes of a sequence and a thread's working memory for it.

#pragma once

#include <cstdlib>

#include "words.h"

namespace {

constexpr int kLanes = 2 * kWidth;  // queries at a time, forwards
constexpr int kBlock = 128;         // and backwards

// The sizes of a call and of one sequence in it.
struct Shape {
  int hidden_size;
  int head_size;
  int width;  // head_size in whole vectors
  bool left_to_right;
  float scale;
  int length;
  // Where the unit stands that the thread takes some turns later: rows further on, then columns.
  ptrdiff_t rows_ahead, columns_ahead;

  ptrdiff_t ahead(ptrdiff_t stride) const { return rows_ahead * stride + columns_ahead; }

  // Keys that queries before `end` see: all of the sequence, or those before `end` too.
  int seen(int end) const { return left_to_right && end < length ? end : length; }
};

template <typename Words>
constexpr int in_words(int size) {
  return (size + Words::kGroup - 1) / Words::kGroup;
}

// Working memory of one thread, handed out in whole cache lines. Without memory it only counts.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(size_t bytes) : memory_(static_cast<char*>(std::aligned_alloc(64, bytes))) {}
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ready() const { return memory_ != nullptr; }
  size_t used() const { return used_; }
  void reset() { used_ = 0; }
  template <typename Item>
  Item* take(size_t rows, size_t columns) {
    Item* piece = memory_ ? reinterpret_cast<Item*>(memory_ + used_) : nullptr;
    used_ += (rows * columns * sizeof(Item) + 63) / 64 * 64;
    return piece;
  }

 private:
  char* memory_ = nullptr;
  size_t used_ = 0;
};

// What a unit keeps in working memory. "Across": (words of the head, tokens); "down": (tokens in words, width).
template <typename Words>
struct ForwardMemory {
  using Word = typename Words::Word;
  Word *keys_across, *values_down, *queries_across, *weights_down;
  float* scores;

  ForwardMemory(const Shape& shape, Scratch& scratch) {
    const int padded = up_to_vectors(shape.length), head_words = in_words<Words>(shape.head_size);
    keys_across = scratch.take<Word>(head_words, padded);
    values_down = scratch.take<Word>(in_words<Words>(padded), shape.width);
    queries_across = scratch.take<Word>(head_words, kLanes);
    weights_down = scratch.take<Word>(in_words<Words>(padded), kLanes);
    scores = scratch.take<float>(padded, kLanes);
  }
};

template <typename Words>
struct BackwardMemory {
  using Word = typename Words::Word;
  Word *keys_across, *values_across, *keys_down;
  Word *queries_across, *queries_down, *received_across, *received_down, *contexts_across;
  Word *weights, *changes, *changes_down;  // a row for a key: its words go along the queries; and down
  float *key_gradient, *value_gradient;

  BackwardMemory(const Shape& shape, Scratch& scratch) {
    const int padded = up_to_vectors(shape.length), head_words = in_words<Words>(shape.head_size);
    const int block_words = in_words<Words>(kBlock);
    keys_across = scratch.take<Word>(head_words, padded);
    values_across = scratch.take<Word>(head_words, padded);
    keys_down = scratch.take<Word>(in_words<Words>(padded), shape.width);
    queries_across = scratch.take<Word>(head_words, kBlock);
    received_across = scratch.take<Word>(head_words, kBlock);
    contexts_across = scratch.take<Word>(head_words, kBlock);
    queries_down = scratch.take<Word>(block_words, shape.width);
    received_down = scratch.take<Word>(block_words, shape.width);
    weights = scratch.take<Word>(padded, block_words);
    changes = scratch.take<Word>(padded, block_words);
    changes_down = Words::kGroup > 1 ? scratch.take<Word>(in_words<Words>(padded), kBlock) : changes;
    const bool several = shape.length > kBlock;
    key_gradient = several ? scratch.take<float>(shape.length, shape.width) : nullptr;
    value_gradient = several ? scratch.take<float>(shape.length, shape.width) : nullptr;
  }
};

}  // namespace
