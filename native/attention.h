#pragma once

#include <cstdint>

#include "isa.h"

namespace gistrec {

// Where a tensor (B, H, rows, width) stands: its last axis is dense, other strides are in elements
// and 0 where all are alike.
struct Strided {
    float* data;
    long user, head, row;
    float* at(long b, long h) const { return data + b * user + h * head; }
};

// What queries read of slots that they see, a slot being real and not after the query:
//     x = scale * q k + near[distance in events] + far[bucket of elapsed time]
//     silu:     y = after * sum of silu(x) v
//     softmax:  y = sum of softmax(x) v, and log_sum, the logarithm of the partition sum
struct Attention {
    Strided q, k, v, out;
    const std::int32_t *query, *slot;  // positions: (B or 1, Q), (B or 1, T)
    const std::uint8_t* real;          // (B or 1, T or 1)
    const std::uint8_t* bucket;        // (B, Q, T); null without a bias of time
    const std::uint8_t* mask;          // what else hides slots; null: nothing
    const float* near;                 // (H, distances)
    const float* far;                  // (H, buckets): 64 are read
    float* log_sum;                    // (B, H, Q), of softmax alone
    long query_user, slot_user, real_user, real_slot, mask_user, mask_head, mask_row;
    long users, heads, queries, slots, k_width, v_width, k_heads, v_heads, distances, buckets;
    float scale, after;
    bool softmax;
    // backward alone
    Strided grad, grad_q, grad_k, grad_v;
    float *grad_near, *grad_far;
};

GISTREC_DECLARE(void, attend, (const Attention&))
GISTREC_DECLARE(void, attend_backward, (const Attention&))

// Bucket of max(1, at - time) seconds: out (B, Q, T) from at (B, Q) and time (B, T). `first[k]` is
// the least number of seconds of bucket k, for 64 buckets.
GISTREC_DECLARE(void, time_buckets,
                (const std::int64_t* at, const std::int64_t* time, const std::int32_t* first,
                 std::uint8_t* out, long users, long queries, long slots))

}  // namespace gistrec
