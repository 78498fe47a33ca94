// gistrec._native.Scan: the catalogue scan, without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "pages.h"
#include "scan.h"

namespace nb = nanobind;
using namespace gistrec;

namespace {

template <class T, int Axes>
using Array = nb::ndarray<T, nb::ndim<Axes>, nb::c_contig, nb::device::cpu>;

// Grows to what the largest request of its thread needed, and stays.
template <class T>
T* grown(std::vector<T>& kept, size_t size) {
    if (kept.size() < size) kept.resize(size);
    return kept.data();
}

Scratch scratch_of(const Items& items, size_t queries, size_t k) {
    thread_local std::vector<int8_t> code;
    thread_local std::vector<double> query;
    thread_local std::vector<float> bound;
    thread_local std::vector<uint32_t> candidate;
    thread_local std::vector<uint64_t> best;
    const size_t batch = std::min(queries, kBatch), group = std::min(queries, kGroup);
    return {grown(code, batch * items.stride), grown(query, batch * items.width),
            grown(bound, group * kChunk), grown(candidate, kChunk + 16),
            grown(best, batch * room(k))};
}

// Order items by chunk, by counting.
void by_chunk(const int64_t* from, size_t n, size_t count, uint32_t* item, uint32_t* end) {
    std::fill_n(end, chunks(count), 0u);
    for (size_t j = 0; j < n; ++j) ++end[size_t(from[j]) / kChunk];
    std::partial_sum(end, end + chunks(count), end);
    for (size_t j = 0; j < n; ++j) item[--end[size_t(from[j]) / kChunk]] = uint32_t(from[j]);
    std::copy(end + 1, end + chunks(count), end);  // starts are the ends of those before
    end[chunks(count) - 1] = uint32_t(n);
}

class Scan {
  public:
    Scan(Array<const float, 2> row_VD, Array<const float, 1> bias_V) : rows_(row_VD) {
        const size_t count = row_VD.shape(0), width = row_VD.shape(1);
        const size_t stride = GISTREC_PICK(scan_stride)(width), room = padded(count);
        code_ = allocate_pages<uint8_t>(room * stride);
        scale_ = allocate_pages<float>(room);
        nbytes_ = room * (stride + sizeof(float));
        float highest = 0;
        if (bias_V.shape(0)) {
            bias_ = allocate_pages<float>(room);
            nbytes_ += room * sizeof(float);
            std::fill(std::copy_n(bias_V.data(), count, bias_.get()), bias_.get() + room, 0.f);
            for (size_t i = 0; i < count; ++i) highest = std::max(highest, std::fabs(bias_[i]));
        }
        items_ = {row_VD.data(), bias_.get(), count, width, stride, code_.get(), scale_.get(),
                  0,             0,           highest};
        nb::gil_scoped_release unlocked;
        GISTREC_PICK(scan_pack)(items_);
    }

    // seen holds the queries' items one after the other, end_B where each query's end. False: a query
    // is not finite.
    bool top_k(Array<const float, 2> query_BD, Array<const int64_t, 1> seen,
               Array<const int64_t, 1> end_B, Array<int64_t, 2> item_BK,
               Array<float, 2> score_BK) const {
        thread_local std::vector<uint32_t> left_out, ends;
        const size_t queries = query_BD.shape(0), k = item_BK.shape(1);
        nb::gil_scoped_release unlocked;
        const Scratch scratch = scratch_of(items_, queries, k);
        uint32_t* item = grown(left_out, seen.shape(0));
        uint32_t* end = grown(ends, std::min(queries, kBatch) * chunks(items_.count));
        Seen seen_B[kBatch];
        int64_t start = 0;
        for (size_t first = 0; first < queries; first += kBatch) {
            const size_t batch = std::min(kBatch, queries - first);
            for (size_t b = 0; b < batch; ++b) {
                const size_t n = size_t(end_B.data()[first + b] - start);
                uint32_t* own = end + b * chunks(items_.count);
                by_chunk(seen.data() + start, n, items_.count, item + start, own);
                seen_B[b] = {item + start, own};
                start += n;
            }
            if (!GISTREC_PICK(scan_top_k)(items_, query_BD.data() + first * items_.width, batch,
                                          seen_B, k, scratch, item_BK.data() + first * k,
                                          score_BK.data() + first * k))
                return false;
        }
        return true;
    }

    size_t nbytes() const { return nbytes_; }

  private:
    Array<const float, 2> rows_;  // keeps them alive
    Pages<uint8_t> code_;
    Pages<float> scale_, bias_;
    size_t nbytes_;
    Items items_;
};

}  // namespace

void bind_scan(nb::module_& m) {
    nb::class_<Scan>(m, "Scan")
        .def(nb::init<Array<const float, 2>, Array<const float, 1>>(), nb::arg("row_VD").noconvert(),
             nb::arg("bias_V").noconvert())
        .def("top_k", &Scan::top_k, nb::arg("query_BD").noconvert(), nb::arg("seen").noconvert(),
             nb::arg("end_B").noconvert(), nb::arg("item_BK").noconvert(),
             nb::arg("score_BK").noconvert())
        .def_prop_ro("nbytes", &Scan::nbytes);
}
