#include "packed.h"

#include <algorithm>
#include <cstring>

#include "coded_rows.h"
#include "crc.h"
#include "integers.h"

namespace gistrec {
namespace GISTREC_ISA {
namespace {

constexpr long kFormat = 1, kFrame = 5;  // version; version and checksum, in bytes
constexpr long kMostLength = 1 << 24;
constexpr int64_t kFar64 = int64_t(1) << 60;  // times and places are nearer: differences fit
constexpr long kDivided = 5;  // bytes in front of a tail: a mark, and its block's checksum

// One tensor of some slots.
struct Piece {
    const uint8_t* raw = nullptr;
    const int64_t* number = nullptr;
    long heads = 1, slots = 0, width = 1;

    long count() const { return heads * slots * width; }
};

struct Reader {
    const uint8_t* data;
    long left;
    bool ok = true;

    const uint8_t* take(long size) {
        ok = ok && size >= 0 && size <= left;
        if (!ok) return data;
        data += size, left -= size;
        return data - size;
    }

    long varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 35; shift += 7) {
            const uint8_t* next = take(1);
            if (!ok) return 0;
            value |= uint64_t(*next & 127) << shift;
            if (*next < 128) return long(value);
        }
        ok = false;
        return 0;
    }
};

void put_varint(std::vector<uint8_t>& out, uint64_t value) {
    for (; value > 127; value >>= 7) out.push_back(uint8_t(value & 127) | 128);
    out.push_back(uint8_t(value));
}

void put_bytes(std::vector<uint8_t>& out, uint32_t value) {
    for (int n = 0; n < 32; n += 8) out.push_back(uint8_t(value >> n));
}

uint32_t get_bytes(const uint8_t* p) {
    return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}

// Goes through the sizes that vary, as gistrec.wire does: `size(spec, axis, guess)` knows them.
template <class F>
void each_size(const Layout& l, long length, std::vector<long>& known, F size) {
    known.assign(4 * l.parts, -1);
    long slots = -1, tail = 0;
    for (const Spec& s : l.specs) tail = s.in_tail() ? std::min(1L, length) : tail;
    for (size_t n = 0; n < l.specs.size(); ++n) {
        const Spec& s = l.specs[n];
        for (long axis = 0; axis < s.axes; ++axis) {
            if (s.shape[axis] >= 0) continue;
            long& before = known[4 * s.part + axis];
            const long guess = before >= 0 ? before : s.in_tail() ? tail : slots < 0 ? length - tail : slots;
            before = size(n, axis, guess);
            if (slots < 0) slots = before;
        }
    }
}

struct State {
    std::vector<Piece> pieces;
    std::vector<int64_t> numbers;
    std::vector<long> known, sizes;
    long length = 0, slots = 0;

    bool read(const Layout& l, Bytes blob) {
        if (blob.size < kFrame || blob.data[0] != kFormat) return false;
        const long framed = blob.size - 4;
        if (crc32(blob.data, framed) != get_bytes(blob.data + framed)) return false;
        Reader reader{blob.data + 1, framed - 1};
        const uint8_t* id = reader.take(4);
        if (!reader.ok || get_bytes(id) != l.manifest) return false;
        length = reader.varint();
        return reader.ok && length <= kMostLength && shape(l, reader) && fill(l, reader);
    }

    bool shape(const Layout& l, Reader& reader) {
        long varying = 0;
        for (const Spec& s : l.specs)
            for (long axis = 0; axis < s.axes; ++axis) varying += s.shape[axis] < 0;
        long given = varying ? reader.varint() : 0;
        if (given > varying) return false;
        pieces.assign(l.specs.size(), {});
        slots = -1;
        each_size(l, length, known, [&](size_t n, long axis, long guess) {
            long size = guess;
            if (given > 0) {
                --given;
                if (const long found = reader.varint()) size = found - 1;
            }
            const Spec& s = l.specs[n];
            reader.ok = reader.ok && axis == (s.axes == 1 ? 0 : s.axes - 2) && size <= length;
            pieces[n].slots = reader.ok ? size : 0;
            return size;
        });
        long room = 0;
        for (size_t n = 0; n < pieces.size(); ++n) {
            const Spec& s = l.specs[n];
            Piece& p = pieces[n];
            for (long axis = 0; axis < s.axes - 2; ++axis) p.heads *= s.shape[axis];
            if (s.axes > 1) p.width = s.shape[s.axes - 1];
            if (!s.bytes) room += p.count();
            if (s.in_tail()) continue;
            if (slots < 0) slots = p.slots;
            reader.ok = reader.ok && p.slots == slots;
        }
        numbers.resize(room);
        return reader.ok;
    }

    bool fill(const Layout& l, Reader& reader) {
        int64_t* number = numbers.data();
        for (size_t n = 0; n < pieces.size(); ++n) {
            const Spec& s = l.specs[n];
            Piece& p = pieces[n];
            const long count = p.count();
            if (s.bytes) {
                p.raw = reader.take(count * s.bytes);
                if (!reader.ok) return false;
                continue;
            }
            p.number = number;
            if (count) {
                const long taken = decode_integers(
                    {reader.data, size_t(reader.left), size_t(count), number, s.in_tail()});
                if (taken < 0) return false;
                reader.take(taken);
            }
            if (s.in_tail()) {
                uint64_t last = 0;
                if (s.base >= 0 && pieces[s.base].count())
                    last = uint64_t(pieces[s.base].number[pieces[s.base].count() - 1]);
                for (long k = 0; k < count; ++k)
                    number[k] = int64_t(last += uint64_t(number[k]));
            }
            number += count;
        }
        return reader.ok && !reader.left && near(l);
    }

    bool near(const Layout& l) const {
        for (size_t n = 0; n < pieces.size(); ++n) {
            const long role = l.specs[n].role;
            if (role != kTime && role != kPosition && role != kTailTime) continue;
            for (long k = 0; k < pieces[n].count(); ++k)
                if (pieces[n].number[k] < -kFar64 || pieces[n].number[k] > kFar64) return false;
        }
        return true;
    }
};

// A piece's slots from one place on.
struct Run {
    const std::vector<Piece>* pieces;
    long start, count;
};

struct Work {
    State parts[2];
    long num_parts = 0;
    std::vector<Rows> rows[2];
    std::vector<int64_t> item, time, at, new_numbers, gathered, scratch;
    std::vector<float> written;
    std::vector<uint8_t> new_bytes, out;
    std::vector<Piece> fresh;
    std::vector<Run> runs;
    std::vector<long> sizes, known;
    std::vector<double> coding;

    const State& last() const { return parts[num_parts - 1]; }
};

const Piece* found(const Layout& l, const State& s, long role) {
    for (size_t n = 0; n < l.specs.size(); ++n)
        if (l.specs[n].role == role) return &s.pieces[n];
    return nullptr;
}

bool open(const Layout& l, const Packed& packed, Work& w) {
    const Bytes state = packed.state, block = packed.block;
    if (!state.size) return false;
    w.num_parts = 1;
    if (state.data[0]) return w.parts[0].read(l, state) && w.parts[0].length == packed.length;
    if (state.size < kDivided || block.size < kFrame) return false;
    if (std::memcmp(block.data + block.size - 4, state.data + 1, 4)) return false;
    w.num_parts = 2;
    return w.parts[1].read(l, {state.data + kDivided, state.size - kDivided}) &&
           w.parts[1].length == packed.length && w.parts[0].read(l, block);
}

// What the layers read of each part.
void point(const Layout& l, const Stack& stack, Work& w, Held* held) {
    const long head = stack.width / stack.heads;
    for (long part = 0; part < w.num_parts; ++part) {
        const State& s = w.parts[part];
        auto& rows = w.rows[part];
        rows.assign(l.codings.size(), {});
        const Piece *item = found(l, s, kItem), *time = found(l, s, kTime);
        const Piece* position = found(l, s, kPosition);
        for (size_t k = 0; k < rows.size(); ++k) {
            Rows& r = rows[k];
            r.coding = &l.codings[k];
            r.slots = s.slots;
            for (long p = 0; p < kParts; ++p) {
                const long place = l.places[kParts * k + p];
                if (place < 0) continue;
                const Piece& piece = s.pieces[place];
                r.slot[p] = piece.width * l.specs[place].bytes;
                r.head[p] = piece.slots * r.slot[p];
                r.part[p] = piece.raw;
                if (!l.specs[place].bytes) r.number = piece.number;
            }
            const long kind = r.coding->kind;
            if (kind == kCodes || kind == kItems) r.head[0] = stack.groups[k / 2] * head;
            if (kind == kItems) r.number = item->number;
        }
        held[part] = {s.slots, rows.data(), time ? time->number : nullptr,
                      position ? position->number : nullptr};
    }
}

long held_slots(const Work& w) {
    return w.parts[0].slots + (w.num_parts == 2 ? w.parts[1].slots : 0);
}

// Where the event behind the slots stands in the history.
long next_position(const Layout& l, const Work& w) {
    for (long part = w.num_parts - 1; part >= 0; --part) {
        const Piece* position = found(l, w.parts[part], kPosition);
        if (!position) break;
        if (position->slots) return position->number[position->slots - 1] + 1;
    }
    return held_slots(w);
}

// The events that wait in the tail; false: they are not such.
bool take_tail(const Layout& l, Work& w) {
    const Piece *item = found(l, w.last(), kTailItem), *time = found(l, w.last(), kTailTime);
    if (!item || !time || item->slots != time->slots) return false;
    w.item.assign(item->number, item->number + item->slots);
    w.time.assign(time->number, time->number + time->slots);
    for (int64_t one : w.item)
        if (one < 0 || one >= l.items) return false;
    return true;
}

Events events(const Work& w, const Held* held, long count, long position) {
    Events e{};
    e.item = w.item.data(), e.at = w.at.data(), e.time = w.time.data();
    e.events = count, e.position = position;
    e.held = held, e.parts = w.num_parts;
    return e;
}

float* room_for_rows(const Stack& stack, long count, Work& w) {
    long groups = 0;
    for (long layer = 0; layer < stack.layers; ++layer) groups += stack.groups[layer];
    w.written.resize(2 * groups * count * (stack.width / stack.heads));
    return w.written.data();
}

// Codes of new rows, as pieces; false: a number is not finite.
bool code(const Layout& l, const Stack& stack, long count, long position, Work& w) {
    const long head = stack.width / stack.heads;
    w.fresh.assign(l.specs.size(), {});
    size_t bytes = 0, numbers = count;
    for (const Spec& s : l.specs) {
        Piece& p = w.fresh[&s - l.specs.data()];
        if (s.in_tail()) continue;
        for (long axis = 0; axis < s.axes - 2; ++axis) p.heads *= s.shape[axis];
        if (s.axes > 1) p.width = s.shape[s.axes - 1];
        p.slots = count;
        (s.bytes ? bytes : numbers) += p.count() * (s.bytes ? s.bytes : 1);
    }
    w.new_bytes.resize(bytes), w.new_numbers.resize(numbers);
    uint8_t* next = w.new_bytes.data();
    int64_t *number = w.new_numbers.data() + count, *places = w.new_numbers.data();
    for (long n = 0; n < count; ++n) places[n] = position + n;
    for (size_t n = 0; n < l.specs.size(); ++n) {
        const Spec& s = l.specs[n];
        Piece& p = w.fresh[n];
        if (s.role == kItem) p.number = w.item.data();
        else if (s.role == kTime) p.number = w.time.data();
        else if (s.role == kPosition) p.number = places;
        else if (s.role != kRowPart) continue;
        else if (s.bytes) p.raw = next, next += p.count() * s.bytes;
        else p.number = number, number += p.count();
    }
    const float* x = w.written.data();
    for (size_t k = 0; k < l.codings.size(); ++k) {
        const long groups = stack.groups[k / 2];
        NewRows out{};
        for (long p = 0; p < kParts; ++p) {
            const long place = l.places[kParts * k + p];
            if (place < 0) continue;
            out.part[p] = const_cast<uint8_t*>(w.fresh[place].raw);
            if (!l.specs[place].bytes) out.zero = const_cast<int64_t*>(w.fresh[place].number);
        }
        if (!code_rows(l.codings[k], x, groups, count, head, w.coding, out)) return false;
        x += groups * count * head;
    }
    return true;
}

// Writes the slots of some runs behind what `out` holds, as one framed state.
void pack(const Layout& l, long length, const std::vector<Run>& runs, Work& w,
          std::vector<uint8_t>& out) {
    const size_t start = out.size();
    long slots = 0;
    for (const Run& run : runs) slots += run.count;
    out.push_back(kFormat);
    put_bytes(out, l.manifest);
    put_varint(out, length);
    w.sizes.clear();
    each_size(l, length, w.known, [&](size_t n, long, long guess) {
        const long size = l.specs[n].in_tail() ? 1 : slots;
        w.sizes.push_back(size == guess ? 0 : 1 + size);
        return size;
    });
    if (!w.sizes.empty()) {
        while (!w.sizes.empty() && !w.sizes.back()) w.sizes.pop_back();
        put_varint(out, w.sizes.size());
        for (long size : w.sizes) put_varint(out, size);
    }
    for (size_t n = 0; n < l.specs.size(); ++n) {
        const Spec& s = l.specs[n];
        const Piece& like = w.fresh[n];
        if (s.bytes) {
            for (long h = 0; h < like.heads; ++h)
                for (const Run& run : runs) {
                    const Piece& p = (*run.pieces)[n];
                    const long slot = p.width * s.bytes;
                    const uint8_t* from = p.raw + (h * p.slots + run.start) * slot;
                    out.insert(out.end(), from, from + run.count * slot);
                }
            continue;
        }
        w.gathered.clear();
        if (s.in_tail()) {
            int64_t before = 0;
            if (s.base >= 0 && slots) {
                const Run* run = &runs.back();
                while (!run->count) --run;
                before = (*run->pieces)[s.base].number[run->start + run->count - 1];
            }
            const int64_t newest = s.role == kTailItem ? w.item.back() : w.time.back();
            w.gathered.push_back(int64_t(uint64_t(newest) - uint64_t(before)));
        } else {
            for (long h = 0; h < like.heads; ++h)
                for (const Run& run : runs) {
                    const Piece& p = (*run.pieces)[n];
                    const int64_t* from = p.number + (h * p.slots + run.start) * p.width;
                    w.gathered.insert(w.gathered.end(), from, from + run.count * p.width);
                }
        }
        const size_t count = w.gathered.size(), room = coding_room(count);
        if (!count) continue;
        if (w.scratch.size() < 2 * count) w.scratch.resize(2 * count);
        if (w.out.size() < 3 * room) w.out.resize(3 * room);
        const size_t size = encode_integers(
            {w.gathered.data(), count, s.in_tail(), w.scratch.data(), w.out.data()});
        out.insert(out.end(), w.out.data(), w.out.data() + size);
    }
    put_bytes(out, crc32(out.data() + start, out.size() - start));
}

// The slots that stay, of the parts and of `count` new ones.
void choose(const Layout& l, long count, Work& w) {
    const long all = held_slots(w) + count;
    const long from = l.keep < 0 || all <= l.keep ? l.sink : all - l.keep + l.sink;
    w.runs.clear();
    long before = 0;
    const auto add = [&](const std::vector<Piece>& pieces, long slots) {
        const long oldest = std::clamp(l.sink - before, 0L, slots);
        const long newest = std::clamp(from - before, oldest, slots);
        if (oldest) w.runs.push_back({&pieces, 0, oldest});
        if (newest < slots) w.runs.push_back({&pieces, newest, slots - newest});
        before += slots;
    };
    for (long part = 0; part < w.num_parts; ++part) add(w.parts[part].pieces, w.parts[part].slots);
    add(w.fresh, count);
}

Work& work() {
    thread_local Work kept;
    return kept;
}

}  // namespace

bool newest(const Layout& l, const Stack& stack, const Packed& packed, bool timed, int64_t at,
            const Output& output) {
    Work& w = work();
    if (!open(l, packed, w) || !take_tail(l, w) || w.item.empty()) return false;
    w.item = {w.item.back()}, w.time = {w.time.back()};
    w.at = {timed && l.request_time ? std::max(at, w.time[0]) : w.time[0]};
    Held held[2];
    point(l, stack, w, held);
    room_for_rows(stack, 1, w);
    Events e = events(w, held, 1, next_position(l, w));
    e.out = output.out, e.written = w.written.data();
    step(stack, &e, 1);
    if (!output.item) return true;
    output.item->clear(), output.time->clear();
    for (long part = 0; part < w.num_parts; ++part) {
        const Piece *item = found(l, w.parts[part], kItem), *time = found(l, w.parts[part], kTime);
        if (!item || !time) return false;
        output.item->insert(output.item->end(), item->number, item->number + item->slots);
        output.time->insert(output.time->end(), time->number, time->number + time->slots);
    }
    output.item->push_back(w.item[0]), output.time->push_back(w.time[0]);
    return true;
}

bool grow(const Layout& l, const Stack& stack, const Packed& packed, const Growth& growth,
          Grown& grown) {
    Work& w = work();
    if (!open(l, packed, w) || !take_tail(l, w)) return false;
    w.item.insert(w.item.end(), growth.item, growth.item + growth.count);
    for (long n = 0; n < growth.count; ++n) {  // a history never goes back
        const int64_t before = w.time.empty() ? INT64_MIN : w.time.back();
        w.time.push_back(std::max(before, growth.time[n]));
        if (w.time.back() < -kFar64 || w.time.back() > kFar64) return false;
    }
    for (int64_t one : w.item)
        if (one < 0 || one >= l.items) return false;
    const long count = long(w.item.size()) - 1;
    if (count < 0) return false;
    w.at.assign(w.time.begin() + (l.request_time ? 1 : 0), w.time.end() - (l.request_time ? 0 : 1));
    const long position = next_position(l, w);
    room_for_rows(stack, count, w);
    if (count) {
        Held held[2];
        point(l, stack, w, held);
        Events e = events(w, held, count, position);
        e.written = w.written.data();
        step(stack, &e, 1);
    }
    if (!code(l, stack, count, position, w)) return false;
    choose(l, count, w);
    const long length = packed.length + growth.counted, all = held_slots(w) + count;
    const auto mark = [&](const uint8_t* crc) {
        grown.state.assign(1, 0);
        grown.state.insert(grown.state.end(), crc, crc + 4);
    };
    grown.state.clear(), grown.block.clear();
    grown.divided = true;
    if (w.num_parts == 2 && growth.tail_bytes && (l.keep < 0 || all <= l.keep)) {
        mark(packed.state.data + 1);
        w.runs = {{&w.parts[1].pieces, 0, w.parts[1].slots}, {&w.fresh, 0, count}};
        pack(l, length, w.runs, w, grown.state);
        if (long(grown.state.size()) <= growth.tail_bytes) return true;
        choose(l, count, w);
    }
    grown.state.clear();
    pack(l, length, w.runs, w, grown.state);
    grown.divided = l.grows && long(grown.state.size()) > l.whole;
    if (!grown.divided) return true;
    grown.block.swap(grown.state);
    mark(grown.block.data() + grown.block.size() - 4);
    w.runs.clear();
    pack(l, length, w.runs, w, grown.state);
    return true;
}

uint32_t checksum(Bytes bytes) { return crc32(bytes.data, size_t(bytes.size)); }

}  // namespace GISTREC_ISA
}  // namespace gistrec
