// What one core can do at most, for floors.py: loops that do nothing but read, multiply or compute
// SiLUs. Compiled for the processor at hand.
#define GISTREC_ISA limits
#include <cstdint>

#include "rows.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

using namespace gistrec::limits;

namespace {

constexpr int SUMS = GISTREC_WIDTH == 8 ? 12 : 24;  // independent ones; registers hold as many
typedef std::int64_t words __attribute__((vector_size(4 * W), aligned(1), may_alias));
typedef std::int64_t total __attribute__((vector_size(4 * W)));

}  // namespace

extern "C" {

// Reads parts of memory once.
std::int64_t read_all(const char* const* part, const long* bytes, long parts) {
    total x[8] = {};
    for (long p = 0; p < parts; ++p)
        for (long n = 0; n + 8 * long(sizeof(total)) <= bytes[p]; n += 8 * sizeof(total)) {
            const auto* from = reinterpret_cast<const words*>(part[p] + n);
#pragma GCC unroll 8
            for (int k = 0; k < 8; ++k) x[k] ^= from[k];
        }
    for (int k = 1; k < 8; ++k) x[0] ^= x[k];
    return x[0][0];
}

// Each returns the operations that it did, a multiplication and an addition being two.
double fp32(long times) {
    vec x[SUMS], one = all(1.0000001f), more = all(1e-9f), end = {};
#pragma GCC unroll 24
    for (int k = 0; k < SUMS; ++k) x[k] = all(k);  // or all sums would be one
    for (long n = 0; n < times; ++n) {
        asm volatile("" : "+m"(one), "+m"(more));
#pragma GCC unroll 24
        for (int k = 0; k < SUMS; ++k) x[k] = x[k] * one + more;
    }
#pragma GCC unroll 24
    for (int k = 0; k < SUMS; ++k) end += x[k];
    asm volatile("" : : "m"(end));
    return 2.0 * W * SUMS * times;
}

double int8(long times) {
#if defined(__AVX512VNNI__)
    __m512i x[24] = {}, a = _mm512_set1_epi8(1), b = a;
    for (long n = 0; n < times; ++n)
#pragma GCC unroll 24
        for (int k = 0; k < 24; ++k) asm volatile("vpdpbusd %2, %1, %0" : "+v"(x[k]) : "v"(a), "v"(b));
    return 2.0 * 64 * 24 * times;
#else
    return 0;  // not known
#endif
}

// SiLUs by the formula that the kernels use, of numbers in the first cache.
double silu(long times) {
    alignas(64) float x[256] = {};
    for (long n = 0; n < times; ++n) {
        asm volatile("" : : "r"(x) : "memory");
        for (long k = 0; k < 256; k += W) store(x + k, silu(load(x + k)));
    }
    return 256.0 * times;
}

}  // extern "C"
