// Products of pairs of bfloat16 with sums in float32, where the processor has them (GISTREC_BF16).
// Two neighbours along the sum stand in one word: depth counts words.
#pragma once

#include <cstdint>

#include "tile.h"

#ifdef __AVX512BF16__
#define GISTREC_BF16
#include <immintrin.h>

namespace gistrec {
namespace GISTREC_ISA {
namespace {

inline __m256i half(vec x) { return (__m256i)_mm512_cvtneps_pbh((__m512)x); }

// 16 numbers in 8 words, pairs side by side.
inline void store_half(std::uint32_t* out, vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), half(x));
}

// 16 words of a number of x and one of y each.
inline void store_pairs(std::uint32_t* out, vec x, vec y) {
    const __m512i low = _mm512_cvtepu16_epi32(half(x)), high = _mm512_cvtepu16_epi32(half(y));
    _mm512_storeu_si512(out, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

inline std::uint32_t pair(float x, float y) {
    std::uint32_t word[8];
    store_half(word, vec{x, y});
    return word[0];
}

template <int R, int C>
inline void tile_pairs(const std::uint32_t* a, long row, long step, const std::uint32_t* b, long b_row,
                       long depth, float* c, long c_row, bool fresh) {
    __m512 total[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < C; ++n)
            total[r][n] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c + r * c_row + n * W);
    for (long k = 0; k < depth; ++k) {
        __m512bh across[C];
#pragma GCC unroll 4
        for (int n = 0; n < C; ++n)
            across[n] = (__m512bh)_mm512_loadu_si512(b + k * b_row + n * W);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const __m512bh one = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * row + k * step]));
#pragma GCC unroll 4
            for (int n = 0; n < C; ++n) total[r][n] = _mm512_dpbf16_ps(total[r][n], one, across[n]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < C; ++n) _mm512_storeu_ps(c + r * c_row + n * W, total[r][n]);
}

template <int C>
inline void rows_of_pairs(long rows, const std::uint32_t* a, long row, long step, const std::uint32_t* b,
                          long b_row, long depth, float* c, long c_row, bool fresh) {
    constexpr int R = C == 4 ? 6 : 12;
    long r = 0;
    for (; r + R <= rows; r += R)
        tile_pairs<R, C>(a + r * row, row, step, b, b_row, depth, c + r * c_row, c_row, fresh);
    for (; r < rows; ++r)
        tile_pairs<1, C>(a + r * row, row, step, b, b_row, depth, c + r * c_row, c_row, fresh);
}

// As `multiply`.
inline void multiply_pairs(long rows, long columns, long depth, const std::uint32_t* a, long row,
                           long step, const std::uint32_t* b, long b_row, float* c, long c_row,
                           bool fresh) {
    long n = 0;
    for (; n + 4 * W <= columns; n += 4 * W)
        rows_of_pairs<4>(rows, a, row, step, b + n, b_row, depth, c + n, c_row, fresh);
    for (; n + 2 * W <= columns; n += 2 * W)
        rows_of_pairs<2>(rows, a, row, step, b + n, b_row, depth, c + n, c_row, fresh);
    for (; n < columns; n += W)
        rows_of_pairs<1>(rows, a, row, step, b + n, b_row, depth, c + n, c_row, fresh);
}

}  // namespace
}  // namespace GISTREC_ISA
}  // namespace gistrec
#endif
