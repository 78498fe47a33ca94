#pragma once

#include "isa.h"

namespace gistrec {

// sum over queries of weight * log(sum over candidates of exp(h table^T + bias) + exp(extra)).
// Matrices are dense and row-major; `bias` and `extra` may be null, with their gradients.
// Python gives h, table, bias, extra, weight and the gradients in that order.
struct Partition {
    const float *h, *table, *bias, *extra, *weight;
    float *grad_h, *grad_table, *grad_bias, *grad_extra;
    long queries, candidates, width;
    bool rounded;  // whether factors may be rounded to bfloat16, where that is faster
};

GISTREC_DECLARE(double, log_partition, (const Partition&))

}  // namespace gistrec
