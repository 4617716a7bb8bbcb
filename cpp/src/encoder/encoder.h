// The vision network, SiglipVisionModel of transformers (models/siglip/modeling_siglip.py) with BlueLM-V's
// downsampler and projector (paper section 3.3, VILA's `mlp_downsample` block; docs/bluelm-v-layout.md), run
// by a team of threads over blocks of rows.
//
// Rows (tokens) are independent everywhere but in attention, so a thread takes a block of some 400 rows
// through everything between two attentions while its activations stay in the second-level cache:
//
//   embed               patches of a tile x kernel, + positions
//   ->
//   norm_and_qkv        LayerNorm -> quantise -> Q, K, V
//   (all threads meet)
//   attention           one head of one tile at a time
//   (all threads meet)
//   out_and_ffn         quantise -> output matmul, + x -> LayerNorm -> quantise -> FFN up, GELU -> quantise
//   -> FFN down,
//                       + x; then at once norm_and_qkv of the next block for the same rows
//
// Results do not depend on the number of threads or tiles in a batch: every row is computed in the same order
// wherever it lies.
//
//   encoder.cpp       the network as it reads
//   encoder_run.*     what the threads of a run share, and what each has for itself
//   encoder_load.cpp  which arithmetic, and the weights arranged for it
//
// Shapes in comments are those of SigLIP-so400m/14-384 and a batch of B tiles: rows first, as torch writes
// them.
#ifndef BLUELM_ENCODER_H
#define BLUELM_ENCODER_H

#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned_memory.h"
#include "bluelm.h"
#include "encoder/packed_weights.h"
#include "encoder/rebalance.h"
#include "kernels/encoder/attention.h"
#include "kernels/encoder/matmul.h"
#include "kernels/encoder/row_ops.h"
#include "mmproj/vision_weights.h"
#include "picture/pixels.h"

namespace bluelm {

class Progress;

struct EncoderOptions {
    CpuLevel level = CpuLevel::kGeneric;
    int activations = BLUELM_ACTIVATIONS_AUTO;
    bool streamed = false;  // BLUELM_WEIGHTS_STREAMED
    int n_threads = 1;      // for arranging the weights
};

class Encoder {
public:
    // `weights` must outlive it. Throws Error IO, std::bad_alloc.
    Encoder(const VisionWeights& weights, const EncoderOptions& options);
    ~Encoder();

    // tiles [B, 384, 384, 3] -> tokens [B * 729, 1152] with positions, in float32 arithmetic. May run beside
    // run(). Throws std::bad_alloc.
    void embed(const uint8_t* tiles, int n_tiles, int n_threads, float* tokens) const;

    // tokens [B * 729, 1152] through the first n_layers blocks in place; and on through post LayerNorm,
    // downsampler and projector to out [B * 196, n_embd_out] unless NULL. progress may be NULL. Times are
    // added to *profile. Throws Error CANCELLED, IO; std::bad_alloc.
    void run(float* tokens, int n_tiles, int n_layers, int n_threads, Progress* progress, float* out,
             bluelm_vision_profile* profile) const;

    // post_layernorm of one token; a copy where the model has none.
    void post_norm(const float* token, float* out) const;
    // Row `index` of the downsampled tokens [B * 196, 4608] from post_norm of tokens [B * 729, 1152].
    // downsample 2: a zero row below and a zero column at the right make 28 x 28; each 2 x 2 block is
    // concatenated as top-left, top-right, bottom-left, bottom-right. Tokens leave in row-major or
    // column-major order, which is all that downsample 1 may change.
    void merged_row(const float* tokens, int64_t index, float* out) const;

private:
    struct Block {  // the matmuls of a block and its norms
        BalancedBlock norms;
        PackedLinear qkv, out, up, down;
    };
    class Thread;   // one thread's part of a run
    struct Run;     // what the threads of a run share
    struct Group {  // weights that are packed together
        std::vector<const PackedLinear*> linears;
        std::vector<size_t> at;  // of each in the group's memory
        size_t bytes = 0;
        bool streamed = false;
        AlignedMemory memory;  // empty if streamed
    };

    void balance(bool rebalance, int n_threads);
    Group make_group(std::vector<const PackedLinear*> linears, bool streamed) const;
    void pack_resident(int n_threads);
    size_t projector_group() const { return blocks_.size(); }
    size_t patch_group() const { return blocks_.size() + 1; }

    const VisionWeights& weights_;
    const VisionConfig& config_;
    const Pixels pixels_;
    const RowOps& ops_;
    MatmulType type_;  // of the blocks
    MatmulType wide_;  // bf16 or f32: q, k, v, attention's output, GELU's output; the projector
    const MatmulKernel &kernel_, &wide_kernel_;
    Attention attention_;
    std::vector<std::unique_ptr<Block>> blocks_;
    PackedLinear mm0_, mm2_, patch_;
    std::vector<Group> groups_;  // one for each block, the projector's, the patch embedding's
    size_t streamed_bytes_ = 0;  // of the largest streamed group
};

}  // namespace bluelm

#endif  // BLUELM_ENCODER_H
