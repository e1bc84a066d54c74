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
    void (*weighted_sum)(size_t n, size_t count, const T* const* grads, const T* weights, T total, T* out);
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

// What a qsgd code is. bits: of one code.
struct Qsgd {
    int32_t levels;
    int bits;
    bool l2;
    uint32_t key;
    float unit_max;
};

// One that may be among the largest; bits: of its magnitude.
struct Candidate {
    uint32_t bits, index;
};

// One of the frames that are summed; `records` moves from group to group, low and high are its weighted levels there.
struct OneBitTerm {
    const uint8_t* records;
    float weight, low, high;
};

constexpr size_t CLIP_PIECE = 32 * 1024;  // elements; each has a sum of its own

// float32 slices to frames and back. `records` and `body` may start at any byte; `residual` may be null.
struct Codecs {
    void (*onebit_encode)(size_t n, const float* grad, float* residual, size_t group, bool mean_threshold,
                          uint8_t* records);
    void (*onebit_decode_add)(size_t n, const uint8_t* records, size_t group, float* out, float weight);
    void (*onebit_mean)(size_t n, size_t count, OneBitTerm* terms, float total, size_t group, float* out);
    // False, with view and records half written, where a difference is not finite.
    bool (*onebit_move)(size_t n, const float* w, float* view, size_t group, bool mean_threshold, uint8_t* records);
    bool (*onebit_finite)(size_t bytes, const uint8_t* records, size_t group);
    void (*sign_encode)(size_t n, const float* grad, float* residual, size_t group, uint8_t* records);
    void (*sign_decode_add)(size_t n, const uint8_t* records, size_t group, float* out, float weight);
    void (*int8_encode)(size_t n, const float* grad, float* residual, size_t block, float unit_max, uint8_t* body);
    void (*int8_decode_add)(size_t n, const uint8_t* body, size_t block, float* out, float weight);
    void (*qsgd_encode)(size_t n, const float* grad, float* residual, size_t bucket, const Qsgd& how, uint8_t* body);
    void (*qsgd_decode_add)(size_t n, const uint8_t* body, size_t bucket, int32_t levels, int bits, float* out,
                            float weight);
    int (*qsgd_code_max)(size_t n, const uint8_t* packed, int bits);
    void (*half_encode)(size_t n, const float* grad, float* residual, size_t block, uint8_t* body);
    void (*half_decode_add)(size_t n, const uint8_t* body, size_t block, float* out, float weight);
    int (*bits_max)(size_t n, const uint8_t* half);
    void (*bfloat_encode)(size_t n, const float* grad, float* residual, uint8_t* body);
    void (*bfloat_decode_add)(size_t n, const uint8_t* body, float* out, float weight);
    void (*triad)(size_t n, const float* b, const float* c, float* out, float factor);
    void (*accumulate)(size_t n, const float* grad, float* residual);
    void (*momentum_accumulate)(size_t n, const float* grad, float* velocity, float* residual, float momentum);
    void (*scaled_add)(size_t n, const void* x, float* out, float weight);
    size_t (*threshold_count)(size_t n, const float* grad, float* residual, float t);
    // Takes at most `room` elements; returns how many there are.
    size_t (*threshold_sparse)(size_t n, float* residual, float t, size_t room, void* body);
    void (*threshold_dense)(size_t n, float* residual, float t, uint8_t* body);
    void (*threshold_dense_add)(size_t n, const uint8_t* body, float* out, float step);
    bool (*threshold_dense_wrong)(size_t bytes, const uint8_t* body);
    double (*threshold_clip)(size_t n, float* residual, float top);
    // k at most n. `candidates` is scratch; more than k of them make it faster.
    void (*largest)(size_t n, const float* x, size_t k, uint32_t* index, Candidate* candidates, size_t room);
    // Shapes: u (depth, m), v (depth, n), out (m, n).
    void (*factors_add)(size_t depth, size_t m, size_t n, const float* u, const float* v, float* out, float weight);
};

struct Table {
    Elementwise<float> f32;
    Elementwise<double> f64;
    Codecs codecs;
};

extern const Table portable_table;
#ifdef PS_X86
extern const Table avx2_table;
extern const Table avx512_table;
#endif

}  // namespace ps
