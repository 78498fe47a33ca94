// Dropout by counting: random bits are a hash of the place, so no mask is kept.
#include "dropout.h"

namespace gistrec {
namespace GISTREC_ISA {
namespace {

// A 32-bit integer hash of low bias: hash-prospector by Christopher Wellons (public domain),
// constants of its issue 19.
inline std::uint32_t mixed(std::uint32_t x) {
    x ^= x >> 16;
    x *= 0x21f0aaadu;
    x ^= x >> 15;
    x *= 0xd35a2d97u;
    return x ^ x >> 15;
}

}  // namespace

void dropout(const float* x, float* out, long count, std::uint32_t dropped, std::uint64_t seed) {
    const float kept = static_cast<float>(1 / (1 - dropped / 4294967296.0));
    const std::uint32_t first = static_cast<std::uint32_t>(seed);
    for (long start = 0; start < count; start += 1L << 31) {
        // two hashes with a seed before each: with one, seeds would only permute places
        const std::uint32_t second = mixed(static_cast<std::uint32_t>(seed >> 32) + (start >> 31));
        const std::uint32_t size = static_cast<std::uint32_t>(count - start < 1L << 31 ? count - start : 1L << 31);
        const float* from = x + start;
        float* to = out + start;
#pragma omp simd
        for (std::uint32_t n = 0; n < size; ++n) {
            const std::uint32_t bits = mixed(mixed(n + first) ^ second);
            to[n] = bits >= dropped ? from[n] * kept : 0.0f;
        }
    }
}

}  // namespace GISTREC_ISA
}  // namespace gistrec
