// Optimizer steps, sums and finite checks: lengths checked, then the kernel without the GIL.
#include "bind.h"

#include <nanobind/stl/vector.h>

#include <cmath>
#include <vector>

namespace ps {

namespace {

template <typename T>
const Elementwise<T>& kernels() {
    if constexpr (sizeof(T) == 4) return table().f32;
    else return table().f64;
}

template <typename T>
void bind_all(nb::module_& m) {
    m.def("all_finite", [](In<T> x) {
        const size_t n = x.shape(0);
        Released released(n * sizeof(T));
        return kernels<T>().all_finite(n, x.data());
    }, arg("x"));
    m.def("weighted_sum", [](std::vector<In<T>> grads, std::vector<double> weights, double total, Out<T> out) {
        const size_t n = out.shape(0);
        if (grads.empty() || grads.size() != weights.size()) throw nb::value_error("expected one weight per gradient");
        std::vector<const T*> data;
        std::vector<T> scale;
        for (size_t k = 0; k < grads.size(); ++k) {
            if (grads[k].shape(0) != n) throw nb::value_error("expected arrays of one length");
            data.push_back(grads[k].data());
            scale.push_back(T(weights[k]));
        }
        Released released(n * sizeof(T));
        kernels<T>().weighted_sum(n, data.size(), data.data(), scale.data(), T(total), out.data());
    }, arg("grads"), nb::arg("weights"), nb::arg("total"), arg("out"));
    m.def("scale_into", [](In<T> x, double factor, Out<T> out) {
        const size_t n = length(x, out);
        Released released(n * sizeof(T));
        kernels<T>().scale_into(n, x.data(), T(factor), out.data());
    }, arg("x"), nb::arg("factor"), arg("out"));
    m.def("divide", [](In<T> x, double total, Out<T> out) {
        const size_t n = length(x, out);
        Released released(n * sizeof(T));
        kernels<T>().divide(n, x.data(), T(total), out.data());
    }, arg("x"), nb::arg("total"), arg("out"));
    m.def("add", [](In<T> w, In<T> grad, Out<T> out) {
        const size_t n = length(w, grad, out);
        Released released(n * sizeof(T));
        kernels<T>().add(n, w.data(), grad.data(), out.data());
    }, arg("w"), arg("grad"), arg("out"));
    m.def("sgd", [](In<T> w, In<T> grad, Out<T> out, double lr, double wd) {
        const size_t n = length(w, grad, out);
        Released released(n * sizeof(T));
        kernels<T>().sgd(n, w.data(), grad.data(), out.data(), T(lr), T(wd));
    }, arg("w"), arg("grad"), arg("out"), nb::arg("lr"), nb::arg("weight_decay"));
    const auto with_velocity = [&](const char* name, auto pick) {
        m.def(name, [pick](In<T> w, In<T> grad, Out<T> velocity, Out<T> out, double lr, double wd, double decay) {
            const size_t n = length(w, grad, velocity, out);
            Released released(n * sizeof(T));
            pick()(n, w.data(), grad.data(), velocity.data(), out.data(), T(lr), T(wd), T(decay));
        }, arg("w"), arg("grad"), arg("velocity"), arg("out"), nb::arg("lr"), nb::arg("weight_decay"),
           nb::arg("decay"));
    };
    with_velocity("momentum", [] { return kernels<T>().momentum; });
    with_velocity("nesterov", [] { return kernels<T>().nesterov; });
    m.def("adagrad", [](In<T> w, In<T> grad, Out<T> square_sum, Out<T> out, double lr, double wd, double eps) {
        const size_t n = length(w, grad, square_sum, out);
        Released released(n * sizeof(T));
        kernels<T>().adagrad(n, w.data(), grad.data(), square_sum.data(), out.data(), T(lr), T(wd), T(eps));
    }, arg("w"), arg("grad"), arg("square_sum"), arg("out"), nb::arg("lr"), nb::arg("weight_decay"), nb::arg("eps"));
    m.def("rmsprop", [](In<T> w, In<T> grad, Out<T> mean_square, Out<T> out, double lr, double wd, double decay,
                        double eps) {
        const size_t n = length(w, grad, mean_square, out);
        Released released(n * sizeof(T));
        kernels<T>().rmsprop(n, w.data(), grad.data(), mean_square.data(), out.data(), T(lr), T(wd), T(decay),
                             T(1.0 - decay), T(eps));
    }, arg("w"), arg("grad"), arg("mean_square"), arg("out"), nb::arg("lr"), nb::arg("weight_decay"), nb::arg("decay"),
       nb::arg("eps"));
    m.def("adam", [](In<T> w, In<T> grad, Out<T> mean, Out<T> mean_square, Out<T> out, double lr, double wd,
                     bool decoupled, double beta1, double beta2, double eps, double correction1, double correction2) {
        const size_t n = length(w, grad, mean, mean_square, out);
        const AdamScalars scalars{lr / correction1, decoupled ? 0.0 : wd, decoupled ? lr * wd : 0.0, beta1,
                                      1.0 - beta1,      beta2,                1.0 - beta2, std::sqrt(correction2), eps};
        Released released(n * sizeof(T));
        kernels<T>().adam(n, w.data(), grad.data(), mean.data(), mean_square.data(), out.data(), scalars);
    }, arg("w"), arg("grad"), arg("mean"), arg("mean_square"), arg("out"), nb::arg("lr"), nb::arg("weight_decay"),
       nb::arg("decoupled"), nb::arg("beta1"), nb::arg("beta2"), nb::arg("eps"), nb::arg("correction1"),
       nb::arg("correction2"));
    m.def("ftrl_start", [](In<T> w, Out<T> z, double threshold, double ridge) {
        const size_t n = length(w, z);
        Released released(n * sizeof(T));
        kernels<T>().ftrl_start(n, w.data(), z.data(), T(threshold), T(ridge));
    }, arg("w"), arg("z"), nb::arg("threshold"), nb::arg("ridge"));
    m.def("ftrl", [](In<T> w, In<T> grad, Out<T> z, Out<T> q, Out<T> out, double lr, double wd, double threshold,
                     double ridge) {
        const size_t n = length(w, grad, z, q, out);
        Released released(n * sizeof(T));
        kernels<T>().ftrl(n, w.data(), grad.data(), z.data(), q.data(), out.data(), T(lr), T(wd), T(threshold),
                          T(ridge));
    }, arg("w"), arg("grad"), arg("z"), arg("q"), arg("out"), nb::arg("lr"), nb::arg("weight_decay"),
       nb::arg("threshold"), nb::arg("ridge"));
    m.def("compensate", [](In<T> w, In<T> grad, In<T> base, Out<T> out, double lam) {
        const size_t n = length(w, grad, base, out);
        Released released(n * sizeof(T));
        kernels<T>().compensate(n, w.data(), grad.data(), base.data(), out.data(), T(lam));
    }, arg("w"), arg("grad"), arg("base"), arg("out"), nb::arg("lam"));
    m.def("compensate_adaptive", [](In<T> w, In<T> grad, In<T> base, Out<T> mean_square, Out<T> out, double lam,
                                    double decay, double eps) {
        const size_t n = length(w, grad, base, mean_square, out);
        Released released(n * sizeof(T));
        kernels<T>().compensate_adaptive(n, w.data(), grad.data(), base.data(), mean_square.data(), out.data(), T(lam),
                                         T(decay), T(1.0 - decay), T(eps));
    }, arg("w"), arg("grad"), arg("base"), arg("mean_square"), arg("out"), nb::arg("lam"), nb::arg("decay"),
       nb::arg("eps"));
}

}  // namespace

void bind_elementwise(nb::module_& m) {
    bind_all<float>(m);
    bind_all<double>(m);
}

}  // namespace ps
