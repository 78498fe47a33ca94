#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace gistrec {

// Arrays as gistrec.integers codes them (docs/state-format.md has the layout).
struct Coded {
    const uint8_t* data;
    size_t size;   // bytes that may be read
    size_t count;  // values that are expected, at least 1
    int64_t* value;
    bool varints;  // zigzagged varints, not one of the methods
};

// Bytes read, or -1 where they end early or make no sense: the caller then says what is wrong.
GISTREC_DECLARE(long, decode_integers, (const Coded&))

struct Coding {
    const int64_t* value;
    size_t count;      // at least 1
    bool varints;      // zigzagged varints, not the shortest of the methods
    int64_t* scratch;  // room for twice as many numbers
    uint8_t* out;      // three times `coding_room(count)` bytes, the first of them for the result
};

// Bytes that an array takes at most, whatever its method.
constexpr size_t coding_room(size_t count) { return 10 * count + 128; }

// Bytes written.
GISTREC_DECLARE(size_t, encode_integers, (const Coding&))

}  // namespace gistrec
