#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "bind.h"
#include "packed.h"

namespace nb = nanobind;
using namespace gistrec;

namespace {

// Bytes of Python, or a view of a store's own.
class Buffer {
  public:
    explicit Buffer(nb::handle given) {
        if (given.is_none()) return;
        if (PyObject_GetBuffer(given.ptr(), &view_, PyBUF_SIMPLE)) throw nb::python_error();
        held_ = true;
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }
    Bytes bytes() const {
        return held_ ? Bytes{static_cast<const uint8_t*>(view_.buf), long(view_.len)} : Bytes{};
    }

  private:
    Py_buffer view_{};
    bool held_ = false;
};

nb::bytes as_bytes(const void* data, size_t size) {
    return nb::bytes(static_cast<const char*>(data), size);
}

nb::bytes as_bytes(const std::vector<int64_t>& x) { return as_bytes(x.data(), 8 * x.size()); }
nb::bytes as_bytes(const std::vector<uint8_t>& x) { return as_bytes(x.data(), x.size()); }

// A model's layers and a recipe's layout; the arrays whose addresses it gets are kept by Python.
class States {
  public:
    States(std::array<std::uintptr_t, 5> a, std::array<long, 5> shape, double scale, double count,
           std::array<int64_t, 8> numbers, const std::vector<std::array<long, 9>>& specs,
           const std::vector<std::array<std::uintptr_t, 11>>& codings,
           const std::vector<float>& steps,
           std::vector<long> places)
        : stack_{at<const float>(a[0]),   at<const float>(a[1]), at<const uint8_t>(a[2]),
                 at<const int64_t>(a[3]), at<const int64_t>(a[4]), shape[0], shape[1], shape[2],
                 shape[3], shape[4], scale, count} {
        layout_.manifest = uint32_t(numbers[0]);
        layout_.parts = numbers[1], layout_.items = numbers[2];
        layout_.sink = numbers[3], layout_.keep = numbers[4];
        layout_.request_time = numbers[5], layout_.grows = numbers[6], layout_.whole = numbers[7];
        for (const auto& s : specs)
            layout_.specs.push_back({s[0], s[1], {s[2], s[3], s[4], s[5]}, s[6], s[7], s[8]});
        for (size_t n = 0; n < codings.size(); ++n) {
            const auto& c = codings[n];
            layout_.codings.push_back({long(c[0]), at<const float>(c[1]), at<const double>(c[2]),
                                       at<const int16_t>(c[3]), long(c[4]), long(c[5]), long(c[6]),
                                       long(c[7]), long(c[8]), steps[n], at<const int32_t>(c[9]),
                                       long(c[10])});
        }
        layout_.places = std::move(places);
    }

    nb::object newest(nb::handle state, nb::handle block, long length, std::optional<int64_t> when,
                      std::uintptr_t out, bool events) const {
        const Buffer state_bytes(state), block_bytes(block);
        const Packed packed{state_bytes.bytes(), block_bytes.bytes(), length};
        static thread_local std::vector<int64_t> item, time;
        const Output output{at<float>(out), events ? &item : nullptr, &time};
        bool found;
        {
            nb::gil_scoped_release released;
            found = GISTREC_PICK(newest)(layout_, stack_, packed, when.has_value(),
                                         when.value_or(0), output);
        }
        if (!found) return nb::none();
        if (!events) return nb::make_tuple();
        return nb::make_tuple(as_bytes(item), as_bytes(time));
    }

    nb::object grow(nb::handle state, nb::handle block, long length,
                    std::array<std::uintptr_t, 2> new_events, std::array<long, 3> numbers) const {
        const Buffer state_bytes(state), block_bytes(block);
        const Packed packed{state_bytes.bytes(), block_bytes.bytes(), length};
        const Growth growth{at<const int64_t>(new_events[0]), at<const int64_t>(new_events[1]),
                            numbers[0], numbers[1], numbers[2]};
        static thread_local Grown grown;
        bool found;
        {
            nb::gil_scoped_release released;
            found = GISTREC_PICK(grow)(layout_, stack_, packed, growth, grown);
        }
        if (!found) return nb::none();
        nb::object new_block = nb::none();
        if (!grown.block.empty()) new_block = as_bytes(grown.block);
        return nb::make_tuple(as_bytes(grown.state), new_block, grown.divided);
    }

  private:
    Layout layout_;
    Stack stack_;
};

}  // namespace

void bind_packed(nb::module_& m) {
    nb::class_<States>(m, "States")
        .def(nb::init<std::array<std::uintptr_t, 5>, std::array<long, 5>, double, double,
                      std::array<int64_t, 8>, const std::vector<std::array<long, 9>>&,
                      const std::vector<std::array<std::uintptr_t, 11>>&, const std::vector<float>&,
                      std::vector<long>>())
        .def("newest", &States::newest, nb::arg(), nb::arg().none(), nb::arg(), nb::arg().none(),
             nb::arg(), nb::arg())
        .def("grow", &States::grow, nb::arg(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg());
    m.def("checksum", [](nb::handle data) {
        const Buffer buffer(data);
        return GISTREC_PICK(checksum)(buffer.bytes());
    });
}
