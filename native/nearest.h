#pragma once

#include "isa.h"

namespace gistrec {

// code[m] = the c with the largest row_m . word_c - bias_c, the lowest of equal ones. All numbers are
// whole or halves, and so small that every sum is exact: the order of summation does not matter.
// `words` is (width, codes), so that codes are neighbours; `codes` is a multiple of 8, and rows of
// padding have an infinite bias.
struct Nearest {
    const double *rows, *words, *bias;
    long* code;
    long count, codes, width;
};

GISTREC_DECLARE(void, nearest, (const Nearest&))

}  // namespace gistrec
