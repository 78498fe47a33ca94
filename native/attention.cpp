// Attention whose scores never leave the cache: blocks of 32 queries and 64 slots, forward and
// backward (which computes the scores anew). Blocks that no query sees are skipped.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tile.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace gistrec {
namespace GISTREC_ISA {
namespace {

constexpr int ROWS = 32, COLUMNS = 64, BUCKETS = 64;
constexpr std::int32_t NOWHERE = std::numeric_limits<std::int32_t>::max();

typedef std::uint8_t bytes __attribute__((vector_size(W)));
typedef std::uint8_t some_bytes __attribute__((vector_size(W), aligned(1), may_alias));
typedef std::int32_t places __attribute__((vector_size(4 * W), aligned(4), may_alias));

inline veci whole(const std::uint8_t* p) {
    const bytes b = *reinterpret_cast<const some_bytes*>(p);
    return __builtin_convertvector(b, veci);
}

// table[index] of 64 numbers
inline vec looked_up(const float* table, veci index) {
#ifdef __AVX512F__
    const __m512i i = (__m512i)index;
    const __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(table), i, _mm512_loadu_ps(table + 16));
    const __m512 high =
        _mm512_permutex2var_ps(_mm512_loadu_ps(table + 32), i, _mm512_loadu_ps(table + 48));
    return (vec)_mm512_mask_blend_ps(_mm512_test_epi32_mask(i, _mm512_set1_epi32(32)), low, high);
#else
    vec found = {};
    for (int n = 0; n < W; ++n) found[n] = table[index[n]];
    return found;
#endif
}

// One user's slots, ready for products in blocks.
struct Slots {
    long blocks;
    std::vector<std::int32_t> place;  // positions, NOWHERE where there is no slot
    struct Block {
        std::int32_t first, last;  // among the real ones; first > last if there is none
        bool all_real, in_a_row;   // whether each position is base + its number
        std::int32_t base;
    };
    std::vector<Block> block;

    void read(const Attention& a, long b) {
        blocks = (a.slots + COLUMNS - 1) / COLUMNS;
        place.assign(blocks * COLUMNS, NOWHERE);
        block.resize(blocks);
        const std::int32_t* slot = a.slot + b * a.slot_user;
        const std::uint8_t* real = a.real + b * a.real_user;
        for (long t = 0; t < a.slots; ++t)
            if (real[t * a.real_slot]) place[t] = slot[t];
        for (long j = 0; j < blocks; ++j) {
            Block found{NOWHERE, -1, true, true, 0};
            bool begun = false;
            for (long n = 0; n < COLUMNS; ++n) {
                const std::int32_t at = place[j * COLUMNS + n];
                if (at == NOWHERE) {
                    found.all_real = false;
                    continue;
                }
                found.first = std::min(found.first, at), found.last = std::max(found.last, at);
                const std::int32_t base = at - static_cast<std::int32_t>(n);
                if (begun && base != found.base) found.in_a_row = false;
                found.base = base, begun = true;
            }
            block[j] = found;
        }
    }
};

// One block of scores and what hides and shifts them.
template <bool SOFTMAX>
struct Tile {
    const Attention& a;
    const Slots& slots;
    alignas(64) float x[ROWS * COLUMNS];
    alignas(64) float y[ROWS * COLUMNS];
    std::uint8_t bucket_copy[ROWS * COLUMNS], mask_copy[ROWS * COLUMNS];
    const std::uint8_t *bucket = nullptr, *mask = nullptr;
    long bucket_row = 0, mask_row = 0;
    long b, h, q0, rows, j;
    long columns, wide;  // slots of the block that any row may see, and those in whole vectors
    const std::int32_t* query;
    const float *near, *far;  // of the head; near is reversed, with COLUMNS zeros on both sides
    std::int32_t lowest, highest;
    bool whole_block;

    Tile(const Attention& a, const Slots& slots) : a(a), slots(slots) {}

    void rows_are(long user, long head, long first, long count) {
        b = user, h = head, q0 = first, rows = count;
        query = a.query + b * a.query_user + q0;
        lowest = *std::min_element(query, query + rows);
        highest = *std::max_element(query, query + rows);
    }

    // Turn to block j; false if no query of the rows sees any of it.
    bool turn(long block) {
        j = block, columns = std::min<long>(COLUMNS, a.slots - j * COLUMNS);
        const Slots::Block& s = slots.block[j];
        if (s.first > s.last || highest < s.first) return false;
        if (s.in_a_row) columns = std::min<long>(columns, static_cast<long>(highest) - s.base + 1);
        wide = rounded(columns);
        whole_block = s.all_real && lowest >= s.last && !a.mask;
        if (a.mask) {
            mask = a.mask + b * a.mask_user + h * a.mask_head + q0 * a.mask_row + j * COLUMNS;
            mask_row = a.mask_row;
            std::uint8_t any = 0;
            for (long r = 0; r < rows; ++r)
                for (long n = 0; n < columns; ++n) any |= mask[r * mask_row + n];
            if (!any) return false;
            fit(mask, mask_row, mask_copy);
        }
        if (a.bucket) {
            bucket = a.bucket + (b * a.queries + q0) * a.slots + j * COLUMNS, bucket_row = a.slots;
            fit(bucket, bucket_row, bucket_copy);
        }
        return true;
    }

    // Vectors must not read behind a narrow last block.
    void fit(const std::uint8_t*& from, long& row, std::uint8_t* copy) const {
        if (j + 1 < slots.blocks) return;
        for (long r = 0; r < rows; ++r)
            for (long n = 0; n < COLUMNS; ++n)
                copy[r * COLUMNS + n] = j * COLUMNS + n < a.slots ? from[r * row + n] : 0;
        from = copy, row = COLUMNS;
    }

    bool row_sees(long r) const { return query[r] >= slots.block[j].first; }

    // Where a row's distances stand in `near`, for blocks in a row.
    long offset(long r) const {
        return COLUMNS + a.distances - 1 - (static_cast<long>(query[r]) - slots.block[j].base);
    }

    long distance(long r, long n) const {
        const std::int32_t at = slots.place[j * COLUMNS + n];
        return at > query[r] ? 0 : std::min<long>(query[r] - at, a.distances - 1);
    }

    veci seen(long r, long n) const {
        const places at = *reinterpret_cast<const places*>(slots.place.data() + j * COLUMNS + n);
        veci found = (veci)at <= query[r] - veci{};
        if (a.mask) found &= whole(mask + r * mask_row + n) != 0;
        return found;
    }

    vec biased(long r, long n) const {
        vec score = load(x + r * COLUMNS + n);
        if (slots.block[j].in_a_row) {
            score += load(near + offset(r) + n);
        } else {
            vec shift = {};
            for (int i = 0; i < W; ++i)
                shift[i] = near[COLUMNS + a.distances - 1 - distance(r, n + i)];
            score += shift;
        }
        if (a.bucket) score += looked_up(far, whole(bucket + r * bucket_row + n));
        return score;
    }

    void clear(long r) {
        std::fill_n(x + r * COLUMNS, COLUMNS, 0.0f);
        std::fill_n(y + r * COLUMNS, COLUMNS, 0.0f);
    }

    // x: scores -> weights.
    void silu() {
        for (long r = 0; r < rows; ++r) {
            if (!row_sees(r)) {
                clear(r);
                continue;
            }
            for (long n = 0; n < wide; n += W) {
                const vec s = biased(r, n), w = s / (1.0f + exp(-s));
                store(x + r * COLUMNS + n, whole_block ? w : select(seen(r, n), w, vec{}));
            }
        }
    }

    // x: scores -> weights relative to the largest so far; `shrink` is what earlier ones shrink by.
    void softmax(float* top, float* total, float* shrink) {
        for (long r = 0; r < rows; ++r) {
            shrink[r] = 1;
            if (!row_sees(r)) {
                clear(r);
                continue;
            }
            vec most = all(-INFINITY);
            for (long n = 0; n < wide; n += W) {
                vec s = biased(r, n);
                if (!whole_block) s = select(seen(r, n), s, all(-INFINITY));
                store(x + r * COLUMNS + n, s);
                most = larger(most, s);
            }
            const float here = std::max(top[r], largest(most));
            if (here == -INFINITY) {
                clear(r);
                continue;
            }
            shrink[r] = std::exp(top[r] - here), top[r] = here;
            vec sums = {};
            for (long n = 0; n < wide; n += W) {
                const vec s = load(x + r * COLUMNS + n);
                const vec w = select(s == all(-INFINITY), vec{}, exp(s - here));
                store(x + r * COLUMNS + n, w);
                sums += w;
            }
            total[r] = total[r] * shrink[r] + sum(sums);
        }
    }

    // x: scores -> weights, y: gradients of weights -> of scores. `log_sum` and `paid` (the row's
    // output times its gradient) are softmax's.
    void backward(const float* log_sum, const float* paid, float* grad_near, float* grad_far) {
        for (long r = 0; r < rows; ++r) {
            if (!row_sees(r)) {
                clear(r);
                continue;
            }
            for (long n = 0; n < wide; n += W) {
                const vec s = biased(r, n);
                vec w, g = load(y + r * COLUMNS + n);
                if (SOFTMAX) {
                    w = exp(s - log_sum[r]);
                    g = w * (g - paid[r]);
                } else {
                    const vec open = 1.0f / (1.0f + exp(-s));
                    w = s * open;
                    g *= open + w * (1.0f - open);
                }
                if (!whole_block) {
                    const veci here = seen(r, n);
                    w = select(here, w, vec{}), g = select(here, g, vec{});
                }
                store(x + r * COLUMNS + n, w);
                store(y + r * COLUMNS + n, g);
                if (a.bucket) count(grad_far, bucket + r * bucket_row + n, g);
            }
            float* row = y + r * COLUMNS;
            if (slots.block[j].in_a_row) {
                float* into = grad_near + offset(r);
                for (long n = 0; n < wide; n += W) store(into + n, load(into + n) + load(row + n));
            } else {
                for (long n = 0; n < columns; ++n)
                    grad_near[COLUMNS + a.distances - 1 - distance(r, n)] += row[n];
            }
        }
    }

    // A histogram for each place in a vector, so that sums of one bucket do not wait for another.
    static void count(float* into, const std::uint8_t* b, vec g) {
        if (!std::memcmp(b, b + 1, W - 1)) {  // old events share a bucket
            store(into + b[0] * W, load(into + b[0] * W) + g);
            return;
        }
        for (int n = 0; n < W; ++n) into[b[n] * W + n] += g[n];
    }
};

// Per head: biases by distance, reversed, between COLUMNS zeros.
std::vector<float> reversed(const Attention& a) {
    const long size = a.distances + 2 * COLUMNS;
    std::vector<float> near(a.heads * size, 0.0f);
    for (long h = 0; h < a.heads; ++h)
        for (long d = 0; d < a.distances; ++d)
            near[h * size + COLUMNS + a.distances - 1 - d] = a.near[h * a.distances + d];
    return near;
}

void scaled(float* out, const float* x, long stride, long rows, long width, long padded, float by) {
    pack(out, x, stride, rows, width, padded);
    for (long n = 0; n < rows * padded; ++n) out[n] *= by;
}

// Blocks of (width, COLUMNS) for products that run along slots.
void across(std::vector<float>& out, const Strided& x, long b, long heads, long slots, long width) {
    const long blocks = (slots + COLUMNS - 1) / COLUMNS;
    out.resize(heads * blocks * width * COLUMNS);
    for (long h = 0; h < heads; ++h)
        for (long j = 0; j < blocks; ++j)
            pack_across(out.data() + (h * blocks + j) * width * COLUMNS,
                        x.at(b, h) + j * COLUMNS * x.row, x.row,
                        std::min<long>(COLUMNS, slots - j * COLUMNS), width, COLUMNS);
}

// Rows of (slots, padded).
void along(std::vector<float>& out, const Strided& x, long b, long heads, long slots, long width) {
    const long padded = rounded(width);
    out.resize(heads * slots * padded);
    for (long h = 0; h < heads; ++h)
        pack(out.data() + h * slots * padded, x.at(b, h), x.row, slots, width, padded);
}

template <bool SOFTMAX>
void forward(const Attention& a) {
    const long k_wide = rounded(a.k_width), v_wide = rounded(a.v_width);
    const std::vector<float> near = reversed(a);
    std::vector<float> k_across, v_along, q(ROWS * k_wide), out(ROWS * v_wide);
    Slots slots;
    Tile<SOFTMAX> tile(a, slots);
    for (long b = 0; b < a.users; ++b) {
        slots.read(a, b);
        across(k_across, a.k, b, a.k_heads, a.slots, a.k_width);
        along(v_along, a.v, b, a.v_heads, a.slots, a.v_width);
        for (long h = 0; h < a.heads; ++h) {
            const float* k = k_across.data() + (a.k_heads > 1 ? h : 0) * slots.blocks * a.k_width * COLUMNS;
            const float* v = v_along.data() + (a.v_heads > 1 ? h : 0) * a.slots * v_wide;
            tile.near = near.data() + h * (a.distances + 2 * COLUMNS);
            tile.far = a.far + h * a.buckets;
            for (long q0 = 0; q0 < a.queries; q0 += ROWS) {
                const long rows = std::min<long>(ROWS, a.queries - q0);
                tile.rows_are(b, h, q0, rows);
                scaled(q.data(), a.q.at(b, h) + q0 * a.q.row, a.q.row, rows, a.k_width, k_wide, a.scale);
                std::fill(out.begin(), out.end(), 0.0f);
                float top[ROWS], total[ROWS], shrink[ROWS];
                std::fill_n(top, ROWS, -INFINITY), std::fill_n(total, ROWS, 0.0f);
                for (long j = 0; j < slots.blocks; ++j) {
                    if (!tile.turn(j)) continue;
                    multiply(rows, tile.wide, a.k_width, q.data(), k_wide, 1,
                             k + j * a.k_width * COLUMNS, COLUMNS, tile.x, COLUMNS, true);
                    if (SOFTMAX) {
                        tile.softmax(top, total, shrink);
                        for (long r = 0; r < rows; ++r)
                            if (shrink[r] != 1)
                                for (long n = 0; n < v_wide; ++n) out[r * v_wide + n] *= shrink[r];
                    } else {
                        tile.silu();
                    }
                    multiply(rows, v_wide, tile.columns, tile.x, COLUMNS, 1,
                             v + j * COLUMNS * v_wide, v_wide, out.data(), v_wide, false);
                }
                for (long r = 0; r < rows; ++r) {
                    const float by = !SOFTMAX ? a.after : total[r] > 0 ? 1 / total[r] : 0;
                    float* into = a.out.at(b, h) + (q0 + r) * a.out.row;
                    for (long n = 0; n < a.v_width; ++n) into[n] = by * out[r * v_wide + n];
                    if (SOFTMAX)
                        a.log_sum[(b * a.heads + h) * a.queries + q0 + r] = top[r] + std::log(total[r]);
                }
            }
        }
    }
}

template <bool SOFTMAX>
void backward(const Attention& a) {
    const long k_wide = rounded(a.k_width), v_wide = rounded(a.v_width);
    const long distances = a.distances + 2 * COLUMNS;
    const std::vector<float> near = reversed(a);
    std::vector<float> grad_near(a.heads * distances, 0.0f), grad_far(a.heads * BUCKETS * W, 0.0f);
    std::vector<float> k_across, k_along, v_across, grad_k, grad_v;
    std::vector<float> q(ROWS * k_wide), grad(ROWS * v_wide), grad_q(ROWS * k_wide);
    Slots slots;
    Tile<SOFTMAX> tile(a, slots);
    for (long b = 0; b < a.users; ++b) {
        slots.read(a, b);
        across(k_across, a.k, b, a.k_heads, a.slots, a.k_width);
        along(k_along, a.k, b, a.k_heads, a.slots, a.k_width);
        across(v_across, a.v, b, a.v_heads, a.slots, a.v_width);
        grad_k.assign(a.k_heads * a.slots * k_wide, 0.0f);
        grad_v.assign(a.v_heads * a.slots * v_wide, 0.0f);
        for (long h = 0; h < a.heads; ++h) {
            const long k_head = a.k_heads > 1 ? h : 0, v_head = a.v_heads > 1 ? h : 0;
            tile.near = near.data() + h * distances;
            tile.far = a.far + h * a.buckets;
            for (long q0 = 0; q0 < a.queries; q0 += ROWS) {
                const long rows = std::min<long>(ROWS, a.queries - q0);
                tile.rows_are(b, h, q0, rows);
                scaled(q.data(), a.q.at(b, h) + q0 * a.q.row, a.q.row, rows, a.k_width, k_wide, a.scale);
                scaled(grad.data(), a.grad.at(b, h) + q0 * a.grad.row, a.grad.row, rows, a.v_width,
                       v_wide, a.after);
                std::fill(grad_q.begin(), grad_q.end(), 0.0f);
                float paid[ROWS] = {};
                const float* log_sum = nullptr;
                if (SOFTMAX) {
                    log_sum = a.log_sum + (b * a.heads + h) * a.queries + q0;
                    for (long r = 0; r < rows; ++r)
                        for (long n = 0; n < a.v_width; ++n)
                            paid[r] += grad[r * v_wide + n] * a.out.at(b, h)[(q0 + r) * a.out.row + n];
                }
                for (long j = 0; j < slots.blocks; ++j) {
                    if (!tile.turn(j)) continue;
                    const long first = j * COLUMNS;
                    multiply(rows, tile.wide, a.k_width, q.data(), k_wide, 1,
                             k_across.data() + (k_head * slots.blocks + j) * a.k_width * COLUMNS,
                             COLUMNS, tile.x, COLUMNS, true);
                    multiply(rows, tile.wide, a.v_width, grad.data(), v_wide, 1,
                             v_across.data() + (v_head * slots.blocks + j) * a.v_width * COLUMNS,
                             COLUMNS, tile.y, COLUMNS, true);
                    tile.backward(log_sum, paid, grad_near.data() + h * distances,
                                  grad_far.data() + h * BUCKETS * W);
                    multiply(tile.columns, v_wide, rows, tile.x, 1, COLUMNS, grad.data(), v_wide,
                             grad_v.data() + (v_head * a.slots + first) * v_wide, v_wide, false);
                    multiply(tile.columns, k_wide, rows, tile.y, 1, COLUMNS, q.data(), k_wide,
                             grad_k.data() + (k_head * a.slots + first) * k_wide, k_wide, false);
                    multiply(rows, k_wide, tile.columns, tile.y, COLUMNS, 1,
                             k_along.data() + (k_head * a.slots + first) * k_wide, k_wide,
                             grad_q.data(), k_wide, false);
                }
                for (long r = 0; r < rows; ++r) {
                    float* into = a.grad_q.at(b, h) + (q0 + r) * a.grad_q.row;
                    for (long n = 0; n < a.k_width; ++n) into[n] = a.scale * grad_q[r * k_wide + n];
                }
            }
        }
        for (long h = 0; h < a.k_heads; ++h)
            for (long t = 0; t < a.slots; ++t)
                std::copy_n(grad_k.data() + (h * a.slots + t) * k_wide, a.k_width,
                            a.grad_k.at(b, h) + t * a.grad_k.row);
        for (long h = 0; h < a.v_heads; ++h)
            for (long t = 0; t < a.slots; ++t)
                std::copy_n(grad_v.data() + (h * a.slots + t) * v_wide, a.v_width,
                            a.grad_v.at(b, h) + t * a.grad_v.row);
    }
    for (long h = 0; h < a.heads; ++h) {
        for (long d = 0; d < a.distances; ++d)
            a.grad_near[h * a.distances + d] =
                grad_near[h * distances + COLUMNS + a.distances - 1 - d];
        if (a.bucket)
            for (long n = 0; n < BUCKETS; ++n)
                a.grad_far[h * a.buckets + n] = sum(load(grad_far.data() + (h * BUCKETS + n) * W));
    }
}

}  // namespace

void attend(const Attention& a) { a.softmax ? forward<true>(a) : forward<false>(a); }

void attend_backward(const Attention& a) { a.softmax ? backward<true>(a) : backward<false>(a); }

void time_buckets(const std::int64_t* at, const std::int64_t* time, const std::int32_t* first,
                  std::uint8_t* out, long users, long queries, long slots) {
    // Three digits of the mantissa and the exponent say the bucket up to one: cells are narrower
    // than buckets.
    constexpr int CELLS = 28 * 8;
    std::int32_t low[CELLS];
    float next[CELLS];
    for (int n = 0; n < CELLS; ++n) {
        const float least = std::ldexp(1 + (n % 8) / 8.0f, n / 8);
        low[n] = 0;
        while (low[n] + 1 < BUCKETS && static_cast<float>(first[low[n] + 1]) <= least) ++low[n];
        next[n] = low[n] + 1 < BUCKETS ? static_cast<float>(first[low[n] + 1]) : INFINITY;
    }
    for (long b = 0; b < users; ++b)
        for (long q = 0; q < queries; ++q) {
            const std::int64_t now = at[b * queries + q];
            const std::int64_t* then = time + b * slots;
            std::uint8_t* row = out + (b * queries + q) * slots;
            for (long t = 0; t < slots; ++t) {
                const std::int64_t elapsed = now - then[t];
                const std::int64_t cut = std::min<std::int64_t>(std::max<std::int64_t>(elapsed, 1), 230000000);
                const float x = static_cast<float>(static_cast<std::int32_t>(cut));
                std::int32_t digits;
                std::memcpy(&digits, &x, 4);
                const std::int32_t cell = (digits >> 20) - (127 << 3);
                row[t] = static_cast<std::uint8_t>(low[cell] + (x >= next[cell]));
            }
        }
}

}  // namespace GISTREC_ISA
}  // namespace gistrec
