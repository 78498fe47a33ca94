// CRC-32 as in zlib, over much at a time where the processor multiplies without carries.
//
// Source: Gopal et al. 2009, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction", Intel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__PCLMUL__)
#include <immintrin.h>
#endif

namespace gistrec {
namespace GISTREC_ISA {
namespace {

// Remainders of bytes that stand 0 to 7 bytes before the end.
struct CrcTables {
    uint32_t of[8][256];
    CrcTables() {
        for (uint32_t n = 0; n < 256; ++n) {
            uint32_t x = n;
            for (int bit = 0; bit < 8; ++bit) x = x >> 1 ^ (x & 1 ? 0xedb88320u : 0);
            of[0][n] = x;
        }
        for (int k = 1; k < 8; ++k)
            for (int n = 0; n < 256; ++n)
                of[k][n] = of[k - 1][n] >> 8 ^ of[0][of[k - 1][n] & 255];
    }
};

#if defined(__PCLMUL__)
// Of a multiple of 16 bytes, 64 at least: 128 bits are moved on by so many bits with two products.
inline uint32_t crc_folded(const uint8_t* p, size_t size, uint32_t crc) {
    const auto load = [](const uint8_t* from) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    };
    const auto fold = [](__m128i x, __m128i by, __m128i onto) {
        const __m128i low = _mm_clmulepi64_si128(x, by, 0x00);
        return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, by, 0x11), low), onto);
    };
    const __m128i by_512 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_128 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    __m128i x[4];
    for (int n = 0; n < 4; ++n) x[n] = load(p + 16 * n);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(int(crc)));
    for (p += 64, size -= 64; size >= 64; p += 64, size -= 64)
        for (int n = 0; n < 4; ++n) x[n] = fold(x[n], by_512, load(p + 16 * n));
    for (int n = 1; n < 4; ++n) x[0] = fold(x[0], by_128, x[n]);
    for (; size >= 16; p += 16, size -= 16) x[0] = fold(x[0], by_128, load(p));
    // 128 bits to 64, to 32 by Barrett's reduction
    const __m128i low = _mm_setr_epi32(-1, 0, -1, 0);
    __m128i y = _mm_xor_si128(_mm_srli_si128(x[0], 8), _mm_clmulepi64_si128(x[0], by_128, 0x10));
    const __m128i by_64 = _mm_set_epi64x(0, 0x0163cd6124);
    y = _mm_xor_si128(_mm_srli_si128(y, 4),
                      _mm_clmulepi64_si128(_mm_and_si128(y, low), by_64, 0x00));
    const __m128i reduce = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    __m128i z = _mm_clmulepi64_si128(_mm_and_si128(y, low), reduce, 0x10);
    z = _mm_clmulepi64_si128(_mm_and_si128(z, low), reduce, 0x00);
    return uint32_t(_mm_extract_epi32(_mm_xor_si128(y, z), 1));
}
#endif

inline uint32_t crc32(const uint8_t* p, size_t size) {
    static const CrcTables tables;
    uint32_t crc = ~0u;
#if defined(__PCLMUL__)
    if (size >= 64) {
        const size_t whole = size / 16 * 16;
        crc = crc_folded(p, whole, crc);
        p += whole, size -= whole;
    }
#endif
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t a, b;
        std::memcpy(&a, p, 4), std::memcpy(&b, p + 4, 4);
        a ^= crc;
        crc = tables.of[7][a & 255] ^ tables.of[6][a >> 8 & 255] ^ tables.of[5][a >> 16 & 255] ^
              tables.of[4][a >> 24] ^ tables.of[3][b & 255] ^ tables.of[2][b >> 8 & 255] ^
              tables.of[1][b >> 16 & 255] ^ tables.of[0][b >> 24];
    }
#endif
    for (; size; --size) crc = crc >> 8 ^ tables.of[0][(crc ^ *p++) & 255];
    return ~crc;
}

}  // namespace
}  // namespace GISTREC_ISA
}  // namespace gistrec
