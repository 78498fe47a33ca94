#include "step.h"

#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "coded_rows.h"
#include "rows.h"

namespace gistrec {
namespace GISTREC_ISA {
namespace {

constexpr long kChunk = 32;  // events taken through a layer at once
constexpr long kMostParts = 4;
constexpr float kLeast = -3e38f;

long padded(long n) { return (n + 15) / 16 * 16; }

// Weights, one matrix after the other.
struct Cursor {
    const float* next;
    const float* take(long size) {
        const float* found = next;
        next += size;
        return found;
    }
};

// Grows to the largest request of its thread and stays.
template <class T>
T* room(std::vector<T>& kept, size_t size) {
    if (kept.size() < size) kept.resize(size);
    return kept.data();
}

struct Scratch {
    std::vector<float> x, norm, wide, sum, score, query, keys, values;
    std::vector<uint8_t> time, position, flat;
};

// y = x w + offset for each row, rows padded.
void linear(long rows, const float* x, long depth, long x_row, Cursor& weights, long columns,
            float* y, bool add = false) {
    const float *w = weights.take(depth * columns), *offset = weights.take(columns);
    for (long r = 0; r < rows; ++r)
        for (long c = 0; c < columns; c += W) {
            const vec start = load(offset + c);
            store(y + r * columns + c, add ? load(y + r * columns + c) + start : start);
        }
    multiply(rows, columns, depth, x, x_row, 1, w, columns, y, columns, false);
}

void layer_norm(long rows, const float* x, long width, long stride, Cursor& weights, float* y) {
    const float *gain = weights.take(stride), *offset = weights.take(stride);
    for (long r = 0; r < rows; ++r, x += stride, y += stride) {
        vec total = {};
        for (long c = 0; c < stride; c += W) total += load(x + c);
        const float mean = sum(total) / width;
        vec squares = {};
        for (long c = 0; c < stride; c += W) squares += (load(x + c) - mean) * (load(x + c) - mean);
        const float filled = (stride - width) * mean * mean;  // of the zeros behind
        const float scale = 1 / std::sqrt((sum(squares) - filled) / width + 1e-5f);
        for (long c = 0; c < stride; c += W)
            store(y + c, (load(x + c) - mean) * scale * load(gain + c) + load(offset + c));
    }
}

// x (1 + erf(x / sqrt 2)) / 2, erf by Abramowitz and Stegun 7.1.26, to 1.5e-7.
inline vec gelu(vec x) {
    const vec z = larger(x, -x) * 0.70710678f;
    const vec t = 1.0f / (1.0f + 0.3275911f * z);
    vec y = 1.061405429f * t - 1.453152027f;
    y = y * t + 1.421413741f;
    y = y * t - 0.284496736f;
    y = y * t + 0.254829592f;
    const vec tail = y * t * exp(-z * z);
    return x * 0.5f * select(x < all(0.0f), tail, 2.0f - tail);
}

// ---- buckets ----

// Time buckets of slots seen from `at`: they hardly change from slot to slot.
void time_buckets(const Stack& s, int64_t at, const int64_t* time, long count, uint8_t* bucket) {
    long b = 0;
    int64_t low = INT64_MIN, high = s.later[0];
    for (long first = 0; first < count; first += 16) {
        const long end = std::min(first + 16, count);
        bool moved = false;
        for (long n = first; n < end; ++n)
            moved |= (at - time[n] < low) | (at - time[n] >= high);
        if (!moved) {
            std::fill(bucket + first, bucket + end, static_cast<uint8_t>(b));
            continue;
        }
        for (long n = first; n < end; ++n) {
            const int64_t elapsed = at - time[n];
            while (b && elapsed < s.later[b - 1]) --b;
            while (b < s.times && elapsed >= s.later[b]) ++b;
            bucket[n] = static_cast<uint8_t>(b);
        }
        low = b ? s.later[b - 1] : INT64_MIN;
        high = b < s.times ? s.later[b] : INT64_MAX;
    }
}

// Where one query's buckets stand, and which blocks are of one bucket.
struct Buckets {
    const uint8_t *position, *time, *flat;
};

void find_flat(const Buckets& b, long count, uint8_t* flat) {
    for (long first = 0; first < count; first += kBlock) {
        const long rest = std::min(kBlock, count - first) - 1;
        const uint8_t *p = b.position + first, *t = b.time + first;
        flat[first / kBlock] =
            !std::memcmp(p, p + 1, rest) && (!b.time || !std::memcmp(t, t + 1, rest));
    }
}

#if defined(__AVX512F__)
// Of a table of 128 numbers.
inline vec look_up(const float* table, const uint8_t* index) {
    const __m512i n = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)index));
    const auto part = [&](int k) {
        return _mm512_permutex2var_ps(_mm512_loadu_ps(table + k), n, _mm512_loadu_ps(table + k + 16));
    };
    const __mmask16 second = _mm512_test_epi32_mask(n, _mm512_set1_epi32(32));
    const __mmask16 upper = _mm512_test_epi32_mask(n, _mm512_set1_epi32(64));
    const __m512 low = _mm512_mask_blend_ps(second, part(0), part(32));
    const __m512 high = _mm512_mask_blend_ps(second, part(64), part(96));
    return (vec)_mm512_mask_blend_ps(upper, low, high);
}
#endif

void add_bias(const float* position, const float* time, const Buckets& b, long first, long count,
              float* score) {
    const uint8_t *p = b.position + first, *t = time ? b.time + first : nullptr;
    if (b.flat[first / kBlock]) {
        const float bias = position[*p] + (time ? time[*t] : 0);
        for (long n = 0; n < count; n += W) store(score + n, load(score + n) + bias);
        return;
    }
    long n = 0;
#if defined(__AVX512F__)
    for (; n + W <= count; n += W) {
        vec x = load(score + n) + look_up(position, p + n);
        store(score + n, time ? x + look_up(time, t + n) : x);
    }
#endif
    for (; n < count; ++n) score[n] += position[p[n]] + (time ? time[t[n]] : 0);
}

// ---- attention ----

// One query's read so far: `sum` of values by weights; softmax weights are relative to `most`.
struct Read {
    float *query, *sum;
    float most, total;
};

// Weights of a block's scores in place; what was summed before is scaled to a new maximum.
void weigh(const Stack& s, Read& r, long padded_width, long count, float* score) {
    for (long n = count; n % W; ++n) score[n] = kLeast;
    if (s.pointwise) {
        for (long n = 0; n < count; n += W) store(score + n, silu(load(score + n)));
        return;
    }
    vec most = all(r.most);
    for (long n = 0; n < count; n += W) most = larger(load(score + n), most);
    const float found = largest(most);
    if (found > r.most) {
        const float kept = r.most == kLeast ? 0 : std::exp(r.most - found);
        for (long c = 0; c < padded_width; c += W) store(r.sum + c, load(r.sum + c) * kept);
        r.total *= kept, r.most = found;
    }
    vec total = {};
    for (long n = 0; n < count; n += W) {
        const vec weight = exp(load(score + n) - r.most);
        store(score + n, weight);
        total += weight;
    }
    r.total += sum(total);
}

class Layers {
  public:
    Layers(const Stack& stack, Scratch& scratch)
        : s_(stack), t_(scratch), width_(padded(stack.width)), head_(stack.width / stack.heads),
          head_padded_(padded(head_)) {}

    void run(const Events& e) {
        for (long first = 0; first < e.events; first += kChunk)
            chunk(e, first, std::min(kChunk, e.events - first));
    }

  private:
    void chunk(const Events& e, long first, long count) {
        float* x = room(t_.x, count * width_);
        for (long n = 0; n < count; ++n) {
            const float* row = s_.table + e.item[first + n] * s_.width;
            for (long c = 0; c < s_.width; ++c) x[n * width_ + c] = row[c] * float(s_.scale);
            std::fill(x + n * width_ + s_.width, x + (n + 1) * width_, 0.0f);
        }
        find_buckets(e, first, count);
        Cursor weights{s_.weights};
        float* written = e.written;
        for (long layer = 0; layer < s_.layers; ++layer) {
            const bool read = layer + 1 < s_.layers || e.out || e.received;
            through(e, first, count, layer, weights, written, read);
            written += 2 * s_.groups[layer] * e.events * head_;
        }
        if (e.out && first + count == e.events)
            std::copy_n(x + (count - 1) * width_, s_.width, e.out);
    }

    // One layer; x is replaced by its outputs, if they are read.
    void through(const Events& e, long first, long count, long layer, Cursor& weights,
                 float* written, bool read) {
        const long groups = s_.groups[layer], kept = groups * head_;
        const long before = s_.pointwise ? s_.width : 0;  // u
        const long wide = padded(before + s_.width + 2 * kept);
        float *x = t_.x.data(), *norm = room(t_.norm, count * width_);
        float *z = room(t_.wide, count * std::max(wide, padded(4 * s_.width)));
        layer_norm(count, x, s_.width, width_, weights, norm);
        linear(count, norm, s_.width, width_, weights, wide, z);
        if (s_.pointwise)
            for (long n = 0; n < count * wide; n += W) store(z + n, silu(load(z + n)));
        for (long what = 0; what < 2; ++what)
            for (long g = 0; g < groups; ++g)
                for (long n = 0; n < count; ++n)
                    std::copy_n(z + n * wide + before + s_.width + what * kept + g * head_, head_,
                                written + ((what * groups + g) * e.events + first + n) * head_);
        if (!read) return;
        float* y = room(t_.sum, count * width_ + head_padded_);  // sums are written in whole vectors
        Cursor biases = weights;
        biases.take(s_.pointwise ? 2 * width_ + s_.width * width_ + width_
                                 : s_.width * width_ + width_ + 2 * width_ +
                                       (s_.width + 1) * padded(4 * s_.width) +
                                       4 * s_.width * width_ + width_);
        const float* position = biases.take(s_.heads * kPositions);
        const float* time = s_.times ? biases.take(s_.heads * kTimes) : nullptr;
        for (long h = 0; h < s_.heads; ++h)
            attend(e, first, count, layer, h, z + before + h * head_, wide, written,
                   position + h * kPositions, time ? time + h * kTimes : nullptr, y + h * head_);
        for (long n = 0; n < count; ++n)
            std::fill(y + n * width_ + s_.width, y + (n + 1) * width_, 0.0f);
        if (s_.pointwise) {
            layer_norm(count, y, s_.width, width_, weights, y);
            for (long n = 0; n < count; ++n)
                for (long c = 0; c < s_.width; ++c) y[n * width_ + c] *= z[n * wide + c];
            linear(count, y, s_.width, width_, weights, width_, x, true);
        } else {
            linear(count, y, s_.width, width_, weights, width_, x, true);
            const long up = padded(4 * s_.width);
            layer_norm(count, x, s_.width, width_, weights, norm);
            linear(count, norm, s_.width, width_, weights, up, z);
            for (long n = 0; n < count * up; n += W) store(z + n, gelu(load(z + n)));
            linear(count, z, 4 * s_.width, up, weights, width_, x, true);
        }
        weights = biases;
    }

    // Reads of one head, written to `out` (count rows, width_ apart).
    void attend(const Events& e, long first, long count, long layer, long h, const float* q,
                long q_row, const float* written, const float* position, const float* time,
                float* out) {
        const long groups = s_.groups[layer], g = h * groups / s_.heads;
        const float* new_k = written + g * e.events * head_;
        const float* new_v = new_k + groups * e.events * head_;
        Read reads[kChunk];
        float* query = room(t_.query, 2 * count * head_padded_);
        std::fill_n(query, 2 * count * head_padded_, 0.0f);
        const float scale = s_.pointwise ? 1 : 1 / std::sqrt(float(head_));
        for (long n = 0; n < count; ++n) {
            float* own = query + 2 * n * head_padded_;
            for (long c = 0; c < head_; ++c) own[c] = q[n * q_row + c] * scale;
            reads[n] = {own, own + head_padded_, kLeast, 0};
        }
        const long all_slots = slots_ + e.events, noted_row = all_slots + kBlock;
        float* noted = e.received ? room(t_.score, count * noted_row) : nullptr;
        float* k_room = room(t_.keys, kBlock * head_padded_);
        float* v_room = room(t_.values, kBlock * head_padded_);
        long before = 0;
        for (long part = 0; part < e.parts; ++part) {
            const Held& held = e.held[part];
            const Rows* rows = held.rows + 2 * layer;
            for (long at = 0; at < held.count; at += kBlock) {
                const long here = std::min(kBlock, held.count - at);
                long k_row, v_row;
                const float* k = read_rows(rows[0], g, at, here, head_, k_room, &k_row);
                const float* v = read_rows(rows[1], g, at, here, head_, v_room, &v_row);
                for (long n = 0; n < count; ++n)
                    block(reads[n], k, k_row, v, v_row, here, position, time, held_[part][n], at,
                          noted ? noted + n * noted_row + before + at : nullptr);
            }
            before += held.count;
        }
        for (long n = 0; n < count; ++n)
            for (long at = 0; at <= first + n; at += kBlock)
                block(reads[n], new_k + at * head_, head_, new_v + at * head_, head_,
                      std::min(kBlock, first + n + 1 - at), position, time, held_[e.parts][n], at,
                      noted ? noted + n * noted_row + slots_ + at : nullptr);
        for (long n = 0; n < count; ++n) {
            const float share = s_.pointwise ? float(1 / s_.count) : 1 / reads[n].total;
            for (long c = 0; c < head_; ++c) out[n * width_ + c] = reads[n].sum[c] * share;
            if (e.received)
                note(reads[n], noted + n * noted_row, slots_ + first + n + 1,
                     e.received + (first + n) * all_slots);
        }
    }

    __attribute__((noinline)) void block(Read& r, const float* k, long k_slot, const float* v, long v_slot, long count,
               const float* position, const float* time, const Buckets& buckets, long at,
               float* noted) {
        float score[kBlock];
        scores(r.query, k, k_slot, count, head_, score);
        add_bias(position, time, buckets, at, count, score);
        if (noted) std::copy_n(score, count, noted);
        weigh(s_, r, head_padded_, count, score);
        add_rows(score, v, v_slot, count, head_, r.sum);
    }

    // Adds one head's share of what a query paid to each slot.
    void note(const Read& r, const float* score, long count, float* received) {
        for (long n = 0; n < count; ++n) {
            const float x = score[n];
            const float weight = s_.pointwise ? std::fabs(x / (1 + std::exp(-x)))
                                              : std::exp(x - r.most) / r.total;
            received[n] += weight / s_.heads;
        }
    }

    // Of the parts, then of the new events.
    void find_buckets(const Events& e, long first, long count) {
        slots_ = 0;
        for (long part = 0; part < e.parts; ++part) slots_ += e.held[part].count;
        const long slots = slots_ + e.events, blocks = slots / kBlock + 1 + e.parts;
        uint8_t* flat = room(t_.flat, count * blocks);
        uint8_t* time = s_.times ? room(t_.time, count * slots) : nullptr;
        uint8_t* near = room(t_.position, count * slots);
        for (long n = 0; n < count; ++n, flat += blocks, near += slots, time += time ? slots : 0) {
            const long at = e.position + first + n;
            long before = 0, flats = 0;
            for (long part = 0; part <= e.parts; ++part) {
                const bool fresh = part == e.parts;
                const Held held = fresh ? Held{first + n + 1, nullptr, e.time, nullptr} : e.held[part];
                const long from = fresh ? first + n : at - before;  // distance of the first slot
                Buckets& own = held_[part][n];
                own.flat = flat + flats;
                if (!held.position && from < kFar) {
                    own.position = s_.near + (kFar - 1 - from);
                } else {
                    for (long m = 0; m < held.count; ++m) {
                        const long distance = held.position ? at - held.position[m] : from - m;
                        near[before + m] = s_.near[kFar - 1 - std::clamp(distance, 0L, kFar - 1)];
                    }
                    own.position = near + before;
                }
                own.time = nullptr;
                if (time) {
                    time_buckets(s_, e.at[first + n], held.time, held.count, time + before);
                    own.time = time + before;
                }
                find_flat(own, held.count, flat + flats);
                flats += (held.count + kBlock - 1) / kBlock;
                before += held.count;
            }
        }
    }

    const Stack& s_;
    Scratch& t_;
    const long width_, head_, head_padded_;
    long slots_ = 0;  // held before the new events
    Buckets held_[kMostParts][kChunk];  // of each part, and of the new events
};

}  // namespace

void step(const Stack& stack, const Events* events, long users) {
    thread_local Scratch scratch;
    Layers layers(stack, scratch);
    for (long n = 0; n < users; ++n) layers.run(events[n]);
}

}  // namespace GISTREC_ISA
}  // namespace gistrec
