// New events of users through a whole stack of layers, over the rows that states hold of each: no
// padding, no batch, no copy. Rows may be as codecs leave them, and in several parts. Queries of one
// user's events share what they read from memory.
//
// Shapes: S new events, M held slots, H heads, G heads of keys and values, K head width, D width.
// An axis written D+ is filled up with zeros to a multiple of 16.
#pragma once

#include <cstdint>

#include "coded.h"
#include "isa.h"

namespace gistrec {

constexpr long kPositions = 128;  // numbers per head in a table of position biases
constexpr long kTimes = 128;
constexpr long kFar = 65536;      // distances from here on are as this one less 1

// Layers, lowest first, as their weights stand in `weights`, one behind the other:
//   pointwise (HSTU):  norm 2 x D+ (gain, offset), projection to [u q k v] D x (2D + 2GK)+ and its
//                      offset (2D + 2GK)+, norm 2 x D+, out D x D+ and offset D+,
//                      position H x 128, time H x 128
//   softmax (SASRec):  norm, projection to [q k v], out, norm, up D x (4D)+ and offset,
//                      down 4D x D+ and offset, position
struct Stack {
    const float* weights;
    const float* table;         // (V + 1, D): items' vectors
    const uint8_t* near;        // bucket of the distances 65535 ... 0
    const int64_t* later;       // (times,): the least seconds of each time bucket from 1 on
    const int64_t* groups;      // (layers,): G
    long layers, heads, width;
    long pointwise;             // 1: weights are SiLU / `count`; 0: softmax
    long times;                 // thresholds; 0: layers know no times
    double scale;               // of items' vectors
    double count;
};

// Slots of a user that stand together.
struct Held {
    long count;
    const Rows* rows;         // keys and values of each layer
    const int64_t* time;      // (M,)
    const int64_t* position;  // (M,); null: they follow those of the parts before, from 0 on
};

struct Events {
    const int64_t *item, *at, *time;  // (S,): items, the times of their queries, their own
    long events, position;            // S, where the first event stands in the history
    const Held* held;                 // oldest first
    long parts;
    float* out;                       // (D,): the last event's; null: not asked for
    float* written;                   // per layer: keys (G, S, K), then values
    float* received;                  // (S, M + S): |weights|, mean of heads, added; null: none
};

GISTREC_DECLARE(void, step, (const Stack&, const Events*, long users))

}  // namespace gistrec
