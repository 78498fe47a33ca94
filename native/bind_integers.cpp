#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

#include "integers.h"

namespace nb = nanobind;

void bind_integers(nb::module_& m) {
    using Values = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    m.def("decode_integers", [](nb::bytes data, size_t start, Values values, bool varints) {
        const auto* from = reinterpret_cast<const uint8_t*>(data.c_str());
        return GISTREC_PICK(decode_integers)(
            {from + start, data.size() - start, values.shape(0), values.data(), varints});
    });
}
