#include "encoder/encoder_run.h"

#include <algorithm>

#include "base/error.h"
#include "base/progress.h"

namespace bluelm {
namespace {

constexpr int64_t kMaxRows = 384;  // rows in a block: 384 x 1152 bytes and a panel fit a second-level cache

}  // namespace

RowBlocks::RowBlocks(int64_t n, int64_t max_in_block, int n_threads) : n_rows(n) {
    const int64_t blocks = round_up((n + max_in_block - 1) / max_in_block, n_threads);
    in_block = std::max<int64_t>(1, (n + blocks - 1) / blocks);
    n_blocks = (n + in_block - 1) / in_block;
}

Encoder::Run::Run(const Encoder& e, float* tokens_, int n_tiles_, int n_layers_, int n_threads,
                  Progress* progress_, float* out_)
    : tokens(tokens_),
      out(out_),
      n_tiles(n_tiles_),
      n_layers(n_layers_),
      progress(progress_),
      rows(int64_t(n_tiles) * e.config_.n_patches(), kMaxRows, n_threads),
      merged(int64_t(n_tiles) * e.config_.tokens_per_tile(), kMaxRows, n_threads),
      wide_bytes(matmul_element_bytes(e.wide_)),
      streamed(e.streamed_bytes_),
      // A layer: four matrices to pack, rows, attention, rows. The projector: two matrices, rows.
      work(static_cast<size_t>(n_layers) * 7 + 3) {
    const size_t row = static_cast<size_t>(e.config_.n_embd) * wide_bytes;
    qkv = AlignedMemory(static_cast<size_t>(rows.n_rows) * 3 * row);
    attended = AlignedMemory(static_cast<size_t>(rows.n_rows) * row);
}

Encoder::Thread::Thread(const Encoder& e, Run& run, Team& team, int index)
    : e_(e), run_(run), team_(team), index_(index) {
    const VisionConfig& c = e.config_;
    const int64_t n = run.rows.in_block, m = run.merged.in_block;
    size_t input = rows_bytes(e.mm0_, m), wide_input = rows_bytes(e.mm2_, m), sums = sums_bytes(e.mm0_);
    for (const std::unique_ptr<Block>& block : e.blocks_) {
        for (const PackedLinear* linear : {&block->qkv, &block->out, &block->up})
            input = std::max(input, rows_bytes(*linear, n));
        wide_input = std::max(wide_input, rows_bytes(block->down, n));
        sums = std::max(sums, sums_bytes(block->down));
    }
    const size_t gelu = std::max(static_cast<size_t>(n * c.n_ff) * run.wide_bytes,
                                 static_cast<size_t>(m * c.n_hidden) * sizeof(float));
    const size_t row =
        sizeof(float) * static_cast<size_t>(std::max(c.n_merged(), c.n_embd + int(kMaxCopies)));
    const size_t scale = sizeof(float) * static_cast<size_t>(round_up(n, e.kernel_.rows));
    size_t bytes = 0;
    const auto place = [&bytes](size_t part) {
        const size_t at = bytes;
        bytes += whole_lines(part);
        return at;
    };
    const size_t at[] = {place(input), place(wide_input), place(gelu),
                         place(row),   place(row),        place(scale),
                         place(scale), place(sums),       place(e.attention_.scratch_bytes())};
    memory_ = AlignedMemory(bytes);
    char* memory = memory_.data();
    input_ = memory + at[0];
    wide_input_ = memory + at[1];
    gelu_ = memory + at[2];
    row_ = reinterpret_cast<float*>(memory + at[3]);
    normed_ = reinterpret_cast<float*>(memory + at[4]);
    scale_ = reinterpret_cast<float*>(memory + at[5]);
    middle_ = reinterpret_cast<float*>(memory + at[6]);
    sums_ = memory + at[7];
    attention_ = memory + at[8];
    if (e.kernel_.enter) e.kernel_.enter();
}

Encoder::Thread::~Thread() {
    if (e_.kernel_.leave) e_.kernel_.leave();
}

// True: somebody wants to stop. Thread 0 asks the caller's callback now and then, which may be anybody's
// code: it gets the CPU as it expects it.
bool Encoder::Thread::stopping() {
    if (index_ == 0 && run_.progress && run_.progress->due()) {
        if (e_.kernel_.leave) e_.kernel_.leave();
        const bool go_on = run_.progress->poll();
        if (e_.kernel_.enter) e_.kernel_.enter();
        if (!go_on) team_.stop();
    }
    return team_.stopped();
}

void Encoder::Thread::put_wide_row(const PackedLinear& linear, const char* from, const MatmulRows& rows,
                                   int64_t r) const {
    if (e_.wide_ == MatmulType::kBf16) {
        put_row(linear, e_.ops_, reinterpret_cast<const uint16_t*>(from), rows, r);
    } else {
        put_row(linear, e_.ops_, reinterpret_cast<const float*>(from), rows, r);
    }
}

bool Encoder::Thread::load_group(size_t index) {
    const Group& group = e_.groups_[index];
    if (!group.streamed) return true;
    start(EncoderStage::kPack);
    if (!team_.barrier()) return false;  // nobody uses what was there
    for (size_t i = 0; i < group.linears.size(); ++i) {
        const PackedLinear& linear = *group.linears[i];
        Team::Work& panels = next_work();
        for (int64_t panel; (panel = panels.take(linear.n_panels())) >= 0;) {
            if (stopping()) return false;
            linear.pack(e_.weights_.file, e_.ops_, panel, run_.streamed.data() + group.at[i]);
        }
    }
    return team_.barrier();
}

void Encoder::run(float* tokens, int n_tiles, int n_layers, int n_threads, Progress* progress, float* out,
                  bluelm_vision_profile* profile) const {
    Run run(*this, tokens, n_tiles, n_layers, n_threads, progress, out);
    double ms[static_cast<size_t>(EncoderStage::kCount)] = {};
    Team::run(n_threads, [&](Team& team, int index) {
        Thread thread(*this, run, team, index);
        thread.work();
        if (index == 0) std::copy(std::begin(thread.ms), std::end(thread.ms), std::begin(ms));
    });
    if (progress && progress->cancelled()) throw Error(BLUELM_ERR_CANCELLED, "encoding was cancelled");
    if (!profile) return;
    const auto of = [&ms](EncoderStage stage) { return ms[static_cast<size_t>(stage)]; };
    profile->norm_ms += of(EncoderStage::kNorm);
    profile->qkv_ms += of(EncoderStage::kQkv);
    profile->attention_ms += of(EncoderStage::kAttention);
    profile->attn_out_ms += of(EncoderStage::kAttnOut);
    profile->ffn_up_ms += of(EncoderStage::kFfnUp);
    profile->ffn_down_ms += of(EncoderStage::kFfnDown);
    profile->projector_ms += of(EncoderStage::kProjector);
    profile->pack_ms += of(EncoderStage::kPack);
}

}  // namespace bluelm
