// Attention of few queries (decoding) with AVX-512, in float32: keys and values are read once per query head,
// 64 keys at a time, with an online softmax. The rows of one head lie far apart in the cache, which no
// prefetcher of the CPU follows: values are asked for while scores are computed, and the next keys with the
// values.
#if defined(__x86_64__) && defined(__GNUC__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/llm/attention.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

#include "kernels/llm/attention_512bit.h"

namespace bluelm {
namespace {

constexpr int64_t kKeys = 64;
constexpr int64_t kMaxWidth = 256;

inline void prefetch_row(const char* row, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 3);
}

// One query over the keys of its head.
template <bool k_is_q8_0, bool v_is_q8_0>
void attend(const LlmAttention& a, const float* q, const char* k, const char* v, const char* mask,
            float* out) {
    const float kNone = -std::numeric_limits<float>::infinity();
    const int64_t width = a.head_dim;
    const int64_t k_bytes = k_is_q8_0 ? width / 32 * 34 : width * 2;
    const int64_t v_bytes = v_is_q8_0 ? width / 32 * 34 : width * 2;
    alignas(64) float sums[kMaxWidth] = {}, scores[kKeys];
    float most = kNone, total = 0;
    bool is_finite = true;
    for (int64_t first = 0; first < a.n_kv; first += kKeys) {
        const int64_t n = std::min(kKeys, a.n_kv - first);
        __m512 most_here = _mm512_set1_ps(kNone);
        for (int64_t j = 0; j < n; j += 16) {
            const int64_t count = std::min<int64_t>(16, n - j);
            const auto valid = static_cast<__mmask16>((1u << count) - 1u);
            __m512 bias = _mm512_setzero_ps();
            if (mask) {
                bias = _mm512_cvtph_ps(
                    _mm256_maskz_loadu_epi16(valid, mask + static_cast<size_t>(first + j) * 2));
            }
            // Keys that are masked out count for nothing, whatever they are.
            const __mmask16 used = valid & _mm512_cmp_ps_mask(bias, _mm512_set1_ps(kNone), _CMP_NEQ_UQ);
            alignas(64) float dots[16] = {};
            for (int64_t i = 0; i < count && used; ++i) {
                const char* row = k + static_cast<size_t>(first + j + i) * a.k_row;
                prefetch_row(v + static_cast<size_t>(first + j + i) * a.v_row, v_bytes);
                __m512 even = _mm512_setzero_ps(), odd = even;
                for (int64_t c = 0; c < width; c += 32) {
                    even = _mm512_fmadd_ps(elements(row, c, k_is_q8_0), _mm512_loadu_ps(q + c), even);
                    odd = _mm512_fmadd_ps(elements(row, c + 16, k_is_q8_0), _mm512_loadu_ps(q + c + 16), odd);
                }
                dots[i] = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
            }
            const __m512 score = _mm512_fmadd_ps(_mm512_load_ps(dots), _mm512_set1_ps(a.scale), bias);
            const __m512 x = _mm512_mask_mov_ps(_mm512_set1_ps(kNone), used, score);
            if (_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q)) is_finite = false;
            _mm512_store_ps(scores + j, x);
            most_here = _mm512_max_ps(most_here, x);
        }
        const float now = std::max(most, _mm512_reduce_max_ps(most_here));
        if (!(now > kNone)) continue;
        const float shrink = std::exp(most - now);
        __m512 sum = _mm512_setzero_ps();
        for (int64_t j = 0; j < n; j += 16) {
            const __m512 x = _mm512_load_ps(scores + j);
            const __mmask16 used = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kNone), _CMP_NEQ_UQ);
            const __m512 p = _mm512_maskz_mov_ps(used, exponential(_mm512_sub_ps(x, _mm512_set1_ps(now))));
            _mm512_store_ps(scores + j, p);
            sum = _mm512_add_ps(sum, p);
        }
        total = total * shrink + _mm512_reduce_add_ps(sum);
        most = now;
        for (int64_t c = 0; c < width; c += 32) {
            const __m512 before = _mm512_set1_ps(shrink);
            __m512 left = _mm512_mul_ps(_mm512_load_ps(sums + c), before);
            __m512 right = _mm512_mul_ps(_mm512_load_ps(sums + c + 16), before);
            for (int64_t j = 0; j < n; ++j) {
                if (scores[j] == 0) continue;  // values that are not used may be anything
                const char* row = v + static_cast<size_t>(first + j) * a.v_row;
                if (c == 0 && first + kKeys + j < a.n_kv)
                    prefetch_row(k + static_cast<size_t>(first + kKeys + j) * a.k_row, k_bytes);
                const __m512 p = _mm512_set1_ps(scores[j]);
                left = _mm512_fmadd_ps(p, elements(row, c, v_is_q8_0), left);
                right = _mm512_fmadd_ps(p, elements(row, c + 16, v_is_q8_0), right);
            }
            _mm512_store_ps(sums + c, left);
            _mm512_store_ps(sums + c + 16, right);
        }
    }
    // Nothing to attend to: zeros.
    const float factor = !is_finite ? std::numeric_limits<float>::quiet_NaN() : total == 0 ? 0.0f : 1 / total;
    for (int64_t c = 0; c < width; c += 16)
        _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_load_ps(sums + c), _mm512_set1_ps(factor)));
}

}  // namespace

void llm_attention_avx512(const LlmAttention& a, int64_t kv_head, int64_t first, int64_t last, uint8_t*) {
    const int64_t group = a.n_head / a.n_head_kv, end = std::min(last * kAttentionRows, a.n_rows);
    const char* k = a.k + static_cast<size_t>(kv_head) * a.k_head;
    const char* v = a.v + static_cast<size_t>(kv_head) * a.v_head;
    const auto one = a.k_is_q8_0   ? a.v_is_q8_0 ? attend<true, true> : attend<true, false>
                     : a.v_is_q8_0 ? attend<false, true>
                                   : attend<false, false>;
    for (int64_t row = first * kAttentionRows; row < end; ++row) {
        const char* mask = a.mask ? a.mask + static_cast<size_t>(row) * a.mask_row : nullptr;
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            const char* q = a.q + static_cast<size_t>(row) * a.q_row + static_cast<size_t>(head) * a.q_head;
            one(a, reinterpret_cast<const float*>(q), k, v, mask,
                a.out + (row * a.n_head + head) * a.head_dim);
        }
    }
}

}  // namespace bluelm

BLUELM_TARGET_END

#endif
