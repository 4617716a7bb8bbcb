// Attention with AMX: both products as bf16 tiles, 32 queries against 128 keys at a time.
//
// Scores decide exponentially, so queries and keys go in as two bf16 each (high and low part: 16 bits, more
// than the fp16 cache holds) and three of the four products are summed; for the weighted values one bf16 is
// as good as any other rounding of a mean.
//
// K of a head lies in tiles of 16 keys x 32 channels, [16 pairs of channels][16 keys][2], high part then low;
// V in tiles of 32 keys x 16 channels, [16 pairs of keys][16 channels][2].
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/amx_tiles.h"
#include "kernels/llm/attention.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,amx-tile,amx-bf16")

#include "kernels/llm/attention_512bit.h"

namespace bluelm {
namespace {

constexpr int64_t kRows = 32, kKeys = kAttentionKeys;  // queries and keys at a time
constexpr size_t kTile = 1024;

struct Scratch {
    uint8_t *k, *v;    // tiles
    uint8_t* q;        // [2 row tiles][head_dim / 32][high, low] tiles
    float* scores;     // [32][128]
    uint8_t* weights;  // [2 row tiles][4] tiles of bf16
    float* sums;       // [32][head_dim]
    Scratch(const LlmAttention& a, uint8_t* memory) {
        const auto keys = static_cast<size_t>((a.n_kv + kKeys - 1) / kKeys * kKeys);
        const auto width = static_cast<size_t>(a.head_dim);
        k = memory;
        v = k + keys * width * 4;
        q = v + keys * width * 2;
        scores = reinterpret_cast<float*>(q + 32 * width * 4);
        weights = reinterpret_cast<uint8_t*>(scores + kRows * kKeys);
        sums = reinterpret_cast<float*>(weights + kRows * kKeys * 2);
    }
};

// 32 floats to bf16, and what that leaves over to bf16.
inline void split(__m512 a, __m512 b, __m512i* high, __m512i* low) {
    *high = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m512 ha =
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(*high)), 16));
    const __m512 hb = _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(*high, 1)), 16));
    *low = (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(b, hb), _mm512_sub_ps(a, ha));
}

// 16 x 16 of 32 bits.
inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xDD);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

// Tiles of one KV head. K: [keys / 16][head_dim / 32][high, low]; V: [keys / 32][head_dim / 16].
void pack(const LlmAttention& a, int64_t head, const Scratch& s) {
    const char* k = a.k + static_cast<size_t>(head) * a.k_head;
    const char* v = a.v + static_cast<size_t>(head) * a.v_head;
    const int64_t keys = (a.n_kv + kKeys - 1) / kKeys * kKeys;
    uint8_t* to = s.k;
    for (int64_t key = 0; key < keys; key += 16) {
        for (int64_t i = 0; i < a.head_dim; i += 32, to += 2 * kTile) {
            __m512i high[16], low[16];
            for (int64_t j = 0; j < 16; ++j) {
                if (key + j < a.n_kv) {
                    const char* row = k + static_cast<size_t>(key + j) * a.k_row;
                    split(elements(row, i, a.k_is_q8_0), elements(row, i + 16, a.k_is_q8_0), &high[j],
                          &low[j]);
                } else {
                    high[j] = low[j] = _mm512_setzero_si512();
                }
            }
            transpose(high);
            transpose(low);
            for (int64_t j = 0; j < 16; ++j) {
                _mm512_store_si512(to + 64 * j, high[j]);
                _mm512_store_si512(to + kTile + 64 * j, low[j]);
            }
        }
    }
    to = s.v;
    const auto row = [&](int64_t key, int64_t i) {
        if (key >= a.n_kv) return _mm512_setzero_si512();
        const __m512 x = elements(v + static_cast<size_t>(key) * a.v_row, i, a.v_is_q8_0);
        return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    };
    for (int64_t key = 0; key < keys; key += 32) {
        for (int64_t i = 0; i < a.head_dim; i += 16, to += kTile) {
            for (int64_t j = 0; j < 16; ++j) {
                const __m512i even = row(key + 2 * j, i), odd = row(key + 2 * j + 1, i);
                _mm512_store_si512(to + 64 * j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
            }
        }
    }
}

void load_queries(const LlmAttention& a, int64_t head, int64_t row, const Scratch& s) {
    const int64_t steps = a.head_dim / 32;
    for (int64_t r = 0; r < kRows; ++r) {
        uint8_t* to =
            s.q + static_cast<size_t>(r / 16 * steps * 2) * kTile + static_cast<size_t>(r % 16) * 64;
        const auto* q = reinterpret_cast<const float*>(a.q + static_cast<size_t>(row + r) * a.q_row +
                                                       static_cast<size_t>(head) * a.q_head);
        for (int64_t i = 0; i < steps; ++i, to += 2 * kTile) {
            __m512i high = _mm512_setzero_si512(), low = high;
            if (row + r < a.n_rows)
                split(_mm512_loadu_ps(q + i * 32), _mm512_loadu_ps(q + i * 32 + 16), &high, &low);
            _mm512_store_si512(to, high);
            _mm512_store_si512(to + kTile, low);
        }
    }
}

// Scores of 32 queries and 32 keys from `key` on.
void multiply_keys(const LlmAttention& a, const Scratch& s, int64_t key, float* scores) {
    const int64_t steps = a.head_dim / 32;
    const uint8_t* q0 = s.q;
    const uint8_t* q1 = q0 + static_cast<size_t>(steps * 2) * kTile;
    const uint8_t* k0 = s.k + static_cast<size_t>(key / 16 * steps * 2) * kTile;
    const uint8_t* k1 = k0 + static_cast<size_t>(steps * 2) * kTile;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < steps; ++i, q0 += 2 * kTile, q1 += 2 * kTile, k0 += 2 * kTile, k1 += 2 * kTile) {
        // high * high, low * high, high * low
        _tile_loadd(6, k0, 64);
        _tile_loadd(7, k1, 64);
        _tile_loadd(4, q0 + kTile, 64);
        _tile_loadd(5, q1 + kTile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, q0, 64);
        _tile_loadd(5, q1, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, k0 + kTile, 64);
        _tile_loadd(7, k1 + kTile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, scores, kKeys * 4);
    _tile_stored(1, scores + 16, kKeys * 4);
    _tile_stored(2, scores + 16 * kKeys, kKeys * 4);
    _tile_stored(3, scores + 16 * kKeys + 16, kKeys * 4);
}

// sums += weights * V over kKeys keys from `key` on.
void multiply_values(const LlmAttention& a, const Scratch& s, int64_t key) {
    const int64_t columns = a.head_dim / 16;
    const long stride = static_cast<long>(a.head_dim) * 4;
    for (int64_t c = 0; c < columns; c += 2) {
        float* upper = s.sums + c * 16;
        float* lower = upper + 16 * a.head_dim;
        _tile_loadd(0, upper, stride);
        _tile_loadd(1, upper + 16, stride);
        _tile_loadd(2, lower, stride);
        _tile_loadd(3, lower + 16, stride);
        for (int64_t i = 0; i < kKeys / 32; ++i) {
            const uint8_t* v = s.v + static_cast<size_t>((key / 32 + i) * columns + c) * kTile;
            _tile_loadd(4, s.weights + static_cast<size_t>(i) * kTile, 64);
            _tile_loadd(5, s.weights + static_cast<size_t>(kKeys / 32 + i) * kTile, 64);
            _tile_loadd(6, v, 64);
            _tile_loadd(7, v + kTile, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, upper, stride);
        _tile_stored(1, upper + 16, stride);
        _tile_stored(2, lower, stride);
        _tile_stored(3, lower + 16, stride);
    }
}

// A row's scores to weights; the sums that stand so far are scaled to the new maximum.
void weigh_row(const LlmAttention& a, const Scratch& s, int64_t r, int64_t row, int64_t key, float* most,
               float* total) {
    constexpr int kVectors = kKeys / 16;
    const float* score = s.scores + r * kKeys;
    const char* mask = a.mask ? a.mask + static_cast<size_t>(row) * a.mask_row + key * 2 : nullptr;
    const __m512 scale = _mm512_set1_ps(a.scale), lowest = _mm512_set1_ps(-INFINITY);
    __m512 x[kVectors], peak = lowest;
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
        const int64_t left = a.n_kv - key - i * 16;
        const auto valid = static_cast<__mmask16>(left >= 16 ? 0xFFFF : left > 0 ? (1 << left) - 1 : 0);
        x[i] = _mm512_mul_ps(_mm512_load_ps(score + i * 16), scale);
        if (mask) {
            const __m256i h = _mm256_maskz_loadu_epi16(valid, mask + i * 32);
            x[i] = _mm512_add_ps(x[i], _mm512_cvtph_ps(h));
        }
        x[i] = _mm512_mask_blend_ps(valid, lowest, x[i]);
        peak = _mm512_max_ps(peak, x[i]);
    }
    const float before = *most, now = std::fmax(before, _mm512_reduce_max_ps(peak));
    const __m512 middle = _mm512_set1_ps(now == -INFINITY ? 0.0f : now);
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
        const __mmask16 counts = _mm512_cmp_ps_mask(x[i], lowest, _CMP_NEQ_UQ);
        x[i] = _mm512_maskz_mov_ps(counts, exponential(_mm512_sub_ps(x[i], middle)));
        sum = _mm512_add_ps(sum, x[i]);
    }
    uint8_t* to =
        s.weights + static_cast<size_t>(r / 16 * (kKeys / 32)) * kTile + static_cast<size_t>(r % 16) * 64;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; i += 2)
        _mm512_store_si512(to + i / 2 * kTile, (__m512i)_mm512_cvtne2ps_pbh(x[i + 1], x[i]));
    if (now > before && before != -INFINITY) {
        const float shrink = std::exp(before - now);
        *total *= shrink;
        float* sums = s.sums + r * a.head_dim;
        for (int64_t i = 0; i < a.head_dim; i += 16)
            _mm512_store_ps(sums + i, _mm512_mul_ps(_mm512_load_ps(sums + i), _mm512_set1_ps(shrink)));
    }
    *most = now;
    *total += _mm512_reduce_add_ps(sum);
}

// Whether no query of the block may look at kKeys keys from `key` on (every one is at -infinity).
bool is_masked(const LlmAttention& a, int64_t row, int64_t key) {
    if (!a.mask) return false;
    const __m512i lowest = _mm512_set1_epi16(static_cast<short>(0xFC00));
    const int64_t end = std::min(row + kRows, a.n_rows), n = std::min(kKeys, a.n_kv - key);
    for (int64_t r = end - 1; r >= row; --r) {  // a causal mask lets the last one see most
        const char* at = a.mask + static_cast<size_t>(r) * a.mask_row + key * 2;
        for (int64_t i = 0; i < n; i += 32) {
            const int64_t left = n - i;
            const __mmask32 valid = left >= 32 ? 0xFFFFFFFFu : (1u << left) - 1;
            if (_mm512_mask_cmpneq_epi16_mask(valid, _mm512_maskz_loadu_epi16(valid, at + i * 2), lowest))
                return false;
        }
    }
    return true;
}

// All query heads of one KV head and rows first_row..end_row, from a multiple of kRows on.
void attend(const LlmAttention& a, int64_t kv_head, int64_t first_row, int64_t end_row, const Scratch& s) {
    pack(a, kv_head, s);
    const int64_t group = a.group();
    for (int64_t row = first_row; row < end_row; row += kRows) {
        const int64_t n_rows = std::min(kRows, end_row - row);
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            float most[kRows], total[kRows];
            std::fill_n(most, kRows, -INFINITY);
            std::fill_n(total, kRows, 0.0f);
            std::memset(s.sums, 0, static_cast<size_t>(kRows * a.head_dim) * sizeof(float));
            std::memset(s.weights, 0, kRows * kKeys * 2);  // rows beyond the last stay so
            load_queries(a, head, row, s);
            for (int64_t key = 0; key < a.n_kv; key += kKeys) {
                if (is_masked(a, row, key)) continue;
                for (int64_t i = 0; i < kKeys; i += 32) multiply_keys(a, s, key + i, s.scores + i);
                for (int64_t r = 0; r < n_rows; ++r) weigh_row(a, s, r, row + r, key, &most[r], &total[r]);
                multiply_values(a, s, key);
            }
            for (int64_t r = 0; r < n_rows; ++r) {
                float* out = a.out + ((row + r) * a.n_head + head) * a.head_dim;
                const __m512 share = _mm512_set1_ps(total[r] == 0 ? 0.0f : 1.0f / total[r]);
                for (int64_t i = 0; i < a.head_dim; i += 16)
                    _mm512_storeu_ps(out + i,
                                     _mm512_mul_ps(_mm512_load_ps(s.sums + r * a.head_dim + i), share));
            }
        }
    }
}

void run(const LlmAttention& a, const LlmAttentionPart& part, uint8_t* scratch) {
    const Scratch s(a, scratch);
    const TileConfig config;
    load_config(config);
    for (int64_t head = part.first_head; head < part.end_head; ++head)
        attend(a, head, part.first_lane / a.group(), part.end_lane / a.group(), s);
    release_tiles();
}

size_t scratch_bytes(const LlmAttention& a, const LlmAttentionPart&) {
    const auto keys = static_cast<size_t>((a.n_kv + kKeys - 1) / kKeys * kKeys);
    const auto width = static_cast<size_t>(a.head_dim), rows = static_cast<size_t>(kRows);
    // K in two parts of bf16, V; queries in two parts, scores, weights, sums
    return keys * width * 6 + rows * width * 4 + rows * static_cast<size_t>(kKeys) * 6 + rows * width * 4;
}

}  // namespace

const LlmAttentionKernel kAttentionGemmAmx = {run, scratch_bytes, kRows, true, 1};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
