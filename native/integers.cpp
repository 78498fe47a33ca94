// Coding of arrays of integers, byte for byte as gistrec.integers does; modulo 2^64.
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

constexpr size_t kHead = 64;  // more than any array's heads take

uint64_t zigzag(int64_t x) { return uint64_t(x) << 1 ^ uint64_t(x >> 63); }

int bit_length(uint64_t x) { return x ? 64 - __builtin_clzll(x) : 0; }

size_t bytes_for(size_t bits) { return (bits + 7) / 8; }

uint8_t* put_varint(uint64_t value, uint8_t* out) {
    for (; value > 127; value >>= 7) *out++ = uint8_t(value & 127) | 128;
    *out++ = uint8_t(value);
    return out;
}

// Appends to bytes that are zero from the first bit on.
struct Bits {
    uint8_t* out;
    size_t place = 0;

    void put(uint64_t value, int bits) {
        const int shift = int(place % 8);
        uint8_t* at = out + place / 8;
        unsigned __int128 word = static_cast<unsigned __int128>(value) << shift;
        for (int done = 0; done < shift + bits; done += 8, word >>= 8) *at++ |= uint8_t(word);
        place += size_t(bits);
    }

    void chunks(uint64_t value, int width) {
        const uint64_t mask = (uint64_t(1) << width) - 1;
        for (; value > mask; value >>= width) put((value & mask) | (mask + 1), width + 1);
        put(value, width + 1);
    }
};

// What is left of values when something is subtracted, and the shortest way to write it.
struct Plan {
    const int64_t* value;
    size_t count;  // of residuals
    uint64_t base;
    bool steps;   // of the differences
    bool signed_;  // zigzagged
    int coder = 0;
    size_t body = 0;

    uint64_t residual(size_t n) const {
        if (!steps) return uint64_t(value[n]) - base;
        const uint64_t step = uint64_t(value[n + 1]) - uint64_t(value[n]);
        return signed_ ? zigzag(int64_t(step)) : step - base;
    }

    void choose() {
        size_t with_bits[65] = {};
        for (size_t n = 0; n < count; ++n) ++with_bits[bit_length(residual(n))];
        for (int bits = 64; bits > 0 && !coder; --bits)
            if (with_bits[bits]) coder = bits;
        body = bytes_for(size_t(coder) * count);
        if (coder < 2) return;
        size_t best = 0;
        int width_of_best = 0;
        for (int width = 1; width <= kMostBits; ++width) {
            size_t cost = 0;
            for (int bits = 0; bits <= 64; ++bits)
                cost += with_bits[bits] * size_t(((bits ? bits : 1) + width - 1) / width * (width + 1));
            if (!width_of_best || cost < best) best = cost, width_of_best = width;
        }
        if (bytes_for(best) < body) coder = kChunks + width_of_best, body = bytes_for(best);
    }

    uint8_t* write(uint8_t* out) const {
        std::memset(out, 0, body);
        Bits bits{out};
        for (size_t n = 0; n < count; ++n) {
            if (coder > kChunks) bits.chunks(residual(n), coder - kChunks);
            else if (coder) bits.put(residual(n), coder);
        }
        return out + body;
    }
};

// Values above the least one, or differences above the least one: whichever is shorter.
size_t simple(const int64_t* value, size_t count, uint8_t* out) {
    int64_t low = value[0], step = 0;
    for (size_t n = 1; n < count; ++n) {
        const auto here = int64_t(uint64_t(value[n]) - uint64_t(value[n - 1]));
        if (value[n] < low) low = value[n];
        if (n == 1 || here < step) step = here;
    }
    if (step < 0) step = -1;
    Plan above{value, count, uint64_t(low), false, false};
    Plan steps{value, count - 1, uint64_t(step), true, step < 0};
    above.choose();
    steps.choose();
    uint8_t head[kHead], *end = put_varint(zigzag(low), head);
    uint8_t steps_head[kHead], *steps_end = put_varint(zigzag(value[0]), steps_head);
    steps_end = put_varint(zigzag(step), steps_end);
    const bool shorter =
        size_t(steps_end - steps_head) + steps.body < size_t(end - head) + above.body;
    const Plan& plan = shorter ? steps : above;
    const uint8_t* from = shorter ? steps_head : head;
    const size_t taken = size_t(shorter ? steps_end - steps_head : end - head);
    *out = uint8_t(plan.coder | (shorter ? kSteps : 0));
    std::memcpy(out + 1, from, taken);
    return size_t(plan.write(out + 1 + taken) - out);
}

// The same, or the values that differ and how often each one stands. `scratch` holds `count`
// numbers, `other` as many bytes as `out`.
size_t runs(const int64_t* value, size_t count, int64_t* scratch, uint8_t* other, uint8_t* out) {
    const size_t size = simple(value, count, out);
    size_t distinct = 1;
    for (size_t n = 1; n < count; ++n) distinct += value[n] != value[n - 1];
    if (distinct < 2 || distinct > count / 2) return size;
    int64_t* repeats = scratch + distinct;
    size_t run = 0, start = 0;
    for (size_t n = 1; n <= count; ++n) {
        if (n < count && value[n] == value[n - 1]) continue;
        scratch[run] = value[start];
        repeats[run++] = int64_t(n - start);
        start = n;
    }
    *other = kRuns;
    uint8_t* end = put_varint(distinct, other + 1);
    end += simple(scratch, distinct, end);
    end += simple(repeats, distinct, end);
    const auto shorter = size_t(end - other);
    if (shorter >= size) return size;
    std::memcpy(out, other, shorter);
    return shorter;
}

uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

size_t shortest(const Coding& coding) {
    const int64_t* value = coding.value;
    const size_t count = coding.count, room = coding_room(count);
    uint8_t* other = coding.out + room;
    uint8_t* divided_out = other + room;
    int64_t* scratch = coding.scratch;
    const size_t size = runs(value, count, scratch, other, coding.out);
    int64_t low = value[0], high = value[0];
    for (size_t n = 1; n < count; ++n) {
        if (value[n] < low) low = value[n];
        if (value[n] > high) high = value[n];
    }
    const uint64_t spread = uint64_t(high) - uint64_t(low);
    if (spread >= uint64_t(1) << 62) return size;
    uint64_t unit = 0;
    for (size_t n = 0; n < count && unit != 1; ++n)
        unit = common_divisor(uint64_t(value[n]) - uint64_t(low), unit);
    if (unit < 2 || unit >= spread) return size;
    const auto divisor = int64_t(unit);
    const auto floored = [divisor](int64_t x) { return x / divisor - (x % divisor < 0); };
    int64_t* divided = scratch + count;
    for (size_t n = 0; n < count; ++n) divided[n] = floored(value[n]);
    *divided_out = kUnit;
    uint8_t* end = put_varint(unit, divided_out + 1);
    end = put_varint(uint64_t(low - floored(low) * divisor), end);
    end += runs(divided, count, scratch, other, end);
    const auto shorter = size_t(end - divided_out);
    if (shorter >= size) return size;
    std::memcpy(coding.out, divided_out, shorter);
    return shorter;
}

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

size_t encode_integers(const Coding& coding) {
    if (!coding.varints) return shortest(coding);
    uint8_t* end = coding.out;
    for (size_t n = 0; n < coding.count; ++n) end = put_varint(zigzag(coding.value[n]), end);
    return size_t(end - coding.out);
}

}  // namespace gistrec::GISTREC_ISA
