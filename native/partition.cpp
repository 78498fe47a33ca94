// The logarithm of a softmax's partition sum over many candidates, and its gradients, without the
// matrix of logits: rows are taken as many at a time as fit the cache.
#include "partition.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tile.h"
#include "tile_bf16.h"

namespace gistrec {
namespace GISTREC_ISA {
namespace {

// The three products of a block of rows, in float32.
class Whole {
   public:
    Whole(const Partition& p, long)
        : p_(p), wide_(rounded(p.width)), columns_(rounded(p.candidates)), across_(p.width * columns_) {
        pack_across(across_.data(), p.table, p.width, p.candidates, p.width, columns_);
        if (wide_ != p.width) {
            along_.resize(p.candidates * wide_);
            pack(along_.data(), p.table, p.width, p.candidates, p.width, wide_);
        }
    }

    // e (rows, columns) = h table^T
    void scores(const float* h, long rows, float* e) {
        for (long n = 0; n < columns_; n += 4 * W)
            multiply(rows, std::min(4L * W, columns_ - n), p_.width, h, wide_, 1, across_.data() + n,
                     columns_, e + n, columns_, true);
    }

    // grad (rows, wide) = e table, and grad_table (candidates, wide) += e^T (scale h)
    void gradients(const float* e, const float* scaled_h, long rows, float* grad, float* grad_table) {
        const float* table = wide_ == p_.width ? p_.table : along_.data();
        multiply(rows, wide_, p_.candidates, e, columns_, 1, table, wide_, grad, wide_, true);
        multiply(p_.candidates, wide_, rows, e, 1, columns_, scaled_h, wide_, grad_table, wide_, false);
    }

   private:
    const Partition& p_;
    long wide_, columns_;
    std::vector<float> across_, along_;
};

#ifdef GISTREC_BF16
// The same with factors rounded to bfloat16 and sums in float32: twice as fast.
class Halves {
   public:
    Halves(const Partition& p, long most)
        : p_(p), wide_(rounded(p.width)), columns_(rounded(p.candidates)), most_(rounded(most)),
          across_(wide_ / 2 * columns_), along_(columns_ / 2 * wide_), h_(most_ * wide_ / 2),
          e_(most_ * columns_ / 2), pairs_(most_ / 2 * columns_) {
        std::vector<float> row(2 * wide_, 0.0f);
        for (long n = 0; n < p.candidates; n += 2) {
            pack(row.data(), p.table + n * p.width, p.width, 1, p.width, wide_);
            if (n + 1 < p.candidates)
                pack(row.data() + wide_, p.table + (n + 1) * p.width, p.width, 1, p.width, wide_);
            else
                std::fill_n(row.data() + wide_, wide_, 0.0f);
            for (long d = 0; d < wide_; d += W)
                store_pairs(&along_[n / 2 * wide_ + d], load(&row[d]), load(&row[wide_ + d]));
            for (long d = 0; d < wide_; d += 2) {
                across_[d / 2 * columns_ + n] = pair(row[d], row[d + 1]);
                across_[d / 2 * columns_ + n + 1] = pair(row[wide_ + d], row[wide_ + d + 1]);
            }
        }
    }

    void scores(const float* h, long rows, float* e) {
        for (long n = 0; n < rows * wide_; n += W) store_half(&h_[n / 2], load(h + n));
        for (long n = 0; n < columns_; n += 4 * W)
            multiply_pairs(rows, std::min(4L * W, columns_ - n), wide_ / 2, h_.data(), wide_ / 2, 1,
                           across_.data() + n, columns_, e + n, columns_, true);
    }

    void gradients(const float* e, const float* scaled_h, long rows, float* grad, float* grad_table) {
        for (long r = 0; r < rows; r += 2) {
            const float *one = e + r * columns_, *two = one + columns_;
            const bool both = r + 1 < rows;
            for (long n = 0; n < columns_; n += W) {
                const vec x = load(one + n), y = both ? load(two + n) : vec{};
                store_half(&e_[(r * columns_ + n) / 2], x);
                store_half(&e_[((r + 1) * columns_ + n) / 2], y);
                store_pairs(&pairs_[r / 2 * columns_ + n], x, y);
            }
            const float* h = scaled_h + r * wide_;
            for (long d = 0; d < wide_; d += W)
                store_pairs(&h_[r / 2 * wide_ + d], load(h + d), both ? load(h + wide_ + d) : vec{});
        }
        multiply_pairs(rows, wide_, columns_ / 2, e_.data(), columns_ / 2, 1, along_.data(), wide_,
                       grad, wide_, true);
        multiply_pairs(p_.candidates, wide_, (rows + 1) / 2, pairs_.data(), 1, columns_, h_.data(),
                       wide_, grad_table, wide_, false);
    }

   private:
    const Partition& p_;
    long wide_, columns_, most_;
    std::vector<std::uint32_t> across_, along_, h_, e_, pairs_;
};
#endif

template <class Products>
double compute(const Partition& p) {
    const long wide = rounded(p.width), columns = rounded(p.candidates);
    const long most = std::max(24L, std::min(96L, 200000 / columns / 12 * 12));
    Products products(p, most);
    std::vector<float> e(most * columns), h(most * wide), grad(most * wide), scale(most), padded;
    float* grad_table = p.grad_table;
    if (wide != p.width) {
        padded.resize(p.candidates * wide);
        grad_table = padded.data();
    } else {
        std::fill_n(grad_table, p.candidates * wide, 0.0f);
    }
    if (p.bias) std::fill_n(p.grad_bias, p.candidates, 0.0f);

    double total = 0;
    for (long first = 0; first < p.queries; first += most) {
        const long rows = std::min(most, p.queries - first);
        pack(h.data(), p.h + first * p.width, p.width, rows, p.width, wide);
        products.scores(h.data(), rows, e.data());
        for (long r = 0; r < rows; ++r) {
            float* row = e.data() + r * columns;
            if (p.bias)
                for (long n = 0; n < p.candidates; ++n) row[n] += p.bias[n];
            for (long n = p.candidates; n < columns; ++n) row[n] = -INFINITY;
            vec top = all(-INFINITY), sums = {};
            for (long n = 0; n < columns; n += W) top = larger(top, load(row + n));
            const float bound = largest(top);
            for (long n = 0; n < columns; n += W) {
                const vec x = exp(load(row + n) - bound);
                store(row + n, x);
                sums += x;
            }
            const double inside = std::log(sum(sums)) + bound;
            double whole = inside;
            const float weight = p.weight[first + r];
            if (p.extra) {
                const double extra = p.extra[first + r], most_of = std::max(inside, extra);
                whole = most_of + std::log(std::exp(inside - most_of) + std::exp(extra - most_of));
                p.grad_extra[first + r] = static_cast<float>(weight * std::exp(extra - whole));
            }
            total += weight * whole;
            scale[r] = static_cast<float>(weight * std::exp(bound - whole));
            for (long n = 0; n < wide; ++n) h[r * wide + n] *= scale[r];
            if (p.bias)
                for (long n = 0; n < p.candidates; ++n) p.grad_bias[n] += scale[r] * row[n];
        }
        products.gradients(e.data(), h.data(), rows, grad.data(), grad_table);
        for (long r = 0; r < rows; ++r)
            for (long n = 0; n < p.width; ++n)
                p.grad_h[(first + r) * p.width + n] = scale[r] * grad[r * wide + n];
    }
    if (wide != p.width)
        for (long n = 0; n < p.candidates; ++n)
            std::copy_n(grad_table + n * wide, p.width, p.grad_table + n * p.width);
    return total;
}

}  // namespace

double log_partition(const Partition& p) {
#ifdef GISTREC_BF16
    if (p.rounded) return compute<Halves>(p);
#endif
    return compute<Whole>(p);
}

}  // namespace GISTREC_ISA
}  // namespace gistrec
