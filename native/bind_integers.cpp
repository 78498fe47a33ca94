#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <vector>

#include "integers.h"

namespace nb = nanobind;

void bind_integers(nb::module_& m) {
    using Values = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    m.def("decode_integers", [](nb::bytes data, size_t start, Values values, bool varints) {
        const auto* from = reinterpret_cast<const uint8_t*>(data.c_str());
        return GISTREC_PICK(decode_integers)(
            {from + start, data.size() - start, values.shape(0), values.data(), varints});
    });
    using Given = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
    m.def("encode_integers", [](Given values, bool varints) {
        // kept by the thread, so that a request allocates nothing after the first ones
        static thread_local std::vector<int64_t> scratch;
        static thread_local std::vector<uint8_t> out;
        const size_t count = values.shape(0), room = gistrec::coding_room(count);
        if (scratch.size() < 2 * count) scratch.resize(2 * count);
        if (out.size() < 3 * room) out.resize(3 * room);
        const size_t size = GISTREC_PICK(encode_integers)(
            {values.data(), count, varints, scratch.data(), out.data()});
        return nb::bytes(reinterpret_cast<const char*>(out.data()), size);
    });
}
