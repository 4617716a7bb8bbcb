// Attention of many queries as two blocked matrix products, for any vector width. Included between
// BLUELM_TARGET_BEGIN and BLUELM_TARGET_END, after all other headers, by the file that defines the vectors.
//
// The lanes of one KV head are the columns of both products:
//
//   scores[key][lane]   = sum over channels of K[key][channel] * Q^T[channel][lane]      kKeyTile x kVectors
//   out[lane][channel] += sum over keys of weights[key][lane] * V[key][channel]          kLaneTile x kVectors
//
// so that neither K nor V is transposed: each element of K is broadcast against a vector of lanes, each
// weight against a vector of channels, and the softmax runs down the columns without horizontal operations.
// 128 keys at a time are converted to float32 and used by all lanes. Sums stand in `out` itself and are
// scaled when the maximum moves. Scores are float32; weights and values too, or bf16 where the CPU multiplies
// pairs of them at twice the rate (Vec::kPairs: two keys side by side in 32 bits).
#ifndef BLUELM_LLM_ATTENTION_GEMM_H
#define BLUELM_LLM_ATTENTION_GEMM_H

namespace bluelm {
namespace {

// Vec: a vector of floats `T` of kN elements and what is done with it. Registers of sums: kKeyTile keys x
// kVectors vectors of lanes, kLaneTile lanes x kColumns vectors of channels.
template <class Vec>
class AttentionGemm {
public:
    static constexpr int64_t kN = Vec::kN;
    static constexpr int64_t kLanes = Vec::kVectors * kN;  // columns of a block
    static constexpr int64_t kKeys = kAttentionKeys;
    static constexpr int64_t kPaddedKeys = (kKeys + Vec::kKeyTile - 1) / Vec::kKeyTile * Vec::kKeyTile;

    AttentionGemm(const LlmAttention& shape, const LlmAttentionPart& which, uint8_t* memory)
        : a(shape), part(which), group(shape.group()), n_blocks(blocks(which)) {
        float* at = reinterpret_cast<float*>(memory);
        const auto take = [&](int64_t n) {
            float* taken = at;
            at += n;
            return taken;
        };
        const int64_t n_lanes = part.n_heads() * n_blocks * kLanes;
        k = take(kKeys * a.head_dim);
        v = take(kKeys * a.head_dim);
        scores = take(kPaddedKeys * kLanes);
        bias = take(kKeys * kLanes);
        most = take(n_lanes);
        total = take(n_lanes);
        shrink = take(kLanes);
        q = take(n_lanes * a.head_dim);
    }

    static void run(const LlmAttention& a, const LlmAttentionPart& part, uint8_t* memory) {
        AttentionGemm(a, part, memory).run();
    }
    static size_t scratch(const LlmAttention& a, const LlmAttentionPart& part) {
        const int64_t n_lanes = part.n_heads() * blocks(part) * kLanes;
        const int64_t floats =
            2 * kKeys * a.head_dim + (kPaddedKeys + kKeys) * kLanes + n_lanes * (2 + a.head_dim) + kLanes;
        return static_cast<size_t>(floats) * sizeof(float);
    }

private:
    using T = typename Vec::T;
    enum class Mask { kNone, kMixed, kHidesAll };  // of a block of lanes and keys
    static int64_t blocks(const LlmAttentionPart& part) { return (part.n_lanes() + kLanes - 1) / kLanes; }

    void run() {
        load_queries();
        for (int64_t key = 0; key < a.n_kv; key += kKeys) {
            const int64_t n = std::min(kKeys, a.n_kv - key);
            for (int64_t head = part.first_head; head < part.end_head; ++head) {
                // The next to be worked on: rows of one head lie far apart, which no prefetcher of the CPU
                // follows.
                const bool is_last = head + 1 == part.end_head;
                next_head = is_last ? part.first_head : head + 1;
                next_key = is_last ? key + kKeys : key;
                run(head, key, n);
            }
        }
        finish();
    }

    // 128 keys of one head with all lanes.
    void run(int64_t head, int64_t key, int64_t n) {
        bool is_loaded = false;
        for (int64_t block = 0; block < n_blocks; ++block) {
            const Mask mask = look_at_mask(block, key, n);
            if (mask == Mask::kHidesAll) continue;
            if (!is_loaded) load_keys_and_values(head, key, n);
            multiply_keys(head, block, n, !is_loaded);
            is_loaded = true;
            if (mask == Mask::kMixed) transpose_mask(block, key, n);
            weigh(head, block, n, mask == Mask::kMixed);
            multiply_values(head, block, n);
        }
    }

    // `lane` counts from the part's first.
    int64_t row_of(int64_t lane) const { return (part.first_lane + lane) / group; }
    int64_t query_head_of(int64_t head, int64_t lane) const {
        return head * group + (part.first_lane + lane) % group;
    }
    float* out_of(int64_t head, int64_t lane) const {
        return a.out + (row_of(lane) * a.n_head + query_head_of(head, lane)) * a.head_dim;
    }
    // Index of a block's first lane among the states of all lanes.
    int64_t state_of(int64_t head, int64_t block) const {
        return ((head - part.first_head) * n_blocks + block) * kLanes;
    }
    const uint16_t* mask_of(int64_t row, int64_t key) const {
        return reinterpret_cast<const uint16_t*>(a.mask + static_cast<size_t>(row) * a.mask_row) + key;
    }

    void load_queries() {
        std::fill_n(most, part.n_heads() * n_blocks * kLanes, -INFINITY);
        std::fill_n(total, part.n_heads() * n_blocks * kLanes, 0.0f);
        for (int64_t head = part.first_head; head < part.end_head; ++head) {
            for (int64_t lane = 0; lane < n_blocks * kLanes; ++lane) {
                float* to = q + state_of(head, lane / kLanes) * a.head_dim + lane % kLanes;
                if (lane >= part.n_lanes()) {
                    for (int64_t c = 0; c < a.head_dim; ++c) to[c * kLanes] = 0;
                    continue;
                }
                const auto* from =
                    reinterpret_cast<const float*>(a.q + static_cast<size_t>(row_of(lane)) * a.q_row +
                                                   static_cast<size_t>(query_head_of(head, lane)) * a.q_head);
                for (int64_t c = 0; c < a.head_dim; ++c) to[c * kLanes] = from[c] * a.scale;
                std::memset(out_of(head, lane), 0, static_cast<size_t>(a.head_dim) * sizeof(float));
            }
        }
    }

    const char* key_at(int64_t head, int64_t key) const {
        return a.k + static_cast<size_t>(head) * a.k_head + static_cast<size_t>(key) * a.k_row;
    }
    const char* value_at(int64_t head, int64_t key) const {
        return a.v + static_cast<size_t>(head) * a.v_head + static_cast<size_t>(key) * a.v_row;
    }

    void load_keys_and_values(int64_t head, int64_t key, int64_t n) {
        load(key_at(head, key), a.k_row, a.k_is_q8_0, n, k);
        const char* values = value_at(head, key);
        if constexpr (Vec::kPairs)
            load_pairs(values, n);
        else
            load(values, a.v_row, a.v_is_q8_0, n, v);
    }

    // Values as pairs of bf16: [n / 2, rounded up][head_dim][2].
    void load_pairs(const char* from, int64_t n) const {
        float* to = v;
        for (int64_t j = 0; j < n; j += 2, from += 2 * a.v_row, to += a.head_dim) {
            const char* next = j + 1 < n ? from + a.v_row : nullptr;
            for (int64_t c = 0; c < a.head_dim; c += kN) {
                const T even = a.v_is_q8_0 ? Vec::q8_0(from, c) : Vec::halfs(from + c * 2);
                const T odd = !next         ? Vec::set(0)
                              : a.v_is_q8_0 ? Vec::q8_0(next, c)
                                            : Vec::halfs(next + c * 2);
                Vec::store_pairs(to + c, even, odd);
            }
        }
    }

    void load(const char* from, size_t stride, bool is_q8_0, int64_t n, float* to) const {
        const int64_t width = a.head_dim;
        for (int64_t j = 0; j < n; ++j, from += stride, to += width) {
            if (is_q8_0)
                for (int64_t c = 0; c < width; c += kN) Vec::store(to + c, Vec::q8_0(from, c));
            else
                for (int64_t c = 0; c < width; c += kN) Vec::store(to + c, Vec::halfs(from + c * 2));
        }
    }

    // The keys and values that come next, from `first` of them on.
    void prefetch(int64_t first, int64_t n) const {
        const int64_t k_bytes = a.k_is_q8_0 ? a.head_dim / 32 * 34 : a.head_dim * 2;
        const int64_t v_bytes = a.v_is_q8_0 ? a.head_dim / 32 * 34 : a.head_dim * 2;
        for (int64_t j = next_key + first; j < std::min(next_key + first + n, a.n_kv); ++j) {
            const char *k_row = key_at(next_head, j), *v_row = value_at(next_head, j);
            for (int64_t i = 0; i < k_bytes; i += 64) __builtin_prefetch(k_row + i, 0, 2);
            for (int64_t i = 0; i < v_bytes; i += 64) __builtin_prefetch(v_row + i, 0, 2);
        }
    }

    // Rows below see more in a causal mask: the last row first for "hides nothing", the first for "hides
    // all".
    Mask look_at_mask(int64_t block, int64_t key, int64_t n) const {
        if (!a.mask) return Mask::kNone;
        const int64_t first = row_of(block * kLanes);
        const int64_t last = row_of(std::min(part.n_lanes(), (block + 1) * kLanes) - 1);
        bool has_none = true, hides_all = true;
        for (int64_t row = last; row >= first && (has_none || hides_all); --row) {
            const uint16_t* at = mask_of(row, key);
            uint16_t some = 0, visible = 0;
            for (int64_t j = 0; j < n; ++j) {
                some = static_cast<uint16_t>(some | at[j]);
                visible = static_cast<uint16_t>(visible | (at[j] ^ 0xFC00u));
            }
            has_none = has_none && some == 0;
            hides_all = hides_all && visible == 0;
        }
        return hides_all ? Mask::kHidesAll : has_none ? Mask::kNone : Mask::kMixed;
    }

    void transpose_mask(int64_t block, int64_t key, int64_t n) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const int64_t mine = block * kLanes + lane;
            float* to = bias + lane;
            if (mine >= part.n_lanes()) {
                for (int64_t j = 0; j < n; ++j) to[j * kLanes] = 0;
            } else if (lane > 0 && row_of(mine) == row_of(mine - 1)) {
                for (int64_t j = 0; j < n; ++j) to[j * kLanes] = to[j * kLanes - 1];
            } else {
                const uint16_t* at = mask_of(row_of(mine), key);
                for (int64_t j = 0; j < n; ++j)
                    to[j * kLanes] = at[j] == 0        ? 0.0f
                                     : at[j] == 0xFC00 ? -INFINITY
                                                       : ggml_fp16_to_fp32(at[j]);
            }
        }
    }

    // scores[key][lane] of n keys; up to kKeyTile - 1 rows beyond n are rubbish.
    void multiply_keys(int64_t head, int64_t block, int64_t n, bool is_first) {
        const float* qt = q + state_of(head, block) * a.head_dim;
        for (int64_t j = 0; j < n; j += Vec::kKeyTile) {
            if (is_first) prefetch(j, Vec::kKeyTile);
            const float* rows[Vec::kKeyTile];
            for (int64_t i = 0; i < Vec::kKeyTile; ++i) rows[i] = k + std::min(j + i, n - 1) * a.head_dim;
            multiply_key_tile(rows, qt, a.head_dim, scores + j * kLanes);
        }
    }

    static void multiply_key_tile(const float* const (&keys)[Vec::kKeyTile], const float* qt, int64_t width,
                                  float* to) {
        T sum[Vec::kKeyTile][Vec::kVectors];
#pragma GCC unroll 12
        for (int i = 0; i < Vec::kKeyTile; ++i)
#pragma GCC unroll 4
            for (int w = 0; w < Vec::kVectors; ++w) sum[i][w] = Vec::set(0);
        for (int64_t c = 0; c < width; ++c) {
            T lanes[Vec::kVectors];
#pragma GCC unroll 4
            for (int w = 0; w < Vec::kVectors; ++w) lanes[w] = Vec::load(qt + c * kLanes + w * kN);
#pragma GCC unroll 12
            for (int i = 0; i < Vec::kKeyTile; ++i) {
                const T x = Vec::set(keys[i][c]);
#pragma GCC unroll 4
                for (int w = 0; w < Vec::kVectors; ++w) sum[i][w] = Vec::fma(x, lanes[w], sum[i][w]);
            }
        }
#pragma GCC unroll 12
        for (int i = 0; i < Vec::kKeyTile; ++i)
#pragma GCC unroll 4
            for (int w = 0; w < Vec::kVectors; ++w) Vec::store(to + i * kLanes + w * kN, sum[i][w]);
    }

    // Scores to weights, and how much the lanes' sums shrink.
    void weigh(int64_t head, int64_t block, int64_t n, bool has_bias) {
        for (int64_t i = 0; i < Vec::kVectors; ++i) {
            float* at = scores + i * kN;
            float* my_most = most + state_of(head, block) + i * kN;
            float* my_total = total + state_of(head, block) + i * kN;
            const T none = Vec::set(-INFINITY);
            const T before = Vec::load(my_most);
            T now = before;
            if (has_bias) {
                for (int64_t j = 0; j < n; ++j) {
                    const T b = Vec::load(bias + i * kN + j * kLanes);
                    // What is masked out counts for nothing, whatever it is.
                    const T x = Vec::where_equal(b, none, none, Vec::add(Vec::load(at + j * kLanes), b));
                    Vec::store(at + j * kLanes, x);
                    now = Vec::max(x, now);
                }
            } else {
                for (int64_t j = 0; j < n; ++j) now = Vec::max(Vec::load(at + j * kLanes), now);
            }
            const T middle = Vec::where_equal(now, none, Vec::set(0), now);
            const auto weight = [&](int64_t j) {
                const T x = Vec::load(at + j * kLanes);
                return Vec::where_equal(x, none, Vec::set(0), Vec::exp(Vec::sub(x, middle)));
            };
            T sum = Vec::set(0);
            for (int64_t j = 0; j < n; ++j) {
                const T p = weight(j);
                sum = Vec::add(sum, p);
                if constexpr (Vec::kPairs) {  // pair j / 2 takes the place of scores that are read already
                    const T odd = ++j < n ? weight(j) : Vec::set(0);
                    sum = Vec::add(sum, odd);
                    Vec::store_pairs(at + j / 2 * kLanes, p, odd);
                } else {
                    Vec::store(at + j * kLanes, p);
                }
            }
            const T factor = Vec::where_equal(before, none, Vec::set(0), Vec::exp(Vec::sub(before, middle)));
            Vec::store(shrink + i * kN, factor);
            Vec::store(my_total, Vec::fma(Vec::load(my_total), factor, sum));
            Vec::store(my_most, now);
        }
    }

    void multiply_values(int64_t head, int64_t block, int64_t n) {
        const int64_t here = std::min(kLanes, part.n_lanes() - block * kLanes);
        for (int64_t lane = 0; lane < here; lane += Vec::kLaneTile) {
            float* rows[Vec::kLaneTile];
            const int64_t count = std::min<int64_t>(Vec::kLaneTile, here - lane);
            for (int64_t i = 0; i < count; ++i) rows[i] = out_of(head, block * kLanes + lane + i);
            multiply_values_of<Vec::kLaneTile>(count, lane, n, rows);
        }
    }

    template <int kRows>
    void multiply_values_of(int64_t count, int64_t lane, int64_t n, float* const* rows) const {
        if (count == kRows) {
            constexpr int64_t kWide = Vec::kColumns * kN;
            int64_t c = 0;
            for (; c + kWide <= a.head_dim; c += kWide)
                multiply_value_tile<kRows, Vec::kColumns>(lane, c, n, rows);
            for (; c < a.head_dim; c += 2 * kN) multiply_value_tile<kRows, 2>(lane, c, n, rows);
        } else if constexpr (kRows > 1) {
            multiply_values_of<kRows - 1>(count, lane, n, rows);
        }
    }

    // kRows lanes x kWide vectors of channels from c on.
    template <int kRows, int kWide>
    void multiply_value_tile(int64_t lane, int64_t c, int64_t n, float* const* rows) const {
        const float *p = scores + lane, *values = v + c;
        T sum[kRows][kWide];
#pragma GCC unroll 6
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
            for (int w = 0; w < kWide; ++w)
                sum[i][w] = Vec::mul(Vec::loadu(rows[i] + c + w * kN), Vec::set(shrink[lane + i]));
        const int64_t n_steps = Vec::kPairs ? (n + 1) / 2 : n, width = a.head_dim;
        for (int64_t j = 0; j < n_steps; ++j, p += kLanes, values += width) {
            T x[kWide];
#pragma GCC unroll 4
            for (int w = 0; w < kWide; ++w) x[w] = Vec::load(values + w * kN);
#pragma GCC unroll 6
            for (int i = 0; i < kRows; ++i) {
                const T weight = Vec::set(p[i]);
#pragma GCC unroll 4
                for (int w = 0; w < kWide; ++w) sum[i][w] = Vec::add_weighted(weight, x[w], sum[i][w]);
            }
        }
#pragma GCC unroll 6
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
            for (int w = 0; w < kWide; ++w) Vec::storeu(rows[i] + c + w * kN, sum[i][w]);
    }

    void finish() {
        for (int64_t head = part.first_head; head < part.end_head; ++head) {
            for (int64_t lane = 0; lane < part.n_lanes(); ++lane) {
                const float sum = total[state_of(head, lane / kLanes) + lane % kLanes];
                const T share = Vec::set(sum == 0 ? 0.0f : 1.0f / sum);  // nothing to see: zeros
                float* out = out_of(head, lane);
                for (int64_t c = 0; c < a.head_dim; c += kN)
                    Vec::storeu(out + c, Vec::mul(Vec::loadu(out + c), share));
            }
        }
    }

    const LlmAttention& a;
    const LlmAttentionPart& part;
    const int64_t group, n_blocks;  // blocks of kLanes lanes of a head
    int64_t next_head = 0, next_key = 0;
    float *k, *v;          // [kKeys][head_dim]
    float *scores, *bias;  // [kKeys][kLanes]
    float *most, *total;   // of each lane
    float* shrink;         // [kLanes]
    float* q;              // [heads][blocks][head_dim][kLanes]
};

}  // namespace
}  // namespace bluelm

#endif  // BLUELM_LLM_ATTENTION_GEMM_H
