#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>

#include "bind.h"
#include "partition.h"

namespace nb = nanobind;

void bind_partition(nb::module_& m) {
    m.def("log_partition", [](std::array<std::uintptr_t, 9> a, std::array<long, 3> shape,
                              bool rounded) {
        gistrec::Partition p{};
        p.h = at<const float>(a[0]), p.table = at<const float>(a[1]);
        p.bias = at<const float>(a[2]), p.extra = at<const float>(a[3]);
        p.weight = at<const float>(a[4]);
        p.grad_h = at<float>(a[5]), p.grad_table = at<float>(a[6]);
        p.grad_bias = at<float>(a[7]), p.grad_extra = at<float>(a[8]);
        p.queries = shape[0], p.candidates = shape[1], p.width = shape[2], p.rounded = rounded;
        nb::gil_scoped_release released;
        return GISTREC_PICK(log_partition)(p);
    });
}
