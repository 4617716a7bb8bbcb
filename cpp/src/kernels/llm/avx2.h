// The language model's matmuls with 256-bit vectors, for kernels/llm/avx2.cpp and kernels/llm/avx_vnni.cpp:
// they differ in the dot product of 8-bit values alone, and in the instructions that all of this is compiled
// with (so it is included between BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other headers).
//
// Few rows: four at a time pass over a panel, whose cells are unpacked each time into registers. A vector of
// 32-bit lanes is 8 outputs, half a panel.
#ifndef BLUELM_LLM_AVX2_H
#define BLUELM_LLM_AVX2_H

namespace bluelm {
namespace {

constexpr int64_t kRows = 4;

inline __m256i load(const uint8_t* at) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(at)); }
inline void store(uint8_t* at, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(at), v); }

// Outputs 8 * side .. of a cell's eight vectors: uint8 [8 outputs][4 inputs].
template <LlmType type>
inline void cell_values(const uint8_t* cell, int64_t side, __m256i (&q)[8]) {
    cell += side * 32;
    if constexpr (type == LlmType::q8_0) {
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) q[g] = load(cell + 64 * g);
    } else {
        const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
        for (int h = 0; h < 4; ++h) {
            const __m256i v = load(cell + 64 * h);
            q[2 * h] = _mm256_and_si256(v, low);
            q[2 * h + 1] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
        }
        if constexpr (type == LlmType::q6_K) {
            const __m256i high = _mm256_set1_epi8(0x30);
#pragma GCC unroll 2
            for (int e = 0; e < 2; ++e) {
                const __m256i v = load(cell + 256 + 64 * e);
                q[4 * e] = _mm256_or_si256(q[4 * e], _mm256_and_si256(_mm256_slli_epi16(v, 4), high));
                q[4 * e + 1] = _mm256_or_si256(q[4 * e + 1], _mm256_and_si256(_mm256_slli_epi16(v, 2), high));
                q[4 * e + 2] = _mm256_or_si256(q[4 * e + 2], _mm256_and_si256(v, high));
                q[4 * e + 3] = _mm256_or_si256(q[4 * e + 3], _mm256_and_si256(_mm256_srli_epi16(v, 2), high));
            }
        }
    }
}

inline __m256 load_halfs(const uint8_t* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}

// Eight bytes to floats.
inline __m256 unsigned_floats(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }

// Scales of a cell, a vector of 8 outputs per half (the same one twice but for Q6_K).
template <LlmType type>
inline void cell_scales(const uint8_t* scales, int64_t cell, int64_t side, __m256 (&scale)[2],
                        __m256 (&offset)[2]) {
    if constexpr (type == LlmType::q4_0 || type == LlmType::q8_0) {
        scale[0] = scale[1] = load_halfs(scales + cell * 32 + side * 16);
        offset[0] = offset[1] =
            _mm256_mul_ps(scale[0], _mm256_set1_ps(type == LlmType::q4_0 ? -8.0f : -128.0f));
    } else if constexpr (type == LlmType::q4_K) {
        const uint8_t* super = scales + cell / 8 * 256;
        const uint8_t* bits = super + 64 + cell % 8 * 24;
        const __m128i four = _mm_set1_epi8(15), two = _mm_set1_epi8(0x30);
        const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bits + side * 8));
        const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bits + 16));
        // output i's high bits are the low nibbles, output i+8's the high ones; here in bits 4..7 of a byte
        const __m128i high = side ? both : _mm_slli_epi16(both, 4);
        const __m128i s = _mm_or_si128(_mm_and_si128(low, four), _mm_and_si128(high, two));
        const __m128i m = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(low, 4), four),
                                       _mm_and_si128(_mm_srli_epi16(high, 2), two));
        scale[0] = scale[1] = _mm256_mul_ps(load_halfs(super + side * 16), unsigned_floats(s));
        offset[0] = offset[1] =
            _mm256_fnmadd_ps(load_halfs(super + 32 + side * 16), unsigned_floats(m), _mm256_setzero_ps());
    } else {
        const uint8_t* super = scales + cell / 8 * 288;
        const __m256 d = load_halfs(super + side * 16);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const uint8_t* at = super + 32 + cell % 8 * 32 + half * 16 + side * 8;
            const __m128i s = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
            scale[half] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(s)));
            offset[half] = _mm256_mul_ps(scale[half], _mm256_set1_ps(-32.0f));
        }
    }
}

inline __m256i four_of(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

template <class Dot, LlmType type, int rows>
void panel_times_rows(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, float* out,
                      int64_t out_stride, int64_t n_valid) {
    const int64_t n_cells = n_in / kCellInputs;
    const uint8_t* scales = panel + static_cast<size_t>(n_cells) * llm_cell_bytes(type);
    const uint8_t* next = panel + llm_panel_bytes(type, n_in);
    LlmSmallRow row[rows];
    for (int r = 0; r < rows; ++r) row[r] = llm_small_row(x + static_cast<size_t>(r) * stride, n_in);
    for (int64_t side = 0; side < 2; ++side) {
        __m256 total[rows];
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) total[r] = _mm256_setzero_ps();
        for (int64_t cell = 0; cell < n_cells; ++cell) {
            prefetch_cell<type, 2>(next, n_in, cell, side);
            __m256i q[8];
            cell_values<type>(panel + static_cast<size_t>(cell) * llm_cell_bytes(type), side, q);
            __m256 scale[2], offset[2];
            cell_scales<type>(scales, cell, side, scale, offset);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
                const int8_t* a = row[r].q + cell * 32;
                const __m256 d = _mm256_set1_ps(row[r].scale[cell]);
                const float* sum = row[r].sum + 2 * cell;
                if constexpr (type == LlmType::q6_K) {
#pragma GCC unroll 2
                    for (int half = 0; half < 2; ++half) {
                        const __m256i dot = Dot::template of<type, 4>(q + 4 * half, a + 16 * half);
                        total[r] =
                            _mm256_fmadd_ps(_mm256_mul_ps(scale[half], d), _mm256_cvtepi32_ps(dot), total[r]);
                        total[r] = _mm256_fmadd_ps(offset[half], _mm256_set1_ps(sum[half]), total[r]);
                    }
                } else {
                    const __m256i dot = Dot::template of<type, 8>(q, a);
                    total[r] = _mm256_fmadd_ps(_mm256_mul_ps(scale[0], d), _mm256_cvtepi32_ps(dot), total[r]);
                    if constexpr (type != LlmType::q8_0 || !Dot::kCentres8Bits)
                        total[r] = _mm256_fmadd_ps(offset[0], _mm256_set1_ps(sum[0] + sum[1]), total[r]);
                }
            }
        }
        for (int r = 0; r < rows; ++r) {
            float values[8];
            _mm256_storeu_ps(values, total[r]);
            for (int64_t o = 0; o < 8 && side * 8 + o < n_valid; ++o)
                out[r * out_stride + side * 8 + o] = values[o];
        }
    }
}

template <class Dot, LlmType type>
void panel_times(const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, int64_t n, float* out,
                 int64_t out_stride, int64_t n_valid) {
    for (; n >= kRows; n -= kRows, x += kRows * stride, out += kRows * out_stride)
        panel_times_rows<Dot, type, kRows>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 3) panel_times_rows<Dot, type, 3>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 2) panel_times_rows<Dot, type, 2>(panel, n_in, x, stride, out, out_stride, n_valid);
    if (n == 1) panel_times_rows<Dot, type, 1>(panel, n_in, x, stride, out, out_stride, n_valid);
}

template <class Dot>
void small(LlmType type, const uint8_t* panel, int64_t n_in, const uint8_t* x, size_t stride, int64_t n,
           float* out, int64_t out_stride, int64_t n_valid) {
    switch (type) {
        case LlmType::q4_0:
            return panel_times<Dot, LlmType::q4_0>(panel, n_in, x, stride, n, out, out_stride, n_valid);
        case LlmType::q4_K:
            return panel_times<Dot, LlmType::q4_K>(panel, n_in, x, stride, n, out, out_stride, n_valid);
        case LlmType::q6_K:
            return panel_times<Dot, LlmType::q6_K>(panel, n_in, x, stride, n, out, out_stride, n_valid);
        case LlmType::q8_0:
            return panel_times<Dot, LlmType::q8_0>(panel, n_in, x, stride, n, out, out_stride, n_valid);
    }
}

inline int total_of(__m256i v) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}

inline void quantise(const float* x, int64_t n_in, int64_t first, int64_t last, uint8_t* row) {
    auto* q = reinterpret_cast<int8_t*>(row);
    auto* scale = reinterpret_cast<float*>(row + n_in);
    float* sum = scale + n_in / 32;
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    for (int64_t cell = first; cell < last; ++cell) {
        __m256 in[4];
        __m256i most = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            in[i] = _mm256_loadu_ps(x + cell * 32 + i * 8);
            // As integers NaN > infinity > every number.
            most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(in[i]), magnitude));
        }
        uint32_t bits[8], largest_bits = 0;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), most);
        for (const uint32_t b : bits) largest_bits = b > largest_bits ? b : largest_bits;
        float largest;
        std::memcpy(&largest, &largest_bits, sizeof largest);
        const bool is_finite = largest_bits < 0x7F800000u, is_zero = largest < 1e-30f;
        const __m256 inverse = _mm256_set1_ps(is_finite && !is_zero ? 127.0f / largest : 0.0f);
        __m256i v[4];
        for (int i = 0; i < 4; ++i)
            v[i] = is_finite ? _mm256_cvtps_epi32(_mm256_mul_ps(in[i], inverse)) : _mm256_setzero_si256();
        // Packing works on 128-bit halves; the permutation puts the groups of four back in order.
        const __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + cell * 32),
                            _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
        const float s = !is_finite ? __builtin_nanf("") : is_zero ? 0.0f : largest / 127.0f;
        scale[cell] = s;
        sum[2 * cell] = s * static_cast<float>(total_of(_mm256_add_epi32(v[0], v[1])));
        sum[2 * cell + 1] = s * static_cast<float>(total_of(_mm256_add_epi32(v[2], v[3])));
    }
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_AVX2_H
