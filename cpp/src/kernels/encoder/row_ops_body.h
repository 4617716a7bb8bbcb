// The row operations (row_ops.h), written once with the compilers' vector types. Each row_ops_*.cpp includes
// it between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, inside namespace bluelm, and defines before:
//
//   BLUELM_LANES        floats in a vector
//   BLUELM_RECIPROCAL   1 / x to 11 bits or more, for vectors
//   BLUELM_HAS_RECIPROCAL   0: BLUELM_RECIPROCAL is a division
//   BLUELM_MAX, BLUELM_MIN   of two vectors; the second where one is NaN
//   BLUELM_TO_BF16           a Vec as VecH, where there is an instruction for it; else not defined
//   BLUELM_FROM_BF16         a VecH as Vec, where GCC 12 has no good code for it; else not defined
//   BLUELM_LOW_BYTES, BLUELM_LOW_HALVES   of a VecU, as VecB and VecH (GCC 12 has no good code for these)
//   BLUELM_SIGNED_BYTES      a VecB, taken as signed, as VecI (nor for this)
//
// A `?:` on vectors picks lane by lane. No include guard: once for each file.

// Vectors are handed to always_inline functions only: there is no ABI to agree on.
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace {

constexpr int kLanes = BLUELM_LANES;
typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecH __attribute__((vector_size(kLanes * 2)));
typedef uint8_t VecB __attribute__((vector_size(kLanes)));

#define BLUELM_INLINE __attribute__((always_inline)) inline

template <class V>
BLUELM_INLINE V load(const void* at) {
    V v;
    __builtin_memcpy(&v, at, sizeof v);
    return v;
}
template <class V>
BLUELM_INLINE void store(void* at, V v) {
    __builtin_memcpy(at, &v, sizeof v);
}
// The first n < kLanes elements, zeros behind.
template <class V>
BLUELM_INLINE V load_part(const void* at, int64_t n) {
    V v = {};
    __builtin_memcpy(&v, at, static_cast<size_t>(n) * (sizeof(V) / kLanes));
    return v;
}
template <class V>
BLUELM_INLINE void store_part(void* at, V v, int64_t n) {
    __builtin_memcpy(at, &v, static_cast<size_t>(n) * (sizeof(V) / kLanes));
}

BLUELM_INLINE float add_up(Vec v) {
    float sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += v[i];
    return sum;
}

// Nearest bf16, ties to even. A NaN stays one.
BLUELM_INLINE VecH bf16_of(Vec x) {
#if defined(BLUELM_TO_BF16)
    return BLUELM_TO_BF16(x);
#else
    const VecU bits = (VecU)x;
    const VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const VecU nan = (bits >> 16) | 0x40u;
    return BLUELM_LOW_HALVES(x == x ? rounded : nan);
#endif
}
BLUELM_INLINE Vec float_of(VecH x) {
#if defined(BLUELM_FROM_BF16)
    return BLUELM_FROM_BF16(x);
#else
    return (Vec)(__builtin_convertvector(x, VecU) << 16);
#endif
}

// 2^t for t in [-125, 126] (not checked): 2^k * 2^f with a polynomial for 2^f on [-0.5, 0.5]; relative error
// 1.2e-7 with degree 6, 4e-5 with degree 4. NaN for NaN.
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves round-to-nearest in the low bits
template <bool kExact>
BLUELM_INLINE Vec exp2_of(Vec t) {
    const Vec shifted = t + kRound;
    const Vec f = t - (shifted - kRound);
    Vec p;
    if (kExact) {
        p = f * 1.54035304e-4f + 1.33335581e-3f;
        p = p * f + 9.61812911e-3f;
        p = p * f + 5.55041087e-2f;
    } else {
        p = f * 9.61812911e-3f + 5.55041087e-2f;
    }
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    return p * (Vec)(((VecU)shifted << 23) + 0x3f800000u);  // the bits of kRound fall out at the top
}

// y * sigmoid(2 z), z = sqrt(2/pi) (y + 0.044715 y^3): the same function as 0.5 y (1 + tanh z).
template <bool kExact>
BLUELM_INLINE Vec gelu_of(Vec y) {
    constexpr float kA = -1.5957691216057308f * 1.4426950408889634f, kB = 0.044715f * kA;
    Vec t = y * (y * y * kB + kA);
    t = BLUELM_MIN((Vec){} + 125.0f, BLUELM_MAX((Vec){} - 125.0f, t));
    const Vec below = exp2_of<kExact>(t) + 1.0f;
    if (kExact || !BLUELM_HAS_RECIPROCAL) return y / below;
    return y * BLUELM_RECIPROCAL(below);
}

// y * sigmoid(1.702 y)
BLUELM_INLINE Vec gelu_quick_of(Vec y) {
    Vec t = y * (-1.702f * 1.4426950408889634f);
    t = BLUELM_MIN((Vec){} + 125.0f, BLUELM_MAX((Vec){} - 125.0f, t));
    return y / (exp2_of<true>(t) + 1.0f);
}

// y * Phi(y), Phi the normal distribution: Abramowitz and Stegun 7.1.26 for its tail, absolute error 1e-7.
BLUELM_INLINE Vec gelu_erf_of(Vec y) {
    const Vec z = (y < 0.0f ? -y : y) * 0.70710678f;
    const Vec t = 1.0f / (z * 0.3275911f + 1.0f);
    Vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    Vec power = z * z * -1.4426950408889634f;
    power = BLUELM_MAX((Vec){} - 125.0f, power);
    const Vec tail = p * t * exp2_of<true>(power) * 0.5f;
    return y * (y < 0.0f ? tail : 1.0f - tail);
}

void layer_norm(const float* x, const float* w, const float* b, float eps, int64_t n, float* out) {
    Vec sums = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) sums += load<Vec>(x + i);
    if (i < n) sums += load_part<Vec>(x + i, n - i);
    const float mean = add_up(sums) / static_cast<float>(n);
    Vec squares = {};
    for (i = 0; i + kLanes <= n; i += kLanes) {
        const Vec centred = load<Vec>(x + i) - mean;
        squares += centred * centred;
    }
    float rest = 0;
    for (; i < n; ++i) rest += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / __builtin_sqrtf((add_up(squares) + rest) / static_cast<float>(n) + eps);
    for (i = 0; i + kLanes <= n; i += kLanes)
        store(out + i, (load<Vec>(x + i) - mean) * scale * load<Vec>(w + i) + load<Vec>(b + i));
    for (; i < n; ++i) out[i] = (x[i] - mean) * scale * w[i] + b[i];
}

void rms_norm(const float* x, const float* w, float eps, int64_t n, float* out) {
    Vec squares = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) squares += load<Vec>(x + i) * load<Vec>(x + i);
    float rest = 0;
    for (; i < n; ++i) rest += x[i] * x[i];
    const float scale = 1.0f / __builtin_sqrtf((add_up(squares) + rest) / static_cast<float>(n) + eps);
    for (i = 0; i + kLanes <= n; i += kLanes) store(out + i, load<Vec>(x + i) * scale * load<Vec>(w + i));
    for (; i < n; ++i) out[i] = x[i] * scale * w[i];
}

BLUELM_INLINE Vec load_value(const float* x, int64_t) { return load<Vec>(x); }
BLUELM_INLINE Vec load_value(const uint16_t* x, int64_t) { return float_of(load<VecH>(x)); }
BLUELM_INLINE Vec load_value_part(const float* x, int64_t n) { return load_part<Vec>(x, n); }
BLUELM_INLINE Vec load_value_part(const uint16_t* x, int64_t n) { return float_of(load_part<VecH>(x, n)); }

template <class T>
float quantise_row(const T* x, int64_t n, int64_t n_padded, uint8_t flip, int8_t* out) {
    // As integers, magnitudes of floats order like the floats, with infinity and then NaN at the top.
    VecI largest = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const VecI magnitude = (VecI)load_value(x + i, 0) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (i < n) {
        const VecI magnitude = (VecI)load_value_part(x + i, n - i) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    int32_t top = 0;
    for (int j = 0; j < kLanes; ++j) top = largest[j] > top ? largest[j] : top;
    float max;
    __builtin_memcpy(&max, &top, sizeof max);
    if (top >= 0x7f800000) {
        __builtin_memset(out, flip, static_cast<size_t>(n_padded));
        return __builtin_nanf("");
    }
    const float inverse = max > 1e-30f ? 127.0f / max : 0.0f;
    const VecB flips = (VecB){} + flip;
    for (i = 0; i + kLanes <= n; i += kLanes) {
        const VecU q = (VecU)(load_value(x + i, 0) * inverse + kRound);  // the low byte is what is wanted
        store(out + i, BLUELM_LOW_BYTES(q) ^ flips);
    }
    if (i < n) {
        const VecU q = (VecU)(load_value_part(x + i, n - i) * inverse + kRound);
        store_part(out + i, BLUELM_LOW_BYTES(q) ^ flips, n - i);
    }
    if (n_padded > n) __builtin_memset(out + n, flip, static_cast<size_t>(n_padded - n));
    return max > 1e-30f ? max / 127.0f : 0.0f;
}

template <class T>
float quantise_row_around(const T* x, int64_t n, int64_t n_padded, uint8_t flip, int8_t* out, float* middle) {
    VecI reach = {};  // of magnitudes, to see what is not finite
    Vec low = {}, high = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Vec v = load_value(x + i, 0);
        const VecI magnitude = (VecI)v & 0x7fffffff;
        reach = magnitude > reach ? magnitude : reach;
        low = BLUELM_MIN(v, low);
        high = BLUELM_MAX(v, high);
    }
    if (i < n) {
        const Vec v = load_value_part(x + i, n - i);
        const VecI magnitude = (VecI)v & 0x7fffffff;
        reach = magnitude > reach ? magnitude : reach;
        low = BLUELM_MIN(v, low);
        high = BLUELM_MAX(v, high);
    }
    int32_t top = 0;
    float min = 0, max = 0;
    for (int j = 0; j < kLanes; ++j) {
        top = reach[j] > top ? reach[j] : top;
        min = low[j] < min ? low[j] : min;
        max = high[j] > max ? high[j] : max;
    }
    const float half = 0.5f * max - 0.5f * min;
    *middle = 0;
    if (top >= 0x7f800000) {
        __builtin_memset(out, flip, static_cast<size_t>(n_padded));
        return __builtin_nanf("");
    }
    if (!(half > 1e-30f)) {
        __builtin_memset(out, flip, static_cast<size_t>(n_padded));
        return 0.0f;
    }
    const float centre = 0.5f * max + 0.5f * min, inverse = 127.0f / half;
    const VecB flips = (VecB){} + flip;
    for (i = 0; i + kLanes <= n; i += kLanes) {
        const VecU q = (VecU)((load_value(x + i, 0) - centre) * inverse + kRound);
        store(out + i, BLUELM_LOW_BYTES(q) ^ flips);
    }
    if (i < n) {
        const VecU q = (VecU)((load_value_part(x + i, n - i) - centre) * inverse + kRound);
        store_part(out + i, BLUELM_LOW_BYTES(q) ^ flips, n - i);
    }
    if (n_padded > n) __builtin_memset(out + n, flip, static_cast<size_t>(n_padded - n));
    *middle = centre;
    return half / 127.0f;
}

void to_bf16(const float* x, int64_t n, int64_t n_padded, uint16_t* out) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, bf16_of(load<Vec>(x + i)));
    if (i < n) store_part(out + i, bf16_of(load_part<Vec>(x + i, n - i)), n - i);
    if (n_padded > n) __builtin_memset(out + n, 0, 2 * static_cast<size_t>(n_padded - n));
}

void to_float(const uint16_t* x, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, float_of(load<VecH>(x + i)));
    if (i < n) store_part(out + i, float_of(load_part<VecH>(x + i, n - i)), n - i);
}

// ------------------------------------------------------------------------------------- epilogues

BLUELM_INLINE Vec sum_of(const int32_t* c) { return __builtin_convertvector(load<VecI>(c), Vec); }
BLUELM_INLINE Vec sum_of(const float* c) { return load<Vec>(c); }
BLUELM_INLINE Vec sum_part(const int32_t* c, int64_t n) {
    return __builtin_convertvector(load_part<VecI>(c, n), Vec);
}
BLUELM_INLINE Vec sum_part(const float* c, int64_t n) { return load_part<Vec>(c, n); }
BLUELM_INLINE void put(float* at, Vec v) { store(at, v); }
BLUELM_INLINE void put(uint16_t* at, Vec v) { store(at, bf16_of(v)); }
BLUELM_INLINE void put_part(float* at, Vec v, int64_t n) { store_part(at, v, n); }
BLUELM_INLINE void put_part(uint16_t* at, Vec v, int64_t n) { store_part(at, bf16_of(v), n); }

template <class Out>
void multiply_row(const float* x, float factor, int64_t n, Out* out) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) put(out + i, load<Vec>(x + i) * factor);
    if (i < n) put_part(out + i, load_part<Vec>(x + i, n - i) * factor, n - i);
}

enum class Epilogue { kStore, kGelu, kGeluErf, kGeluQuick, kResidual };
constexpr bool is_gelu(Epilogue e) { return e != Epilogue::kStore && e != Epilogue::kResidual; }

template <Epilogue kEpilogue, bool kExact>
BLUELM_INLINE Vec finish(Vec value, Vec other) {
    if (kEpilogue == Epilogue::kGelu) return gelu_of<kExact>(value) * other;
    if (kEpilogue == Epilogue::kGeluErf) return gelu_erf_of(value) * other;
    if (kEpilogue == Epilogue::kGeluQuick) return gelu_quick_of(value) * other;
    if (kEpilogue == Epilogue::kResidual) return value + other;
    return value;
}

template <class Sum, class Out, Epilogue kEpilogue, bool kExact>
void epilogue(const Sums& s, const float* multiply, Out* out, size_t out_stride) {
    constexpr bool kScaled = std::is_same<Sum, int32_t>::value;
    const Sum* c = static_cast<const Sum*>(s.c);
    const Vec one = (Vec){} + 1.0f;
    for (int r = 0; r < s.n_rows; ++r, c += s.c_stride, out += out_stride) {
        const float scale = kScaled ? s.row_scale[r] : 1.0f;
        const bool has_middle = kScaled && kEpilogue == Epilogue::kResidual && s.row_middle;
        const float middle = has_middle ? s.row_middle[r] : 0.0f;
        int64_t i = 0;
        for (; i + kLanes <= s.n; i += kLanes) {
            Vec value = sum_of(c + i);
            value = kScaled ? value * (load<Vec>(s.column_scale + i) * scale) + load<Vec>(s.bias + i)
                            : value + load<Vec>(s.bias + i);
            if (has_middle) value += load<Vec>(s.column_sum + i) * middle;
            Vec other = one;
            if (kEpilogue == Epilogue::kResidual) other = load_value(out + i, 0);
            if (is_gelu(kEpilogue) && multiply) other = load<Vec>(multiply + i);
            put(out + i, finish<kEpilogue, kExact>(value, other));
        }
        const int64_t n = s.n - i;
        if (n == 0) continue;
        Vec value = sum_part(c + i, n);
        value = kScaled
                    ? value * (load_part<Vec>(s.column_scale + i, n) * scale) + load_part<Vec>(s.bias + i, n)
                    : value + load_part<Vec>(s.bias + i, n);
        if (has_middle) value += load_part<Vec>(s.column_sum + i, n) * middle;
        Vec other = one;
        if (kEpilogue == Epilogue::kResidual) other = load_value_part(out + i, n);
        if (is_gelu(kEpilogue) && multiply) other = load_part<Vec>(multiply + i, n);
        put_part(out + i, finish<kEpilogue, kExact>(value, other), n);
    }
}

template <class Sum>
struct EpiloguesOf {
    static void store_f32(const Sums& s, float* out, size_t stride) {
        epilogue<Sum, float, Epilogue::kStore, true>(s, nullptr, out, stride);
    }
    static void store_bf16(const Sums& s, uint16_t* out, size_t stride) {
        epilogue<Sum, uint16_t, Epilogue::kStore, true>(s, nullptr, out, stride);
    }
    static void gelu_f32(const Sums& s, const float* multiply, float* out, size_t stride) {
        epilogue<Sum, float, Epilogue::kGelu, true>(s, multiply, out, stride);
    }
    static void gelu_bf16(const Sums& s, const float* multiply, uint16_t* out, size_t stride) {
        epilogue<Sum, uint16_t, Epilogue::kGelu, false>(s, multiply, out, stride);
    }
    static void gelu_erf_f32(const Sums& s, const float* multiply, float* out, size_t stride) {
        epilogue<Sum, float, Epilogue::kGeluErf, true>(s, multiply, out, stride);
    }
    static void gelu_erf_bf16(const Sums& s, const float* multiply, uint16_t* out, size_t stride) {
        epilogue<Sum, uint16_t, Epilogue::kGeluErf, true>(s, multiply, out, stride);
    }
    static void gelu_quick_f32(const Sums& s, const float* multiply, float* out, size_t stride) {
        epilogue<Sum, float, Epilogue::kGeluQuick, true>(s, multiply, out, stride);
    }
    static void gelu_quick_bf16(const Sums& s, const float* multiply, uint16_t* out, size_t stride) {
        epilogue<Sum, uint16_t, Epilogue::kGeluQuick, true>(s, multiply, out, stride);
    }
    static void residual(const Sums& s, float* x, size_t stride) {
        epilogue<Sum, float, Epilogue::kResidual, true>(s, nullptr, x, stride);
    }
    static constexpr RowOps::Epilogues kAll = {store_f32,      store_bf16,      gelu_f32,
                                               gelu_bf16,      gelu_erf_f32,    gelu_erf_bf16,
                                               gelu_quick_f32, gelu_quick_bf16, residual};
};

// ---------------------------------------------------------------------------------------------- softmax

// Exponent and mantissa moved to a float's places, and 2^112 for the difference of the biases.
BLUELM_INLINE Vec float_of_half(VecH x) {
    const VecU bits = __builtin_convertvector(x, VecU);
    const VecU magnitude = (bits & 0x7fffu) << 13;
    const VecU finite = (VecU)((Vec)magnitude * 0x1p112f);
    const VecU value = magnitude >= (0x7c00u << 13) ? (magnitude | 0x7f800000u) : finite;
    return (Vec)(value | (bits & 0x8000u) << 16);
}

float add_mask(float* s, const uint16_t* mask, float scale, int64_t n) {
    Vec largest = (Vec){} - __builtin_inff();
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Vec v = load<Vec>(s + i) * scale + float_of_half(load<VecH>(mask + i));
        store(s + i, v);
        largest = BLUELM_MAX(v, largest);
    }
    float max = -__builtin_inff();
    for (int j = 0; j < kLanes; ++j) max = largest[j] > max ? largest[j] : max;
    if (i < n) {
        const Vec v = load_part<Vec>(s + i, n - i) * scale + float_of_half(load_part<VecH>(mask + i, n - i));
        store_part(s + i, v, n - i);
        for (int64_t j = i; j < n; ++j) max = s[j] > max ? s[j] : max;
    }
    return max;
}

template <bool kExact, class Out>
float softmax(const float* s, int64_t n, int64_t n_padded, float scale, Out* out) {
    Vec largest = (Vec){} + s[0];
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Vec v = load<Vec>(s + i);
        largest = BLUELM_MAX(v, largest);
    }
    float max = largest[0];
    for (int j = 1; j < kLanes; ++j) max = largest[j] > max ? largest[j] : max;
    for (int64_t j = i; j < n; ++j) max = s[j] > max ? s[j] : max;

    const float to_log2 = scale * 1.4426950408889634f, shift = -max * to_log2;
    Vec sums = {};
    for (i = 0; i + kLanes <= n; i += kLanes) {
        Vec t = load<Vec>(s + i) * to_log2 + shift;
        t = BLUELM_MAX((Vec){} - 125.0f, t);
        const Vec p = exp2_of<kExact>(t);
        put(out + i, p);
        sums += p;
    }
    float sum = add_up(sums);
    if (i < n) {
        Vec t = load_part<Vec>(s + i, n - i) * to_log2 + shift;
        t = BLUELM_MAX((Vec){} - 125.0f, t);
        const Vec p = exp2_of<kExact>(t);
        put_part(out + i, p, n - i);
        for (int j = 0; j < n - i; ++j) sum += p[j];
    }
    if (n_padded > n) __builtin_memset(out + n, 0, sizeof(Out) * static_cast<size_t>(n_padded - n));
    return sum;
}

float softmax_f32(float* s, int64_t n, int64_t n_padded, float scale) {
    return softmax<true>(s, n, n_padded, scale, s);
}
float softmax_bf16(const float* s, int64_t n, int64_t n_padded, float scale, uint16_t* out) {
    return softmax<false>(s, n, n_padded, scale, out);
}

// ---------------------------------------------------------------------------------------------- weights

// Exponent and mantissa moved to a float's places, and 2^112 for the difference of the biases: right for
// subnormals too.
BLUELM_INLINE float half_to_float(uint16_t half) {
    const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
    float value;
    __builtin_memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112f;
    if (magnitude >= 0x7c00u << 13) value = magnitude > 0x7c00u << 13 ? __builtin_nanf("") : __builtin_inff();
    return half & 0x8000 ? -value : value;
}

void q8_0_to_float(const void* x, int64_t n, float* out) {
    const char* block = static_cast<const char*>(x);
    for (int64_t i = 0; i < n; i += 32, block += 34, out += 32) {
        uint16_t half;
        __builtin_memcpy(&half, block, sizeof half);
        const float scale = half_to_float(half);
        for (int j = 0; j < 32; j += kLanes) {
            const VecI q = BLUELM_SIGNED_BYTES(load<VecB>(block + 2 + j));
            store(out + j, __builtin_convertvector(q, Vec) * scale);
        }
    }
}

void max_magnitudes(const float* x, int64_t n, float* maxima) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Vec magnitude = (Vec)((VecI)load<Vec>(x + i) & 0x7fffffff);
        store(maxima + i, BLUELM_MAX(magnitude, load<Vec>(maxima + i)));
    }
    if (i < n) {
        const Vec magnitude = (Vec)((VecI)load_part<Vec>(x + i, n - i) & 0x7fffffff);
        const Vec largest = load_part<Vec>(maxima + i, n - i);
        store_part(maxima + i, BLUELM_MAX(magnitude, largest), n - i);
    }
}

void products(const float* x, const float* w, const float* b, int64_t n, float* squares, float* sum) {
    Vec s = {}, q = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Vec v = load<Vec>(x + i), weighted = v * load<Vec>(w + i);
        s += v * load<Vec>(b + i);
        q += weighted * weighted;
    }
    if (i < n) {
        const Vec v = load_part<Vec>(x + i, n - i), weighted = v * load_part<Vec>(w + i, n - i);
        s += v * load_part<Vec>(b + i, n - i);
        q += weighted * weighted;
    }
    *squares = add_up(q);
    *sum = add_up(s);
}

void multiply_each(float* x, const float* by, float factor, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, load<Vec>(x + i) * load<Vec>(by + i) * factor);
    for (; i < n; ++i) x[i] = x[i] * by[i] * factor;
}

int32_t add_up_int8(const int8_t* x, int64_t n) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    return sum;
}

constexpr RowOps row_ops_named(const char* name) {
    return {name,
            layer_norm,
            rms_norm,
            quantise_row<float>,
            quantise_row<uint16_t>,
            quantise_row_around<float>,
            quantise_row_around<uint16_t>,
            to_bf16,
            to_float,
            multiply_row<float>,
            multiply_row<uint16_t>,
            EpiloguesOf<int32_t>::kAll,
            EpiloguesOf<float>::kAll,
            add_mask,
            softmax_f32,
            softmax_bf16,
            q8_0_to_float,
            max_magnitudes,
            products,
            multiply_each,
            add_up_int8};
}

}  // namespace
