// Rows of numbers as codecs leave them.
//
// Shapes: M slots, G heads of rows, K head width, W = G K, L levels, C codewords.
#pragma once

#include <cstdint>

namespace gistrec {

enum Kind : long {
    kPlain,  // fp32 (G, M, K)
    kBf16,   // bf16 (G, M, K)
    kInt8,   // int8 (G, M, K), bf16 scale (G, M, 1)
    kInt4,   // two a byte (G, M, K / 2), an odd one (G, M, K % 2), bf16 scale and zero (G, M, groups)
    kCodes,  // codes (M, L) of codebooks
    kItems,  // nothing: the slots' items say which row of a table
};
constexpr long kParts = 4;  // tensors that one is coded in, at most

// How one tensor is coded.
struct RowCoding {
    long kind;
    const float* words;     // codes: (L, C, W), whole steps
    const double* columns;  // codes: (L, W, C+), to be searched; then (L, C+), their biases
    const int16_t* means;   // items: (V, W), whole steps
    long levels, codes, padded, items, group;
    float step;
    const int32_t* rows;    // of ids 0 ... ids - 1: their rows of `means`; null: ids are rows
    long ids;
};

// Where its parts stand; distances in bytes.
struct Rows {
    const RowCoding* coding;
    const uint8_t* part[kParts];
    long head[kParts], slot[kParts];
    const int64_t* number;  // items, or zero points (G, M, groups)
    long slots;             // M
};

}  // namespace gistrec
