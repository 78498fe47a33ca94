#include <nanobind/nanobind.h>

#include <cstdint>

#include "bind.h"
#include "dropout.h"

namespace nb = nanobind;

void bind_dropout(nb::module_& m) {
    m.def("dropout", [](std::uintptr_t x, std::uintptr_t out, long count, std::uint32_t dropped,
                        std::uint64_t seed) {
        nb::gil_scoped_release released;
        GISTREC_PICK(dropout)(at<const float>(x), at<float>(out), count, dropped, seed);
    });
}
