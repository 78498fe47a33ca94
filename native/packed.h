// States as the store holds them (docs/state-format.md): read, run through the layers and grown
// without a tensor in between.
//
// Shapes: M slots, S new events.
#pragma once

#include <cstdint>
#include <vector>

#include "coded.h"
#include "isa.h"
#include "step.h"

namespace gistrec {

enum Role : long { kRowPart, kItem, kTime, kPosition, kTailItem, kTailTime };

// What all states of a manifest have in common in one tensor.
struct Spec {
    long bytes;     // of a number that is stored as it is; 0: integers that are coded
    long axes;
    long shape[4];  // -1 where it differs from state to state
    long part;      // tensors of one part are guessed to be of one size
    long role;
    long base;      // of a tail: the tensor that its first number is counted from, or -1

    bool in_tail() const { return role >= kTailItem; }
};

struct Layout {
    uint32_t manifest;
    std::vector<Spec> specs;          // in the order in which they are stored
    std::vector<RowCoding> codings;   // keys, then values of each layer
    std::vector<long> places;         // kParts for each: the specs of its parts, or -1
    long parts;                       // how many there are
    long items;                       // V
    long sink, keep;                  // slots that stay: the oldest and, up to `keep`, the newest; -1: all
    long request_time;                // 1: a query knows when it is asked
    long grows;                       // 1: a state may be divided into a block and a tail
    long whole;                       // bytes up to which it is not
};

struct Bytes {
    const uint8_t* data;
    long size;
};

// A state as stored; without a block it is whole, or missing.
struct Packed {
    Bytes state, block;
    long length;  // events that it must cover
};

// What `newest` finds.
struct Output {
    float* out;                            // (D,)
    std::vector<int64_t>* item;            // of the slots and the newest event; null: not wanted
    std::vector<int64_t>* time;
};

struct Growth {
    const int64_t *item, *time;  // (n,): events that the model knows
    long count;    // n
    long counted;  // events in all
    long tail_bytes;  // a longer tail is sealed; 0: the block may not stay
};

// Bytes to be stored; an empty block is the one that was there.
struct Grown {
    std::vector<uint8_t> state, block;
    bool divided;
};

// All return false where the bytes are not such a state, or not one that can be read here: whoever
// asked then reads it the long way, which says what is wrong.
GISTREC_DECLARE(bool, newest, (const Layout&, const Stack&, const Packed&, bool timed, int64_t at,
                               const Output&))
GISTREC_DECLARE(bool, grow, (const Layout&, const Stack&, const Packed&, const Growth&, Grown&))
GISTREC_DECLARE(uint32_t, checksum, (Bytes))

}  // namespace gistrec
