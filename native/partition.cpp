// The logarithm of a softmax's partition sum over many candidates, and its gradients, without the
// matrix of logits: rows are taken as many at a time as fit the cache.
#include "partition.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tile.h"

namespace gistrec {
namespace GISTREC_ISA {

double log_partition(const Partition& p) {
    const long wide = rounded(p.width), columns = rounded(p.candidates);
    const long most = std::max(24L, std::min(96L, 200000 / columns / 12 * 12));
    std::vector<float> across(p.width * columns), e(most * columns), h(most * wide), grad(most * wide);
    pack_across(across.data(), p.table, p.width, p.candidates, p.width, columns);
    std::vector<float> padded_table, padded_grad;
    const float* table = p.table;
    float* grad_table = p.grad_table;
    if (wide != p.width) {
        padded_table.resize(p.candidates * wide);
        padded_grad.resize(p.candidates * wide);
        pack(padded_table.data(), p.table, p.width, p.candidates, p.width, wide);
        table = padded_table.data(), grad_table = padded_grad.data();
    } else {
        std::fill_n(grad_table, p.candidates * wide, 0.0f);
    }
    if (p.bias) std::fill_n(p.grad_bias, p.candidates, 0.0f);

    double total = 0;
    std::vector<float> scale(most);
    for (long first = 0; first < p.queries; first += most) {
        const long rows = std::min(most, p.queries - first);
        const float* h_rows = p.h + first * p.width;
        for (long n = 0; n < columns; n += 4 * W)
            multiply(rows, std::min(4L * W, columns - n), p.width, h_rows, p.width, 1,
                     across.data() + n, columns, e.data() + n, columns, true);
        for (long r = 0; r < rows; ++r) {
            float* row = e.data() + r * columns;
            if (p.bias)
                for (long n = 0; n < p.candidates; ++n) row[n] += p.bias[n];
            for (long n = p.candidates; n < columns; ++n) row[n] = -INFINITY;
            vec most_of = all(-INFINITY);
            for (long n = 0; n < columns; n += W) most_of = larger(most_of, load(row + n));
            const float bound = largest(most_of);
            vec sums = {};
            for (long n = 0; n < columns; n += W) {
                const vec x = exp(load(row + n) - bound);
                store(row + n, x);
                sums += x;
            }
            const double inside = std::log(sum(sums)) + bound;
            double whole = inside;
            const float weight = p.weight[first + r];
            if (p.extra) {
                const double extra = p.extra[first + r], top = std::max(inside, extra);
                whole = top + std::log(std::exp(inside - top) + std::exp(extra - top));
                p.grad_extra[first + r] = static_cast<float>(weight * std::exp(extra - whole));
            }
            total += weight * whole;
            scale[r] = static_cast<float>(weight * std::exp(bound - whole));
        }
        multiply(rows, wide, p.candidates, e.data(), columns, 1, table, wide, grad.data(), wide, true);
        pack(h.data(), h_rows, p.width, rows, p.width, wide);
        for (long r = 0; r < rows; ++r) {
            for (long n = 0; n < p.width; ++n)
                p.grad_h[(first + r) * p.width + n] = scale[r] * grad[r * wide + n];
            for (long n = 0; n < wide; ++n) h[r * wide + n] *= scale[r];
        }
        multiply(p.candidates, wide, rows, e.data(), 1, columns, h.data(), wide, grad_table, wide, false);
        if (p.bias)
            for (long r = 0; r < rows; ++r)
                for (long n = 0; n < p.candidates; ++n)
                    p.grad_bias[n] += scale[r] * e[r * columns + n];
    }
    if (wide != p.width)
        for (long n = 0; n < p.candidates; ++n)
            std::copy_n(grad_table + n * wide, p.width, p.grad_table + n * p.width);
    return total;
}

}  // namespace GISTREC_ISA
}  // namespace gistrec
