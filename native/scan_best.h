// The best of a stream of scores; compiled once per instruction set, in its namespace.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "scan.h"

namespace gistrec::GISTREC_ISA {
namespace {

// A score and its item in one number, greater for a better place in a ranking: by score, then by
// the lower index. A type of this instruction set's own, so that the linker shares no template over
// it with another's.
struct Key {
    uint64_t bits;
    static Key of(float score, uint32_t item) {
        uint32_t x;
        std::memcpy(&x, &score, 4);
        if (x == 0x80000000u) x = 0;  // -0 equals 0
        x = x & 0x80000000u ? ~x : x | 0x80000000u;
        return {uint64_t(x) << 32 | uint32_t(~item)};
    }
    int64_t item() const { return uint32_t(~bits); }
    float score() const {
        uint32_t x = uint32_t(bits >> 32);
        x = x & 0x80000000u ? x & 0x7fffffffu : ~x;
        float score;
        std::memcpy(&score, &x, 4);
        return score;
    }
    friend bool operator<(Key a, Key b) { return a.bits > b.bits; }  // a ranking's order
};

// The k best so far, and newer ones that may be among them. Selection counts instead of comparing
// and branching: a sort would spend its time on mispredictions.
class Best {
  public:
    void begin(uint64_t* keys, size_t k) {
        key_ = reinterpret_cast<Key*>(keys), k_ = k, size_ = 0, worst_ = {0};
    }
    bool full() const { return worst_.bits; }
    size_t missing() const { return k_ - size_; }
    float floor() const { return worst_.score(); }

    void add(float score, uint32_t item) {
        const Key key = Key::of(score, item);
        key_[size_] = key;
        size_ += key.bits > worst_.bits;
        if (size_ == room(k_)) select();
    }

    // Keep the k best, if there are k and so many beyond them.
    void select(size_t beyond = 0) {
        if (size_ < k_ + beyond) return;
        uint64_t low = key_[0].bits, high = low;
        for (size_t j = 0; j < size_; ++j) {
            low = key_[j].bits < low ? key_[j].bits : low;
            high = key_[j].bits > high ? key_[j].bits : high;
        }
        worst_.bits = high;
        for (size_t reached = size_; reached != k_;) {  // ends, as no two keys are equal
            const uint64_t middle = low + (high - low + 1) / 2;
            reached = 0;
            for (size_t j = 0; j < size_; ++j) reached += key_[j].bits >= middle;
            (reached < k_ ? high : low) = reached < k_ ? middle - 1 : middle;
        }
        size_t kept = 0;
        for (size_t j = 0; j < size_; ++j) {
            const uint64_t bits = key_[j].bits;
            key_[kept].bits = bits;
            kept += bits >= low;
            worst_.bits = bits >= low && bits < worst_.bits ? bits : worst_.bits;
        }
        size_ = kept;
    }

    void write(int64_t* item, float* score) {
        select();
        std::sort(key_, key_ + size_);
        for (size_t j = 0; j < size_; ++j) item[j] = key_[j].item(), score[j] = key_[j].score();
        for (size_t j = size_; j < k_; ++j) item[j] = -1, score[j] = -INFINITY;
    }

  private:
    Key* key_;
    Key worst_;  // of the k best at the last selection; 0: there were fewer
    size_t k_, size_;
};

}  // namespace
}  // namespace gistrec::GISTREC_ISA
