// Vectors of 32-bit words, and products of matrices made of words.
//
// A word is what a product multiplies at a time: one float32 (`Singles`), or two bfloat16 that stand next to each other
// along the sum (`Pairs`, on processors that multiply and add those, in float32). The same loops serve both.

#pragma once

#include <cmath>

#include "vectors.h"

namespace {

#if defined(BERTSMITH_AVX512)
constexpr int kMostSums = 24;    // vectors of sums that fit into the registers, beside what they are made of
constexpr int kMostVectors = 4;  // of them in a row
#else
constexpr int kMostSums = 12;
constexpr int kMostVectors = 2;
#endif

BERTSMITH_INLINE Vec load(const uint32_t* place) { return *reinterpret_cast<const Vec*>(place); }
BERTSMITH_INLINE void store(uint32_t* place, Vec value) { *reinterpret_cast<Vec*>(place) = value; }
BERTSMITH_INLINE Vec splat(float value) { return value - Vec{}; }

BERTSMITH_INLINE UintVec lane_numbers() {
  UintVec lanes;
  for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = lane;
  return lanes;
}

inline int up_to_vectors(int size) { return (size + kWidth - 1) / kWidth * kWidth; }

// ---- Functions of vectors ----

// The larger of two, or `value` where `next` is not a number.
BERTSMITH_INLINE Vec larger(Vec next, Vec value) {
#if defined(BERTSMITH_AVX512)
  return _mm512_max_ps(next, value);
#else
  return next > value ? next : value;
#endif
}

// 2^x for x <= 0, relative error below 2e-7: 2^floor(x) times a polynomial on [0, 1]. What is not a number stays so.
BERTSMITH_INLINE Vec exp2_of(Vec x) {
#if defined(BERTSMITH_AVX512)
  const Vec r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x); 0 at -infinity
#else
  const IntVec vanishes = x < -126.0f;
  x = vanishes ? Vec{} : x;
  const Vec shifted = (x - 0.5f) + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are a whole number below x
  const Vec r = x - (shifted - 12582912.0f);
#endif
  Vec p = r * 1.87757669e-3f + 8.98933969e-3f;
  p = p * r + 5.58263175e-2f;
  p = p * r + 2.40153611e-1f;
  p = p * r + 6.93153083e-1f;
  p = p * r + 9.9999994e-1f;
#if defined(BERTSMITH_AVX512)
  return _mm512_scalef_ps(p, x);
#else
  const IntVec exponent = (same_bits<IntVec>(shifted) + (127 - 0x4b400000)) << 23;
  const Vec result = p * same_bits<Vec>(exponent);
  return vanishes ? Vec{} : result;
#endif
}

// The natural logarithm.
inline Vec log_of(Vec x) {
#if defined(BERTSMITH_AVX512)
  // x = m 2^e with m in [0.75, 1.5); log m = 2 artanh((m - 1) / (m + 1)).
  const Vec m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
  const Vec e = _mm512_getexp_ps(x / m);
  const Vec z = (m - 1.0f) / (m + 1.0f);
  const Vec square = z * z;
  Vec p = square * (2.0f / 9) + 2.0f / 7;
  p = p * square + 2.0f / 5;
  p = p * square + 2.0f / 3;
  p = p * square + 2.0f;
  return e * 0.69314718056f + z * p;
#else
  Vec result;
  for (int lane = 0; lane < kWidth; ++lane) result[lane] = std::log(x[lane]);
  return result;
#endif
}

// The words of two vectors in turn.
BERTSMITH_INLINE void interleave(Vec left, Vec right, Vec* low, Vec* high) {
#if defined(BERTSMITH_AVX512)
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  *low = _mm512_permutex2var_ps(left, first, right);
  *high = _mm512_permutex2var_ps(left, _mm512_add_epi32(first, _mm512_set1_epi32(8)), right);
#elif defined(__clang__) || __GNUC__ >= 12
  *low = __builtin_shufflevector(left, right, 0, 8, 1, 9, 2, 10, 3, 11);
  *high = __builtin_shufflevector(left, right, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  for (int lane = 0; lane < kWidth; ++lane) {
    Vec* target = lane < kWidth / 2 ? low : high;
    (*target)[2 * lane % kWidth] = left[lane];
    (*target)[2 * lane % kWidth + 1] = right[lane];
  }
#endif
}

// Transposes kWidth vectors of words. A perfect shuffle turns the bits of a word's place, row and lane, by one; after
// as many as a lane has bits the two are exchanged.
BERTSMITH_INLINE void transpose(Vec (&rows)[kWidth]) {
  constexpr int kHalf = kWidth / 2;
#pragma GCC unroll 4
  for (int turn = 1; turn < kWidth; turn *= 2) {
    Vec next[kWidth];
#pragma GCC unroll 8
    for (int i = 0; i < kHalf; ++i) interleave(rows[i], rows[i + kHalf], &next[2 * i], &next[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) rows[i] = next[i];
  }
}

// ---- The two kinds of words ----

struct Singles {
  using Word = float;
  static constexpr int kGroup = 1;  // elements in a word

  static BERTSMITH_INLINE Vec broadcast(const Word* word) { return splat(*word); }
  static BERTSMITH_INLINE Vec multiply_add(Vec sum, Vec left, Vec right) { return sum + left * right; }

  // The first words of a row with `count` more elements.
  template <typename T>
  static BERTSMITH_INLINE Vec words(const T* row, int count) {
    return load(row, count);
  }

  // Two rows of a matrix whose words go along the rows' numbers, or down a column, at `place` and `stride` after it.
  static BERTSMITH_INLINE void put_down(Word* place, ptrdiff_t stride, Vec first, Vec second) {
    store(place, first);
    store(place + stride, second);
  }
  // A row, whose words go along it.
  template <int kVectors>
  static BERTSMITH_INLINE void put_along(Word* place, const Vec (&values)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) store(place + v * kWidth, values[v]);
  }
  // Elements [column, column + kWidth) of two rows of the source.
  template <typename T>
  static BERTSMITH_INLINE void copy_down(const T* first, const T* second, int count, Word* place, ptrdiff_t stride) {
    for (int k = 0; k < count; k += kWidth)
      put_down(place + k, stride, load(first + k, count - k), second ? load(second + k, count - k) : Vec{});
  }
};

#if defined(BERTSMITH_AVX512_BF16)

struct Pairs {
  using Word = uint32_t;
  static constexpr int kGroup = 2;

  static BERTSMITH_INLINE Vec broadcast(const Word* word) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*word)));
  }
  static BERTSMITH_INLINE Vec multiply_add(Vec sum, Vec left, Vec right) {
    return _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right);
  }
  static BERTSMITH_INLINE Vec words(const BFloat16* row, int count) {
    const __mmask32 there = count >= 32 ? 0xffffffffu : (1u << count) - 1;
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(there, row));
  }
  static BERTSMITH_INLINE void put_down(Word* place, ptrdiff_t, Vec first, Vec second) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    store(place, _mm512_castsi512_ps(_mm512_permutexvar_epi16(alternating(), halves)));
  }
  template <int kVectors>
  static BERTSMITH_INLINE void put_along(Word* place, const Vec (&values)[kVectors]) {
    if constexpr (kVectors == 1)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(place), (__m256i)_mm512_cvtneps_pbh(values[0]));
    else
      for (int v = 0; v < kVectors; v += 2)
        store(place + v * kWidth / 2, (Vec)_mm512_cvtne2ps_pbh(values[v + 1], values[v]));
  }
  static BERTSMITH_INLINE void copy_down(const BFloat16* first, const BFloat16* second, int count, Word* place,
                                         ptrdiff_t) {
    for (int k = 0; k < count; k += kWidth) {
      const __mmask16 there = lanes_below(count - k);
      const __m256i left = _mm256_maskz_loadu_epi16(there, first + k);
      const __m256i right = second ? _mm256_maskz_loadu_epi16(there, second + k) : _mm256_setzero_si256();
      const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(left), right, 1);
      store(place + k, _mm512_castsi512_ps(_mm512_permutexvar_epi16(alternating(), halves)));
    }
  }

 private:
  // Takes elements from the lower and the upper half of a vector in turn.
  static BERTSMITH_INLINE __m512i alternating() {
    return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                            19, 3, 18, 2, 17, 1, 16, 0);
  }
};

using BFloat16Words = Pairs;

#else

using BFloat16Words = Singles;

#endif

// ---- Copies of a head's rows in words ----

// Rows of a matrix in memory, of one head. While they are copied, what stands `ahead` elements later is asked for: it
// is for another unit's turn, and lies too far apart for the processor to guess that.
template <typename T>
struct Rows {
  const T* first;
  ptrdiff_t stride;
  ptrdiff_t ahead;
  int head_size;

  const T* row(int i) const { return first + i * stride; }
  Rows down(int rows) const { return {row(rows), stride, ahead, head_size}; }
  Rows right(ptrdiff_t columns) const { return {first + columns, stride, ahead, head_size}; }
  BERTSMITH_INLINE void expect(int i) const {
    for (int k = 0; k < head_size; k += 64 / sizeof(T)) __builtin_prefetch(row(i) + ahead + k, 0, 2);
  }
};

// (words of a row, rows): word w of row i at target[w * target_stride + i]. The last row is repeated up to a whole
// vector.
template <typename Words, typename T>
void copy_across(const Rows<T>& source, int rows, typename Words::Word* target, ptrdiff_t target_stride) {
  const int words = (source.head_size + Words::kGroup - 1) / Words::kGroup;
  for (int i = 0; i < rows; i += kWidth) {
    const int there = rows - i < kWidth ? rows - i : kWidth;
    for (int r = 0; r < there; ++r) source.expect(i + r);
    for (int w = 0; w < words; w += kWidth) {
      const T* first = source.row(i) + w * Words::kGroup;
      const int count = source.head_size - w * Words::kGroup;
      Vec block[kWidth];
#pragma GCC unroll 16
      for (int r = 0; r < kWidth; ++r)
        block[r] = Words::words(first + (r < there ? r : there - 1) * source.stride, count);
      transpose(block);
      for (int k = 0; k < kWidth && k < words - w; ++k) store(target + (w + k) * target_stride + i, block[k]);
    }
  }
}

// (padded rows in words, width): words go down the columns. Rows and columns that are not there are 0.
template <typename Words, typename T>
void copy_down(const Rows<T>& source, int rows, int padded_rows, typename Words::Word* target, ptrdiff_t width) {
  for (int i = 0; i < padded_rows; i += 2) {
    typename Words::Word* place = target + i / Words::kGroup * width;
    if (i < rows) {
      source.expect(i);
      if (i + 1 < rows) source.expect(i + 1);
      Words::copy_down(source.row(i), i + 1 < rows ? source.row(i + 1) : nullptr, source.head_size, place, width);
    } else {
      for (ptrdiff_t k = 0; k < 2 / Words::kGroup * width; k += kWidth) store(place + k, Vec{});
    }
  }
}

// ---- Products ----

template <int kNumber>
using Count = std::integral_constant<int, kNumber>;

// Calls work(Count<0>), work(Count<1>), ... The loop is written out, so that arrays of vectors are registers.
template <int kNumber, typename Work>
BERTSMITH_INLINE void repeat(const Work& work) {
  if constexpr (kNumber > 0) {
    repeat<kNumber - 1>(work);
    work(Count<kNumber - 1>{});
  }
}

// Calls work(first, Count<n>) for tiles of n = kMost rows, the last of a third or two thirds of that if it has no more.
// It may go beyond the rows: few sizes compile fast.
template <int kMost, typename Work>
BERTSMITH_INLINE void by_tiles(int rows, const Work& work) {
  constexpr int kThird = kMost / 3;
  for (int first = 0; first < rows; first += kMost) {
    if (rows - first > 2 * kThird)
      work(first, Count<kMost>{});
    else if (rows - first > kThird)
      work(first, Count<2 * kThird>{});
    else
      work(first, Count<kThird>{});
  }
}

// Calls work(first vector, Count<n>) for n = kMost, kMost / 2, ... 1 vectors at a time.
template <int kMost, typename Work>
BERTSMITH_INLINE void by_vectors(int first, int count, const Work& work) {
  for (; first + kMost <= count; first += kMost) work(first, Count<kMost>{});
  if constexpr (kMost > 1) by_vectors<kMost / 2>(first, count, work);
}

// sums (kRows x kVectors vectors) = A B. Word (i, k) of A stands at a[i * kRowStride + k * step], row k of B at
// b + k * b_stride.
template <typename Words, int kRowStride, int kRows, int kVectors>
BERTSMITH_INLINE void product(const typename Words::Word* a, ptrdiff_t step, const typename Words::Word* b,
                                  ptrdiff_t b_stride, int depth, Vec (&sums)[kRows][kVectors]) {
  // Set one by one: an initializer becomes a call of memset.
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Vec{};
  for (int k = 0; k < depth; ++k, a += step, b += b_stride) {
    Vec right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * kWidth);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const Vec left = Words::broadcast(a + i * kRowStride);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Words::multiply_add(sums[i][v], left, right[v]);
    }
  }
}

}  // namespace
