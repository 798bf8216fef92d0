// The three matrix products of a linear layer, in float32 or from bfloat16 with sums in float32, for processors that
// multiply bfloat16 in vectors of 512 bits: Y = X W^T and, of its gradient G, the inputs' G W and the weights' G^T X.
//
// Weights are float32, and rounded as they are laid out for a product; G^T X is float32. With torch's operators a copy
// of the weights would be made for bfloat16, and their gradient rounded to it.
//
// A unit is 4 bytes that one instruction multiplies and adds up: a float32, or two bfloat16 that are neighbours along
// the dimension that is summed. A tile of the result, kTileRows x kTileColumns, lives in registers while it is summed.
// On its right stands a strip (units, kTileColumns) laid out for the purpose; on its left rows as they are, or a narrow
// strip (units, kTileRows). Every number is summed in one order, whoever computes it.

#include <algorithm>
#include <cstdlib>

#include "vectors.h"

// Processors with tiles in hardware (AMX) are left to torch's product, which uses them.
#if defined(BERTSMITH_AVX512_BF16) && !defined(__AMX_BF16__)
#define BERTSMITH_PRODUCTS 1
#endif

namespace {

template <typename T>
void add_up_rows(int64_t rows, int width, const T* x, float* scratch, float* out, int threads) {
  const int64_t blocks = blocks_of(rows);
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    float* sums = scratch + block * width;
    const int64_t begin = block * kBlockRows, end = std::min(begin + kBlockRows, rows);
    for (int64_t row = begin; row < end; ++row)
      for_vectors(width, [&](int k, auto count) {
        const Vec value = load(x + row * width + k, count);
        store(sums + k, row > begin ? load(sums + k, count) + value : value, count);
      });
  }
  sum_blocks(scratch, blocks, width, width, out);
}

}  // namespace

#if defined(BERTSMITH_PRODUCTS)

namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
constexpr int kTileColumns = kTileVectors * 16;
constexpr int64_t kLeftBytes = 400000;  // what stays in the cache beside a strip
constexpr int64_t kAhead = 8;           // rows that are fetched before their turn
constexpr int64_t kShort = 128;         // float32 numbers in one sum
constexpr int64_t kLongest = 2048;      // units summed at a time
constexpr int64_t kUnits = 256;         // the same for the gradient of weights

struct Memory {
  explicit Memory(int64_t count)
      : units(static_cast<uint32_t*>(std::aligned_alloc(64, static_cast<size_t>(count / 16 + 1) * 64))) {}
  ~Memory() { std::free(units); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint32_t* const units;
};

inline int64_t divided_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

// How many of `count` make a part, at most `most`: parts are nearly equal, and there are as many for each thread.
inline int64_t in_a_part(int64_t count, int64_t most, int64_t threads) {
  return divided_up(count, divided_up(divided_up(count, most), threads) * threads);
}

inline __mmask16 lanes_there(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

template <typename T>
constexpr int kNumbers = 4 / sizeof(T);  // in a unit

inline __m512 read(const float* place, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, place); }
inline void write(float* place, __m512 values, __mmask16 lanes) { _mm512_mask_storeu_ps(place, lanes, values); }

inline __m512 multiply_add(__m512 sum, __m512i left, __m512i right, float) {
  return _mm512_fmadd_ps(same_bits<__m512>(left), same_bits<__m512>(right), sum);
}

// 16 columns, a unit each, of rows that are summed over: `rows` of them are left, `stride` apart.
inline __m512i units_down(const float* place, ptrdiff_t, int64_t, __mmask16 lanes, float) {
  return same_bits<__m512i>(read(place, lanes));
}

// The 16 units from `place` on of a row that is summed along; `count` numbers are left.
inline __m512i units_along(const float* place, int64_t count, float) {
  return same_bits<__m512i>(read(place, lanes_there(count)));
}

inline __m256i rounded(__m512 values) { return same_bits<__m256i>(_mm512_cvtneps_pbh(values)); }
inline void write(BFloat16* place, __m512 values, __mmask16 lanes) {
  _mm256_mask_storeu_epi16(place, lanes, rounded(values));
}

inline __m512 multiply_add(__m512 sum, __m512i left, __m512i right, BFloat16) {
  return _mm512_dpbf16_ps(sum, same_bits<__m512bh>(left), same_bits<__m512bh>(right));
}

inline __m256i shorts(const float* place, __mmask16 lanes) { return rounded(read(place, lanes)); }
inline __m256i shorts(const BFloat16* place, __mmask16 lanes) { return _mm256_maskz_loadu_epi16(lanes, place); }

template <typename S>
inline __m512i units_down(const S* place, ptrdiff_t stride, int64_t rows, __mmask16 lanes, BFloat16) {
  const __m512i low = _mm512_cvtepu16_epi32(shorts(place, lanes));
  if (rows < 2) return low;
  return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32(shorts(place + stride, lanes)), 16));
}

inline __m512i units_along(const float* place, int64_t count, BFloat16) {
  const __m512 low = read(place, lanes_there(count)), high = read(place + 16, lanes_there(count - 16));
  return same_bits<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// The sums of a tile over `units`; unit k of row i on the left stands at left[i * row_stride + k * unit_stride].
template <typename T>
struct Tile {
  __m512 sums[kTileRows][kTileVectors];

  Tile(const uint32_t* left, ptrdiff_t row_stride, ptrdiff_t unit_stride, const uint32_t* strip, int64_t units) {
    // Sums of float32 are made of sums over shorter parts, whose rounding adds up to less.
    const int64_t part = kNumbers<T> == 1 ? kShort : units;
    add<true>(left, row_stride, unit_stride, strip, std::min(part, units));
    for (int64_t k = part; k < units; k += part)
      add<false>(left + k * unit_stride, row_stride, unit_stride, strip + k * kTileColumns, std::min(part, units - k));
  }

  template <bool kFirst>
  inline void add(const uint32_t* left, ptrdiff_t row_stride, ptrdiff_t unit_stride, const uint32_t* strip,
                  int64_t units) {
    __m512 part[kTileRows][kTileVectors];
    for (auto& row : part)
      for (auto& sum : row) sum = _mm512_setzero_ps();
    for (int64_t k = 0; k < units; ++k, left += unit_stride, strip += kTileColumns) {
      __m512i numbers[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) numbers[v] = _mm512_loadu_si512(strip + v * 16);
      for (int i = 0; i < kTileRows; ++i) {
        const __m512i factor = _mm512_set1_epi32(static_cast<int>(left[i * row_stride]));
        for (int v = 0; v < kTileVectors; ++v) part[i][v] = multiply_add(part[i][v], factor, numbers[v], T{});
      }
    }
    for (int i = 0; i < kTileRows; ++i)
      for (int v = 0; v < kTileVectors; ++v) sums[i][v] = kFirst ? part[i][v] : _mm512_add_ps(sums[i][v], part[i][v]);
  }

  // Calls work(row, column, sums, lanes) for the vectors of rows [first, last) in which there are columns.
  template <typename Work>
  void for_each(int first, int last, int64_t columns, const Work& work) const {
    for (int i = 0; i < kTileRows; ++i)
      if (i >= first && i < last)
        for (int v = 0; v < kTileVectors; ++v) work(i, v * 16, sums[i][v], lanes_there(columns - v * 16));
  }
};

// Lays out the columns [0, columns) of (rows, columns), which is summed over its rows, as a strip.
template <typename T, typename S>
void lay_out_down(const S* x, ptrdiff_t stride, int64_t rows, int64_t columns, uint32_t* strip) {
  for (int64_t row = 0; row < rows; row += kNumbers<T>, strip += kTileColumns)
    for (int k = 0; k < kTileColumns; k += 16)
      _mm512_storeu_si512(strip + k,
                          units_down(x + row * stride + k, stride, rows - row, lanes_there(columns - k), T{}));
}

// The same for (columns, length), which is summed along its rows.
template <typename T>
void lay_out_along(const float* w, ptrdiff_t stride, int64_t length, int64_t columns, uint32_t* strip) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const int64_t units = divided_up(length, kNumbers<T>);
  for (int column = 0; column < kTileColumns; column += 16)
    for (int64_t k = 0; k < units; k += 16) {
      __m512i square[16];
      for (int i = 0; i < 16; ++i)
        square[i] = column + i < columns ? units_along(w + (column + i) * stride + k * kNumbers<T>,
                                                       length - k * kNumbers<T>, T{})
                                         : _mm512_setzero_si512();
      // Transposed by exchanging one bit of a row's number with the same bit of a column's at a time.
      for (int bit = 1; bit < 16; bit *= 2) {
        const __m512i step = _mm512_set1_epi32(bit);
        const __mmask16 upper = _mm512_test_epi32_mask(lane, step);
        const __m512i first = _mm512_mask_add_epi32(lane, upper, lane, _mm512_set1_epi32(16 - bit));
        const __m512i second = _mm512_add_epi32(first, step);
        for (int i = 0; i < 16; ++i)
          if (!(i & bit)) {
            const __m512i low = square[i], high = square[i + bit];
            square[i] = _mm512_permutex2var_epi32(low, first, high);
            square[i + bit] = _mm512_permutex2var_epi32(low, second, high);
          }
      }
      for (int i = 0; i < 16 && k + i < units; ++i)
        _mm512_storeu_si512(strip + (k + i) * kTileColumns + column, square[i]);
    }
}

// y (tokens, n) = x (tokens, k) B + bias, where B (k, n) is `w` or, if `transposed`, `w` (n, k) turned round; false if
// there is no memory. There are at least kTileRows tokens, and k is a whole number of units.
template <typename T>
bool multiply(int64_t tokens, int64_t k, int64_t n, bool transposed, const T* x, const float* w, const float* bias,
              T* y, int threads) {
  const int64_t units = k / kNumbers<T>, strip_count = divided_up(n, kTileColumns);
  // Long sums are made in blocks, whose sums so far are kept beside.
  const int64_t block = divided_up(units, divided_up(units, kLongest));
  const Memory strips(strip_count * kTileColumns * units), sums_so_far(block < units ? tokens * n : 0);
  if (!strips.units || !sums_so_far.units) return false;
  const int64_t fitting = kLeftBytes / (block * 4 * kTileRows);
  const int64_t at_once = in_a_part(divided_up(tokens, kTileRows), fitting, threads) * kTileRows;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t s = 0; s < strip_count; ++s) {
      const int64_t column = s * kTileColumns;
      uint32_t* strip = strips.units + column * units;
      if (transposed)
        lay_out_along<T>(w + column * k, k, k, n - column, strip);
      else
        lay_out_down<T>(w + column, n, k, n - column, strip);
    }
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < tokens; begin += at_once) {
      const int64_t end = std::min(tokens, begin + at_once);
      for (int64_t first = 0; first < units; first += block) {
        const int64_t count = std::min(block, units - first);
        for (int64_t column = 0; column < n; column += kTileColumns)
          for (int64_t row = begin; row < end; row += kTileRows) {
            // At the end a tile begins earlier, with rows that another one writes.
            const int64_t top = std::min(row, tokens - kTileRows);
            const Tile<T> tile(reinterpret_cast<const uint32_t*>(x + top * k) + first, units, 1,
                               strips.units + column * units + first * kTileColumns, count);
            tile.for_each(static_cast<int>(row - top), static_cast<int>(end - top), n - column,
                          [&](int i, int j, __m512 sums, __mmask16 lanes) {
                            const int64_t place = (top + i) * n + column + j;
                            float* so_far = reinterpret_cast<float*>(sums_so_far.units) + place;
                            if (first > 0) sums = _mm512_add_ps(sums, read(so_far, lanes));
                            if (first + count < units) return write(so_far, sums, lanes);
                            if (bias) sums = _mm512_add_ps(sums, read(bias + column + j, lanes));
                            write(y + place, sums, lanes);
                          });
          }
      }
    }
  }
  return true;
}

// Lays out columns [0, columns) of (rows, columns), which is summed over its rows, as narrow strips, `apart` units from
// one to the next. `line` has room for the columns and 32 more.
template <typename T>
void lay_out_narrow(const T* g, ptrdiff_t stride, int64_t rows, int64_t columns, uint32_t* line, uint32_t* strips,
                    ptrdiff_t apart) {
  for (int64_t row = 0; row < rows; row += kNumbers<T>, strips += kTileRows) {
    for (int64_t k = 0; k < columns; k += 16) {
      // Rows are far apart: the processor does not foresee the next ones.
      __builtin_prefetch(g + (row + kAhead) * stride + k);
      __builtin_prefetch(g + (row + kAhead + 1) * stride + k);
      _mm512_storeu_si512(line + k,
                          units_down(g + row * stride + k, stride, rows - row, lanes_there(columns - k), T{}));
    }
    // Eight units are copied for six: those of the next row come over the two that are too many.
    uint32_t* place = strips;
    for (int64_t k = 0; k < columns; k += kTileRows, place += apart)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(place),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + k)));
  }
}

// out (m, n) = factor g^T x, or += that, for g (tokens, m) and x (tokens, n); false if there is no memory.
template <typename T>
bool multiply_over_tokens(int64_t tokens, int64_t m, int64_t n, const T* g, const T* x, float factor, float* out,
                          bool accumulate, int threads) {
  constexpr int64_t kTokens = kUnits * kNumbers<T>;
  // Units from one narrow strip to the next: not a multiple of what the cache's ways are apart.
  constexpr int64_t kNarrow = kUnits * kTileRows + 16, kStrip = kUnits * kTileColumns;
  const int64_t strip_count = divided_up(n, kTileColumns), narrow_count = divided_up(m, kTileRows);
  const int64_t at_once = in_a_part(narrow_count, kLeftBytes / (kNarrow * 4), threads);
  const int64_t parts = divided_up(narrow_count, at_once);
  const Memory strips(strip_count * kStrip);
  bool complete = strips.units != nullptr;
#pragma omp parallel num_threads(threads) if (parts > 1)
  {
    const Memory left(at_once * kNarrow), line(at_once * kTileRows + 32);
    if (!left.units || !line.units) {
#pragma omp atomic write
      complete = false;
    }
#pragma omp barrier
    for (int64_t token = 0; complete && token < tokens; token += kTokens) {
      const int64_t count = std::min(kTokens, tokens - token);
#pragma omp for schedule(static)
      for (int64_t s = 0; s < strip_count; ++s)
        lay_out_down<T>(x + token * n + s * kTileColumns, n, count, n - s * kTileColumns, strips.units + s * kStrip);
#pragma omp for schedule(dynamic)
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = part * at_once * kTileRows, last = std::min(m, first + at_once * kTileRows);
        lay_out_narrow(g + token * m + first, m, count, last - first, line.units, left.units, kNarrow);
        for (int64_t column = 0; column < n; column += kTileColumns)
          for (int64_t row = first; row < last; row += kTileRows) {
            float* corner = out + row * n + column;
            const int rows = static_cast<int>(std::min<int64_t>(kTileRows, last - row));
            for (int i = 0; i < rows; ++i)
              for (int v = 0; v < kTileVectors; ++v) __builtin_prefetch(corner + i * n + v * 16, 1);
            const Tile<T> tile(left.units + (row - first) / kTileRows * kNarrow, 1, kTileRows,
                               strips.units + column / kTileColumns * kStrip, divided_up(count, kNumbers<T>));
            tile.for_each(0, rows, n - column, [&](int i, int j, __m512 sums, __mmask16 lanes) {
              float* place = corner + i * n + j;
              sums = _mm512_mul_ps(sums, _mm512_set1_ps(factor));
              if (accumulate || token > 0) sums = _mm512_add_ps(sums, read(place, lanes));
              write(place, sums, lanes);
            });
          }
      }
    }
  }
  return complete;
}

}  // namespace

#endif

// What Python calls. `is_bfloat16` tells the type of x and y, or g and x; the others are float32.
extern "C" {

// Whether there are the next two for this processor.
int products_there() {
#if defined(BERTSMITH_PRODUCTS)
  return 1;
#else
  return 0;
#endif
}

// These two return 0, or 1 if there was no memory.
int product(int is_bfloat16, int64_t tokens, int64_t k, int64_t n, int transposed, const void* x, const float* w,
            const float* bias, void* y, int threads) {
#if defined(BERTSMITH_PRODUCTS)
  if (is_bfloat16)
    return !multiply(tokens, k, n, transposed, static_cast<const BFloat16*>(x), w, bias, static_cast<BFloat16*>(y),
                     threads);
  return !multiply(tokens, k, n, transposed, static_cast<const float*>(x), w, bias, static_cast<float*>(y), threads);
#else
  return 1;
#endif
}

int weight_gradient(int is_bfloat16, int64_t tokens, int64_t m, int64_t n, const void* g, const void* x, float factor,
                    float* out, int accumulate, int threads) {
#if defined(BERTSMITH_PRODUCTS)
  if (is_bfloat16)
    return !multiply_over_tokens(tokens, m, n, static_cast<const BFloat16*>(g), static_cast<const BFloat16*>(x), factor,
                                 out, accumulate, threads);
  return !multiply_over_tokens(tokens, m, n, static_cast<const float*>(g), static_cast<const float*>(x), factor, out,
                               accumulate, threads);
#else
  return 1;
#endif
}

// out (width,) = the sum of x (rows, width) over its rows. `scratch` has room for a row a block of rows.
void sum_rows(int is_bfloat16, int64_t rows, int width, const void* x, float* scratch, float* out, int threads) {
  if (is_bfloat16)
    add_up_rows(rows, width, static_cast<const BFloat16*>(x), scratch, out, threads);
  else
    add_up_rows(rows, width, static_cast<const float*>(x), scratch, out, threads);
}
}
