// gistrec._native: the compiled kernels. Python sees it through gistrec.kernels alone.
#include <nanobind/nanobind.h>

#include "isa.h"

namespace nb = nanobind;

void bind_attention(nb::module_& m);
void bind_dropout(nb::module_& m);
void bind_integers(nb::module_& m);
void bind_nearest(nb::module_& m);
void bind_packed(nb::module_& m);
void bind_partition(nb::module_& m);
void bind_scan(nb::module_& m);
void bind_step(nb::module_& m);

NB_MODULE(_native, m) {
    m.doc() = "Compiled kernels; see gistrec.kernels.";
    m.def("instruction_set", [] {
        static const char* names[] = {"portable", "avx2", "avx512"};
        return names[gistrec::level()];
    });
    bind_attention(m);
    bind_dropout(m);
    bind_integers(m);
    bind_nearest(m);
    bind_packed(m);
    bind_partition(m);
    bind_scan(m);
    bind_step(m);
}
