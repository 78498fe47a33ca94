#include "nearest.h"

namespace gistrec {
namespace GISTREC_ISA {
namespace {

constexpr int LANES = 8;  // of one vector of doubles; two or four registers where they are narrower
constexpr int ROWS = 4;
constexpr int PARTS = 4;  // vectors of codes at once: ROWS * PARTS sums stay in registers

typedef double vec __attribute__((vector_size(8 * LANES)));
typedef long codes __attribute__((vector_size(8 * LANES)));
typedef double unaligned __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

inline vec load(const double* p) { return *reinterpret_cast<const unaligned*>(p); }

// Scores of `rows` rows against `parts` vectors of codes, from `first` on; the best so far is updated.
template <int rows, int parts>
inline void tile(const Nearest& n, long row, long first, vec* best, codes* code) {
    vec sum[rows][parts];
    for (int p = 0; p < parts; ++p) {
        const vec bias = load(n.bias + first + p * LANES);
        for (int r = 0; r < rows; ++r) sum[r][p] = -bias;
    }
    for (long w = 0; w < n.width; ++w) {
        const double* words = n.words + w * n.codes + first;
        for (int r = 0; r < rows; ++r) {
            const double x = n.rows[(row + r) * n.width + w];
            for (int p = 0; p < parts; ++p) sum[r][p] += x * load(words + p * LANES);
        }
    }
    for (int p = 0; p < parts; ++p) {
        const codes here = first + p * LANES + codes{0, 1, 2, 3, 4, 5, 6, 7};
        for (int r = 0; r < rows; ++r) {
            const codes better = sum[r][p] > best[r];  // strictly: the lowest of equal ones stays
            best[r] = (vec)((better & (codes)sum[r][p]) | (~better & (codes)best[r]));
            code[r] = (better & here) | (~better & code[r]);
        }
    }
}

template <int rows>
inline void block(const Nearest& n, long row) {
    vec best[rows];
    codes code[rows];
    for (int r = 0; r < rows; ++r) best[r] = vec{} - __builtin_inf(), code[r] = codes{};
    long first = 0;
    for (; first + PARTS * LANES <= n.codes; first += PARTS * LANES)
        tile<rows, PARTS>(n, row, first, best, code);
    for (; first < n.codes; first += LANES) tile<rows, 1>(n, row, first, best, code);
    for (int r = 0; r < rows; ++r) {
        int lane = 0;
        for (int l = 1; l < LANES; ++l)
            if (best[r][l] > best[r][lane] ||
                (best[r][l] == best[r][lane] && code[r][l] < code[r][lane]))
                lane = l;
        n.code[row + r] = code[r][lane];
    }
}

}  // namespace

void nearest(const Nearest& n) {
    long row = 0;
    for (; row + ROWS <= n.count; row += ROWS) block<ROWS>(n, row);
    for (; row < n.count; ++row) block<1>(n, row);
}

}  // namespace GISTREC_ISA
}  // namespace gistrec
