#pragma once

#include <cstdint>

#include "isa.h"

namespace gistrec {

// out = x / (1 - p) or 0, each with probability p = dropped / 2^32. The choice for a place follows
// from the seed alone, so backward calls the same with gradients.
GISTREC_DECLARE(void, dropout,
                (const float* x, float* out, long count, std::uint32_t dropped, std::uint64_t seed))

}  // namespace gistrec
