// The SigLIP blocks, the downsampler and the projector with our own kernels: what siglip.h and projector.h
// say as a ggml graph, run here by a team of threads over blocks of rows.
//
// Rows (tokens) are independent everywhere but in attention, so a thread takes a block of some 400 rows
// through everything between two attentions while its activations stay in the second-level cache:
//
//   front of block i    LayerNorm -> quantise -> Q, K, V
//   (all threads meet)
//   attention           one head of one tile at a time
//   (all threads meet)
//   back of block i     quantise -> output matmul, + x -> LayerNorm -> quantise -> FFN up, GELU -> quantise
//   ->
//                       FFN down, + x; then at once the front of block i + 1 for the same rows
//
// Results do not depend on the number of threads or tiles in a batch: every row is computed in the same order
// wherever it lies.
//
// Shapes in comments are those of SigLIP-so400m/14-384 and a batch of B tiles, as in siglip.h.
#ifndef BLUELM_ENCODER_H
#define BLUELM_ENCODER_H

#include <cstdint>
#include <memory>
#include <vector>

#include "bluelm.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/row_ops.h"
#include "packed_weights.h"
#include "vision_weights.h"

namespace bluelm {

class Progress;

struct EncoderOptions {
    CpuLevel level = CpuLevel::kGeneric;
    int activations = BLUELM_ACTIVATIONS_AUTO;
    bool streamed = false;  // BLUELM_WEIGHTS_STREAMED
    int n_threads = 1;      // for arranging the weights
};

// Whether there are kernels of our own for a level. If not, ggml's graph is the better choice.
bool encoder_runs(CpuLevel level);

class Encoder {
public:
    // `weights` (loaded with kInFile) must outlive it. Throws Error IO, std::bad_alloc.
    Encoder(const VisionWeights& weights, const EncoderOptions& options);
    ~Encoder();

    // tokens [B * 729, 1152] with positions, through the first n_layers blocks in place; and on through post
    // LayerNorm, downsampler and projector to out [B * 196, n_embd_out] unless NULL. progress may be NULL.
    // Times are added to *profile. Throws Error CANCELLED, IO; std::bad_alloc.
    void run(float* tokens, int n_tiles, int n_layers, int n_threads, Progress* progress, float* out,
             bluelm_vision_profile* profile) const;

    // post_layernorm of one token; a copy where the model has none.
    void post_norm(const float* token, float* out) const;
    // Row `index` of the downsampled tokens [B * 196, 4608] from tokens [B * 729, 1152]: see build_merge.
    // What post_norm gives is merged.
    void merged_row(const float* tokens, int64_t index, float* out) const;

private:
    struct Block;   // the matmuls of a block and its norms
    class Thread;   // one thread's part of a run
    struct Run;     // what the threads of a run share
    struct Group {  // weights that are packed together
        std::vector<const PackedLinear*> linears;
        std::vector<size_t> at;  // of each in the group's memory
        size_t bytes = 0;
        bool streamed = false;
        AlignedMemory memory;  // empty if streamed
    };
    Group make_group(std::vector<const PackedLinear*> linears, bool streamed) const;
    void pack_resident(int n_threads);

    const VisionWeights& weights_;
    const VisionConfig& config_;
    const RowOps& ops_;
    MatmulType type_;  // of the blocks
    const MatmulKernel& kernel_;
    MatmulType wide_;  // bf16 or f32: q, k, v, attention's output, GELU's output
    MatmulType projector_type_;
    const MatmulKernel& projector_kernel_;
    Attention attention_;
    std::vector<std::unique_ptr<Block>> blocks_;
    PackedLinear mm0_, mm2_;
    std::vector<Group> groups_;  // one for each block, the projector's last
    size_t streamed_bytes_ = 0;  // of the largest streamed group
};

}  // namespace bluelm

#endif  // BLUELM_ENCODER_H
