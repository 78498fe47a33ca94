// Decoding of arrays of integers; all arithmetic is modulo 2^64.
#include "integers.h"

#include <cstdlib>
#include <cstring>

namespace gistrec::GISTREC_ISA {
namespace {

constexpr int kSteps = 0x80, kChunks = 64, kMostBits = 8, kRuns = 126, kUnit = 127;

int64_t unzigzag(uint64_t x) { return int64_t(x >> 1 ^ (~(x & 1) + 1)); }

// A place in the bytes. After a failure `ok` is false, and what is read means nothing.
struct Reader {
    const uint8_t* data;
    size_t size;
    size_t at = 0;
    bool ok = true;

    int byte() {
        if (at < size) return data[at++];
        ok = false;
        return 0;
    }

    uint64_t varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const int next = byte();
            if (shift == 63 && (next & 126)) break;  // beyond 64 bits
            value |= uint64_t(next & 127) << shift;
            if (next < 128) return value;
        }
        ok = false;
        return 0;
    }

    int64_t zigzagged() { return unzigzag(varint()); }

    // 1 to 64 bits from a bit's place on, low ones first; the bytes are there.
    uint64_t bits(size_t place, int bits) const {
        const size_t from = place / 8;
        unsigned __int128 word = 0;
        std::memcpy(&word, data + from, size - from < 16 ? size - from : 16);
        return uint64_t(word >> place % 8) & (~uint64_t(0) >> (64 - bits));
    }

    // Residuals of `coder` bits each, or in chunks whose last one has a zero on top.
    void residuals(size_t count, int coder, uint64_t* out) {
        if (coder > kChunks) return chunks(count, coder - kChunks, out);
        const size_t bytes = (count * size_t(coder) + 7) / 8;
        ok = ok && bytes <= size - at;
        if (!ok) return;
        for (size_t n = 0; n < count; ++n)
            out[n] = coder ? bits(at * 8 + n * size_t(coder), coder) : 0;
        at += bytes;
    }

    void chunks(size_t count, int width, uint64_t* out) {
        ok = ok && width <= kMostBits;
        size_t place = at * 8;
        for (size_t n = 0; ok && n < count; ++n) {
            out[n] = 0;
            for (int shift = 0;; shift += width) {
                ok = shift < 64 && place + size_t(width) + 1 <= size * 8;
                if (!ok) return;
                const uint64_t chunk = bits(place, width + 1);
                place += size_t(width) + 1;
                out[n] |= (chunk & ((uint64_t(1) << width) - 1)) << shift;
                if (!(chunk >> width)) break;
            }
        }
        at = (place + 7) / 8;
    }

    // Values above a base, or steps from it.
    void simple(size_t count, int64_t* out) {
        const int method = byte(), coder = method & (kSteps - 1);
        uint64_t value = uint64_t(zigzagged());
        auto* residual = reinterpret_cast<uint64_t*>(out);
        if (!(method & kSteps)) {
            residuals(count, coder, residual);
            for (size_t n = 0; ok && n < count; ++n) residual[n] += value;
            return;
        }
        const int64_t step = zigzagged();
        residuals(count - 1, coder, residual + 1);
        residual[0] = value;
        for (size_t n = 1; ok && n < count; ++n) {
            value += step < 0 ? uint64_t(unzigzag(residual[n])) : residual[n] + uint64_t(step);
            residual[n] = value;
        }
    }

    void runs(size_t count, int64_t* out) {
        if (at == size || data[at] != kRuns) return simple(count, out);
        ++at;
        const uint64_t distinct = varint();
        ok = ok && distinct && distinct <= count;
        auto* value = static_cast<int64_t*>(ok ? std::malloc(16 * distinct) : nullptr);
        ok = ok && value;
        if (!ok) return;
        int64_t* repeats = value + distinct;
        simple(distinct, value);
        simple(distinct, repeats);
        size_t done = 0;
        for (size_t n = 0; ok && n < distinct; ++n) {
            ok = repeats[n] >= 1 && uint64_t(repeats[n]) <= count - done;
            for (int64_t j = 0; ok && j < repeats[n]; ++j) out[done++] = value[n];
        }
        ok = ok && done == count;
        std::free(value);
    }
};

}  // namespace

long decode_integers(const Coded& coded) {
    Reader reader{coded.data, coded.size};
    if (coded.varints) {
        for (size_t n = 0; reader.ok && n < coded.count; ++n) coded.value[n] = reader.zigzagged();
    } else if (reader.size && reader.data[0] == kUnit) {
        ++reader.at;
        const uint64_t unit = reader.varint(), rest = reader.varint();
        reader.runs(coded.count, coded.value);
        for (size_t n = 0; reader.ok && n < coded.count; ++n)
            coded.value[n] = int64_t(uint64_t(coded.value[n]) * unit + rest);
    } else {
        reader.runs(coded.count, coded.value);
    }
    return reader.ok ? long(reader.at) : -1;
}

}  // namespace gistrec::GISTREC_ISA
