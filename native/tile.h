// What kernels of matrices share: vectors of the widest registers, exp, and products of small
// blocks. Included by kernel files, inside the namespace of their instruction set.
//
// Compile with -fno-associative-math: exp needs the order of its operations, and sums are vectors
// already.
#pragma once

#include <cstring>

#if defined(__AVX512F__)
#define GISTREC_WIDTH 16
#elif defined(__AVX__)
#define GISTREC_WIDTH 8
#else
#define GISTREC_WIDTH 4
#endif

namespace gistrec {
namespace GISTREC_ISA {
namespace {

constexpr int W = GISTREC_WIDTH;
typedef float vec __attribute__((vector_size(4 * W)));
typedef int veci __attribute__((vector_size(4 * W)));
typedef float unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const unaligned*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<unaligned*>(p) = x; }
inline vec all(float x) { return x - vec{}; }
inline vec select(veci mask, vec yes, vec no) { return mask ? yes : no; }
inline vec larger(vec a, vec b) { return a < b ? b : a; }  // NaN of a stays
inline vec smaller(vec a, vec b) { return a > b ? b : a; }
inline long rounded(long n) { return (n + W - 1) / W * W; }

inline float sum(vec x) {
    float total = 0;
    for (int n = 0; n < W; ++n) total += x[n];
    return total;
}

inline float largest(vec x) {
    float found = x[0];
    for (int n = 1; n < W; ++n) found = x[n] > found ? x[n] : found;
    return found;
}

// Relative error below 3e-7 from -87 to 88, where arguments are cut off: 2^n e^r, |r| <= log(2) / 2,
// e^r by Chebyshev interpolation of degree 5. Adding 1.5 * 2^23 rounds to a whole number, which is
// then in the lowest bits.
inline vec exp(vec x) {
    x = smaller(larger(x, all(-87.0f)), all(88.0f));
    const vec shifted = x * 1.44269504f + 12582912.0f;
    const vec whole = shifted - 12582912.0f;
    const vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vec y = all(0.00836922042f);
    y = y * r + 0.0419180095f;
    y = y * r + 0.166665047f;
    y = y * r + 0.499988645f;
    y = y * r + 1.0f;
    y = y * r + 1.00000012f;
    return y * (vec)(((veci)shifted << 23) + (127 << 23));
}

// c += a b for R rows and C vectors of columns; element (r, k) of a stands at r * row + k * step.
template <int R, int C>
inline void tile(const float* a, long row, long step, const float* b, long b_row, long depth,
                 float* c, long c_row, bool fresh) {
    vec total[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < C; ++n) total[r][n] = fresh ? vec{} : load(c + r * c_row + n * W);
    for (long k = 0; k < depth; ++k) {
        vec across[C];
#pragma GCC unroll 4
        for (int n = 0; n < C; ++n) across[n] = load(b + k * b_row + n * W);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const vec one = all(a[r * row + k * step]);
#pragma GCC unroll 4
            for (int n = 0; n < C; ++n) total[r][n] += one * across[n];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < C; ++n) store(c + r * c_row + n * W, total[r][n]);
}

template <int C>
inline void rows_of(long rows, const float* a, long row, long step, const float* b, long b_row,
                    long depth, float* c, long c_row, bool fresh) {
    // as many sums as registers hold, at least eight to hide a multiplication's latency
    constexpr int R = GISTREC_WIDTH == 8 ? (C == 2 ? 6 : 12) : C == 4 ? 6 : 12;
    long r = 0;
    for (; r + R <= rows; r += R)
        tile<R, C>(a + r * row, row, step, b, b_row, depth, c + r * c_row, c_row, fresh);
    for (; r + 4 <= rows; r += 4)
        tile<4, C>(a + r * row, row, step, b, b_row, depth, c + r * c_row, c_row, fresh);
    for (; r < rows; ++r)
        tile<1, C>(a + r * row, row, step, b, b_row, depth, c + r * c_row, c_row, fresh);
}

// c = a b (fresh) or c += a b: (rows, depth) x (depth, columns), columns a multiple of W.
inline void multiply(long rows, long columns, long depth, const float* a, long row, long step,
                     const float* b, long b_row, float* c, long c_row, bool fresh) {
    long n = 0;
    if (GISTREC_WIDTH != 8)
        for (; n + 4 * W <= columns; n += 4 * W)
            rows_of<4>(rows, a, row, step, b + n, b_row, depth, c + n, c_row, fresh);
    for (; n + 2 * W <= columns; n += 2 * W)
        rows_of<2>(rows, a, row, step, b + n, b_row, depth, c + n, c_row, fresh);
    for (; n < columns; n += W)
        rows_of<1>(rows, a, row, step, b + n, b_row, depth, c + n, c_row, fresh);
}

// (rows, width) with zeros up to `padded` columns.
inline void pack(float* out, const float* x, long stride, long rows, long width, long padded) {
    for (long r = 0; r < rows; ++r) {
        std::memcpy(out + r * padded, x + r * stride, width * sizeof(float));
        for (long n = width; n < padded; ++n) out[r * padded + n] = 0;
    }
}

// (rows, width) as (width, padded) with zeros behind `rows`.
inline void pack_across(float* out, const float* x, long stride, long rows, long width,
                        long padded) {
    for (long n = 0; n < width; ++n) {
        for (long r = 0; r < rows; ++r) out[n * padded + r] = x[r * stride + n];
        for (long r = rows; r < padded; ++r) out[n * padded + r] = 0;
    }
}

}  // namespace
}  // namespace GISTREC_ISA
}  // namespace gistrec
