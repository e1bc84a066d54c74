// Codecs that code every element: lengths checked, then the kernel without the GIL.
#include "bind.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <cfloat>
#include <cmath>
#include <optional>
#include <vector>

namespace ps {

namespace {

using Grad = In<float>;
using Residual = std::optional<Out<float>>;
using Bytes = In<uint8_t>;
using Room = Out<uint8_t>;

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

void expect(size_t want, size_t got) {
    if (want != got) throw nb::value_error("expected a frame of another length");
}

size_t checked_group(size_t group) {
    if (group < 1 || group >= size_t(1) << 31) throw nb::value_error("expected a group of 1 to 2^31 - 1 elements");
    return group;
}

float* data_of(const Grad& grad, const Residual& residual) {
    return residual ? (length(grad, *residual), residual->data()) : nullptr;
}

// Of the records of n elements: `head` bytes and one bit per element each.
size_t record_bytes(size_t n, size_t group, size_t head) {
    return ceil_div(n, checked_group(group)) * (head + 4 * ceil_div(group, 32));
}

// Of n codes of `bits` bits, behind one float32 per block.
size_t body_bytes(size_t n, size_t block, size_t bits) {
    return 4 * ceil_div(n, checked_group(block)) + ceil_div(n * bits, 8);
}

// The largest float32 that is finite when multiplied by `levels`.
float unit_max(float levels) {
    const float unit = FLT_MAX / levels;
    return std::isfinite(levels * unit) ? unit : std::nextafter(unit, 0.0f);
}

int bits_of_levels(int levels) {
    if (levels < 1 || levels > 127) throw nb::value_error("expected 1 to 127 levels");
    int bits = 1;
    for (; levels; levels >>= 1) ++bits;
    return bits;
}

size_t checked_bucket(size_t bucket) {
    if (bucket % 8) throw nb::value_error("expected a bucket of a multiple of 8 elements");
    return checked_group(bucket);
}

void bind_bits(nb::module_& m) {
    m.def("onebit_encode", [](Grad grad, Residual residual, size_t group, bool mean_threshold, Room records) {
        const size_t n = grad.shape(0);
        float* rest = data_of(grad, residual);
        expect(record_bytes(n, group, 8), records.shape(0));
        Released released(n * 4);
        table().codecs.onebit_encode(n, grad.data(), rest, group, mean_threshold, records.data());
    }, arg("grad_N"), arg("residual_N").none(), nb::arg("group"), nb::arg("mean_threshold"), arg("records"));
    m.def("onebit_decode_add", [](Bytes records, size_t group, Out<float> out, double weight) {
        const size_t n = out.shape(0);
        expect(record_bytes(n, group, 8), records.shape(0));
        Released released(n * 4);
        table().codecs.onebit_decode_add(n, records.data(), group, out.data(), float(weight));
    }, arg("records"), nb::arg("group"), arg("out_N"), nb::arg("weight"));
    m.def("onebit_mean", [](std::vector<Bytes> frames, std::vector<double> weights, double total, size_t group,
                            Out<float> out) {
        const size_t n = out.shape(0);
        if (frames.size() != weights.size()) throw nb::value_error("expected one weight per frame");
        std::vector<OneBitTerm> terms;
        for (size_t k = 0; k < frames.size(); ++k) {
            expect(record_bytes(n, group, 8), frames[k].shape(0));
            terms.push_back({frames[k].data(), float(weights[k]), 0.0f, 0.0f});
        }
        Released released(n * 4);
        table().codecs.onebit_mean(n, terms.size(), terms.data(), float(total), group, out.data());
    }, arg("records"), nb::arg("weights"), nb::arg("total"), nb::arg("group"), arg("out_N"));
    m.def("onebit_move", [](Grad w, Out<float> view, size_t group, bool mean_threshold, Room records) {
        const size_t n = length(w, view);
        expect(record_bytes(n, group, 8), records.shape(0));
        Released released(n * 4);
        return table().codecs.onebit_move(n, w.data(), view.data(), group, mean_threshold, records.data());
    }, arg("w_N"), arg("view_N"), nb::arg("group"), nb::arg("mean_threshold"), arg("records"));
    m.def("onebit_finite", [](Bytes records, size_t group) {
        const size_t bytes = records.shape(0);
        expect(0, bytes % record_bytes(1, group, 8));
        Released released(bytes);
        return table().codecs.onebit_finite(bytes, records.data(), group);
    }, arg("records"), nb::arg("group"));
    m.def("sign_encode", [](Grad grad, Residual residual, size_t group, Room records) {
        const size_t n = grad.shape(0);
        float* rest = data_of(grad, residual);
        expect(record_bytes(n, group, 4), records.shape(0));
        Released released(n * 4);
        table().codecs.sign_encode(n, grad.data(), rest, group, records.data());
    }, arg("grad_N"), arg("residual_N").none(), nb::arg("group"), arg("records"));
    m.def("sign_decode_add", [](Bytes records, size_t group, Out<float> out, double weight) {
        const size_t n = out.shape(0);
        expect(record_bytes(n, group, 4), records.shape(0));
        Released released(n * 4);
        table().codecs.sign_decode_add(n, records.data(), group, out.data(), float(weight));
    }, arg("records"), nb::arg("group"), arg("out_N"), nb::arg("weight"));
}

void bind_integers(nb::module_& m) {
    m.def("int8_encode", [](Grad grad, Residual residual, size_t block, Room body) {
        const size_t n = grad.shape(0);
        float* rest = data_of(grad, residual);
        expect(body_bytes(n, block, 8), body.shape(0));
        Released released(n * 4);
        table().codecs.int8_encode(n, grad.data(), rest, block, unit_max(127.0f), body.data());
    }, arg("grad_N"), arg("residual_N").none(), nb::arg("block"), arg("body"));
    m.def("int8_decode_add", [](Bytes body, size_t block, Out<float> out, double weight) {
        const size_t n = out.shape(0);
        expect(body_bytes(n, block, 8), body.shape(0));
        Released released(n * 4);
        table().codecs.int8_decode_add(n, body.data(), block, out.data(), float(weight));
    }, arg("body"), nb::arg("block"), arg("out_N"), nb::arg("weight"));
    m.def("qsgd_encode", [](Grad grad, Residual residual, size_t bucket, int levels, bool l2, uint32_t key, Room body) {
        const size_t n = grad.shape(0);
        float* rest = data_of(grad, residual);
        const Qsgd how{levels, bits_of_levels(levels), l2, key, unit_max(float(levels))};
        expect(body_bytes(n, checked_bucket(bucket), size_t(how.bits)), body.shape(0));
        Released released(n * 4);
        table().codecs.qsgd_encode(n, grad.data(), rest, bucket, how, body.data());
    }, arg("grad_N"), arg("residual_N").none(), nb::arg("bucket"), nb::arg("levels"), nb::arg("l2"), nb::arg("key"),
       arg("body"));
    m.def("qsgd_decode_add", [](Bytes body, size_t bucket, int levels, Out<float> out, double weight) {
        const size_t n = out.shape(0);
        const int bits = bits_of_levels(levels);
        expect(body_bytes(n, checked_bucket(bucket), size_t(bits)), body.shape(0));
        Released released(n * 4);
        table().codecs.qsgd_decode_add(n, body.data(), bucket, levels, bits, out.data(), float(weight));
    }, arg("body"), nb::arg("bucket"), nb::arg("levels"), arg("out_N"), nb::arg("weight"));
    m.def("qsgd_code_max", [](Bytes body, size_t n, size_t bucket, int levels) {
        const int bits = bits_of_levels(levels);
        if (n >= size_t(1) << 40) throw nb::value_error("expected fewer elements");
        expect(body_bytes(n, checked_bucket(bucket), size_t(bits)), body.shape(0));
        Released released(n * 4);
        return table().codecs.qsgd_code_max(n, body.data() + 4 * ceil_div(n, bucket), bits);
    }, arg("body"), nb::arg("n"), nb::arg("bucket"), nb::arg("levels"));
}

void bind_floats(nb::module_& m) {
    m.def("half_encode", [](Grad grad, Residual residual, size_t block, Room body) {
        const size_t n = grad.shape(0);
        float* rest = data_of(grad, residual);
        expect(body_bytes(n, block, 16), body.shape(0));
        Released released(n * 4);
        table().codecs.half_encode(n, grad.data(), rest, block, body.data());
    }, arg("grad_N"), arg("residual_N").none(), nb::arg("block"), arg("body"));
    m.def("half_decode_add", [](Bytes body, size_t block, Out<float> out, double weight) {
        const size_t n = out.shape(0);
        expect(body_bytes(n, block, 16), body.shape(0));
        Released released(n * 4);
        table().codecs.half_decode_add(n, body.data(), block, out.data(), float(weight));
    }, arg("body"), nb::arg("block"), arg("out_N"), nb::arg("weight"));
    m.def("bits_max", [](nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu> half) {
        const size_t n = half.shape(0);
        if (half.itemsize() != 2) throw nb::value_error("expected elements of two bytes");
        Released released(n * 2);
        return table().codecs.bits_max(n, static_cast<const uint8_t*>(half.data()));
    }, arg("half_N"));
    m.def("bfloat_encode", [](Grad grad, Residual residual, Room body) {
        const size_t n = grad.shape(0);
        float* rest = data_of(grad, residual);
        expect(2 * n, body.shape(0));
        Released released(n * 4);
        table().codecs.bfloat_encode(n, grad.data(), rest, body.data());
    }, arg("grad_N"), arg("residual_N").none(), arg("body"));
    m.def("bfloat_decode_add", [](Bytes body, Out<float> out, double weight) {
        const size_t n = out.shape(0);
        expect(2 * n, body.shape(0));
        Released released(n * 4);
        table().codecs.bfloat_decode_add(n, body.data(), out.data(), float(weight));
    }, arg("body"), arg("out_N"), nb::arg("weight"));
}

}  // namespace

void bind_codecs(nb::module_& m) {
    bind_bits(m);
    bind_integers(m);
    bind_floats(m);
}

}  // namespace ps
