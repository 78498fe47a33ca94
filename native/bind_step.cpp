#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <vector>

#include "bind.h"
#include "step.h"

namespace nb = nanobind;

namespace {

constexpr size_t kUser = 11;  // numbers of a user before those of the layers' rows
constexpr size_t kRows = 3;
constexpr gistrec::RowCoding kUncoded{};

gistrec::Events read_user(const int64_t* n, size_t layers, gistrec::Rows* rows,
                          gistrec::Held* held) {
    *held = {n[6], rows, at<const int64_t>(n[3]), at<const int64_t>(n[4])};
    gistrec::Events e{};
    e.item = at<const int64_t>(n[0]), e.at = at<const int64_t>(n[1]);
    e.time = at<const int64_t>(n[2]);
    e.events = n[5], e.position = n[7];
    e.held = held, e.parts = 1;
    e.out = at<float>(n[8]), e.written = at<float>(n[9]), e.received = at<float>(n[10]);
    for (size_t k = 0; k < 2 * layers; ++k, n += kRows) {
        rows[k] = {};
        rows[k].coding = &kUncoded;
        rows[k].part[0] = at<const uint8_t>(n[kUser]);
        rows[k].head[0] = 4 * n[kUser + 1], rows[k].slot[0] = 4 * n[kUser + 2];
    }
    return e;
}

}  // namespace

void bind_step(nb::module_& m) {
    m.def("step", [](std::array<std::uintptr_t, 5> a, std::array<long, 5> shape, double scale,
                     double count, const std::vector<int64_t>& users) {
        const gistrec::Stack s{at<const float>(a[0]),   at<const float>(a[1]),
                               at<const uint8_t>(a[2]), at<const int64_t>(a[3]),
                               at<const int64_t>(a[4]), shape[0], shape[1], shape[2], shape[3],
                               shape[4], scale, count};
        const size_t layers = shape[0], each = kUser + kRows * 2 * layers;
        if (users.size() % each) throw nb::value_error("a user's numbers are not complete");
        thread_local std::vector<gistrec::Events> events;
        thread_local std::vector<gistrec::Rows> rows;
        thread_local std::vector<gistrec::Held> held;
        events.clear();
        held.resize(users.size() / each);
        rows.resize(users.size() / each * 2 * layers);
        for (size_t n = 0; n < users.size(); n += each)
            events.push_back(
                read_user(users.data() + n, layers, rows.data() + n / each * 2 * layers,
                          held.data() + n / each));
        nb::gil_scoped_release released;
        GISTREC_PICK(step)(s, events.data(), events.size());
    });
}
