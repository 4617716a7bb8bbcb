// Which arithmetic an Encoder uses, and its weights arranged for it.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/team.h"
#include "encoder/encoder.h"

namespace bluelm {
namespace {

bool is_wide_type(ggml_type type) { return type == GGML_TYPE_F32 || type == GGML_TYPE_F16; }

// What the blocks' matmuls take: see bluelm_vision_params.activations.
MatmulType blocks_type(const VisionWeights& w, const EncoderOptions& options) {
    // Every file has one type for its matrices, but a matrix whose rows do not suit it may be wider.
    bool quantised = false, wide = true;
    for (const VitBlock& block : w.blocks) {
        for (const Linear* l : {&block.q, &block.k, &block.v, &block.out, &block.up, &block.down}) {
            quantised |= ggml_is_quantized(l->stored.type);
            wide &= is_wide_type(l->stored.type);
        }
    }
    if (options.activations == BLUELM_ACTIVATIONS_INT8) return MatmulType::kInt8;
    if (options.activations == BLUELM_ACTIVATIONS_AUTO && quantised) return MatmulType::kInt8;
    const bool have_bf16 = matmul_kernel(MatmulType::kBf16, options.level) != nullptr;
    return wide || !have_bf16 ? MatmulType::kF32 : MatmulType::kBf16;
}

// The floating-point type beside it.
MatmulType wide_type(MatmulType blocks, const EncoderOptions& options) {
    const bool have_bf16 = matmul_kernel(MatmulType::kBf16, options.level) != nullptr;
    return blocks == MatmulType::kF32 || !have_bf16 ? MatmulType::kF32 : MatmulType::kBf16;
}

const MatmulKernel& kernel_for(MatmulType type, CpuLevel level) {
    const MatmulKernel* kernel = matmul_kernel(type, level);
    if (!kernel) throw Error(BLUELM_ERR_INTERNAL, format("no matmul for level %s", cpu_level_name(level)));
    return *kernel;
}

}  // namespace

Encoder::Encoder(const VisionWeights& weights, const EncoderOptions& options)
    : weights_(weights),
      config_(weights.config),
      pixels_(config_.image_size, config_.patch_size, config_.image_mean, config_.image_std),
      ops_(row_ops(options.level)),
      type_(blocks_type(weights, options)),
      wide_(wide_type(type_, options)),
      kernel_(kernel_for(type_, options.level)),
      wide_kernel_(kernel_for(wide_, options.level)),
      attention_(wide_, wide_kernel_, ops_, config_.n_patches(), config_.head_dim()),
      blocks_(weights.blocks.size()),
      mm0_(wide_, wide_kernel_, {{&weights.mm0}}, nullptr),
      mm2_(wide_, wide_kernel_, {{&weights.mm2}}, nullptr),
      // Pixels are exact in float32, and so much of the rest depends on them; the time is that of a third of
      // a percent of the network's multiply-adds.
      patch_(MatmulType::kF32, kernel_for(MatmulType::kF32, options.level), {{&weights.patch}}, nullptr) {
    balance(type_ == MatmulType::kInt8, options.n_threads);
    const auto factor = [](const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
    // Narrower weights would take several times their room as float32, so they stay in the file.
    const auto streamed = [&](MatmulType type, const Linear& linear) {
        return options.streamed || (type == MatmulType::kF32 && linear.stored.type != GGML_TYPE_F32);
    };
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const VitBlock& w = weights.blocks[i];
        Block& block = *blocks_[i];
        const BalancedBlock& n = block.norms;
        block.qkv = PackedLinear(type_, kernel_, {{&w.q}, {&w.k}, {&w.v, factor(n.v_rows)}}, factor(n.qkv_in),
                                 &n.qkv_copies);
        block.out = PackedLinear(type_, kernel_, {{&w.out}}, factor(n.out_in));
        block.up = PackedLinear(type_, kernel_, {{&w.up}}, factor(n.up_in), &n.up_copies);
        block.down = PackedLinear(type_, kernel_, {{&w.down}}, factor(n.down_in));
        groups_.push_back(
            make_group({&block.qkv, &block.out, &block.up, &block.down}, streamed(type_, w.up)));
    }
    groups_.push_back(make_group({&mm0_, &mm2_}, streamed(wide_, weights.mm0)));
    groups_.push_back(make_group({&patch_}, false));
    for (const Group& group : groups_) {
        if (group.streamed) streamed_bytes_ = std::max(streamed_bytes_, group.bytes);
    }
    pack_resident(options.n_threads);
}

Encoder::~Encoder() = default;

void Encoder::balance(bool rebalance, int n_threads) {
    Team::Work work;
    Team::run(n_threads, [&](Team& team, int) {
        for (int64_t i; (i = work.take(static_cast<int64_t>(blocks_.size()))) >= 0 && !team.stopped();) {
            auto block = std::make_unique<Block>();
            block->norms =
                balance_block(weights_.file, ops_, weights_.blocks[static_cast<size_t>(i)], rebalance);
            blocks_[static_cast<size_t>(i)] = std::move(block);
        }
    });
}

Encoder::Group Encoder::make_group(std::vector<const PackedLinear*> linears, bool streamed) const {
    Group group;
    group.streamed = streamed;
    for (const PackedLinear* linear : linears) {
        group.at.push_back(group.bytes);
        group.bytes += linear->bytes();
    }
    group.linears = std::move(linears);
    if (!streamed) group.memory = AlignedMemory::mapped(group.bytes);
    return group;
}

void Encoder::pack_resident(int n_threads) {
    Team::WorkList work(groups_.size() * 4);  // up to four matrices in each
    Team::run(n_threads, [&](Team& team, int) {
        for (size_t g = 0; g < groups_.size(); ++g) {
            const Group& group = groups_[g];
            for (size_t i = 0; !group.streamed && i < group.linears.size(); ++i) {
                const PackedLinear& linear = *group.linears[i];
                for (int64_t panel; (panel = work[4 * g + i].take(linear.n_panels())) >= 0;) {
                    if (team.stopped()) return;
                    linear.pack(weights_.file, ops_, panel, group.memory.data() + group.at[i]);
                }
            }
        }
    });
}

}  // namespace bluelm
