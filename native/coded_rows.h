// Coded rows: a block of slots read as fp32, and new rows coded. What is read and written is, bit for
// bit, what the codecs of Python read and write. Included by kernel files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "coded.h"
#include "nearest.h"

namespace gistrec {
namespace GISTREC_ISA {
namespace {

template <class T>
inline T get(const uint8_t* p) {
    T x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

inline float from_bf16(uint16_t x) {
    const uint32_t bits = uint32_t(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

// Rounds to the nearest, halves to even; what is above the largest finite number becomes it.
inline uint16_t to_bf16(float x) {
    constexpr float most = 3.38953139e38f;
    x = std::min(std::max(x, -most), most);
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr float kLeastScale = 1.17549435e-38f, kMostScale = 0x1p121f;

// `count` rows of head g from slot `at` on as fp32, `*row` numbers apart: in place, or in `room`.
__attribute__((noinline)) const float* read_rows(const Rows& r, long g, long at, long count, long width, float* room,
                              long* row) {
    const RowCoding& coding = *r.coding;
    const uint8_t* first = r.part[0] ? r.part[0] + g * r.head[0] + at * r.slot[0] : nullptr;
    *row = width;
    switch (coding.kind) {
        case kPlain: {
            if (reinterpret_cast<uintptr_t>(first) % 4 == 0 && r.slot[0] % 4 == 0) {
                *row = r.slot[0] / 4;
                return reinterpret_cast<const float*>(first);
            }
            for (long n = 0; n < count; ++n)
                std::memcpy(room + n * width, first + n * r.slot[0], width * 4);
            return room;
        }
        case kBf16:
            for (long n = 0; n < count; ++n, first += r.slot[0])
                for (long c = 0; c < width; ++c)
                    room[n * width + c] = from_bf16(get<uint16_t>(first + 2 * c));
            return room;
        case kInt8: {
            const uint8_t* scales = r.part[1] + g * r.head[1] + at * r.slot[1];
            for (long n = 0; n < count; ++n, first += r.slot[0]) {
                const float scale = from_bf16(get<uint16_t>(scales + n * r.slot[1]));
                for (long c = 0; c < width; ++c)
                    room[n * width + c] = float(int8_t(first[c])) * scale;
            }
            return room;
        }
        case kInt4: {
            const uint8_t* odd = r.part[1] + g * r.head[1] + at * r.slot[1];
            const uint8_t* scales = r.part[2] + g * r.head[2] + at * r.slot[2];
            const long size = std::min(coding.group, width), groups = (width + size - 1) / size;
            const int64_t* zeros = r.number + (g * r.slots + at) * groups;
            for (long n = 0; n < count; ++n, first += r.slot[0]) {
                float* out = room + n * width;
                for (long c = 0; c + 1 < width; c += 2) {
                    const uint8_t pair = first[c / 2];
                    out[c] = float(pair & 15), out[c + 1] = float(pair >> 4);
                }
                if (width % 2) out[width - 1] = float(odd[n * r.slot[1]]);
                for (long k = 0; k < groups; ++k) {
                    const float scale = from_bf16(get<uint16_t>(scales + n * r.slot[2] + 2 * k));
                    const float zero = float(zeros[n * groups + k]);
                    for (long c = k * size; c < std::min((k + 1) * size, width); ++c)
                        out[c] = (out[c] + zero) * scale;
                }
            }
            return room;
        }
        case kCodes: {
            const long all = r.head[0];  // W
            first = r.part[0] + at * r.slot[0];
            for (long n = 0; n < count; ++n, first += r.slot[0]) {
                float* out = room + n * width;
                const float* words = coding.words + g * width;
                const float* word = words + std::min<long>(first[0], coding.codes - 1) * all;
                for (long c = 0; c < width; ++c) out[c] = word[c];
                for (long level = 1; level < coding.levels; ++level) {
                    words += coding.codes * all;
                    word = words + std::min<long>(first[level], coding.codes - 1) * all;
                    for (long c = 0; c < width; ++c) out[c] += word[c];
                }
                for (long c = 0; c < width; ++c) out[c] *= coding.step;
            }
            return room;
        }
        default: {
            const long all = r.head[0];
            for (long n = 0; n < count; ++n) {
                const uint64_t item = uint64_t(r.number[at + n]), last = uint64_t(coding.items - 1);
                uint64_t place = std::min(item, last);  // the last one is that of unknown items
                if (coding.rows)
                    place = item < uint64_t(coding.ids) ? uint64_t(coding.rows[item]) : last;
                const int16_t* mean = coding.means + long(place) * all + g * width;
                for (long c = 0; c < width; ++c) room[n * width + c] = float(mean[c]) * coding.step;
            }
            return room;
        }
    }
}

// What new rows are coded in; null where a coding has no such part.
struct NewRows {
    uint8_t* part[kParts];
    int64_t* zero;
};

inline void store16(uint8_t* to, uint16_t x) { std::memcpy(to, &x, 2); }

// One group of an int4 row: codes 0 to 15, as gistrec.codecs._affine has them.
inline void code_group(const float* x, long count, uint8_t* code, uint8_t* scale_to,
                       int64_t* zero_to) {
    double low = x[0], high = x[0];
    for (long c = 1; c < count; ++c)
        low = std::min<double>(low, x[c]), high = std::max<double>(high, x[c]);
    const double span = (high - low) / 15;
    const double least = std::max(std::max(-low, high) / 127, double(kLeastScale));
    const uint16_t bits = to_bf16(float(std::min(std::max(span, least), double(kMostScale))));
    const double scale = from_bf16(bits);
    const double zero = std::min(std::max(std::nearbyint(low / scale), -127.0), 112.0);
    for (long c = 0; c < count; ++c) {
        const double q = std::nearbyint(x[c] / scale) - zero;
        code[c] = span >= least && x[c] == high ? 15 : uint8_t(std::min(std::max(q, 0.0), 15.0));
    }
    store16(scale_to, bits);
    *zero_to = int64_t(zero);
}

// Codes of a row of whole steps, which is used up.
inline void greedy(const RowCoding& coding, double* rest, long width, long* code) {
    const double* bias = coding.columns + coding.levels * width * coding.padded;
    for (long level = 0; level < coding.levels; ++level) {
        nearest({rest, coding.columns + level * width * coding.padded, bias + level * coding.padded,
                 code + level, 1, coding.padded, width});
        const float* word = coding.words + (level * coding.codes + code[level]) * width;
        for (long c = 0; c < width; ++c) rest[c] -= word[c];
    }
}

// Greedy codes that encode their own sum, giving up last levels where need be.
inline void stable(const RowCoding& coding, const double* row, long width, double* room, long* code) {
    double *sum = room, *rest = room + width;
    long again[16];
    const auto add_up = [&] {
        std::fill_n(sum, width, 0.0);
        for (long level = 0; level < coding.levels; ++level) {
            const float* word = coding.words + (level * coding.codes + code[level]) * width;
            for (long c = 0; c < width; ++c) sum[c] += word[c];
        }
    };
    std::copy_n(row, width, rest);
    greedy(coding, rest, width, code);
    if (coding.levels == 1) return;
    add_up();
    if (std::equal(sum, sum + width, row)) return;
    for (long kept = coding.levels; kept > 1; --kept) {
        std::fill(code + kept, code + coding.levels, 0);
        add_up();
        std::copy_n(sum, width, rest);
        greedy(coding, rest, width, again);
        if (std::equal(code, code + coding.levels, again)) return;
    }
    std::fill(code + 1, code + coding.levels, 0);
}

// New rows (groups, count, width) of a tensor, coded; false: a number is not finite.
inline bool code_rows(const RowCoding& coding, const float* x, long groups, long count, long width,
                      std::vector<double>& room, const NewRows& out) {
    const long all = groups * count * width;
    if (coding.kind == kPlain) {
        if (all) std::memcpy(out.part[0], x, all * 4);
        return true;
    }
    if (coding.kind == kItems) return true;
    for (long n = 0; n < all; ++n)
        if (!std::isfinite(x[n])) return false;
    if (coding.kind == kBf16) {
        for (long n = 0; n < all; ++n) store16(out.part[0] + 2 * n, to_bf16(x[n]));
    } else if (coding.kind == kInt8) {
        for (long n = 0; n < groups * count; ++n) {
            const float* row = x + n * width;
            float most = 0;
            for (long c = 0; c < width; ++c) most = std::max(most, std::fabs(row[c]));
            const uint16_t bits = to_bf16(std::min(std::max(most / 127, kLeastScale), kMostScale));
            const float scale = from_bf16(bits);
            for (long c = 0; c < width; ++c) {
                const float q = std::min(std::max(std::nearbyintf(row[c] / scale), -127.0f), 127.0f);
                out.part[0][n * width + c] = uint8_t(int8_t(q));
            }
            store16(out.part[1] + 2 * n, bits);
        }
    } else if (coding.kind == kInt4) {
        const long size = std::min(coding.group, width), sets = (width + size - 1) / size;
        std::vector<uint8_t> code(width + 1);
        for (long n = 0; n < groups * count; ++n) {
            for (long k = 0; k < sets; ++k)
                code_group(x + n * width + k * size, std::min(size, width - k * size),
                           code.data() + k * size, out.part[2] + 2 * (n * sets + k),
                           out.zero + n * sets + k);
            for (long c = 0; c + 1 < width; c += 2)
                out.part[0][n * (width / 2) + c / 2] = uint8_t(code[c] | code[c + 1] << 4);
            if (width % 2) out.part[1][n] = code[width - 1];
        }
    } else {
        constexpr double limit = 1 << 22;
        const long wide = groups * width;
        room.resize(3 * wide);
        long code[16];
        for (long n = 0; n < count; ++n) {
            for (long g = 0; g < groups; ++g)
                for (long c = 0; c < width; ++c) {
                    const double steps =
                        std::nearbyint(double(x[(g * count + n) * width + c]) / coding.step);
                    room[g * width + c] = std::min(std::max(steps, -limit), limit);
                }
            stable(coding, room.data(), wide, room.data() + wide, code);
            for (long level = 0; level < coding.levels; ++level)
                out.part[0][n * coding.levels + level] = uint8_t(code[level]);
        }
    }
    return true;
}

}  // namespace
}  // namespace GISTREC_ISA
}  // namespace gistrec
