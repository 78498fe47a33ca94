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

}  // namespace gistrec
