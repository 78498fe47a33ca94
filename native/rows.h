// A query over rows in memory: its products with 64 keys, their weights, the weighted sum of 64
// values. Rows stand as states hold them, a slot's numbers side by side, any distance apart.
// Included by kernel files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "tile.h"

namespace gistrec {
namespace GISTREC_ISA {
namespace {

constexpr long kBlock = 64;  // slots read at once: scores and rows stay in the first cache

inline vec silu(vec x) { return x / (1.0f + exp(-x)); }

// ---- sums of vectors' lanes: lane n of the result is the sum of vector n ----

// Where lane n of a stage's first (half 0) or second summand comes from: 0..W-1 in a, then b.
constexpr int source(int stage, int half, int n) {
    const int quad = n / 4, place = n % 4, quads = W / 4;
    if (stage == 0) return place % 2 * W + quad * 4 + place / 2 + 2 * half;
    if (stage == 1) return place / 2 * W + quad * 4 + place % 2 + 2 * half;
    const int second = quad >= quads / 2;
    return second * W + (2 * quad - second * quads + half) * 4 + place;
}

template <int stage, int half, int... n>
inline vec pick(vec a, vec b, std::integer_sequence<int, n...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, source(stage, half, n)...);
#else
    return __builtin_shuffle(a, b, veci{source(stage, half, n)...});
#endif
}

template <int stage>
inline vec merge(vec a, vec b) {
    using Lanes = std::make_integer_sequence<int, W>;
    return pick<stage, 0>(a, b, Lanes{}) + pick<stage, 1>(a, b, Lanes{});
}

inline vec lane_sums(vec* x) {
#pragma GCC unroll 16
    for (int n = 0; n < W / 2; ++n) x[n] = merge<0>(x[2 * n], x[2 * n + 1]);
#pragma GCC unroll 16
    for (int n = 0; n < W / 4; ++n) x[n] = merge<1>(x[2 * n], x[2 * n + 1]);
#pragma GCC unroll 4
    for (int left = W / 4; left > 1; left /= 2)
#pragma GCC unroll 4
        for (int n = 0; n < left / 2; ++n) x[n] = merge<2>(x[2 * n], x[2 * n + 1]);
    return x[0];
}

// ---- rows of fp32 ----

// Products of a query, padded with zeros to whole vectors, with `count` rows: out is written up to
// the next multiple of W.
inline void scores(const float* q, const float* rows, long stride, long count, long width,
                   float* out) {
    float padded[W * W];
    for (long first = 0; first < count; first += W) {
        const float* from = rows + first * stride;
        const long here = std::min<long>(W, count - first);
        vec x[W] = {};
        for (long c = 0; c < width; c += W) {
            const float* part = from + c;
            long step = stride;
            if (here < W || width - c < W) {  // reading on would leave the rows
                std::fill_n(padded, W * W, 0.0f);
                pack(padded, part, stride, here, std::min<long>(W, width - c), W);
                part = padded, step = W;
            }
            const vec q_part = load(q + c);
#pragma GCC unroll 16
            for (int n = 0; n < W; ++n) x[n] += q_part * load(part + n * step);
        }
        store(out + first, lane_sums(x));
    }
}

// sum += weights rows, for C vectors of columns and `count` rows, 8 / C of them at a time.
template <int C>
inline void add_columns(const float* weight, const float* rows, long stride, long count,
                        float* sum) {
    constexpr int R = 8 / C;
    vec x[R][C] = {};
    long n = 0;
    for (; n + R <= count; n += R)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const vec one = all(weight[n + r]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) x[r][c] += one * load(rows + (n + r) * stride + c * W);
        }
    for (; n < count; ++n)
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) x[0][c] += all(weight[n]) * load(rows + n * stride + c * W);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
        vec total = load(sum + c * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) total += x[r][c];
        store(sum + c * W, total);
    }
}

inline void add_rows(const float* weight, const float* rows, long stride, long count, long width,
                     float* sum) {
    long c = 0;
    for (; c + 4 * W <= width; c += 4 * W)
        add_columns<4>(weight, rows + c, stride, count, sum + c);
    for (; c + 2 * W <= width; c += 2 * W)
        add_columns<2>(weight, rows + c, stride, count, sum + c);
    for (; c + W <= width; c += W) add_columns<1>(weight, rows + c, stride, count, sum + c);
    for (; c < width; ++c)
        for (long n = 0; n < count; ++n) sum[c] += weight[n] * rows[n * stride + c];
}

}  // namespace
}  // namespace GISTREC_ISA
}  // namespace gistrec
