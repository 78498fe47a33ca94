// The catalogue scan: the k best items of a query, exactly, by int8 arithmetic for the most part.
//
//     score_i = q . w_i + b_i          (summed in double, rounded to float)
//
// Vectors are coded as w ~ s c with c in -127..127. By Cauchy-Schwarz
//
//     |q . w_i - q' . w_i'| <= |q - q'| |w_i| + |q'| |w_i - w_i'|
//
// bounds what coding does, so an item whose coded score plus that bound is below the k-th best exact
// score so far is not among the k best. The others, a few hundred of a million, are scored exactly.
//
// Shapes: V items, D width, B queries, K length of a list.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace gistrec {

constexpr size_t kChunk = 4096;  // items bounded at once: their bounds stay in the cache
constexpr size_t kGroup = 8;     // queries bounded at once
constexpr size_t kBatch = 64;    // queries served by one pass over the items
constexpr size_t kTile = 128;    // items are stored in multiples of this

struct Items {
    const float* row_VD;
    const float* bias_V;  // padded as scale_V is; null: none
    size_t count, width;
    size_t stride;        // bytes of an item's code
    uint8_t* code;        // of `padded(count)` items; the layout is the instruction set's own
    float* scale_V;
    float residual;       // max |w_i - w_i'| / s_i
    float longest;        // max |w_i|
    float highest;        // max |b_i|
};

struct Seen {  // items to leave out, ordered by chunk, and where each chunk's end
    const uint32_t* item;
    const uint32_t* end;
};

// What a scan writes on, kept from request to request.
struct Scratch {
    int8_t* code;         // kBatch * stride
    double* query;        // kBatch * D
    float* bound;         // kGroup * kChunk
    uint32_t* candidate;  // kChunk
    uint64_t* best;       // kBatch * room(k)
};

inline size_t chunks(size_t count) { return (count + kChunk - 1) / kChunk; }

inline size_t padded(size_t count) { return (count + kTile - 1) / kTile * kTile; }

// Keys held of a query: the k best, and newer ones until the next selection.
inline size_t room(size_t k) { return 2 * k + 64; }

GISTREC_DECLARE(size_t, scan_stride, (size_t width))

// Fill code, scale_V, residual, longest.
GISTREC_DECLARE(void, scan_pack, (Items& items))

// The k best of up to kBatch queries, best first, ties by the lower index; filled up with item -1
// and score -inf. False: a query is not finite.
GISTREC_DECLARE(bool, scan_top_k,
                (const Items& items, const float* query_BD, size_t queries, const Seen* seen_B,
                 size_t k, const Scratch& scratch, int64_t* item_BK, float* score_BK))

}  // namespace gistrec
