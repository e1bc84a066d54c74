// What the bindings share: array types, checks, and the table in use.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>

#include "table.h"

namespace ps {

namespace nb = nanobind;

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const Table& table();  // of the dispatch target in use

void bind_elementwise(nb::module_& m);
void bind_codecs(nb::module_& m);
void bind_sparse(nb::module_& m);

inline auto arg(const char* name) { return nb::arg(name).noconvert(); }

// Lets other threads run meanwhile, where the work is long enough to pay for asking for the lock again.
class Released {
public:
    explicit Released(size_t bytes) {
        if (bytes >= 64 * 1024) released_.emplace();
    }

private:
    std::optional<nb::gil_scoped_release> released_;
};

template <typename First, typename... Rest>
size_t length(const First& first, const Rest&... rest) {
    const size_t n = first.shape(0);
    if (((rest.shape(0) != n) || ...)) throw nb::value_error("expected arrays of one length");
    return n;
}

}  // namespace ps
