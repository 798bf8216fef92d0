// Attention over packed sequences, forward and backward, for the CPU.
//
// One unit of work is one head of one sequence: it reads that sequence's rows of the projections and writes
// rows that no other unit writes, so results do not depend on the number of threads, nor on what else is in
// the batch. A unit's scores live in blocks of rows that stay in the processor's cache; nothing of size
// length x length reaches memory. The backward pass computes the weights again from the saved log-sum-exp, and
// draws the same dropout bits again from a counter.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#else
constexpr int kWidth = 8;
#endif
constexpr int kTileRows = 6;             // with two vectors of columns: 12 sums fit into 16 registers
constexpr int kTileColumns = 2 * kWidth;
constexpr int kBlockRows = 48;           // queries at a time

typedef float Vec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint32_t UintVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

struct BFloat16 {
  uint16_t bits;
};

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline void store(float* place, float value) { *place = value; }
inline void store(BFloat16* place, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  // To the nearest, ties to even; a NaN stays one.
  place->bits = is_nan ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Vec load(const float* place) { return *reinterpret_cast<const Vec*>(place); }
inline void put(float* place, Vec value) { *reinterpret_cast<Vec*>(place) = value; }

inline float sum_of(Vec value) {
  float total = 0;
  for (int lane = 0; lane < kWidth; ++lane) total += value[lane];
  return total;
}

// exp(x) for x <= 0, 0 below -87: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; relative error below 2e-7. What is
// not a number stays so.
inline Vec exp_of(Vec x) {
  const IntVec vanishes = x < -87.0f;
  x = vanishes ? Vec{} : x;
  const Vec shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(x / ln 2)
  const Vec whole = shifted - 12582912.0f;
  Vec r = x - whole * 0.693359375f;  // ln 2 in two parts: the first times a whole number is exact
  r = r + whole * 2.12194440e-4f;
  Vec p = r * 1.3888889e-3f + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec exponent = (reinterpret_cast<const IntVec&>(shifted) + (127 - 0x4b400000)) << 23;
  const Vec result = p * reinterpret_cast<const Vec&>(exponent);
  return vanishes ? Vec{} : result;
}

// C (rows x columns) = A B, or C += A B. A's element (i, k) stands at a[i * row_stride + k * column_stride];
// B and C are row-major with their columns padded to whole tiles.
template <int kRows>
inline void tile(const float* a, ptrdiff_t row_stride, ptrdiff_t column_stride, const float* b, ptrdiff_t b_stride,
                 float* c, ptrdiff_t c_stride, int depth, bool accumulate) {
  Vec sums[kRows][2];
  for (int i = 0; i < kRows; ++i) {
    sums[i][0] = accumulate ? load(c + i * c_stride) : Vec{};
    sums[i][1] = accumulate ? load(c + i * c_stride + kWidth) : Vec{};
  }
  for (int k = 0; k < depth; ++k) {
    const Vec left = load(b + k * b_stride);
    const Vec right = load(b + k * b_stride + kWidth);
    for (int i = 0; i < kRows; ++i) {
      const float factor = a[i * row_stride + k * column_stride];
      sums[i][0] += factor * left;
      sums[i][1] += factor * right;
    }
  }
  for (int i = 0; i < kRows; ++i) {
    put(c + i * c_stride, sums[i][0]);
    put(c + i * c_stride + kWidth, sums[i][1]);
  }
}

void multiply(const float* a, ptrdiff_t row_stride, ptrdiff_t column_stride, const float* b, ptrdiff_t b_stride,
              float* c, ptrdiff_t c_stride, int rows, int columns, int depth, bool accumulate) {
  for (int j = 0; j < columns; j += kTileColumns) {
    int i = 0;
    for (; i + kTileRows <= rows; i += kTileRows)
      tile<kTileRows>(a + i * row_stride, row_stride, column_stride, b + j, b_stride, c + i * c_stride + j, c_stride,
                      depth, accumulate);
    const float* rest = a + i * row_stride;
    float* place = c + i * c_stride + j;
    switch (rows - i) {
      case 5: tile<5>(rest, row_stride, column_stride, b + j, b_stride, place, c_stride, depth, accumulate); break;
      case 4: tile<4>(rest, row_stride, column_stride, b + j, b_stride, place, c_stride, depth, accumulate); break;
      case 3: tile<3>(rest, row_stride, column_stride, b + j, b_stride, place, c_stride, depth, accumulate); break;
      case 2: tile<2>(rest, row_stride, column_stride, b + j, b_stride, place, c_stride, depth, accumulate); break;
      case 1: tile<1>(rest, row_stride, column_stride, b + j, b_stride, place, c_stride, depth, accumulate); break;
      default: break;
    }
  }
}

inline uint32_t mixed(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(value ^ (value >> 31)) ^ static_cast<uint32_t>(value >> 32);
}

// 0 where a weight is dropped, else `kept`: bits hashed from the row's key and the column.
inline Vec dropout_factors(uint32_t key, int column, uint32_t threshold, float kept) {
  UintVec lanes;
  for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = lane;
  UintVec bits = (lanes + static_cast<uint32_t>(column)) * 0x9e3779b9u;
  bits ^= key;
  bits = (bits ^ (bits >> 16)) * 0x85ebca6bu;
  bits = (bits ^ (bits >> 13)) * 0xc2b2ae35u;
  bits ^= bits >> 16;
  const Vec keep = Vec{} + kept;
  return (bits >= threshold) ? keep : Vec{};
}

// The sizes of a call and of one sequence in it.
struct Shape {
  int hidden_size;
  int head_size;
  int padded_head;  // head_size in whole tiles
  bool left_to_right;
  int length;
  int padded_length;

  // Keys that a query sees: all of its sequence, or those up to its own place.
  int seen(int query) const { return left_to_right ? query + 1 : length; }
};

inline int in_tiles(int size) { return (size + kTileColumns - 1) / kTileColumns * kTileColumns; }

// The dropout of a call: weights whose bits are below the threshold become 0, the others are scaled by `kept`.
struct Dropout {
  uint32_t threshold;
  float kept;
  uint64_t seed;

  uint32_t row_key(int64_t unit, int row) const {
    return mixed(seed + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(unit) * 65536 + row + 1));
  }
};

// Copies rows [first, first + rows) of one head into (rows, padded_head), scaled; the padding is 0.
template <typename T>
void copy_rows(const T* source, ptrdiff_t stride, int first, int rows, const Shape& shape, float scale, float* target) {
  for (int i = 0; i < rows; ++i) {
    const T* row = source + (first + i) * stride;
    float* out = target + static_cast<ptrdiff_t>(i) * shape.padded_head;
    for (int k = 0; k < shape.head_size; ++k) out[k] = to_float(row[k]) * scale;
    for (int k = shape.head_size; k < shape.padded_head; ++k) out[k] = 0;
  }
}

// Copies one head of a sequence into (head_size, padded_length), transposed; the padding is 0.
template <typename T>
void copy_transposed(const T* source, ptrdiff_t stride, const Shape& shape, float* target) {
  for (int j = 0; j < shape.length; ++j) {
    const T* row = source + j * stride;
    for (int k = 0; k < shape.head_size; ++k) target[k * static_cast<ptrdiff_t>(shape.padded_length) + j] = to_float(row[k]);
  }
  for (int k = 0; k < shape.head_size; ++k)
    for (int j = shape.length; j < shape.padded_length; ++j) target[k * static_cast<ptrdiff_t>(shape.padded_length) + j] = 0;
}

template <typename T>
void write_rows(const float* source, int first, int rows, const Shape& shape, float scale, T* target, ptrdiff_t stride) {
  for (int i = 0; i < rows; ++i)
    for (int k = 0; k < shape.head_size; ++k)
      store(target + (first + i) * stride + k, source[static_cast<ptrdiff_t>(i) * shape.padded_head + k] * scale);
}

// Working memory of one thread; pieces are handed out in whole cache lines.
class Scratch {
 public:
  explicit Scratch(size_t floats) : memory_(static_cast<float*>(std::aligned_alloc(64, rounded(floats) * 4))) {}
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ready() const { return memory_ != nullptr; }
  void reset() { used_ = 0; }
  float* take(size_t floats) {
    float* piece = memory_ + used_;
    used_ += rounded(floats);
    return piece;
  }
  static size_t rounded(size_t floats) { return (floats + 15) / 16 * 16; }

 private:
  float* memory_;
  size_t used_ = 0;
};

size_t scratch_size(const Shape& longest, bool backward) {
  const size_t head = Scratch::rounded(static_cast<size_t>(longest.head_size) * longest.padded_length);
  const size_t rows = Scratch::rounded(static_cast<size_t>(longest.length) * longest.padded_head);
  const size_t block = Scratch::rounded(static_cast<size_t>(kBlockRows) * longest.padded_length);
  const size_t part = Scratch::rounded(static_cast<size_t>(kBlockRows) * longest.padded_head);
  return backward ? 2 * head + 3 * rows + 2 * block + 3 * part + 64 : head + rows + block + 2 * part + 64;
}

template <typename T>
void forward_unit(const T* query_key_value, T* out, float* log_sums, int64_t unit, const Shape& shape, float scale,
                  const Dropout& dropout, Scratch& scratch) {
  const ptrdiff_t stride = 3 * static_cast<ptrdiff_t>(shape.hidden_size);
  const int padded = shape.padded_length, width = shape.padded_head;
  scratch.reset();
  float* keys = scratch.take(static_cast<size_t>(shape.head_size) * padded);
  float* values = scratch.take(static_cast<size_t>(shape.length) * width);
  float* weights = scratch.take(static_cast<size_t>(kBlockRows) * padded);
  float* queries = scratch.take(static_cast<size_t>(kBlockRows) * width);
  float* context = scratch.take(static_cast<size_t>(kBlockRows) * width);
  copy_transposed(query_key_value + shape.hidden_size, stride, shape, keys);
  copy_rows(query_key_value + 2 * shape.hidden_size, stride, 0, shape.length, shape, 1.0f, values);
  for (int first = 0; first < shape.length; first += kBlockRows) {
    const int rows = first + kBlockRows < shape.length ? kBlockRows : shape.length - first;
    copy_rows(query_key_value, stride, first, rows, shape, scale, queries);
    multiply(queries, width, 1, keys, padded, weights, padded, rows, padded, shape.head_size, false);
    float inverse[kBlockRows];
    for (int i = 0; i < rows; ++i) {
      float* row = weights + static_cast<ptrdiff_t>(i) * padded;
      for (int j = shape.seen(first + i); j < padded; ++j) row[j] = -std::numeric_limits<float>::infinity();
      Vec most = load(row);
      for (int j = kWidth; j < padded; j += kWidth) {
        const Vec next = load(row + j);
        most = next > most ? next : most;
      }
      float largest = most[0];
      for (int lane = 1; lane < kWidth; ++lane) largest = most[lane] > largest ? most[lane] : largest;
      Vec sums{};
      const uint32_t key = dropout.threshold ? dropout.row_key(unit, first + i) : 0;
      for (int j = 0; j < padded; j += kWidth) {
        Vec weight = exp_of(load(row + j) - largest);
        sums += weight;
        if (dropout.threshold) weight *= dropout_factors(key, j, dropout.threshold, dropout.kept);
        put(row + j, weight);
      }
      const float total = sum_of(sums);
      inverse[i] = 1.0f / total;
      log_sums[first + i] = largest + std::log(total);
    }
    multiply(weights, padded, 1, values, width, context, width, rows, width, shape.length, false);
    for (int i = 0; i < rows; ++i)
      write_rows(context + static_cast<ptrdiff_t>(i) * width, first + i, 1, shape, inverse[i], out, shape.hidden_size);
  }
}

template <typename T>
void backward_unit(const T* query_key_value, const T* out, const float* log_sums, const T* out_gradient, T* gradient,
                   int64_t unit, const Shape& shape, float scale, const Dropout& dropout, Scratch& scratch) {
  const ptrdiff_t stride = 3 * static_cast<ptrdiff_t>(shape.hidden_size);
  const int padded = shape.padded_length, width = shape.padded_head;
  scratch.reset();
  float* keys = scratch.take(static_cast<size_t>(shape.head_size) * padded);
  float* values = scratch.take(static_cast<size_t>(shape.head_size) * padded);
  float* key_rows = scratch.take(static_cast<size_t>(shape.length) * width);
  float* key_gradient = scratch.take(static_cast<size_t>(shape.length) * width);
  float* value_gradient = scratch.take(static_cast<size_t>(shape.length) * width);
  float* weights = scratch.take(static_cast<size_t>(kBlockRows) * padded);
  float* score_gradient = scratch.take(static_cast<size_t>(kBlockRows) * padded);
  float* queries = scratch.take(static_cast<size_t>(kBlockRows) * width);
  float* received = scratch.take(static_cast<size_t>(kBlockRows) * width);
  float* query_gradient = scratch.take(static_cast<size_t>(kBlockRows) * width);
  copy_transposed(query_key_value + shape.hidden_size, stride, shape, keys);
  copy_transposed(query_key_value + 2 * shape.hidden_size, stride, shape, values);
  copy_rows(query_key_value + shape.hidden_size, stride, 0, shape.length, shape, 1.0f, key_rows);
  for (int first = 0; first < shape.length; first += kBlockRows) {
    const int rows = first + kBlockRows < shape.length ? kBlockRows : shape.length - first;
    const bool more = first > 0;
    copy_rows(query_key_value, stride, first, rows, shape, scale, queries);
    copy_rows(out_gradient, shape.hidden_size, first, rows, shape, 1.0f, received);
    multiply(queries, width, 1, keys, padded, weights, padded, rows, padded, shape.head_size, false);
    multiply(received, width, 1, values, padded, score_gradient, padded, rows, padded, shape.head_size, false);
    for (int i = 0; i < rows; ++i) {
      float* weight = weights + static_cast<ptrdiff_t>(i) * padded;
      float* change = score_gradient + static_cast<ptrdiff_t>(i) * padded;
      for (int j = shape.seen(first + i); j < padded; ++j) weight[j] = -std::numeric_limits<float>::infinity();
      // The sum over a row of weight times its gradient is the context times its gradient, with dropout too.
      float mean = 0;
      for (int k = 0; k < shape.head_size; ++k)
        mean += to_float(out[(first + i) * static_cast<ptrdiff_t>(shape.hidden_size) + k]) *
                received[static_cast<ptrdiff_t>(i) * width + k];
      const uint32_t key = dropout.threshold ? dropout.row_key(unit, first + i) : 0;
      for (int j = 0; j < padded; j += kWidth) {
        const Vec probability = exp_of(load(weight + j) - log_sums[first + i]);
        if (dropout.threshold) {
          const Vec factors = dropout_factors(key, j, dropout.threshold, dropout.kept);
          put(change + j, probability * (load(change + j) * factors - mean));
          put(weight + j, probability * factors);
        } else {
          put(change + j, probability * (load(change + j) - mean));
          put(weight + j, probability);
        }
      }
    }
    multiply(score_gradient, padded, 1, key_rows, width, query_gradient, width, rows, width, shape.length, false);
    multiply(score_gradient, 1, padded, queries, width, key_gradient, width, shape.length, width, rows, more);
    multiply(weights, 1, padded, received, width, value_gradient, width, shape.length, width, rows, more);
    write_rows(query_gradient, first, rows, shape, scale, gradient, stride);
  }
  write_rows(key_gradient, 0, shape.length, shape, 1.0f, gradient + shape.hidden_size, stride);
  write_rows(value_gradient, 0, shape.length, shape, 1.0f, gradient + 2 * shape.hidden_size, stride);
}

template <typename Work>
bool for_every_unit(const int64_t* starts, int64_t sequences, int heads, int hidden_size, bool left_to_right,
                    bool backward, int threads, const Work& work) {
  Shape longest{hidden_size, hidden_size / heads, in_tiles(hidden_size / heads), left_to_right, 0, 0};
  for (int64_t n = 0; n < sequences; ++n) {
    const int length = static_cast<int>(starts[n + 1] - starts[n]);
    if (length > longest.length) longest.length = length;
  }
  longest.padded_length = in_tiles(longest.length);
  bool complete = true;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(scratch_size(longest, backward));
    if (!scratch.ready()) {
#pragma omp atomic write
      complete = false;
    }
#pragma omp barrier
    if (complete) {
#pragma omp for schedule(dynamic, 4)
      for (int64_t unit = 0; unit < sequences * heads; ++unit) {
        const int64_t n = unit / heads;
        Shape shape = longest;
        shape.length = static_cast<int>(starts[n + 1] - starts[n]);
        shape.padded_length = in_tiles(shape.length);
        work(unit, starts[n], static_cast<int>(unit % heads), shape, scratch);
      }
    }
  }
  return complete;
}

template <typename T>
int run_forward(const T* query_key_value, const int64_t* starts, int64_t sequences, int heads, int hidden_size,
                bool left_to_right, const Dropout& dropout, T* out, float* log_sums, int threads) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(hidden_size / heads));
  const int64_t tokens = starts[sequences];
  return for_every_unit(starts, sequences, heads, hidden_size, left_to_right, false, threads,
                        [&](int64_t unit, int64_t start, int head, const Shape& shape, Scratch& scratch) {
                          const ptrdiff_t column = static_cast<ptrdiff_t>(head) * shape.head_size;
                          forward_unit(query_key_value + start * 3 * hidden_size + column,
                                       out + start * hidden_size + column, log_sums + head * tokens + start, unit,
                                       shape, scale, dropout, scratch);
                        })
             ? 0
             : 1;
}

template <typename T>
int run_backward(const T* query_key_value, const T* out, const float* log_sums, const T* out_gradient,
                 const int64_t* starts, int64_t sequences, int heads, int hidden_size, bool left_to_right,
                 const Dropout& dropout, T* gradient, int threads) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(hidden_size / heads));
  const int64_t tokens = starts[sequences];
  return for_every_unit(starts, sequences, heads, hidden_size, left_to_right, true, threads,
                        [&](int64_t unit, int64_t start, int head, const Shape& shape, Scratch& scratch) {
                          const ptrdiff_t column = static_cast<ptrdiff_t>(head) * shape.head_size;
                          const ptrdiff_t wide = start * 3 * hidden_size + column;
                          const ptrdiff_t narrow = start * hidden_size + column;
                          backward_unit(query_key_value + wide, out + narrow, log_sums + head * tokens + start,
                                        out_gradient + narrow, gradient + wide, unit, shape, scale, dropout, scratch);
                        })
             ? 0
             : 1;
}

}  // namespace

// What Python calls. All return 0, or 1 when there was no memory. `is_bfloat16` tells the type of the projections,
// the contexts and their gradients; log-sum-exps are float32, (heads, tokens).
extern "C" {

int attention_forward(const void* query_key_value, const int64_t* starts, int64_t sequences, int heads,
                      int hidden_size, int left_to_right, int is_bfloat16, uint32_t threshold, float kept,
                      uint64_t seed, void* out, float* log_sums, int threads) {
  const Dropout dropout{threshold, kept, seed};
  if (is_bfloat16)
    return run_forward(static_cast<const BFloat16*>(query_key_value), starts, sequences, heads, hidden_size,
                       left_to_right, dropout, static_cast<BFloat16*>(out), log_sums, threads);
  return run_forward(static_cast<const float*>(query_key_value), starts, sequences, heads, hidden_size,
                     left_to_right, dropout, static_cast<float*>(out), log_sums, threads);
}

int attention_backward(const void* query_key_value, const void* out, const float* log_sums, const void* out_gradient,
                       const int64_t* starts, int64_t sequences, int heads, int hidden_size, int left_to_right,
                       int is_bfloat16, uint32_t threshold, float kept, uint64_t seed, void* gradient,
                       int threads) {
  const Dropout dropout{threshold, kept, seed};
  if (is_bfloat16)
    return run_backward(static_cast<const BFloat16*>(query_key_value), static_cast<const BFloat16*>(out), log_sums,
                        static_cast<const BFloat16*>(out_gradient), starts, sequences, heads, hidden_size,
                        left_to_right, dropout, static_cast<BFloat16*>(gradient), threads);
  return run_backward(static_cast<const float*>(query_key_value), static_cast<const float*>(out), log_sums,
                      static_cast<const float*>(out_gradient), starts, sequences, heads, hidden_size,
                      left_to_right, dropout, static_cast<float*>(gradient), threads);
}
}
