// Sixteen float32 side by side, for kernels that sum in lanes, make bits of comparisons or convert to float16: by
// AVX-512, by two AVX2 registers, or by vectors of four. The same bytes each way. All of it is local to its target.
#pragma once

#include "table.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using ps::size_t;

// For loops without a dependence from one element to the next, even where `out` is an input: all that `ivdep` claims.
#define EACH(i, n) _Pragma("GCC ivdep") for (size_t i = 0; i < (n); ++i)

constexpr size_t LANES = 16;

// Numbers inside frames, which may start at any byte.
typedef float FrameFloat __attribute__((aligned(1), may_alias));
typedef uint16_t FrameU16 __attribute__((aligned(1), may_alias));
typedef uint32_t FrameU32 __attribute__((aligned(1), may_alias));
typedef int32_t FrameI32 __attribute__((aligned(1), may_alias));
typedef uint64_t FrameU64 __attribute__((aligned(1), may_alias));

inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

#if defined(__AVX512F__)

struct Vec {
    __m512 v;
    static Vec all(float x) { return {_mm512_set1_ps(x)}; }
    static Vec load(const void* p) { return {_mm512_loadu_ps(p)}; }
    void store(void* p) const { _mm512_storeu_ps(p, v); }
};

struct Mask {
    __mmask16 m;
    static Mask of(uint32_t bits) { return {__mmask16(bits)}; }
    uint32_t bits() const { return m; }
};

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec smaller(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec larger(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec magnitude(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Mask at_least(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline Vec choose(Mask mask, Vec yes, Vec no) { return {_mm512_mask_blend_ps(mask.m, no.v, yes.v)}; }

// Bits where the magnitude, as an integer, is at least `least`.
inline uint32_t bits_at_least(const float* p, uint32_t least) {
    const __m512i x = _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(0x7fffffff));
    return _mm512_cmpge_epu32_mask(x, _mm512_set1_epi32(int(least)));
}

inline void store_halves(Vec x, void* p) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec load_halves(const void* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}

// One float64 sum per lane.
struct Sums {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();

    static __m512d lower(Vec x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x.v)); }
    static __m512d upper(Vec x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1)); }
    void add(Vec x) {
        low = _mm512_add_pd(low, lower(x));
        high = _mm512_add_pd(high, upper(x));
    }
    void add_square(Vec x) {
        low = _mm512_add_pd(low, _mm512_mul_pd(lower(x), lower(x)));
        high = _mm512_add_pd(high, _mm512_mul_pd(upper(x), upper(x)));
    }
    double total() const {
        const __m512d eight = _mm512_add_pd(low, high);
        const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
        const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
        return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
    }
};

// x goes to `yes` where x >= t, else to `no`: a lane is never -0, so the zeros that the other gets are nothing. `mask`
// is at_least(x, t).
inline void add_split(Vec x, Vec, Mask mask, Sums& yes, Sums& no) {
    const __m512d lower = Sums::lower(x), upper = Sums::upper(x);
    const __mmask8 m = __mmask8(mask.m), n = __mmask8(mask.m >> 8);
    yes.low = _mm512_mask_add_pd(yes.low, m, yes.low, lower);
    yes.high = _mm512_mask_add_pd(yes.high, n, yes.high, upper);
    no.low = _mm512_mask_add_pd(no.low, __mmask8(~m), no.low, lower);
    no.high = _mm512_mask_add_pd(no.high, __mmask8(~n), no.high, upper);
}

#elif defined(__AVX2__)

struct Vec {
    __m256 a, b;
    static Vec all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static Vec load(const void* p) {
        const float* f = static_cast<const float*>(p);
        return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
    }
    void store(void* p) const {
        float* f = static_cast<float*>(p);
        _mm256_storeu_ps(f, a);
        _mm256_storeu_ps(f + 8, b);
    }
};

struct Mask {
    __m256 a, b;
    static Mask of(uint32_t bits) {
        const __m256i one = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        const __m256i two = _mm256_slli_epi32(one, 8), all = _mm256_set1_epi32(int(bits));
        return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, one), one)),
                _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, two), two))};
    }
    uint32_t bits() const { return uint32_t(_mm256_movemask_ps(a)) | uint32_t(_mm256_movemask_ps(b)) << 8; }
};

inline Vec operator+(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec operator-(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec operator*(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec operator/(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec smaller(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Vec larger(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec magnitude(Vec x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline Mask at_least(Vec x, Vec y) {
    return {_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)};
}
inline Vec choose(Mask mask, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.a, yes.a, mask.a), _mm256_blendv_ps(no.b, yes.b, mask.b)};
}

inline uint32_t bits_at_least(const float* p, uint32_t least) {  // 0 - 1 is below every magnitude, as it should be
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), below = _mm256_set1_epi32(int(least - 1));
    const auto part = [=](const float* q) __attribute__((always_inline)) {
        const __m256i x = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(q)), magnitude);
        return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(x, below))));
    };
    return part(p) | part(p + 8) << 8;
}

inline void store_halves(Vec x, void* p) {
    __m128i* to = static_cast<__m128i*>(p);
    _mm_storeu_si128(to, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(to + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec load_halves(const void* p) {
    const __m128i* from = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))};
}

struct Wide {
    __m256d lane[4];
    explicit Wide(Vec x)
        : lane{_mm256_cvtps_pd(_mm256_castps256_ps128(x.a)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1)),
               _mm256_cvtps_pd(_mm256_castps256_ps128(x.b)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1))} {}
};

struct Sums {
    __m256d lane[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};

    void add(Vec x) {
        const Wide wide(x);
        for (int k = 0; k < 4; ++k) lane[k] = _mm256_add_pd(lane[k], wide.lane[k]);
    }
    void add_square(Vec x) {
        const Wide wide(x);
        for (int k = 0; k < 4; ++k) lane[k] = _mm256_add_pd(lane[k], _mm256_mul_pd(wide.lane[k], wide.lane[k]));
    }
    double total() const {
        const __m256d four = _mm256_add_pd(_mm256_add_pd(lane[0], lane[2]), _mm256_add_pd(lane[1], lane[3]));
        const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
        return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
    }
};

// Compares again, in float64: cheaper than to widen the mask.
inline void add_split(Vec x, Vec t, Mask, Sums& yes, Sums& no) {
    const Wide wide(x), limit(t);
    for (int k = 0; k < 4; ++k) {
        const __m256d mask = _mm256_cmp_pd(wide.lane[k], limit.lane[k], _CMP_GE_OQ);
        yes.lane[k] = _mm256_add_pd(yes.lane[k], _mm256_and_pd(mask, wide.lane[k]));
        no.lane[k] = _mm256_add_pd(no.lane[k], _mm256_andnot_pd(mask, wide.lane[k]));
    }
}

#else

// Four parts of four, in the compilers' own vectors: SSE2, NEON or whatever the machine has.
typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourI __attribute__((vector_size(16)));
typedef uint32_t FourU __attribute__((vector_size(16)));
typedef double FourD __attribute__((vector_size(32)));
typedef uint16_t FourH __attribute__((vector_size(8)));

#define PART(k) for (int k = 0; k < 4; ++k)

struct Vec {
    Four p[4];
    static Vec all(float x) {
        const Four four = {x, x, x, x};
        return {{four, four, four, four}};
    }
    static Vec load(const void* p) {
        Vec r;
        __builtin_memcpy(r.p, p, sizeof r.p);
        return r;
    }
    void store(void* to) const { __builtin_memcpy(to, p, sizeof p); }
};

constexpr FourI BIT[4] = {{1, 2, 4, 8}, {16, 32, 64, 128}, {256, 512, 1024, 2048}, {4096, 8192, 16384, 32768}};

struct Mask {
    FourI p[4];  // all bits, or none
    static Mask of(uint32_t bits) {
        const int32_t b = int32_t(bits);
        const FourI all = {b, b, b, b};
        Mask r;
        PART(k) r.p[k] = (all & BIT[k]) == BIT[k];
        return r;
    }
    uint32_t bits() const {
        const FourI b = (p[0] & BIT[0]) | (p[1] & BIT[1]) | (p[2] & BIT[2]) | (p[3] & BIT[3]);
        return uint32_t(b[0] | b[1] | b[2] | b[3]);
    }
};

template <typename Body>
inline __attribute__((always_inline)) Vec each_part(Body body) {
    Vec r;
    PART(k) r.p[k] = body(k);
    return r;
}
inline Four chosen(FourI mask, Four yes, Four no) { return Four((FourI(yes) & mask) | (FourI(no) & ~mask)); }
inline Four without_sign(Four x) { return Four(FourI(x) & 0x7fffffff); }

inline Vec operator+(const Vec& a, const Vec& b) { return each_part([&](int k) { return a.p[k] + b.p[k]; }); }
inline Vec operator-(const Vec& a, const Vec& b) { return each_part([&](int k) { return a.p[k] - b.p[k]; }); }
inline Vec operator*(const Vec& a, const Vec& b) { return each_part([&](int k) { return a.p[k] * b.p[k]; }); }
inline Vec operator/(const Vec& a, const Vec& b) { return each_part([&](int k) { return a.p[k] / b.p[k]; }); }
inline Vec smaller(const Vec& a, const Vec& b) {
    return each_part([&](int k) { return chosen(a.p[k] < b.p[k], a.p[k], b.p[k]); });
}
inline Vec larger(const Vec& a, const Vec& b) {
    return each_part([&](int k) { return chosen(a.p[k] > b.p[k], a.p[k], b.p[k]); });
}
inline Vec magnitude(const Vec& a) { return each_part([&](int k) { return without_sign(a.p[k]); }); }
inline Mask at_least(const Vec& a, const Vec& b) {
    Mask r;
    PART(k) r.p[k] = a.p[k] >= b.p[k];
    return r;
}
inline Vec choose(const Mask& mask, const Vec& yes, const Vec& no) {
    return each_part([&](int k) { return chosen(mask.p[k], yes.p[k], no.p[k]); });
}

inline uint32_t bits_at_least(const float* p, uint32_t least) {
    const Vec x = Vec::load(p);
    const int32_t l = int32_t(least - 1);
    const FourI below = {l, l, l, l};
    Mask r;
    PART(k) r.p[k] = FourI(without_sign(x.p[k])) > below;
    return r.bits();
}

// To nearest, ties to even. Below 2^-14 the halves are as far apart as float32 numbers at 0.5: an addition rounds.
inline FourU halves_of(Four x) {
    const FourU sign = FourU(x) & 0x80000000u, bits = FourU(x) ^ sign;
    const FourU small = FourU(Four(bits) + 0.5f) - 0x3f000000u;
    const FourU normal = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1u)) >> 13;
    const FourU is_small = FourU(FourI(bits) < 0x38800000);
    return sign >> 16 | (small & is_small) | (normal & ~is_small);
}
inline Four of_halves(FourU half) {
    const FourU bits = (half & 0x7fffu) << 13, exponent = bits & 0x0f800000u;
    const FourU small = FourU(Four(bits + (113u << 23)) - 0x1p-14f);
    const FourU full = FourU(exponent == 0x0f800000u), none = FourU(exponent == 0u);
    const FourU normal = bits + (112u << 23) + (full & (112u << 23));
    return Four((half & 0x8000u) << 16 | (small & none) | (normal & ~none));
}
inline void store_halves(const Vec& x, void* to) {
    PART(k) {
        const FourH half = __builtin_convertvector(halves_of(x.p[k]), FourH);
        __builtin_memcpy(static_cast<char*>(to) + 8 * k, &half, 8);
    }
}
inline Vec load_halves(const void* from) {
    return each_part([=](int k) {
        FourH half;
        __builtin_memcpy(&half, static_cast<const char*>(from) + 8 * k, 8);
        return of_halves(__builtin_convertvector(half, FourU));
    });
}

struct Sums {
    FourD lane[4] = {};

    void add(const Vec& x) { PART(k) lane[k] += __builtin_convertvector(x.p[k], FourD); }
    void add_square(const Vec& x) {
        PART(k) {
            const FourD wide = __builtin_convertvector(x.p[k], FourD);
            lane[k] += wide * wide;
        }
    }
    double total() const {
        const FourD four = (lane[0] + lane[2]) + (lane[1] + lane[3]);
        return (four[0] + four[2]) + (four[1] + four[3]);
    }
};

inline void add_split(const Vec& x, const Vec&, const Mask& mask, Sums& yes, Sums& no) {
    yes.add(each_part([&](int k) { return Four(FourI(x.p[k]) & mask.p[k]); }));
    no.add(each_part([&](int k) { return Four(FourI(x.p[k]) & ~mask.p[k]); }));
}

#undef PART

#endif

// The last elements, fewer than sixteen; zeros behind them.
inline Vec load_part(const void* p, size_t count) {
    float part[LANES] = {};
    __builtin_memcpy(part, p, count * sizeof(float));
    return Vec::load(part);
}
inline void store_part(const Vec& x, void* p, size_t count) {
    float part[LANES];
    x.store(part);
    __builtin_memcpy(p, part, count * sizeof(float));
}

// `body(i, count, load, store)` for each sixteen of n elements from i on, then for the `count` that are left.
template <typename Body>
inline __attribute__((always_inline)) void each_sixteen(size_t n, Body body) {
    size_t i = 0;
#pragma GCC unroll 4
    for (; i + LANES <= n; i += LANES)
        body(i, LANES, [](const void* p) __attribute__((always_inline)) { return Vec::load(p); },
             [](const Vec& x, void* p) __attribute__((always_inline)) { x.store(p); });
    if (const size_t left = n - i)
        body(i, left, [=](const void* p) __attribute__((always_inline)) { return load_part(p, left); },
             [=](const Vec& x, void* p) __attribute__((always_inline)) { store_part(x, p, left); });
}

inline uint32_t first_bits(size_t count) { return (1u << count) - 1u; }  // count at most 16

}  // namespace
