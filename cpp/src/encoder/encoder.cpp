#include "encoder/encoder.h"

#include <algorithm>

#include "encoder/encoder_run.h"

namespace bluelm {
// SiglipVisionEmbeddings: the convolution as a matmul over patches, added to the positions.
void Encoder::embed(const uint8_t* tiles, int n_tiles, int n_threads, float* tokens) const {
    const int64_t n_patches = config_.n_patches(), d = config_.n_embd;
    constexpr int64_t kRows = 128;  // 128 x 588 floats and a panel fit a second-level cache
    const RowBlocks blocks(n_tiles * n_patches, kRows, n_threads);
    Team::Work work;
    Team::run(n_threads, [&](Team& team, int) {
        AlignedMemory memory(rows_bytes(patch_, blocks.in_block)), sums(sums_bytes(patch_));
        AlignedMemory patch(static_cast<size_t>(config_.patch_values()) * sizeof(float));
        const MatmulRows rows = {memory.data(), static_cast<size_t>(patch_.k()) * sizeof(float)};
        if (patch_.kernel().enter) patch_.kernel().enter();
        for (int64_t block; (block = work.take(blocks.n_blocks)) >= 0;) {
            const int64_t first = blocks.first(block), n = blocks.count(block);
            float* x = tokens + first * d;
            for (int64_t r = 0; r < n; ++r) {
                const int64_t tile = (first + r) / n_patches, index = (first + r) % n_patches;
                auto* values = reinterpret_cast<float*>(patch.data());
                pixels_.patch(tiles + static_cast<size_t>(tile) * config_.tile_bytes(),
                              static_cast<int>(index), values);
                put_row(patch_, ops_, values, rows, r);
                std::copy_n(floats(weights_.position) + index * d, d, x + r * d);
            }
            multiply_rows(
                patch_, groups_[patch_group()].memory.data(), rows, n, sums.data(),
                [&team] { return team.stopped(); },
                [&](const Sums& s, int64_t r, int64_t column) {
                    ops_.of_float.residual(s, x + r * d + column, static_cast<size_t>(d));
                });
        }
        if (patch_.kernel().leave) patch_.kernel().leave();
    });
}

// LayerNorm 1 -> Q, K, V.
bool Encoder::Thread::norm_and_qkv(size_t layer, int64_t first, int64_t n) {
    const VisionConfig& c = e_.config_;
    const Block& block = *e_.blocks_[layer];
    const int64_t d = c.n_embd;
    start(EncoderStage::kNorm);
    const MatmulRows rows = rows_in(input_, block.qkv);
    for (int64_t r = 0; r < n; ++r) {
        e_.ops_.layer_norm(run_.tokens + (first + r) * d, block.norms.ln1_w.data(), block.norms.ln1_b.data(),
                           c.layer_norm_eps, d, row_);
        copy_channels(block.norms.qkv_copies, d);
        put_row(block.qkv, e_.ops_, row_, rows, r);
    }
    start(EncoderStage::kQkv);
    const RowOps::Epilogues& end = epilogues(block.qkv);
    const size_t stride = static_cast<size_t>(3 * d);
    return multiply(block.qkv, weights(layer, 0), rows, n, [&](const Sums& sums, int64_t r, int64_t column) {
        const int64_t at = (first + r) * 3 * d + column;  // of [B * 729, 3 * 1152]
        if (e_.wide_ == MatmulType::kBf16) {
            end.store_bf16(sums, reinterpret_cast<uint16_t*>(run_.qkv.data()) + at, stride);
        } else {
            end.store_f32(sums, reinterpret_cast<float*>(run_.qkv.data()) + at, stride);
        }
    });
}

// Units of work: a head of a tile, cut into as many parts as it takes to keep all threads busy.
bool Encoder::Thread::attention() {
    start(EncoderStage::kAttention);
    const VisionConfig& c = e_.config_;
    const int64_t n = c.n_patches(), d = c.head_dim(), width = c.n_embd, n_heads = run_.n_tiles * c.n_head;
    const int64_t parts = std::clamp<int64_t>((4 * team_.size() + n_heads - 1) / n_heads, 1, 8);
    const int64_t part = round_up((n + parts - 1) / parts, e_.attention_.queries_in_block());
    const size_t in_stride = static_cast<size_t>(3 * width) * run_.wide_bytes,
                 out_stride = static_cast<size_t>(width) * run_.wide_bytes;
    Team::Work& work = next_work();
    int64_t packed = -1;
    for (int64_t unit; (unit = work.take(n_heads * parts)) >= 0;) {
        const int64_t index = unit / parts, tile = index / c.n_head, head = index % c.n_head;
        const char* q = run_.qkv.data() + static_cast<size_t>(tile * n) * in_stride +
                        static_cast<size_t>(head * d) * run_.wide_bytes;
        const size_t third = static_cast<size_t>(width) * run_.wide_bytes;
        if (index != packed) e_.attention_.pack(q + third, in_stride, q + 2 * third, in_stride, attention_);
        packed = index;
        const int64_t begin = std::min(n, unit % parts * part);
        e_.attention_.attend(q, in_stride, begin, std::min(n, begin + part), attention_,
                             run_.attended.data() + static_cast<size_t>(tile * n) * out_stride +
                                 static_cast<size_t>(head * d) * run_.wide_bytes,
                             out_stride);
        if (stopping()) return false;
    }
    return true;
}

// Output matmul, + x; LayerNorm 2, FFN, + x.
bool Encoder::Thread::out_and_ffn(size_t layer, int64_t first, int64_t n) {
    const VisionConfig& c = e_.config_;
    const Block& block = *e_.blocks_[layer];
    const int64_t d = c.n_embd, f = c.n_ff;
    const size_t d_bytes = static_cast<size_t>(d) * run_.wide_bytes,
                 f_bytes = static_cast<size_t>(f) * run_.wide_bytes;
    const RowOps::Epilogues& end = epilogues(block.out);
    float* x = run_.tokens + first * d;
    const auto add_to_x = [&](const Sums& sums, int64_t r, int64_t column) {
        end.residual(sums, x + r * d + column, static_cast<size_t>(d));
    };

    start(EncoderStage::kNorm);
    MatmulRows rows = rows_in(input_, block.out);
    for (int64_t r = 0; r < n; ++r)
        put_wide_row(block.out, run_.attended.data() + static_cast<size_t>(first + r) * d_bytes, rows, r);
    start(EncoderStage::kAttnOut);
    if (!multiply(block.out, weights(layer, 1), rows, n, add_to_x)) return false;

    start(EncoderStage::kNorm);
    rows = rows_in(input_, block.up);
    for (int64_t r = 0; r < n; ++r) {
        e_.ops_.layer_norm(x + r * d, block.norms.ln2_w.data(), block.norms.ln2_b.data(), c.layer_norm_eps, d,
                           row_);
        copy_channels(block.norms.up_copies, d);
        put_row(block.up, e_.ops_, row_, rows, r);
    }
    start(EncoderStage::kFfnUp);
    const float* after = block.norms.after_gelu.empty() ? nullptr : block.norms.after_gelu.data();
    const bool going = multiply(  // gelu_ [n, 4352]; padded units: gelu(0 + 0) = 0
        block.up, weights(layer, 2), rows, n, [&](const Sums& sums, int64_t r, int64_t column) {
            const float* factors = after ? after + column : nullptr;
            if (e_.wide_ == MatmulType::kBf16) {
                end.gelu_bf16(sums, factors, reinterpret_cast<uint16_t*>(gelu_) + r * f + column,
                              static_cast<size_t>(f));
            } else {
                end.gelu_f32(sums, factors, reinterpret_cast<float*>(gelu_) + r * f + column,
                             static_cast<size_t>(f));
            }
        });
    if (!going) return false;

    start(EncoderStage::kNorm);
    rows = rows_in(wide_input_, block.down);
    if (e_.type_ == MatmulType::kInt8) rows.middle = middle_;  // GELU's values are -0.17 at the least
    for (int64_t r = 0; r < n; ++r)
        put_wide_row(block.down, gelu_ + static_cast<size_t>(r) * f_bytes, rows, r);
    start(EncoderStage::kFfnDown);
    return multiply(block.down, weights(layer, 3), rows, n, add_to_x);
}

bool Encoder::Thread::blocks() {
    const auto each_block_of_rows = [&](auto&& body) {
        Team::Work& work = next_work();
        for (int64_t i; (i = work.take(run_.rows.n_blocks)) >= 0;) {
            if (!body(run_.rows.first(i), run_.rows.count(i))) return false;
        }
        return true;
    };
    const size_t n_layers = static_cast<size_t>(run_.n_layers);
    for (size_t layer = 0; layer < n_layers; ++layer) {
        const bool streamed = e_.groups_[layer].streamed;
        if (layer == 0 || streamed) {
            if (!load_group(layer)) return false;
            if (!each_block_of_rows([&](int64_t first, int64_t n) { return norm_and_qkv(layer, first, n); }))
                return false;
        }
        if (!team_.barrier() || !attention() || !team_.barrier()) return false;
        const bool go_on = layer + 1 < n_layers && !e_.groups_[layer + 1].streamed;
        if (!each_block_of_rows([&](int64_t first, int64_t n) {
                return out_and_ffn(layer, first, n) && (!go_on || norm_and_qkv(layer + 1, first, n));
            })) {
            return false;
        }
    }
    return true;
}

// input_norm (if any), linear, GELU, linear for merged rows first..first+n-1.
bool Encoder::Thread::project(int64_t first, int64_t n) {
    const VisionConfig& c = e_.config_;
    const size_t group = e_.projector_group();
    const int64_t width = c.n_merged(), hidden = c.n_hidden;
    MatmulRows rows = rows_in(input_, e_.mm0_);
    for (int64_t r = 0; r < n; ++r) {
        e_.merged_row(run_.tokens, first + r, row_);
        const float* row = row_;
        if (c.input_norm) {
            const Norm& norm = e_.weights_.input_norm;
            e_.ops_.layer_norm(row_, floats(norm.w), floats(norm.b), c.projector_eps, width, normed_);
            row = normed_;
        }
        put_row(e_.mm0_, e_.ops_, row, rows, r);
    }
    float* h = reinterpret_cast<float*>(gelu_);
    const RowOps::Epilogues& end = epilogues(e_.mm0_);
    if (!multiply(e_.mm0_, weights(group, 0), rows, n, [&](const Sums& sums, int64_t r, int64_t column) {
            float* to = h + r * hidden + column;
            if (c.projector_gelu_tanh) {
                end.gelu_f32(sums, nullptr, to, static_cast<size_t>(hidden));
            } else {
                end.gelu_erf_f32(sums, nullptr, to, static_cast<size_t>(hidden));
            }
        })) {
        return false;
    }
    rows = rows_in(wide_input_, e_.mm2_);
    for (int64_t r = 0; r < n; ++r) put_row(e_.mm2_, e_.ops_, h + r * hidden, rows, r);
    return multiply(e_.mm2_, weights(group, 1), rows, n, [&](const Sums& sums, int64_t r, int64_t column) {
        end.store_f32(sums, run_.out + (first + r) * c.n_embd_out + column,
                      static_cast<size_t>(c.n_embd_out));
    });
}

bool Encoder::Thread::projector() {
    if (!load_group(e_.projector_group())) return false;
    start(EncoderStage::kProjector);
    Team::Work& work = next_work();
    for (int64_t i; (i = work.take(run_.merged.n_blocks)) >= 0;) {
        if (!project(run_.merged.first(i), run_.merged.count(i))) return false;
    }
    return true;
}

void Encoder::Thread::work() {
    if (!blocks() || !team_.barrier()) return;
    if (run_.out && !projector()) return;
    team_.barrier();
    start(stage_);  // books the last stage
}

void Encoder::post_norm(const float* token, float* out) const {
    if (config_.post_layernorm) {
        ops_.layer_norm(token, floats(weights_.post_ln.w), floats(weights_.post_ln.b), config_.layer_norm_eps,
                        config_.n_embd, out);
    } else {
        std::copy(token, token + config_.n_embd, out);
    }
}

void Encoder::merged_row(const float* tokens, int64_t index, float* out) const {
    const int64_t side = config_.merged_grid(), grid = config_.grid(), d = config_.n_embd,
                  s = config_.downsample;
    const int64_t tile = index / (side * side), at = index % (side * side);
    const int64_t row = config_.column_major ? at % side : at / side,
                  column = config_.column_major ? at / side : at % side;
    tokens += tile * config_.n_patches() * d;
    for (int64_t y = row * s; y < (row + 1) * s; ++y) {
        for (int64_t x = column * s; x < (column + 1) * s; ++x, out += d) {
            if (y < grid && x < grid) {
                post_norm(tokens + (y * grid + x) * d, out);
            } else {
                std::fill(out, out + d, 0.0f);
            }
        }
    }
}

}  // namespace bluelm
