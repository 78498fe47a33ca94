#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>

#include "bind.h"
#include "nearest.h"

namespace nb = nanobind;

void bind_nearest(nb::module_& m) {
    m.def("nearest", [](std::array<std::uintptr_t, 4> a, std::array<long, 3> shape) {
        gistrec::Nearest n{};
        n.rows = at<const double>(a[0]), n.words = at<const double>(a[1]);
        n.bias = at<const double>(a[2]), n.code = at<long>(a[3]);
        n.count = shape[0], n.codes = shape[1], n.width = shape[2];
        nb::gil_scoped_release released;
        GISTREC_PICK(nearest)(n);
    });
}
