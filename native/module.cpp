// The Python module ps.kernels._native: picks a dispatch target, checks lengths, calls the kernel without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "table.h"

namespace nb = nanobind;

namespace {

template <typename T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct Target {
    const char* name;
    const ps::Table* table;
    bool runs_here;
};

const Target* targets() {
#ifdef PS_X86
    __builtin_cpu_init();
    static const Target all[] = {
        {"avx512", &ps::avx512_table,
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
        {"avx2", &ps::avx2_table, bool(__builtin_cpu_supports("avx2"))},
        {"portable", &ps::portable_table, true},
        {nullptr, nullptr, false},
    };
#else
    static const Target all[] = {{"portable", &ps::portable_table, true}, {nullptr, nullptr, false}};
#endif
    return all;
}

const Target* in_use = nullptr;

std::vector<std::string> available() {
    std::vector<std::string> names;
    for (const Target* t = targets(); t->name; ++t)
        if (t->runs_here) names.emplace_back(t->name);
    return names;
}

void use(const std::string& name) {
    for (const Target* t = targets(); t->name; ++t)
        if (t->runs_here && name == t->name) {
            in_use = t;
            return;
        }
    throw nb::value_error(("dispatch target: expected one that this machine runs, got " + name).c_str());
}

template <typename T>
const ps::Elementwise<T>& kernels() {
    if constexpr (sizeof(T) == 4) return in_use->table->f32;
    else return in_use->table->f64;
}

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

template <typename T>
void bind_elementwise(nb::module_& m) {
    const auto in = [](const char* name) { return nb::arg(name).noconvert(); };

    m.def("all_finite", [](In<T> x) {
        const size_t n = x.shape(0);
        Released released(n * sizeof(T));
        return kernels<T>().all_finite(n, x.data());
    }, in("x"));
    m.def("copy_finite", [](In<T> x, Out<T> out) {
        const size_t n = length(x, out);
        Released released(n * sizeof(T));
        return kernels<T>().copy_finite(n, x.data(), out.data());
    }, in("x"), in("out"));
    m.def("weighted_sum", [](std::vector<In<T>> grads, std::vector<double> weights, Out<T> out) {
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
        kernels<T>().weighted_sum(n, data.size(), data.data(), scale.data(), out.data());
    }, in("grads"), nb::arg("weights"), in("out"));
    m.def("scale_into", [](In<T> x, double factor, Out<T> out) {
        const size_t n = length(x, out);
        Released released(n * sizeof(T));
        kernels<T>().scale_into(n, x.data(), T(factor), out.data());
    }, in("x"), nb::arg("factor"), in("out"));
    m.def("divide", [](In<T> x, double total, Out<T> out) {
        const size_t n = length(x, out);
        Released released(n * sizeof(T));
        kernels<T>().divide(n, x.data(), T(total), out.data());
    }, in("x"), nb::arg("total"), in("out"));
    m.def("add", [](In<T> w, In<T> grad, Out<T> out) {
        const size_t n = length(w, grad, out);
        Released released(n * sizeof(T));
        kernels<T>().add(n, w.data(), grad.data(), out.data());
    }, in("w"), in("grad"), in("out"));
    m.def("sgd", [](In<T> w, In<T> grad, Out<T> out, double lr, double wd) {
        const size_t n = length(w, grad, out);
        Released released(n * sizeof(T));
        kernels<T>().sgd(n, w.data(), grad.data(), out.data(), T(lr), T(wd));
    }, in("w"), in("grad"), in("out"), nb::arg("lr"), nb::arg("weight_decay"));
    const auto with_velocity = [&](const char* name, auto pick) {
        m.def(name, [pick](In<T> w, In<T> grad, Out<T> velocity, Out<T> out, double lr, double wd, double decay) {
            const size_t n = length(w, grad, velocity, out);
            Released released(n * sizeof(T));
            pick()(n, w.data(), grad.data(), velocity.data(), out.data(), T(lr), T(wd), T(decay));
        }, in("w"), in("grad"), in("velocity"), in("out"), nb::arg("lr"), nb::arg("weight_decay"), nb::arg("decay"));
    };
    with_velocity("momentum", [] { return kernels<T>().momentum; });
    with_velocity("nesterov", [] { return kernels<T>().nesterov; });
    m.def("adagrad", [](In<T> w, In<T> grad, Out<T> square_sum, Out<T> out, double lr, double wd, double eps) {
        const size_t n = length(w, grad, square_sum, out);
        Released released(n * sizeof(T));
        kernels<T>().adagrad(n, w.data(), grad.data(), square_sum.data(), out.data(), T(lr), T(wd), T(eps));
    }, in("w"), in("grad"), in("square_sum"), in("out"), nb::arg("lr"), nb::arg("weight_decay"), nb::arg("eps"));
    m.def("rmsprop", [](In<T> w, In<T> grad, Out<T> mean_square, Out<T> out, double lr, double wd, double decay,
                        double eps) {
        const size_t n = length(w, grad, mean_square, out);
        Released released(n * sizeof(T));
        kernels<T>().rmsprop(n, w.data(), grad.data(), mean_square.data(), out.data(), T(lr), T(wd), T(decay),
                             T(1.0 - decay), T(eps));
    }, in("w"), in("grad"), in("mean_square"), in("out"), nb::arg("lr"), nb::arg("weight_decay"), nb::arg("decay"),
       nb::arg("eps"));
    m.def("adam", [](In<T> w, In<T> grad, Out<T> mean, Out<T> mean_square, Out<T> out, double lr, double wd,
                     bool decoupled, double beta1, double beta2, double eps, double correction1, double correction2) {
        const size_t n = length(w, grad, mean, mean_square, out);
        const ps::AdamScalars scalars{lr / correction1, decoupled ? 0.0 : wd, decoupled ? lr * wd : 0.0, beta1,
                                      1.0 - beta1,      beta2,                1.0 - beta2, std::sqrt(correction2), eps};
        Released released(n * sizeof(T));
        kernels<T>().adam(n, w.data(), grad.data(), mean.data(), mean_square.data(), out.data(), scalars);
    }, in("w"), in("grad"), in("mean"), in("mean_square"), in("out"), nb::arg("lr"), nb::arg("weight_decay"),
       nb::arg("decoupled"), nb::arg("beta1"), nb::arg("beta2"), nb::arg("eps"), nb::arg("correction1"),
       nb::arg("correction2"));
    m.def("ftrl_start", [](In<T> w, Out<T> z, double threshold, double ridge) {
        kernels<T>().ftrl_start(length(w, z), w.data(), z.data(), T(threshold), T(ridge));
    }, in("w"), in("z"), nb::arg("threshold"), nb::arg("ridge"));
    m.def("ftrl", [](In<T> w, In<T> grad, Out<T> z, Out<T> q, Out<T> out, double lr, double wd, double threshold,
                     double ridge) {
        const size_t n = length(w, grad, z, q, out);
        Released released(n * sizeof(T));
        kernels<T>().ftrl(n, w.data(), grad.data(), z.data(), q.data(), out.data(), T(lr), T(wd), T(threshold),
                          T(ridge));
    }, in("w"), in("grad"), in("z"), in("q"), in("out"), nb::arg("lr"), nb::arg("weight_decay"), nb::arg("threshold"),
       nb::arg("ridge"));
    m.def("compensate", [](In<T> w, In<T> grad, In<T> base, Out<T> out, double lam) {
        const size_t n = length(w, grad, base, out);
        Released released(n * sizeof(T));
        kernels<T>().compensate(n, w.data(), grad.data(), base.data(), out.data(), T(lam));
    }, in("w"), in("grad"), in("base"), in("out"), nb::arg("lam"));
    m.def("compensate_adaptive", [](In<T> w, In<T> grad, In<T> base, Out<T> mean_square, Out<T> out, double lam,
                                    double decay, double eps) {
        const size_t n = length(w, grad, base, mean_square, out);
        Released released(n * sizeof(T));
        kernels<T>().compensate_adaptive(n, w.data(), grad.data(), base.data(), mean_square.data(), out.data(), T(lam),
                                         T(decay), T(1.0 - decay), T(eps));
    }, in("w"), in("grad"), in("base"), in("mean_square"), in("out"), nb::arg("lam"), nb::arg("decay"),
       nb::arg("eps"));
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);
    m.doc() = "Native kernels. Each has a NumPy twin of the same name in ps.kernels, which defines its meaning.";
    use(available().front());
    m.def("available", &available, "Names of the dispatch targets that this machine runs, the fastest first.");
    m.def("use", &use, nb::arg("target"), "Makes all later calls run on this dispatch target.");
    m.def("in_use", [] { return in_use->name; }, "Name of the dispatch target in use.");
    bind_elementwise<float>(m);
    bind_elementwise<double>(m);
}
