// A run of the Encoder: what its threads share, and what each has for itself.
#ifndef BLUELM_ENCODER_RUN_H
#define BLUELM_ENCODER_RUN_H

#include <chrono>
#include <utility>
#include <vector>

#include "base/team.h"
#include "encoder/encoder.h"
#include "encoder/matmul_rows.h"

namespace bluelm {

// Stages of the profile.
enum class EncoderStage { kNorm, kQkv, kAttention, kAttnOut, kFfnUp, kFfnDown, kProjector, kPack, kCount };

// Rows shared out in blocks: as many blocks for each thread, as large as they may be.
struct RowBlocks {
    int64_t n_rows, in_block, n_blocks;
    RowBlocks(int64_t n, int64_t max_in_block, int n_threads);
    int64_t first(int64_t block) const { return block * in_block; }
    int64_t count(int64_t block) const { return std::min(in_block, n_rows - first(block)); }
};

struct Encoder::Run {
    Run(const Encoder& encoder, float* tokens, int n_tiles, int n_layers, int n_threads, Progress* progress,
        float* out);

    float* tokens;  // [B * 729, 1152]
    float* out;
    int n_tiles, n_layers;
    Progress* progress;
    RowBlocks rows, merged;  // tokens, and rows of the projector
    size_t wide_bytes;
    AlignedMemory qkv;       // [B * 729, 3 * 1152], wide type
    AlignedMemory attended;  // [B * 729, 1152], wide type
    AlignedMemory streamed;  // the streamed group in use
    Team::WorkList work;
};

class Encoder::Thread {
public:
    Thread(const Encoder& encoder, Run& run, Team& team, int index);
    ~Thread();
    void work();

    double ms[static_cast<size_t>(EncoderStage::kCount)] = {};

private:
    bool blocks();
    bool projector();

    // The parts of a block, for rows first..first+n-1.
    bool norm_and_qkv(size_t layer, int64_t first, int64_t n);
    bool out_and_ffn(size_t layer, int64_t first, int64_t n);
    bool attention();
    bool project(int64_t first, int64_t n);

    // The group's memory is there, packed now if it is streamed. False: stop.
    bool load_group(size_t index);
    const char* weights(size_t group, size_t linear) const {
        const Group& g = e_.groups_[group];
        return (g.streamed ? run_.streamed.data() : g.memory.data()) + g.at[linear];
    }

    // rows x weights, each block of sums handed to end(sums, first row, first output). False: stop.
    template <class End>
    bool multiply(const PackedLinear& linear, const char* memory, const MatmulRows& rows, int64_t n,
                  End&& end) {
        return multiply_rows(
            linear, memory, rows, n, sums_, [this] { return stopping(); }, std::forward<End>(end));
    }
    MatmulRows rows_in(char* memory, const PackedLinear& linear) const {
        return {memory, static_cast<size_t>(linear.k()) * matmul_element_bytes(linear.type()), scale_,
                nullptr};
    }
    // Row r for `linear` from a row of the wide type.
    void put_wide_row(const PackedLinear& linear, const char* from, const MatmulRows& rows, int64_t r) const;
    const RowOps::Epilogues& epilogues(const PackedLinear& linear) const {
        return linear.type() == MatmulType::kInt8 ? e_.ops_.of_int32 : e_.ops_.of_float;
    }

    void start(EncoderStage stage) {
        if (index_ != 0) return;
        const Clock::time_point now = Clock::now();
        ms[static_cast<size_t>(stage_)] += std::chrono::duration<double, std::milli>(now - since_).count();
        stage_ = stage;
        since_ = now;
    }
    bool stopping();
    // Appends channels of row_ [d] once more.
    void copy_channels(const std::vector<int32_t>& channels, int64_t d) {
        float* to = row_ + d;
        for (int32_t channel : channels) *to++ = row_[channel];
    }
    Team::Work& next_work() { return run_.work[next_work_++]; }

    using Clock = std::chrono::steady_clock;

    const Encoder& e_;
    Run& run_;
    Team& team_;
    const int index_;
    size_t next_work_ = 0;
    EncoderStage stage_ = EncoderStage::kNorm;
    Clock::time_point since_ = Clock::now();

    AlignedMemory memory_;
    char *input_ = nullptr, *wide_input_ = nullptr;  // rows for a matmul: of width D and merged, F
    char* gelu_ = nullptr;                           // [rows, F], wide type; the projector's hidden layer
    float *row_ = nullptr, *normed_ = nullptr;       // one row each
    float* scale_ = nullptr;                         // of rows
    float* middle_ = nullptr;                        // of rows
    char* sums_ = nullptr;                           // one call's sums
    char* attention_ = nullptr;                      // Attention's scratch
};

}  // namespace bluelm

#endif  // BLUELM_ENCODER_RUN_H
