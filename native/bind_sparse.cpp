// Sums, and codecs that choose elements: lengths checked, then the kernel without the GIL; no index beyond n is used.
#include "bind.h"

#include <nanobind/stl/string.h>

#include <memory>
#include <string>

#include "indices.h"

namespace ps {

namespace {

using Index = In<uint32_t>;

void expect(size_t want, size_t got) {
    if (want != got) throw nb::value_error("expected an array of another length");
}

void expect_inside(bool inside) {
    if (!inside) throw nb::index_error("expected indices below the number of elements");
}

// What `work` returns; without the GIL where it is long.
template <typename Work>
auto released(size_t bytes, Work work) {
    Released released(bytes);
    return work();
}

void bind_sums(nb::module_& m) {
    m.def("triad", [](In<float> b, In<float> c, Out<float> out, double factor) {
        const size_t n = length(b, c, out);
        Released released(n * 4);
        table().codecs.triad(n, b.data(), c.data(), out.data(), float(factor));
    }, arg("b"), arg("c"), arg("out"), nb::arg("factor"), "out = b + factor * c: what a benchmark calls memory speed.");
    m.def("accumulate", [](In<float> grad, Out<float> residual) {
        const size_t n = length(grad, residual);
        Released released(n * 4);
        table().codecs.accumulate(n, grad.data(), residual.data());
    }, arg("grad_N"), arg("residual_N"));
    m.def("momentum_accumulate", [](In<float> grad, Out<float> velocity, Out<float> residual, double momentum) {
        const size_t n = length(grad, velocity, residual);
        Released released(n * 4);
        table().codecs.momentum_accumulate(n, grad.data(), velocity.data(), residual.data(), float(momentum));
    }, arg("grad_N"), arg("velocity_N"), arg("residual_N"), nb::arg("momentum"));
    m.def("scaled_add", [](In<float> x, Out<float> out, double weight) {
        const size_t n = length(x, out);
        Released released(n * 4);
        table().codecs.scaled_add(n, x.data(), out.data(), float(weight));
    }, arg("x_N"), arg("out_N"), nb::arg("weight"));
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void bind_factors(nb::module_& m) {
    m.def("factors_add", [](Matrix u, Matrix v, Out<float> out, double weight) {
        const size_t depth = u.shape(0), rows = u.shape(1), columns = v.shape(1);
        expect(depth, v.shape(0));
        if (depth && rows && columns) expect(out.shape(0), rows * columns);
        Released released(depth * out.shape(0) * 4);
        if (rows && columns)
            table().codecs.factors_add(depth, rows, columns, u.data(), v.data(), out.data(), float(weight));
    }, arg("u_KM"), arg("v_KN"), arg("out_N"), nb::arg("weight"));
}

void bind_threshold(nb::module_& m) {
    m.def("threshold_count", [](In<float> grad, Out<float> residual, double t) {
        const size_t n = length(grad, residual);
        Released released(n * 4);
        return table().codecs.threshold_count(n, grad.data(), residual.data(), float(t));
    }, arg("grad_N"), arg("residual_N"), nb::arg("t"));
    m.def("threshold_sparse", [](Out<float> residual, double t, Out<uint8_t> body) {
        const size_t n = residual.shape(0), room = body.shape(0) / 4;
        if (body.shape(0) % 4 || n >= size_t(1) << 31) throw nb::value_error("expected 4 bytes each of below 2^31");
        expect(released(n * 4, [&] {
            return table().codecs.threshold_sparse(n, residual.data(), float(t), room, body.data());
        }), room);
    }, arg("residual_N"), nb::arg("t"), arg("body"));
    m.def("threshold_dense", [](Out<float> residual, double t, Out<uint8_t> body) {
        const size_t n = residual.shape(0);
        expect((n + 3) / 4, body.shape(0));
        Released released(n * 4);
        table().codecs.threshold_dense(n, residual.data(), float(t), body.data());
    }, arg("residual_N"), nb::arg("t"), arg("body"));
    m.def("threshold_sparse_add", [](In<uint8_t> body, double t, Out<float> out, double weight) {
        const size_t n = out.shape(0), k = body.shape(0) / 4;
        expect(4 * k, body.shape(0));
        const float step = float(weight) * float(t);
        expect_inside(released(k * 4, [&] { return threshold_sparse_add(n, out.data(), k, body.data(), step); }));
    }, arg("body"), nb::arg("t"), arg("out_N"), nb::arg("weight"));
    m.def("threshold_dense_add", [](In<uint8_t> body, double t, Out<float> out, double weight) {
        const size_t n = out.shape(0);
        expect((n + 3) / 4, body.shape(0));
        Released released(n * 4);
        table().codecs.threshold_dense_add(n, body.data(), out.data(), float(weight) * float(t));
    }, arg("body"), nb::arg("t"), arg("out_N"), nb::arg("weight"));
    m.def("threshold_dense_fault", [](In<uint8_t> body, size_t n) -> std::string {
        const size_t bytes = body.shape(0);
        expect(n / 4 + (n % 4 != 0), bytes);
        if (released(bytes, [&] { return table().codecs.threshold_dense_wrong(bytes, body.data()); })) return "code 3";
        return n % 4 && body.data()[bytes - 1] >> 2 * (n % 4) ? "bits behind the last element" : "";
    }, arg("body"), nb::arg("n"));
    m.def("threshold_clip", [](Out<float> residual, double limit) {
        const size_t n = residual.shape(0);
        Released released(n * 4);
        return table().codecs.threshold_clip(n, residual.data(), float(limit));
    }, arg("residual_N"), nb::arg("limit"));
}

void bind_indices(nb::module_& m) {
    m.def("largest", [](In<float> value, Out<uint32_t> index) {
        const size_t n = value.shape(0), k = index.shape(0);
        if (k > n || n >= size_t(1) << 32) throw nb::value_error("expected k at most n, n below 2^32");
        const size_t room = n >= 16 * 1024 && k <= n / 8 ? 4 * k + n / 64 : 0;
        const std::unique_ptr<Candidate[]> candidates(room ? new Candidate[room] : nullptr);
        Released released(n * 4);
        table().codecs.largest(n, value.data(), k, index.data(), candidates.get(), room);
    }, arg("value_N"), arg("index_K"));
    m.def("gather", [](In<float> value, Index index, Out<float> out) {
        const size_t n = value.shape(0), k = length(index, out);
        expect_inside(released(k * 4, [&] { return gather(n, value.data(), k, index.data(), out.data()); }));
    }, arg("value_N"), arg("index_K"), arg("value_K"));
    m.def("clear", [](Index index, Out<float> out) {
        const size_t n = out.shape(0), k = index.shape(0);
        expect_inside(released(k * 4, [&] { return clear(n, out.data(), k, index.data()); }));
    }, arg("index_K"), arg("out_N"));
    m.def("scatter_add", [](Index index, In<float> value, Out<float> out, double weight) {
        const size_t n = out.shape(0), k = length(index, value);
        const float factor = float(weight);
        expect_inside(released(k * 4, [&] {
            return scatter_add(n, out.data(), k, index.data(), value.data(), factor);
        }));
    }, arg("index_K"), arg("value_K"), arg("out_N"), nb::arg("weight"));
    m.def("bitmap_encode", [](Index index, size_t n, Out<uint8_t> out) {
        const size_t k = index.shape(0);
        expect(n / 8 + (n % 8 != 0), out.shape(0));
        expect_inside(released(k * 4 + n / 8, [&] { return bitmap_encode(k, index.data(), n, out.data()); }));
    }, arg("index_K"), nb::arg("n"), arg("out"));
    m.def("bitmap_decode", [](In<uint8_t> bitmap, Out<uint32_t> index) {
        const size_t bytes = bitmap.shape(0), k = index.shape(0);
        expect(released(bytes, [&] { return bitmap_decode(bytes, bitmap.data(), k, index.data()); }), k);
    }, arg("bitmap"), arg("index_K"));
    m.def("bitmap_count", [](In<uint8_t> bitmap) {
        const size_t bytes = bitmap.shape(0);
        return released(bytes, [&] { return bitmap_count(bytes, bitmap.data()); });
    }, arg("bitmap"));
    m.def("varint_bytes", [](Index index) {
        const size_t k = index.shape(0);
        return released(k * 4, [&] { return varint_bytes(k, index.data()); });
    }, arg("index_K"));
    m.def("varint_encode", [](Index index, Out<uint8_t> out) {
        const size_t k = index.shape(0), room = out.shape(0);
        expect(released(k * 4, [&] { return varint_encode(k, index.data(), room, out.data()); }), room);
    }, arg("index_K"), arg("out"));
    m.def("varint_decode", [](In<uint8_t> code, Out<uint32_t> index) {
        const size_t bytes = code.shape(0), k = index.shape(0);
        expect(released(bytes, [&] { return varint_decode(bytes, code.data(), k, index.data()); }), k);
    }, arg("code"), arg("index_K"));
    m.def("varint_fault", [](In<uint8_t> code, size_t k, size_t n) {
        const size_t bytes = code.shape(0);
        return released(bytes, [&] { return varint_fault(bytes, code.data(), k, n); });
    }, arg("code"), nb::arg("k"), nb::arg("n"));
}

}  // namespace

void bind_sparse(nb::module_& m) {
    bind_sums(m);
    bind_factors(m);
    bind_threshold(m);
    bind_indices(m);
}

}  // namespace ps
