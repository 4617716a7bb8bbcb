// Attention of a few queries (decoding), in float32, for any vector width. Included between
// BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other headers, by the file that defines the vectors.
//
// Memory decides: the keys and values of a step are read once, 64 keys at a time, by all lanes of a head
// while they are in the cache. Heads beside one another follow within these keys: their rows share pages,
// which costs far fewer misses of the TLB than a walk over the whole cache for each head.
#ifndef BLUELM_LLM_ATTENTION_GEMV_H
#define BLUELM_LLM_ATTENTION_GEMV_H

namespace bluelm {
namespace {

// Vec: as in attention_gemm.h, and sums(acc): the horizontal sums of kN vectors.
template <class Vec, bool k_is_q8_0, bool v_is_q8_0>
class AttentionGemv {
public:
    static void run(const LlmAttention& a, const LlmAttentionPart& part, uint8_t* memory) {
        AttentionGemv(a, part, memory).run();
    }

private:
    using T = typename Vec::T;
    static constexpr int64_t kN = Vec::kN;
    static constexpr int64_t kKeys = 64;

    AttentionGemv(const LlmAttention& shape, const LlmAttentionPart& which, uint8_t* memory)
        : a(shape),
          part(which),
          group(shape.group()),
          k_bytes(k_is_q8_0 ? shape.head_dim / 32 * 34 : shape.head_dim * 2),
          v_bytes(v_is_q8_0 ? shape.head_dim / 32 * 34 : shape.head_dim * 2),
          most(reinterpret_cast<float*>(memory)),
          total(most + which.n_heads() * which.n_lanes()) {}

    void run() {
        const int64_t n_states = part.n_heads() * part.n_lanes();
        std::fill_n(most, n_states, -INFINITY);
        std::fill_n(total, n_states, 0.0f);
        for (int64_t head = part.first_head; head < part.end_head; ++head)
            for (int64_t lane = part.first_lane; lane < part.end_lane; ++lane)
                std::memset(out_of(head, lane), 0, static_cast<size_t>(a.head_dim) * sizeof(float));
        for (int64_t key = 0; key < a.n_kv; key += kKeys) {
            const int64_t n = std::min(kKeys, a.n_kv - key);
            for (int64_t head = part.first_head; head < part.end_head; ++head) {
                const bool is_last = head + 1 == part.end_head;
                next_head = is_last ? part.first_head : head + 1;
                next_key = is_last ? key + kKeys : key;
                for (int64_t lane = part.first_lane; lane < part.end_lane; ++lane) attend(head, lane, key, n);
            }
        }
        for (int64_t head = part.first_head; head < part.end_head; ++head)
            for (int64_t lane = part.first_lane; lane < part.end_lane; ++lane) finish(head, lane);
    }

    // One query and 64 keys.
    void attend(int64_t head, int64_t lane, int64_t key, int64_t n) {
        const T none = Vec::set(-INFINITY);
        const char* keys = a.k + static_cast<size_t>(head) * a.k_head + static_cast<size_t>(key) * a.k_row;
        const auto* q =
            reinterpret_cast<const float*>(a.q + static_cast<size_t>(lane / group) * a.q_row +
                                           static_cast<size_t>(head * group + lane % group) * a.q_head);
        alignas(64) float weights[kKeys];
        T peak = none;
        for (int64_t j = 0; j < n; j += kN) {
            if (lane == part.first_lane) prefetch(j);
            const T bias = bias_of(lane / group, key + j, std::min(kN, n - j));
            T score = none;
            if (!Vec::all_equal(bias, none)) {
                T sum[kN];
                const char* rows[kN];
#pragma GCC unroll 16
                for (int i = 0; i < kN; ++i) {
                    rows[i] = keys + static_cast<size_t>(std::min(j + i, n - 1)) * a.k_row;
                    sum[i] = Vec::set(0);
                }
                for (int64_t c = 0; c < a.head_dim; c += kN) {
                    const T x = Vec::loadu(q + c);
#pragma GCC unroll 16
                    for (int i = 0; i < kN; ++i) sum[i] = Vec::fma(element<k_is_q8_0>(rows[i], c), x, sum[i]);
                }
                // What is masked out counts for nothing, whatever it is.
                score = Vec::fma(Vec::sums(sum), Vec::set(a.scale), bias);
                score = Vec::where_equal(bias, none, none, score);
            }
            Vec::store(weights + j, score);
            peak = Vec::max(score, peak);
        }
        float& my_most = most[state_of(head, lane)];
        float& my_total = total[state_of(head, lane)];
        alignas(64) float peaks[kN];
        Vec::store(peaks, peak);
        const float now = std::max(my_most, *std::max_element(peaks, peaks + kN));
        if (now == -INFINITY) {
            // A score that is no number is not the largest either, but must not be lost.
            for (int64_t j = 0; j < n; ++j)
                if (std::isnan(weights[j])) my_total = NAN;
            return;
        }
        const float shrink = my_most == -INFINITY ? 0.0f : std::exp(my_most - now);
        T sum = Vec::set(0);
        for (int64_t j = 0; j < n; j += kN) {
            const T x = Vec::load(weights + j);
            const T p = Vec::where_equal(x, none, Vec::set(0), Vec::exp(Vec::sub(x, Vec::set(now))));
            Vec::store(weights + j, p);
            sum = Vec::add(sum, p);
        }
        alignas(64) float parts[kN];
        Vec::store(parts, sum);
        my_total *= my_most == -INFINITY && !std::isnan(my_total) ? 0.0f : shrink;
        for (const float x : parts) my_total += x;
        my_most = now;
        add_values(head, lane, key, n, weights, shrink);
    }

    void add_values(int64_t head, int64_t lane, int64_t key, int64_t n, const float* weights,
                    float shrink) const {
        const char* values = a.v + static_cast<size_t>(head) * a.v_head + static_cast<size_t>(key) * a.v_row;
        float* out = out_of(head, lane);
        int64_t c = 0;
        for (; c + 8 * kN <= a.head_dim; c += 8 * kN) add_columns<8>(values, c, n, weights, shrink, out);
        for (; c + 4 * kN <= a.head_dim; c += 4 * kN) add_columns<4>(values, c, n, weights, shrink, out);
        for (; c < a.head_dim; c += 2 * kN) add_columns<2>(values, c, n, weights, shrink, out);
    }

    template <int kWide>
    void add_columns(const char* row, int64_t c, int64_t n, const float* weights, float shrink,
                     float* out) const {
        T sum[kWide];
#pragma GCC unroll 8
        for (int w = 0; w < kWide; ++w) sum[w] = Vec::mul(Vec::loadu(out + c + w * kN), Vec::set(shrink));
        for (int64_t j = 0; j < n; ++j, row += a.v_row) {
            if (weights[j] == 0) continue;  // values that are not used may be anything
            const T p = Vec::set(weights[j]);
#pragma GCC unroll 8
            for (int w = 0; w < kWide; ++w) sum[w] = Vec::fma(p, element<v_is_q8_0>(row, c + w * kN), sum[w]);
        }
#pragma GCC unroll 8
        for (int w = 0; w < kWide; ++w) Vec::storeu(out + c + w * kN, sum[w]);
    }

    void finish(int64_t head, int64_t lane) const {
        const float sum = total[state_of(head, lane)];
        const T share = Vec::set(sum == 0 ? 0.0f : 1.0f / sum);  // nothing to attend to: zeros
        float* out = out_of(head, lane);
        for (int64_t c = 0; c < a.head_dim; c += kN)
            Vec::storeu(out + c, Vec::mul(Vec::loadu(out + c), share));
    }

    template <bool is_q8_0>
    static T element(const char* row, int64_t c) {
        if constexpr (is_q8_0)
            return Vec::q8_0(row, c);
        else
            return Vec::halfs(row + c * 2);
    }

    // Mask of `count` keys; -infinity behind them.
    T bias_of(int64_t row, int64_t key, int64_t count) const {
        if (!a.mask && count == kN) return Vec::set(0);
        alignas(64) uint16_t bits[kN];
        const char* from = a.mask + static_cast<size_t>(row) * a.mask_row + static_cast<size_t>(key) * 2;
        if (a.mask && count == kN) return Vec::halfs(from);
        std::fill_n(bits, kN, static_cast<uint16_t>(0xFC00));
        if (a.mask)
            std::memcpy(bits, from, static_cast<size_t>(count) * 2);
        else
            std::fill_n(bits, count, static_cast<uint16_t>(0));
        return Vec::halfs(reinterpret_cast<const char*>(bits));
    }

    // kN of the keys and values that come next, from `first` of them on.
    void prefetch(int64_t first) const {
        for (int64_t j = next_key + first; j < std::min(next_key + first + kN, a.n_kv); ++j) {
            const char* k_row =
                a.k + static_cast<size_t>(next_head) * a.k_head + static_cast<size_t>(j) * a.k_row;
            const char* v_row =
                a.v + static_cast<size_t>(next_head) * a.v_head + static_cast<size_t>(j) * a.v_row;
            for (int64_t i = 0; i < k_bytes; i += 64) __builtin_prefetch(k_row + i, 0, 3);
            for (int64_t i = 0; i < v_bytes; i += 64) __builtin_prefetch(v_row + i, 0, 3);
        }
    }

    int64_t state_of(int64_t head, int64_t lane) const {
        return (head - part.first_head) * part.n_lanes() + lane - part.first_lane;
    }
    float* out_of(int64_t head, int64_t lane) const {
        return a.out + (lane / group * a.n_head + head * group + lane % group) * a.head_dim;
    }

    const LlmAttention& a;
    const LlmAttentionPart& part;
    const int64_t group, k_bytes, v_bytes;
    float *const most, *const total;  // of each head and lane
    int64_t next_head = 0, next_key = 0;
};

template <class Vec>
void attention_gemv(const LlmAttention& a, const LlmAttentionPart& part, uint8_t* scratch) {
    if (a.k_is_q8_0)
        a.v_is_q8_0 ? AttentionGemv<Vec, true, true>::run(a, part, scratch)
                    : AttentionGemv<Vec, true, false>::run(a, part, scratch);
    else
        a.v_is_q8_0 ? AttentionGemv<Vec, false, true>::run(a, part, scratch)
                    : AttentionGemv<Vec, false, false>::run(a, part, scratch);
}

inline size_t attention_gemv_scratch(const LlmAttention&, const LlmAttentionPart& part) {
    return static_cast<size_t>(2 * part.n_heads() * part.n_lanes()) * sizeof(float);
}

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_ATTENTION_GEMV_H
