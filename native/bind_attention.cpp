#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "bind.h"

namespace nb = nanobind;

namespace {

using Addresses = std::vector<std::uintptr_t>;
using Numbers = std::vector<long>;

// Addresses and strides of `rows` tensors of rows, then addresses of tables; sizes as in attention.h.
gistrec::Attention given(const Addresses& a, const Numbers& strides, const Numbers& sizes,
                         float scale, float after, bool softmax, std::size_t rows) {
    gistrec::Attention x{};
    gistrec::Strided* into[] = {&x.q, &x.k, &x.v, &x.out, &x.grad, &x.grad_q, &x.grad_k, &x.grad_v};
    if (a.size() < rows + 8 || strides.size() != 3 * rows || sizes.size() != 17)
        throw nb::value_error("attend: a wrong number of addresses, strides or sizes");
    for (std::size_t n = 0; n < rows; ++n)
        *into[n] = {at<float>(a[n]), strides[3 * n], strides[3 * n + 1], strides[3 * n + 2]};
    const std::uintptr_t* table = a.data() + rows;
    x.near = at<const float>(table[0]), x.far = at<const float>(table[1]);
    x.log_sum = at<float>(table[2]);
    x.query = at<const std::int32_t>(table[3]), x.slot = at<const std::int32_t>(table[4]);
    x.real = at<const std::uint8_t>(table[5]), x.bucket = at<const std::uint8_t>(table[6]);
    x.mask = at<const std::uint8_t>(table[7]);
    long* numbers[] = {&x.query_user, &x.slot_user, &x.real_user, &x.real_slot, &x.mask_user,
                       &x.mask_head,  &x.mask_row,  &x.users,     &x.heads,     &x.queries,
                       &x.slots,      &x.k_width,   &x.v_width,   &x.k_heads,   &x.v_heads,
                       &x.distances,  &x.buckets};
    for (std::size_t n = 0; n < 17; ++n) *numbers[n] = sizes[n];
    x.scale = scale, x.after = after, x.softmax = softmax;
    return x;
}

}  // namespace

void bind_attention(nb::module_& m) {
    m.def("attend", [](const Addresses& a, const Numbers& strides, const Numbers& sizes,
                       float scale, float after, bool softmax) {
        const gistrec::Attention x = given(a, strides, sizes, scale, after, softmax, 4);
        nb::gil_scoped_release released;
        GISTREC_PICK(attend)(x);
    });
    m.def("attend_backward", [](const Addresses& a, const Numbers& strides, const Numbers& sizes,
                                float scale, float after, bool softmax) {
        gistrec::Attention x = given(a, strides, sizes, scale, after, softmax, 8);
        if (a.size() != 18) throw nb::value_error("attend_backward: a wrong number of addresses");
        x.grad_near = at<float>(a[16]), x.grad_far = at<float>(a[17]);
        nb::gil_scoped_release released;
        GISTREC_PICK(attend_backward)(x);
    });
    m.def("time_buckets", [](std::array<std::uintptr_t, 4> a, std::array<long, 3> shape) {
        nb::gil_scoped_release released;
        GISTREC_PICK(time_buckets)
        (at<const std::int64_t>(a[0]), at<const std::int64_t>(a[1]), at<const std::int32_t>(a[2]),
         at<std::uint8_t>(a[3]), shape[0], shape[1], shape[2]);
    });
}
