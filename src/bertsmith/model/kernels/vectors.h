// Vectors of numbers as the processor has them, written with the compiler's own vector types: the same source for every
// processor. Also what is computed with them: bfloat16, exp, sums, the bits of dropout.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define BERTSMITH_AVX512 1
#include <immintrin.h>
#if defined(__AVX512BF16__)
#define BERTSMITH_AVX512_BF16 1
#endif
#endif

#define BERTSMITH_INLINE inline __attribute__((always_inline))

namespace {

#if defined(BERTSMITH_AVX512)
constexpr int kWidth = 16;
#else
constexpr int kWidth = 8;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint32_t UintVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint16_t ShortVec __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

struct BFloat16 {
  uint16_t bits;
};

template <typename To, typename From>
BERTSMITH_INLINE To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "another size");
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

// Whole vectors from and to memory; bfloat16 is rounded to the nearest, ties to even, and a NaN stays one.
BERTSMITH_INLINE Vec load(const float* place) { return *reinterpret_cast<const Vec*>(place); }
BERTSMITH_INLINE Vec load(const BFloat16* place) {
  const ShortVec bits = *reinterpret_cast<const ShortVec*>(place);
  return same_bits<Vec>(__builtin_convertvector(bits, UintVec) << 16);
}
BERTSMITH_INLINE void store(float* place, Vec value) { *reinterpret_cast<Vec*>(place) = value; }
BERTSMITH_INLINE void store(BFloat16* place, Vec value) {
#if defined(BERTSMITH_AVX512_BF16)
  const __m256bh rounded = _mm512_cvtneps_pbh(same_bits<__m512>(value));
  std::memcpy(place, &rounded, sizeof rounded);
#else
  const UintVec bits = same_bits<UintVec>(value);
  const UintVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UintVec chosen = value == value ? rounded : UintVec{} + 0x7fc0;
  *reinterpret_cast<ShortVec*>(place) = __builtin_convertvector(chosen, ShortVec);
#endif
}

// The first `count` lanes, or all if there are fewer; the others are 0, and are not written. `count` is not 0.
#if defined(BERTSMITH_AVX512)

BERTSMITH_INLINE __mmask16 lanes_below(int count) {
  return count >= kWidth ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}
BERTSMITH_INLINE Vec load(const float* place, int count) { return _mm512_maskz_loadu_ps(lanes_below(count), place); }
BERTSMITH_INLINE Vec load(const BFloat16* place, int count) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes_below(count), place));
  return same_bits<Vec>(_mm512_slli_epi32(wide, 16));
}
BERTSMITH_INLINE void store(float* place, Vec value, int count) {
  _mm512_mask_storeu_ps(place, lanes_below(count), same_bits<__m512>(value));
}
BERTSMITH_INLINE void store(BFloat16* place, Vec value, int count) {
  BFloat16 lanes[kWidth];
  store(lanes, value);
  const __m256i whole = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
  _mm256_mask_storeu_epi16(place, lanes_below(count), whole);
}

#else

template <typename T>
inline Vec load(const T* place, int count) {
  if (count >= kWidth) return load(place);
  T lanes[kWidth] = {};
  std::memcpy(lanes, place, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}
template <typename T>
inline void store(T* place, Vec value, int count) {
  if (count >= kWidth) return store(place, value);
  T lanes[kWidth];
  store(lanes, value);
  std::memcpy(place, lanes, static_cast<size_t>(count) * sizeof(T));
}

#endif

// A whole vector, known to the compiler, so that what is done with a part of one costs nothing where it is whole.
typedef std::integral_constant<int, kWidth> Whole;

template <typename T>
BERTSMITH_INLINE Vec load(const T* place, Whole) { return load(place); }
template <typename T>
inline void store(T* place, Vec value, Whole) { store(place, value); }

// `value` in the lanes that are there, `other` in those that are not.
inline Vec first_lanes(Vec value, Whole, Vec = Vec{}) { return value; }
inline Vec first_lanes(Vec value, int count, Vec other = Vec{}) {
  for (int lane = count; lane < kWidth; ++lane) value[lane] = other[lane];
  return value;
}

// Calls work(k, count) for the vectors of a row; count is Whole{} but for what is left at the end.
template <typename Work>
inline void for_vectors(int width, const Work& work) {
  int k = 0;
  for (; k + kWidth <= width; k += kWidth) work(k, Whole{});
  if (k < width) work(k, width - k);
}

inline float sum_of(Vec value) {
  float total = 0;
  for (int lane = 0; lane < kWidth; ++lane) total += value[lane];
  return total;
}

inline float largest_of(Vec value) {
  float most = value[0];
  for (int lane = 1; lane < kWidth; ++lane) most = value[lane] > most ? value[lane] : most;
  return most;
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
  const IntVec exponent = (same_bits<IntVec>(shifted) + (127 - 0x4b400000)) << 23;
  const Vec result = p * same_bits<Vec>(exponent);
  return vanishes ? Vec{} : result;
}

// Dropout whose bits are a function of a seed and of a value's row and column: nothing else has to be remembered, and
// they don't depend on who computes them. Values whose bits are below `threshold` become 0, the others are scaled by
// `kept`; a threshold of 0 keeps everything.
struct Dropout {
  uint32_t threshold;
  float kept;
  uint64_t seed;

  uint32_t row_key(int64_t row) const {
    uint64_t value = seed ^ (0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(row) + 1));
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
    return static_cast<uint32_t>(value ^ (value >> 31)) ^ static_cast<uint32_t>(value >> 32);
  }

  // 0 or `kept` for the columns from `column` on in the row with this key.
  Vec factors(uint32_t key, int column) const {
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
};

// Sums over rows are made block by block and then over the blocks, so that they don't depend on the number of threads.
constexpr int kBlockRows = 64;

inline int64_t blocks_of(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// Adds up (blocks, width) into (width,).
inline void sum_blocks(const float* parts, int64_t blocks, int64_t stride, int width, float* sums) {
  for_vectors(width, [&](int k, auto count) {
    Vec total{};
    for (int64_t block = 0; block < blocks; ++block) total += load(parts + block * stride + k, count);
    store(sums + k, total, count);
  });
}

}  // namespace
