// Attention over packed sequences, forward and backward, for the CPU.
//
// One unit of work is one head of one sequence: it reads that sequence's rows of the projections and writes
// rows that no other unit writes, so results do not depend on the number of threads, nor on what else is in
// the batch. A unit's scores live in blocks of queries that stay in the processor's cache; nothing of size
// length x length reaches memory. They are kept with a row for each key and a lane for each query, so that maxima
// and sums over keys are taken lane by lane. The backward pass computes the weights again from the saved
// log-sum-exp, and draws the same dropout bits again from a counter.

#include <limits>

#include "attention_memory.h"

namespace {

constexpr int kTileRows = 12;
constexpr int kTurnsAhead = 2;  // between asking for a unit's rows and using them
constexpr float kLog2E = 1.44269504088896341f;

template <int kVectors>
constexpr int rows_of_tile() {
  return kMostSums / kVectors < kTileRows ? kMostSums / kVectors : kTileRows;
}

// What keeps a query (lane) from the keys after it: their scores become -infinity.
template <int kRows, int kVectors>
BERTSMITH_INLINE void hide_later_keys(Vec (&scores)[kRows][kVectors], int key, int query) {
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const IntVec queries = same_bits<IntVec>(lane_numbers()) + (query + v * kWidth);
      scores[r][v] = queries >= key + r ? scores[r][v] : splat(-std::numeric_limits<float>::infinity());
    }
}

// The dropout of a call: weights whose 16 bits are below the threshold become 0, the others are scaled by `kept`. Two
// neighbouring keys share 32 bits, hashed from the key of the query's row and from their number.
struct WeightDropout {
  uint32_t threshold;  // in the upper 16 bits
  float kept;
  uint64_t seed;

  struct Keep {
    IntVec first, second;

    static BERTSMITH_INLINE Keep all() { return {IntVec{} - 1, IntVec{} - 1}; }
  };

  // The keys of the rows of kWidth queries.
  UintVec row_keys(int64_t unit, int query) const {
    uint64_t bits = seed + 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(unit) + 1);
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
    bits ^= bits >> 31;
    UintVec keys = (lane_numbers() + static_cast<uint32_t>(query)) * 0x9e3779b9u + static_cast<uint32_t>(bits);
    keys = (keys ^ (keys >> 16)) * 0x85ebca6bu;
    keys = (keys ^ (keys >> 13)) * 0xc2b2ae35u;
    return keys ^ (keys >> 16) ^ static_cast<uint32_t>(bits >> 32);
  }

  // Whether the weights of keys `key`, which is even, and `key + 1` are kept. The rows' keys are hashed well already.
  BERTSMITH_INLINE Keep keep(UintVec row_keys, int key) const {
    UintVec bits = (row_keys ^ (static_cast<uint32_t>(key) * 0x9e3779b9u)) * 0x85ebca6bu;
    bits = (bits ^ (bits >> 15)) * 0xc2b2ae35u;
    bits ^= bits >> 16;
    return {bits >= threshold, (bits << 16) >= threshold};
  }
};

// What becomes of a product's rows.
template <typename T>
struct Target {
  T* first;
  ptrdiff_t stride;
  int columns;
  const float* factors;  // each row is multiplied by its factor, or all by the same if the step is 0
  int factor_step;
  float* earlier = nullptr;  // (rows, width) sums of earlier blocks, to be added, where there are several blocks
  bool last = true;          // otherwise the sums go back there
};

// Rows of the product of A, whose word (i, k) stands at a[i * kRowStride + k * step], and B (depth, width).
template <typename Words, int kRowStride, typename T>
void multiply(const typename Words::Word* a, ptrdiff_t step, const typename Words::Word* b, ptrdiff_t width, int rows,
              int depth, const Target<T>& target) {
  by_vectors<kMostVectors>(0, static_cast<int>(width / kWidth), [&](int vector, auto vectors) {
    constexpr int kVectors = vectors;
    const int column = vector * kWidth;
    by_tiles<rows_of_tile<kVectors>()>(rows, [&](int row, auto count) {
      Vec sums[count][kVectors];
      product<Words, kRowStride>(a + row * kRowStride, step, b + column, width, depth, sums);
#pragma GCC unroll 12
      for (int i = 0; i < count; ++i) {
        if (row + i >= rows) break;
        T* place = target.first + (row + i) * target.stride + column;
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          Vec sum = sums[i][v];
          if (target.earlier) {
            float* before = target.earlier + (row + i) * width + column + v * kWidth;
            sum += load(before);
            if (!target.last) {
              store(before, sum);
              continue;
            }
          }
          store(place + v * kWidth, sum * target.factors[(row + i) * target.factor_step],
                     target.columns - column - v * kWidth);
        }
      }
    });
  });
}

template <typename Words, typename T>
void forward_unit(const T* query_key_value, T* out, float* log_sums, int64_t unit, const Shape& shape,
                  const WeightDropout& dropout, Scratch& scratch) {
  using Word = typename Words::Word;
  constexpr int kGroup = Words::kGroup;
  const ptrdiff_t stride = 3 * static_cast<ptrdiff_t>(shape.hidden_size);
  const int length = shape.length, padded = up_to_vectors(length), width = shape.width;
  const int head_words = in_words<Words>(shape.head_size);
  const bool drops = dropout.threshold != 0;
  scratch.reset();
  const ForwardMemory<Words> at(shape, scratch);
  const Rows<T> queries{query_key_value, stride, shape.ahead(stride), shape.head_size};
  copy_across<Words>(queries.right(shape.hidden_size), length, at.keys_across, padded);
  copy_down<Words>(queries.right(2 * shape.hidden_size), length, length, at.values_down, width);
  const float factor = shape.scale * kLog2E;

  by_vectors<2>(0, padded / kWidth, [&](int vector, auto vectors) {
    constexpr int kVectors = vectors;
    const int first = vector * kWidth;
    const int rows = length - first < kVectors * kWidth ? length - first : kVectors * kWidth;
    const int seen = shape.seen(first + rows);
    copy_across<Words>(queries.down(first), rows, at.queries_across, kLanes);

    Vec most[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) most[v] = splat(-std::numeric_limits<float>::infinity());
    by_tiles<rows_of_tile<kVectors>()>(seen, [&](int key, auto count) {
      constexpr int kRows = count;
      Vec sums[kRows][kVectors];
      product<Words, 1>(at.keys_across + key, padded, at.queries_across, kLanes, head_words, sums);
      if (shape.left_to_right) hide_later_keys(sums, key, first);
      float* scores = at.scores + key * kLanes;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        Vec highest = sums[0][v];
#pragma GCC unroll 12
        for (int r = 1; r < kRows; ++r) highest = larger(sums[r][v], highest);
        most[v] = larger(highest, most[v]);
      }
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) store(scores + r * kLanes + v * kWidth, sums[r][v]);
    });

    Vec shift[kVectors], totals[kVectors];
    UintVec row_keys[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      shift[v] = most[v] * factor;
      totals[v] = Vec{};
      row_keys[v] = dropout.row_keys(unit, first + v * kWidth);
    }
    for (int key = 0; key < seen; key += 2) {
      const float* scores = at.scores + key * kLanes;
      Word* weights = at.weights_down + key / kGroup * kLanes;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        Vec one = exp2_of(load(scores + v * kWidth) * factor - shift[v]), two{};
        if (key + 1 < seen) two = exp2_of(load(scores + kLanes + v * kWidth) * factor - shift[v]);
        totals[v] += one + two;
        if (drops) {
          const WeightDropout::Keep keep = dropout.keep(row_keys[v], key);
          one = keep.first ? one : Vec{};
          two = keep.second ? two : Vec{};
        }
        Words::put_down(weights + v * kWidth, kLanes, one, two);
      }
    }

    alignas(64) float inverse[kVectors * kWidth];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      store(inverse + v * kWidth, dropout.kept / totals[v]);
      store(log_sums + first + v * kWidth, most[v] * shape.scale + log_of(totals[v]), rows - v * kWidth);
    }
    multiply<Words, 1>(at.weights_down, kLanes, at.values_down, width, rows, in_words<Words>(seen),
                       Target<T>{out + first * static_cast<ptrdiff_t>(shape.hidden_size), shape.hidden_size,
                                 shape.head_size, inverse, 1});
  });
}

template <typename Words, typename T>
void backward_unit(const T* query_key_value, const T* out, const float* log_sums, const T* out_gradient, T* gradient,
                   int64_t unit, const Shape& shape, const WeightDropout& dropout, Scratch& scratch) {
  using Word = typename Words::Word;
  constexpr int kGroup = Words::kGroup, kBlockWords = kBlock / kGroup;
  const ptrdiff_t hidden_size = shape.hidden_size, stride = 3 * hidden_size;
  const int length = shape.length, padded = up_to_vectors(length), width = shape.width, head_size = shape.head_size;
  const int head_words = in_words<Words>(head_size);
  scratch.reset();
  const BackwardMemory<Words> at(shape, scratch);
  const Rows<T> queries{query_key_value, stride, shape.ahead(stride), head_size};
  const Rows<T> received{out_gradient, hidden_size, shape.ahead(hidden_size), head_size};
  const Rows<T> contexts{out, hidden_size, shape.ahead(hidden_size), head_size};
  copy_across<Words>(queries.right(hidden_size), length, at.keys_across, padded);
  copy_across<Words>(queries.right(2 * hidden_size), length, at.values_across, padded);
  copy_down<Words>(queries.right(hidden_size), length, length, at.keys_down, width);
  const bool drops = dropout.threshold != 0;
  if (at.key_gradient) {
    std::memset(at.key_gradient, 0, static_cast<size_t>(length) * width * sizeof(float));
    std::memset(at.value_gradient, 0, static_cast<size_t>(length) * width * sizeof(float));
  }
  const float factor = shape.scale * kLog2E;

  for (int first = 0; first < length; first += kBlock) {
    const int rows = length - first < kBlock ? length - first : kBlock;
    const int lanes = up_to_vectors(rows), seen = shape.seen(first + rows);
    copy_across<Words>(queries.down(first), rows, at.queries_across, kBlock);
    copy_across<Words>(received.down(first), rows, at.received_across, kBlock);
    copy_across<Words>(contexts.down(first), rows, at.contexts_across, kBlock);
    copy_down<Words>(queries.down(first), rows, lanes, at.queries_down, width);
    copy_down<Words>(received.down(first), rows, lanes, at.received_down, width);

    by_vectors<2>(0, lanes / kWidth, [&](int vector, auto vectors) {
      constexpr int kVectors = vectors;
      const int lane = vector * kWidth;
      Vec log_sum[kVectors], mean[kVectors]{};
      UintVec row_keys[kVectors]{};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int query = lane + v * kWidth;
        // Lanes behind the last query hold it again: without weights, whatever its scores are.
        log_sum[v] = first_lanes(load(log_sums + first + query, rows - query), rows - query,
                                 splat(std::numeric_limits<float>::infinity())) *
                     kLog2E;
        // The sum over keys of weight times its gradient is the context times its gradient, with dropout too.
        for (int w = 0; w < head_words; ++w)
          mean[v] = Words::multiply_add(mean[v], load(at.received_across + w * kBlock + query),
                                        load(at.contexts_across + w * kBlock + query));
        mean[v] *= 1.0f / dropout.kept;
        if (dropout.threshold) row_keys[v] = dropout.row_keys(unit, first + query);
      }
      by_tiles<kTileRows / kVectors>(seen, [&](int key, auto count) {
        constexpr int kRows = count;
        Vec scores[kRows][kVectors], changes[kRows][kVectors];
        product<Words, 1>(at.keys_across + key, padded, at.queries_across + lane, kBlock, head_words, scores);
        product<Words, 1>(at.values_across + key, padded, at.received_across + lane, kBlock, head_words, changes);
        if (shape.left_to_right) hide_later_keys(scores, key, first + lane);
        Word* weights_row = at.weights + key * kBlockWords + lane / kGroup;
        Word* changes_row = at.changes + key * kBlockWords + lane / kGroup;
        Word* down = at.changes_down + key / kGroup * kBlock + lane;
        repeat<kRows / 2>([&](auto pair) __attribute__((always_inline)) {
          constexpr int r = 2 * pair;
          Vec weight[2][kVectors], change[2][kVectors];
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const WeightDropout::Keep keep = drops ? dropout.keep(row_keys[v], key + r) : WeightDropout::Keep::all();
#pragma GCC unroll 2
            for (int s = 0; s < 2; ++s) {
              const Vec probability = exp2_of(scores[r + s][v] * factor - log_sum[v]);
              const IntVec kept = s ? keep.second : keep.first;
              weight[s][v] = kept ? probability : Vec{};
              change[s][v] = probability * ((kept ? changes[r + s][v] : Vec{}) - mean[v]);
            }
          }
#pragma GCC unroll 2
          for (int s = 0; s < 2; ++s) {
            Words::put_along(weights_row + (r + s) * kBlockWords, weight[s]);
            Words::put_along(changes_row + (r + s) * kBlockWords, change[s]);
          }
          if constexpr (kGroup > 1) {
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v)
              Words::put_down(down + r / kGroup * kBlock + v * kWidth, kBlock, change[0][v], change[1][v]);
          }
        });
      });
    });

    const bool last = first + rows == length;
    const float scales[] = {shape.scale * dropout.kept, dropout.kept};  // of queries and keys, of values
    multiply<Words, 1>(at.changes_down, kBlock, at.keys_down, width, rows, in_words<Words>(seen),
                       Target<T>{gradient + first * stride, stride, head_size, scales, 0});
    multiply<Words, kBlockWords>(at.changes, 1, at.queries_down, width, seen, lanes / kGroup,
                                 Target<T>{gradient + hidden_size, stride, head_size, scales, 0, at.key_gradient,
                                           last});
    multiply<Words, kBlockWords>(at.weights, 1, at.received_down, width, seen, lanes / kGroup,
                                 Target<T>{gradient + 2 * hidden_size, stride, head_size, scales + 1, 0,
                                           at.value_gradient, last});
  }
}

template <typename Memory, typename Work>
bool for_every_unit(const int64_t* starts, int64_t sequences, int heads, int hidden_size, bool left_to_right,
                    int threads, const Work& work) {
  const int head_size = hidden_size / heads;
  Shape longest{hidden_size, head_size, up_to_vectors(head_size), left_to_right,
                1.0f / std::sqrt(static_cast<float>(head_size)), 0, 0, 0};
  for (int64_t n = 0; n < sequences; ++n) {
    const int length = static_cast<int>(starts[n + 1] - starts[n]);
    if (length > longest.length) longest.length = length;
  }
  Scratch needed;
  Memory(longest, needed);
  // A thread takes whole sequences where there are enough.
  const int64_t units = sequences * heads, shares = units / (8 * threads);
  const int64_t chunk = shares < 1 ? 1 : (shares < heads ? shares : heads);
  bool complete = true;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(needed.used());
    if (!scratch.ready()) {
#pragma omp atomic write
      complete = false;
    }
#pragma omp barrier
    if (complete) {
#pragma omp for schedule(dynamic, chunk)
      for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t n = unit / heads;
        const int head = static_cast<int>(unit % heads);
        Shape shape = longest;
        shape.length = static_cast<int>(starts[n + 1] - starts[n]);
        const int64_t next = n + (head + kTurnsAhead) / heads * threads;
        shape.rows_ahead = next < sequences ? starts[next] - starts[n] : 0;
        shape.columns_ahead = ((head + kTurnsAhead) % heads - head) * head_size;
        work(unit, starts[n], head, shape, scratch);
      }
    }
  }
  return complete;
}

template <typename Words, typename T>
int run_forward(const T* query_key_value, const int64_t* starts, int64_t sequences, int heads, int hidden_size,
                bool left_to_right, const WeightDropout& dropout, T* out, float* log_sums, int threads) {
  const int64_t tokens = starts[sequences];
  const bool complete = for_every_unit<ForwardMemory<Words>>(
      starts, sequences, heads, hidden_size, left_to_right, threads,
      [&](int64_t unit, int64_t start, int head, const Shape& shape, Scratch& scratch) {
        const ptrdiff_t column = static_cast<ptrdiff_t>(head) * shape.head_size;
        forward_unit<Words>(query_key_value + start * 3 * hidden_size + column, out + start * hidden_size + column,
                            log_sums + head * tokens + start, unit, shape, dropout, scratch);
      });
  return complete ? 0 : 1;
}

template <typename Words, typename T>
int run_backward(const T* query_key_value, const T* out, const float* log_sums, const T* out_gradient,
                 const int64_t* starts, int64_t sequences, int heads, int hidden_size, bool left_to_right,
                 const WeightDropout& dropout, T* gradient, int threads) {
  const int64_t tokens = starts[sequences];
  const bool complete = for_every_unit<BackwardMemory<Words>>(
      starts, sequences, heads, hidden_size, left_to_right, threads,
      [&](int64_t unit, int64_t start, int head, const Shape& shape, Scratch& scratch) {
        const ptrdiff_t column = static_cast<ptrdiff_t>(head) * shape.head_size;
        const ptrdiff_t wide = start * 3 * hidden_size + column, narrow = start * hidden_size + column;
        backward_unit<Words>(query_key_value + wide, out + narrow, log_sums + head * tokens + start,
                             out_gradient + narrow, gradient + wide, unit, shape, dropout, scratch);
      });
  return complete ? 0 : 1;
}

}  // namespace

// What Python calls. All return 0, or 1 when there was no memory. `is_bfloat16` tells the type of the projections,
// the contexts and their gradients; log-sum-exps are float32, (heads, tokens).
extern "C" {

int attention_forward(const void* query_key_value, const int64_t* starts, int64_t sequences, int heads,
                      int hidden_size, int left_to_right, int is_bfloat16, uint32_t threshold, float kept,
                      uint64_t seed, void* out, float* log_sums, int threads) {
  const WeightDropout dropout{threshold << 16, kept, seed};
  if (is_bfloat16)
    return run_forward<BFloat16Words>(static_cast<const BFloat16*>(query_key_value), starts, sequences, heads,
                                      hidden_size, left_to_right, dropout, static_cast<BFloat16*>(out), log_sums,
                                      threads);
  return run_forward<Singles>(static_cast<const float*>(query_key_value), starts, sequences, heads, hidden_size,
                              left_to_right, dropout, static_cast<float*>(out), log_sums, threads);
}

int attention_backward(const void* query_key_value, const void* out, const float* log_sums, const void* out_gradient,
                       const int64_t* starts, int64_t sequences, int heads, int hidden_size, int left_to_right,
                       int is_bfloat16, uint32_t threshold, float kept, uint64_t seed, void* gradient,
                       int threads) {
  const WeightDropout dropout{threshold << 16, kept, seed};
  if (is_bfloat16)
    return run_backward<BFloat16Words>(static_cast<const BFloat16*>(query_key_value),
                                       static_cast<const BFloat16*>(out), log_sums,
                                       static_cast<const BFloat16*>(out_gradient), starts, sequences, heads,
                                       hidden_size, left_to_right, dropout, static_cast<BFloat16*>(gradient), threads);
  return run_backward<Singles>(static_cast<const float*>(query_key_value), static_cast<const float*>(out), log_sums,
                               static_cast<const float*>(out_gradient), starts, sequences, heads, hidden_size,
                               left_to_right, dropout, static_cast<float*>(gradient), threads);
}
}
