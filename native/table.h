// What every dispatch target offers: plain functions over flat arrays. Their meaning is the NumPy twin in ps/kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ps {

using std::size_t;

// One update per optimizer. `out` may be `w`; no other two arrays overlap.
template <typename T>
struct Elementwise {
    bool (*all_finite)(size_t n, const T* x);
    bool (*copy_finite)(size_t n, const T* x, T* out);
    void (*weighted_sum)(size_t n, size_t count, const T* const* grads, const T* weights, T* out);
    void (*scale_into)(size_t n, const T* x, T factor, T* out);
    void (*divide)(size_t n, const T* x, T total, T* out);
    void (*add)(size_t n, const T* w, const T* grad, T* out);
    void (*sgd)(size_t n, const T* w, const T* grad, T* out, T lr, T wd);
    void (*momentum)(size_t n, const T* w, const T* grad, T* velocity, T* out, T lr, T wd, T decay);
    void (*nesterov)(size_t n, const T* w, const T* grad, T* velocity, T* out, T lr, T wd, T decay);
    void (*adagrad)(size_t n, const T* w, const T* grad, T* square_sum, T* out, T lr, T wd, T eps);
    void (*rmsprop)(size_t n, const T* w, const T* grad, T* mean_square, T* out, T lr, T wd, T keep, T fresh, T eps);
    void (*adam)(size_t n, const T* w, const T* grad, T* mean, T* mean_square, T* out, const struct AdamScalars& s);
    void (*ftrl_start)(size_t n, const T* w, T* z, T threshold, T ridge);
    void (*ftrl)(size_t n, const T* w, const T* grad, T* z, T* q, T* out, T lr, T wd, T threshold, T ridge);
    void (*compensate)(size_t n, const T* w, const T* grad, const T* base, T* out, T lam);
    void (*compensate_adaptive)(size_t n, const T* w, const T* grad, const T* base, T* mean_square, T* out, T lam,
                                T keep, T fresh, T eps);
};

// float64, cast to the arrays' type inside.
struct AdamScalars {
    double rate, weight_decay, decoupled_rate, keep1, fresh1, keep2, fresh2, root, eps;
};

struct Table {
    Elementwise<float> f32;
    Elementwise<double> f64;
};

extern const Table portable_table;
#ifdef PS_X86
extern const Table avx2_table;
extern const Table avx512_table;
#endif

}  // namespace ps
