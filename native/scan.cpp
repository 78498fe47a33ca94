// Kernels of the catalogue scan; see scan.h.
#include "scan.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "scan_best.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace gistrec::GISTREC_ISA {
namespace {

constexpr size_t kWaiting = 64;

struct Query {
    const int8_t* code;
    const double* exact;
    float scale;
    float spread;    // bound of what the coding of items does to a score, over the item's scale
    float margin;    // bound of what its own coding does, and of rounding
    int32_t offset;  // what the offset of the items' codes adds to a sum
    Best best;
    Seen seen;
    size_t waits;                // items that are to be scored exactly, once they are fetched
    uint32_t waiting[kWaiting];
};

// ---- coding ----

#ifdef __AVX512VNNI__
// Codes stand as [item / 128][d / 4][item % 128][d % 4], offset by 128: a dot product of four
// components of 16 items is one instruction, and takes one operand without sign. One query reads
// them in the order of their addresses, which memory is fastest at.
constexpr size_t kAlign = 4;
constexpr uint8_t kZero = 128;

size_t place(size_t stride, size_t item, size_t d) {
    return item / kTile * kTile * stride + d / 4 * 4 * kTile + item % kTile * 4 + d % 4;
}
#else
constexpr size_t kAlign = 32;
constexpr uint8_t kZero = 0;

size_t place(size_t stride, size_t item, size_t d) { return item * stride + d; }
#endif

bool finite(const float* x, size_t n) {
    int bad = 0;
    for (size_t d = 0; d < n; ++d) {
        uint32_t bits;
        std::memcpy(&bits, x + d, 4);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

struct Coded {
    float scale;
    double coded, lost, length;  // norms: of the decoded vector, of what coding lost, of the vector
};

// Code a vector; put(d, code) takes its components.
template <class Put>
Coded encode(const float* x, size_t n, Put put) {
    float largest = 0;
    for (size_t d = 0; d < n; ++d) largest = std::fabs(x[d]) > largest ? std::fabs(x[d]) : largest;
    const float scale = largest / 127 > 1e-30f ? largest / 127 : 1e-30f, inverse = 1 / scale;
    double coded = 0, lost = 0, length = 0;
    for (size_t d = 0; d < n; ++d) {
        const float whole = std::nearbyint(x[d] * inverse);
        const float code = whole > 127 ? 127 : whole < -127 ? -127 : whole;
        put(d, int8_t(code));
        const double decoded = double(code) * scale;
        coded += decoded * decoded;
        lost += (x[d] - decoded) * (x[d] - decoded);
        length += double(x[d]) * x[d];
    }
    return {scale, std::sqrt(coded), std::sqrt(lost), std::sqrt(length)};
}

void prepare(const Items& items, const float* row_D, int8_t* code, double* exact, Query& query) {
    int32_t sum = 0;
    std::memset(code, 0, items.stride);
    const Coded found = encode(row_D, items.width, [&](size_t d, int8_t value) {
        code[d] = value;
        sum += value;
    });
    for (size_t d = 0; d < items.width; ++d) exact[d] = row_D[d];
    const double rounding = 1e-6 * (found.length * items.longest + items.highest) + FLT_MIN;
    query.code = code, query.exact = exact, query.scale = found.scale;
    query.spread = float(found.coded * items.residual * (1 + 1e-5));
    query.margin = float(found.lost * items.longest * (1 + 1e-5) + rounding);
    query.offset = kZero * sum;
    query.waits = 0;
}

// ---- upper bounds of scores, less the query's margin: bound_GC[query][item - first] ----

#ifdef __AVX512VNNI__

// Not the intrinsic, around which gcc 12 spills.
inline __m512i dot_add(__m512i sum, __m512i item, __m512i query) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(item), "v"(query));
    return sum;
}

// G queries and W times 16 items from `item` on.
template <int G, int W>
inline void bound_tile(const Items& items, const Query* query_G, size_t item, float* bound) {
    const size_t quads = items.stride / 4;
    const uint8_t* code = items.code + place(items.stride, item, 0);
    __m512i sum[G][W];  // in registers, if every loop over it is unrolled
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) sum[g][w] = _mm512_set1_epi32(-query_G[g].offset);
    for (size_t c = 0; c < quads; ++c) {
        __m512i four[W];
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) four[w] = _mm512_load_si512(code + c * 4 * kTile + w * 64);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            int32_t own;
            std::memcpy(&own, query_G[g].code + c * 4, 4);
            const __m512i owns = _mm512_set1_epi32(own);
#pragma GCC unroll 8
            for (int w = 0; w < W; ++w) sum[g][w] = dot_add(sum[g][w], four[w], owns);
        }
    }
#pragma GCC unroll 8
    for (int w = 0; w < W; ++w) {
        const __m512 scale = _mm512_loadu_ps(items.scale_V + item + w * 16);
        const float* bias_V = items.bias_V;
        const __m512 bias =
            bias_V ? _mm512_loadu_ps(bias_V + item + w * 16) : _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            const __m512 dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[g][w]),
                                               _mm512_set1_ps(query_G[g].scale),
                                               _mm512_set1_ps(query_G[g].spread));
            _mm512_storeu_ps(bound + g * kChunk + w * 16, _mm512_fmadd_ps(dot, scale, bias));
        }
    }
}

// The same for all items of a chunk.
template <int G, int W>
void bound_some(const Items& items, const Query* query_G, size_t first, size_t n, float* bound_GC) {
    for (size_t i = 0; i < n; i += W * 16)
        bound_tile<G, W>(items, query_G, first + i, bound_GC + i);
}

void bound_group(const Items& items, const Query* query_G, size_t queries, size_t first, size_t n,
                 float* bound_GC) {
    size_t g = 0;  // as many sums as registers hold, whatever the number of queries
    if (queries - g >= 8) bound_some<8, 2>(items, query_G, first, n, bound_GC), g += 8;
    if (queries - g >= 4)
        bound_some<4, 4>(items, query_G + g, first, n, bound_GC + g * kChunk), g += 4;
    if (queries - g >= 2)
        bound_some<2, 8>(items, query_G + g, first, n, bound_GC + g * kChunk), g += 2;
    if (queries - g >= 1) bound_some<1, 8>(items, query_G + g, first, n, bound_GC + g * kChunk);
}

// Several queries read a tile in parts, which memory is slow at: fetch a chunk in order, ahead.
void fetch(const Items& items, size_t first, size_t n) {
    const uint8_t* code = items.code + first * items.stride;
    for (size_t at = 0; at < n * items.stride; at += 64) _mm_prefetch(code + at, _MM_HINT_T1);
}

#else

int32_t dot(const int8_t* a, const int8_t* b, size_t n) {
#ifdef __AVX2__
    __m256i sum = _mm256_setzero_si256();
    for (size_t d = 0; d < n; d += 32) {  // |a| times b with the sign of a; 127 twice squared fits
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + d));
        const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + d));
        const __m256i two = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(y, x));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
    }
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
    int32_t sum = 0;
    for (size_t d = 0; d < n; d += 32)
        for (size_t e = d; e < d + 32; ++e) sum += int16_t(a[e]) * int16_t(b[e]);
    return sum;
#endif
}

void bound_group(const Items& items, const Query* query_G, size_t queries, size_t first, size_t n,
                 float* bound_GC) {
    for (size_t i = 0; i < n; ++i) {
        const int8_t* code = reinterpret_cast<const int8_t*>(items.code) + (first + i) * items.stride;
        const float scale = items.scale_V[first + i];
        const float bias = items.bias_V ? items.bias_V[first + i] : 0;
        for (size_t g = 0; g < queries; ++g) {
            const Query& query = query_G[g];
            const float sum = float(dot(query.code, code, items.stride));
            bound_GC[g * kChunk + i] = (sum * query.scale + query.spread) * scale + bias;
        }
    }
}

inline void fetch(const Items&, size_t, size_t) {}

#endif

// ---- selection ----

// Places of the bounds in low <= bound < high, ascending.
size_t take(const float* bound, size_t n, float low, float high, uint32_t* place) {
    size_t found = 0;
#ifdef __AVX512VNNI__
    const __m512 low_16 = _mm512_set1_ps(low), high_16 = _mm512_set1_ps(high);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (size_t i = 0; i < n; i += 64) {
        __mmask16 in[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            in[j] = _mm512_cmp_ps_mask(_mm512_loadu_ps(bound + i + j * 16), low_16, _CMP_GE_OQ);
        if (__builtin_expect(!(in[0] | in[1] | in[2] | in[3]), 1)) continue;
        for (int j = 0; j < 4; ++j) {
            const __m512 x = _mm512_loadu_ps(bound + i + j * 16);
            const __mmask16 both = in[j] & _mm512_cmp_ps_mask(x, high_16, _CMP_LT_OQ);
            const __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32(int(i + j * 16)));
            _mm512_storeu_si512(place + found, _mm512_maskz_compress_epi32(both, at));
            found += size_t(__builtin_popcount(both));
        }
    }
#else
    for (size_t i = 0; i < n; i += 16) {
        int any = 0;
        for (size_t j = i; j < i + 16; ++j) any |= (bound[j] >= low) & (bound[j] < high);
        if (__builtin_expect(any, 0))
            for (size_t j = i; j < i + 16; ++j) {
                place[found] = uint32_t(j);
                found += (bound[j] >= low) & (bound[j] < high);
            }
    }
#endif
    return found;
}

// A value that at least `wanted` of the bounds reach, and not many more; the lowest there is where
// fewer do.
float reached_by(const float* bound, size_t n, size_t wanted) {
    float lows[16], highs[16];  // lane by lane, as compilers do not vectorise a minimum themselves
    std::fill(lows, lows + 16, FLT_MAX), std::fill(highs, highs + 16, -FLT_MAX);
    int live = 0;
    for (size_t i = 0; i < n; i += 16)
        for (size_t j = 0; j < 16; ++j) {
            const float x = bound[i + j], or_more = x >= -FLT_MAX ? x : FLT_MAX;
            lows[j] = or_more < lows[j] ? or_more : lows[j];
            highs[j] = x > highs[j] ? x : highs[j];
            live += x >= -FLT_MAX;
        }
    if (size_t(live) <= wanted) return -FLT_MAX;
    float low = *std::min_element(lows, lows + 16), high = *std::max_element(highs, highs + 16);
    for (int round = 0; round < 24; ++round) {
        const float middle = low + (high - low) / 2;
        int count = 0;
        for (size_t i = 0; i < n; ++i) count += bound[i] >= middle;
        if (size_t(count) < wanted) {
            high = middle;
        } else {
            low = middle;
            if (size_t(count) <= wanted + wanted / 8 + 8) break;
        }
    }
    return low;
}

void fetch_row(const Items& items, size_t item) {
    for (size_t d = 0; d < items.width; d += 16)
        __builtin_prefetch(items.row_VD + item * items.width + d);
}

void add_exact(const Items& items, Query& query, size_t first, const uint32_t* place, size_t n) {
    const size_t width = items.width;
    for (size_t j = 0; j < n; ++j) {
        if (j + 4 < n) fetch_row(items, first + place[j + 4]);
        const size_t item = first + place[j];
        const float* row = items.row_VD + item * width;
        double sum = items.bias_V ? items.bias_V[item] : 0;
        for (size_t d = 0; d < width; ++d) sum += query.exact[d] * row[d];
        query.best.add(float(sum), uint32_t(item));
    }
}

void add_waiting(const Items& items, Query& query) {
    add_exact(items, query, 0, query.waiting, query.waits);
    query.best.select(32);
    query.waits = 0;
}

// Take over what a chunk has: only what may be among the k best is scored exactly.
void absorb(const Items& items, Query& query, size_t first, size_t n, const float* bound,
            uint32_t* place) {
    float taken = INFINITY;
    add_waiting(items, query);
    Best& best = query.best;
    if (!best.full()) {
        taken = reached_by(bound, n, best.missing());
        add_exact(items, query, first, place, take(bound, n, taken, INFINITY, place));
        best.select();
        if (!best.full()) return;
    }
    const float low = best.floor() - query.margin;
    const size_t found = low < taken ? take(bound, n, low, taken, place) : 0;
    if (found > kWaiting) {
        add_exact(items, query, first, place, found);
        best.select();
        return;
    }
    for (size_t j = 0; j < found; ++j) {
        query.waiting[j] = uint32_t(first) + place[j];
        fetch_row(items, query.waiting[j]);
    }
    query.waits = found;
}

}  // namespace

size_t scan_stride(size_t width) { return (width + kAlign - 1) / kAlign * kAlign; }

void scan_pack(Items& items) {
    double residual = 0, longest = 0;
    std::memset(items.code, kZero, padded(items.count) * items.stride);
    for (size_t i = 0; i < padded(items.count); ++i) items.scale_V[i] = 0;
    for (size_t i = 0; i < items.count; ++i) {
        const Coded found =
            encode(items.row_VD + i * items.width, items.width, [&](size_t d, int8_t value) {
                items.code[place(items.stride, i, d)] = uint8_t(value + kZero);
            });
        items.scale_V[i] = found.scale;
        residual = std::max(residual, found.lost / found.scale);
        longest = std::max(longest, found.length);
    }
    items.residual = float(residual * (1 + 1e-5)), items.longest = float(longest * (1 + 1e-5));
}

bool scan_top_k(const Items& items, const float* query_BD, size_t queries, const Seen* seen_B,
                size_t k, const Scratch& scratch, int64_t* item_BK, float* score_BK) {
    Query query_B[kBatch];
    for (size_t b = 0; b < queries; ++b) {
        const float* row = query_BD + b * items.width;
        if (!finite(row, items.width)) return false;
        prepare(items, row, scratch.code + b * items.stride, scratch.query + b * items.width,
                query_B[b]);
        query_B[b].best.begin(scratch.best + b * room(k), k);
        query_B[b].seen = seen_B[b];
    }
    for (size_t chunk = 0; chunk < chunks(items.count); ++chunk) {
        const size_t first = chunk * kChunk;
        const size_t n = std::min(kChunk, padded(items.count) - first);
        if (queries > 1) fetch(items, first, n);
        for (size_t start = 0; start < queries; start += kGroup) {
            const size_t group = std::min(kGroup, queries - start);
            bound_group(items, query_B + start, group, first, n, scratch.bound);
            for (size_t g = 0; g < group; ++g) {
                const size_t b = start + g;
                float* bound = scratch.bound + g * kChunk;
                for (size_t i = items.count - first; i < n; ++i) bound[i] = -INFINITY;
                const Seen& seen = query_B[b].seen;
                for (uint32_t j = chunk ? seen.end[chunk - 1] : 0; j < seen.end[chunk]; ++j)
                    bound[seen.item[j] - first] = -INFINITY;
                absorb(items, query_B[b], first, n, bound, scratch.candidate);
            }
        }
    }
    for (size_t b = 0; b < queries; ++b) {
        add_waiting(items, query_B[b]);
        query_B[b].best.write(item_BK + b * k, score_BK + b * k);
    }
    return true;
}

}  // namespace gistrec::GISTREC_ISA
