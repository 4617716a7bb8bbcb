#include "encoder.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "error.h"
#include "team.h"
#include "vision.h"

namespace bluelm {
namespace {

constexpr int64_t kMaxRows = 384;  // rows in a block: 384 x 1152 bytes and a panel fit a second-level cache

using Clock = std::chrono::steady_clock;

const float* floats(const ggml_tensor* t) { return static_cast<const float*>(t->data); }
size_t aligned(size_t n) { return (n + 63) / 64 * 64; }

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

// Floats of a row between matmuls, at most.
int64_t longest_row(const VisionConfig& c) {
    return std::max<int64_t>({c.n_merged(), c.n_ff, c.n_hidden, c.n_embd + kMaxCopies});
}

// Rows as a matmul reads them.
struct Rows {
    char* data = nullptr;
    size_t stride = 0;        // bytes
    float* scale = nullptr;   // int8 only
    float* middle = nullptr;  // int8 rows quantised around one
};

}  // namespace

bool encoder_runs(CpuLevel level) { return matmul_kernel(MatmulType::kInt8, level) != nullptr; }

struct Encoder::Block {
    BalancedBlock norms;
    PackedLinear qkv, out, up, down;
};

// ------------------------------------------------------------------------------------------------ loading

Encoder::Encoder(const VisionWeights& weights, const EncoderOptions& options)
    : weights_(weights),
      config_(weights.config),
      ops_(row_ops(options.level)),
      type_(blocks_type(weights, options)),
      kernel_(kernel_for(type_, options.level)),
      wide_(wide_type(type_, options)),
      projector_type_(wide_),
      projector_kernel_(kernel_for(projector_type_, options.level)),
      attention_(wide_, kernel_for(wide_, options.level), ops_, config_.n_patches(), config_.head_dim()),
      mm0_(projector_type_, projector_kernel_, {{&weights.mm0}}, nullptr),
      mm2_(projector_type_, projector_kernel_, {{&weights.mm2}}, nullptr) {
    const size_t n_layer = weights.blocks.size();
    blocks_.resize(n_layer);
    Team::Work work;
    Team::run(options.n_threads, [&](Team&, int) {
        for (int64_t i; (i = work.take(static_cast<int64_t>(n_layer))) >= 0;) {
            auto block = std::make_unique<Block>();
            const VitBlock& w = weights.blocks[static_cast<size_t>(i)];
            block->norms = balance_block(weights.file, w, type_ == MatmulType::kInt8);
            blocks_[static_cast<size_t>(i)] = std::move(block);
        }
    });
    const auto factor = [](const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
    // Narrower weights would take several times their room as float32, so they stay in the file.
    const auto streamed = [&](MatmulType type, const Linear& linear) {
        return options.streamed || (type == MatmulType::kF32 && linear.stored.type != GGML_TYPE_F32);
    };
    for (size_t i = 0; i < n_layer; ++i) {
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
    groups_.push_back(make_group({&mm0_, &mm2_}, streamed(projector_type_, weights.mm0)));
    for (const Group& group : groups_) {
        if (group.streamed) streamed_bytes_ = std::max(streamed_bytes_, group.bytes);
    }
    pack_resident(options.n_threads);
}

Encoder::~Encoder() = default;

Encoder::Group Encoder::make_group(std::vector<const PackedLinear*> linears, bool streamed) const {
    Group group;
    group.streamed = streamed;
    for (const PackedLinear* linear : linears) {
        group.at.push_back(group.bytes);
        group.bytes += linear->bytes();
    }
    group.linears = std::move(linears);
    if (!streamed) group.memory = AlignedMemory(group.bytes);
    return group;
}

void Encoder::pack_resident(int n_threads) {
    std::vector<Team::Work> work(groups_.size() * 4);
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

// ------------------------------------------------------------------------------------------------ running

// Stages of the profile.
enum class Stage { kNorm, kQkv, kAttention, kAttnOut, kFfnUp, kFfnDown, kProjector, kPack, kCount };

struct Encoder::Run {
    float* tokens;  // [B * 729, 1152]
    float* out;
    int n_tiles, n_layers;
    Progress* progress;
    int64_t n_rows, rows_in_block, n_blocks;             // tokens
    int64_t n_merged, merged_in_block, n_merged_blocks;  // rows of the projector
    size_t wide_bytes;
    AlignedMemory qkv;       // [B * 729, 3 * 1152], wide type
    AlignedMemory attended;  // [B * 729, 1152], wide type
    AlignedMemory streamed;  // the streamed group in use
    std::vector<Team::Work> work;
    size_t next_work = 0;
};

class Encoder::Thread {
public:
    Thread(const Encoder& e, Run& run, Team& team, int index);
    ~Thread();
    void work();

    double ms[static_cast<size_t>(Stage::kCount)] = {};

private:
    bool blocks();
    bool projector();

    // The parts of a block, for rows first..first+n-1.
    bool front(size_t layer, int64_t first, int64_t n);
    bool back(size_t layer, int64_t first, int64_t n);
    bool attention();
    bool project(int64_t first, int64_t n);

    // The group's memory, packed first if it is streamed. NULL: stop.
    const char* group(size_t index);
    const char* memory_of(size_t index) const {
        return e_.groups_[index].streamed ? run_.streamed.data() : e_.groups_[index].memory.data();
    }

    // rows x weights, each block of sums handed to end(sums, first row, first output). False: stop.
    template <class End>
    bool multiply(MatmulType type, const MatmulKernel& kernel, const PackedLinear& linear, const char* memory,
                  const Rows& rows, int64_t n, End&& end);
    void put_row(MatmulType type, const MatmulKernel& kernel, const float* from, int64_t n_in, int64_t k,
                 const Rows& rows, int64_t r) const;
    // The same from the wide type.
    void put_wide_row(const char* from, int64_t n_in, int64_t k, const Rows& rows, int64_t r);
    Rows rows_in(char* memory, MatmulType type, int64_t k) const {
        return {memory, static_cast<size_t>(k) * matmul_element_bytes(type), scale_, nullptr};
    }
    const RowOps::Ends& ends(MatmulType type) const {
        return type == MatmulType::kInt8 ? e_.ops_.of_int32 : e_.ops_.of_float;
    }

    void start(Stage stage) {
        if (index_ != 0) return;
        const Clock::time_point now = Clock::now();
        ms[static_cast<size_t>(stage_)] += std::chrono::duration<double, std::milli>(now - since_).count();
        stage_ = stage;
        since_ = now;
    }
    // True: somebody wants to stop. Thread 0 asks the caller's callback now and then, which may be anybody's
    // code: it gets the CPU as it expects it.
    bool stopping() {
        if (index_ == 0 && run_.progress && run_.progress->due()) {
            if (e_.kernel_.leave) e_.kernel_.leave();
            const bool stop = run_.progress->poll();
            if (e_.kernel_.enter) e_.kernel_.enter();
            if (stop) team_.stop();
        }
        return team_.stopped();
    }
    // Appends channels of row_ [d] once more.
    void copy_channels(const std::vector<int32_t>& channels, int64_t d) {
        float* to = row_ + d;
        for (int32_t channel : channels) *to++ = row_[channel];
    }
    Team::Work& next_work() { return run_.work[next_work_++]; }

    const Encoder& e_;
    Run& run_;
    Team& team_;
    const int index_;
    size_t next_work_ = 0;
    Stage stage_ = Stage::kNorm;
    Clock::time_point since_ = Clock::now();

    AlignedMemory memory_;
    char *input_ = nullptr, *wide_input_ = nullptr;  // rows for a matmul: of width D and merged, F
    char* gelu_ = nullptr;                           // [rows, F], wide type; the projector's hidden layer
    float* row_ = nullptr;                           // one row
    float* scale_ = nullptr;                         // of rows
    float* middle_ = nullptr;                        // of rows
    char* sums_ = nullptr;                           // one call's sums
    char* attention_ = nullptr;                      // Attention's scratch
};

Encoder::Thread::Thread(const Encoder& e, Run& run, Team& team, int index)
    : e_(e), run_(run), team_(team), index_(index) {
    const VisionConfig& c = e.config_;
    const auto rows_bytes = [](const MatmulKernel& kernel, int64_t n, int64_t row) {
        return aligned(static_cast<size_t>(round_up(n, kernel.rows) * row));
    };
    const auto element = [](MatmulType type) { return static_cast<int64_t>(matmul_element_bytes(type)); };
    const int64_t n = run.rows_in_block, m = run.merged_in_block;
    const MatmulKernel &k = e.kernel_, &pk = e.projector_kernel_;
    const int64_t b = element(e.type_), pb = element(e.projector_type_);
    const auto longest = [](const PackedLinear& l, int64_t at_least) { return std::max(at_least, l.k()); };
    int64_t narrow = 0, wide = 0;
    for (const std::unique_ptr<Block>& block : e.blocks_) {
        narrow = longest(block->qkv, longest(block->out, longest(block->up, narrow)));
        wide = longest(block->down, wide);
    }
    const size_t input = std::max(rows_bytes(k, n, narrow * b), rows_bytes(pk, m, e.mm0_.k() * pb));
    const size_t wide_input = std::max(rows_bytes(k, n, wide * b), rows_bytes(pk, m, e.mm2_.k() * pb));
    const size_t gelu = std::max(aligned(static_cast<size_t>(n * c.n_ff) * run.wide_bytes),
                                 aligned(static_cast<size_t>(m * c.n_hidden) * sizeof(float)));
    const size_t row = aligned(sizeof(float) * static_cast<size_t>(longest_row(c)));
    const size_t scale = aligned(sizeof(float) * static_cast<size_t>(round_up(n, k.rows)));
    const size_t sums =
        sizeof(float) * static_cast<size_t>(std::max(k.rows * k.columns, pk.rows * pk.columns));
    memory_ = AlignedMemory(input + wide_input + gelu + 2 * row + 2 * scale + aligned(sums) +
                            e.attention_.scratch_bytes());
    char* at = memory_.data();
    const auto take = [&at](size_t bytes) {
        char* from = at;
        at += bytes;
        return from;
    };
    input_ = take(input);
    wide_input_ = take(wide_input);
    gelu_ = take(gelu);
    row_ = reinterpret_cast<float*>(take(2 * row));
    scale_ = reinterpret_cast<float*>(take(scale));
    middle_ = reinterpret_cast<float*>(take(scale));
    sums_ = take(aligned(sums));
    attention_ = at;
    if (k.enter) k.enter();
}

Encoder::Thread::~Thread() {
    if (e_.kernel_.leave) e_.kernel_.leave();
}

template <class End>
bool Encoder::Thread::multiply(MatmulType type, const MatmulKernel& kernel, const PackedLinear& linear,
                               const char* memory, const Rows& rows, int64_t n, End&& end) {
    const size_t columns = static_cast<size_t>(kernel.columns);
    matmul_pack_rows(kernel, type, rows.data, rows.stride, n, linear.k());
    for (int64_t panel = 0; panel < linear.n_panels(); ++panel) {
        const int64_t first = panel * kernel.columns;
        Sums sums = {};
        sums.c = sums_;
        sums.c_stride = columns;
        sums.n = static_cast<int>(std::min<int64_t>(kernel.columns, linear.n_out() - first));
        sums.column_scale = linear.scales(memory) + first;
        sums.bias = linear.biases(memory) + first;
        sums.column_sum = linear.sums(memory) + first;
        for (int64_t r = 0; r < n; r += kernel.rows) {
            sums.n_rows = static_cast<int>(std::min<int64_t>(kernel.rows, n - r));
            sums.row_scale = type == MatmulType::kInt8 ? rows.scale + r : nullptr;
            sums.row_middle = type == MatmulType::kInt8 && rows.middle ? rows.middle + r : nullptr;
            kernel.multiply(rows.data + static_cast<size_t>(r) * rows.stride, rows.stride,
                            linear.panel(memory, panel), linear.k(), sums_, columns, sums.n_rows);
            end(sums, r, first);
        }
        if (stopping()) return false;
    }
    return true;
}

void Encoder::Thread::put_row(MatmulType type, const MatmulKernel& kernel, const float* from, int64_t n_in,
                              int64_t k, const Rows& rows, int64_t r) const {
    char* to = rows.data + static_cast<size_t>(r) * rows.stride;
    switch (type) {
        case MatmulType::kInt8:
            rows.scale[r] = e_.ops_.quantise(from, n_in, k, kernel.x_flip, reinterpret_cast<int8_t*>(to));
            break;
        case MatmulType::kBf16: e_.ops_.to_bf16(from, n_in, k, reinterpret_cast<uint16_t*>(to)); break;
        case MatmulType::kF32:
            std::memcpy(to, from, static_cast<size_t>(n_in) * sizeof(float));
            std::memset(to + static_cast<size_t>(n_in) * sizeof(float), 0,
                        static_cast<size_t>(k - n_in) * sizeof(float));
            break;
    }
}

void Encoder::Thread::put_wide_row(const char* from, int64_t n_in, int64_t k, const Rows& rows, int64_t r) {
    char* to = rows.data + static_cast<size_t>(r) * rows.stride;
    if (rows.middle) {
        auto* quantised = reinterpret_cast<int8_t*>(to);
        const uint8_t flip = e_.kernel_.x_flip;
        rows.scale[r] = e_.wide_ == MatmulType::kF32
                            ? e_.ops_.quantise_around(reinterpret_cast<const float*>(from), n_in, k, flip,
                                                      quantised, rows.middle + r)
                            : e_.ops_.quantise_around_bf16(reinterpret_cast<const uint16_t*>(from), n_in, k,
                                                           flip, quantised, rows.middle + r);
        return;
    }
    if (e_.wide_ == MatmulType::kF32)
        return put_row(e_.type_, e_.kernel_, reinterpret_cast<const float*>(from), n_in, k, rows, r);
    const auto* values = reinterpret_cast<const uint16_t*>(from);
    if (e_.type_ == MatmulType::kInt8) {
        rows.scale[r] =
            e_.ops_.quantise_bf16(values, n_in, k, e_.kernel_.x_flip, reinterpret_cast<int8_t*>(to));
    } else {  // bf16
        std::memcpy(to, values, static_cast<size_t>(n_in) * sizeof(uint16_t));
        std::memset(to + static_cast<size_t>(n_in) * sizeof(uint16_t), 0,
                    static_cast<size_t>(k - n_in) * sizeof(uint16_t));
    }
}

const char* Encoder::Thread::group(size_t index) {
    const Group& group = e_.groups_[index];
    if (!group.streamed) return group.memory.data();
    start(Stage::kPack);
    if (!team_.barrier()) return nullptr;  // nobody uses what was there
    for (size_t i = 0; i < group.linears.size(); ++i) {
        const PackedLinear& linear = *group.linears[i];
        Team::Work& panels = next_work();
        for (int64_t panel; (panel = panels.take(linear.n_panels())) >= 0;) {
            if (stopping()) return nullptr;
            linear.pack(e_.weights_.file, e_.ops_, panel, run_.streamed.data() + group.at[i]);
        }
    }
    return team_.barrier() ? run_.streamed.data() : nullptr;
}

// LayerNorm 1 -> Q, K, V.
bool Encoder::Thread::front(size_t layer, int64_t first, int64_t n) {
    const VisionConfig& c = e_.config_;
    const Block& block = *e_.blocks_[layer];
    const int64_t d = c.n_embd;
    start(Stage::kNorm);
    const Rows rows = rows_in(input_, e_.type_, block.qkv.k());
    for (int64_t r = 0; r < n; ++r) {
        e_.ops_.layer_norm(run_.tokens + (first + r) * d, block.norms.ln1_w.data(), block.norms.ln1_b.data(),
                           c.layer_norm_eps, d, row_);
        copy_channels(block.norms.qkv_copies, d);
        put_row(e_.type_, e_.kernel_, row_, block.qkv.n_in(), block.qkv.k(), rows, r);
    }
    start(Stage::kQkv);
    const RowOps::Ends& end = ends(e_.type_);
    const size_t stride = static_cast<size_t>(3 * d);
    return multiply(e_.type_, e_.kernel_, block.qkv, memory_of(layer) + e_.groups_[layer].at[0], rows, n,
                    [&](const Sums& sums, int64_t r, int64_t column) {
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
    start(Stage::kAttention);
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
        if (index != packed) e_.attention_.pack(q + third, q + 2 * third, in_stride, attention_);
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
bool Encoder::Thread::back(size_t layer, int64_t first, int64_t n) {
    const VisionConfig& c = e_.config_;
    const Block& block = *e_.blocks_[layer];
    const Group& group = e_.groups_[layer];
    const char* memory = memory_of(layer);
    const int64_t d = c.n_embd, f = c.n_ff;
    const size_t d_bytes = static_cast<size_t>(d) * run_.wide_bytes,
                 f_bytes = static_cast<size_t>(f) * run_.wide_bytes;
    const RowOps::Ends& end = ends(e_.type_);
    float* x = run_.tokens + first * d;
    const auto add_to_x = [&](const Sums& sums, int64_t r, int64_t column) {
        end.residual(sums, x + r * d + column, static_cast<size_t>(d));
    };

    start(Stage::kNorm);
    Rows rows = rows_in(input_, e_.type_, block.out.k());
    for (int64_t r = 0; r < n; ++r) {
        put_wide_row(run_.attended.data() + static_cast<size_t>(first + r) * d_bytes, d, block.out.k(), rows,
                     r);
    }
    start(Stage::kAttnOut);
    if (!multiply(e_.type_, e_.kernel_, block.out, memory + group.at[1], rows, n, add_to_x)) return false;

    start(Stage::kNorm);
    rows = rows_in(input_, e_.type_, block.up.k());
    for (int64_t r = 0; r < n; ++r) {
        e_.ops_.layer_norm(x + r * d, block.norms.ln2_w.data(), block.norms.ln2_b.data(), c.layer_norm_eps, d,
                           row_);
        copy_channels(block.norms.up_copies, d);
        put_row(e_.type_, e_.kernel_, row_, block.up.n_in(), block.up.k(), rows, r);
    }
    start(Stage::kFfnUp);
    const float* after = block.norms.after_gelu.empty() ? nullptr : block.norms.after_gelu.data();
    const bool going = multiply(  // gelu_ [n, 4352]; padded units: gelu(0 + 0) = 0
        e_.type_, e_.kernel_, block.up, memory + group.at[2], rows, n,
        [&](const Sums& sums, int64_t r, int64_t column) {
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

    start(Stage::kNorm);
    rows = rows_in(wide_input_, e_.type_, block.down.k());
    if (e_.type_ == MatmulType::kInt8) rows.middle = middle_;  // GELU's values are -0.17 at the least
    for (int64_t r = 0; r < n; ++r)
        put_wide_row(gelu_ + static_cast<size_t>(r) * f_bytes, f, block.down.k(), rows, r);
    start(Stage::kFfnDown);
    return multiply(e_.type_, e_.kernel_, block.down, memory + group.at[3], rows, n, add_to_x);
}

bool Encoder::Thread::blocks() {
    const auto each_block_of_rows = [&](auto&& body) {
        Team::Work& work = next_work();
        for (int64_t i; (i = work.take(run_.n_blocks)) >= 0;) {
            const int64_t first = i * run_.rows_in_block;
            if (!body(first, std::min(run_.rows_in_block, run_.n_rows - first))) return false;
        }
        return true;
    };
    const size_t n_layers = static_cast<size_t>(run_.n_layers);
    for (size_t layer = 0; layer < n_layers; ++layer) {
        const bool streamed = e_.groups_[layer].streamed;
        if (layer == 0 || streamed) {
            if (!group(layer)) return false;
            if (!each_block_of_rows([&](int64_t first, int64_t n) { return front(layer, first, n); }))
                return false;
        }
        if (!team_.barrier() || !attention() || !team_.barrier()) return false;
        const bool go_on = layer + 1 < n_layers && !e_.groups_[layer + 1].streamed;
        if (!each_block_of_rows([&](int64_t first, int64_t n) {
                return back(layer, first, n) && (!go_on || front(layer + 1, first, n));
            })) {
            return false;
        }
    }
    return true;
}

// input_norm (if any), linear, GELU, linear for merged rows first..first+n-1.
bool Encoder::Thread::project(int64_t first, int64_t n) {
    const VisionConfig& c = e_.config_;
    const Group& group = e_.groups_.back();
    const char* memory = memory_of(e_.groups_.size() - 1);
    const MatmulType type = e_.projector_type_;
    const MatmulKernel& kernel = e_.projector_kernel_;
    const int64_t width = c.n_merged(), hidden = c.n_hidden;
    Rows rows = rows_in(input_, type, e_.mm0_.k());
    float* normed = row_ + longest_row(c);
    for (int64_t r = 0; r < n; ++r) {
        e_.merged_row(run_.tokens, first + r, row_);
        const float* row = row_;
        if (c.input_norm) {
            const Norm& norm = e_.weights_.input_norm;
            e_.ops_.layer_norm(row_, floats(norm.w), floats(norm.b), c.projector_eps, width, normed);
            row = normed;
        }
        put_row(type, kernel, row, width, e_.mm0_.k(), rows, r);
    }
    float* h = reinterpret_cast<float*>(gelu_);
    const RowOps::Ends& end = ends(type);
    if (!multiply(type, kernel, e_.mm0_, memory + group.at[0], rows, n,
                  [&](const Sums& sums, int64_t r, int64_t column) {
                      float* to = h + r * hidden + column;
                      if (c.projector_gelu_tanh) {
                          end.gelu_f32(sums, nullptr, to, static_cast<size_t>(hidden));
                      } else {
                          end.gelu_erf_f32(sums, to, static_cast<size_t>(hidden));
                      }
                  })) {
        return false;
    }
    rows = rows_in(wide_input_, type, e_.mm2_.k());
    for (int64_t r = 0; r < n; ++r) put_row(type, kernel, h + r * hidden, hidden, e_.mm2_.k(), rows, r);
    return multiply(type, kernel, e_.mm2_, memory + group.at[1], rows, n,
                    [&](const Sums& sums, int64_t r, int64_t column) {
                        end.store_f32(sums, run_.out + (first + r) * c.n_embd_out + column,
                                      static_cast<size_t>(c.n_embd_out));
                    });
}

bool Encoder::Thread::projector() {
    if (!group(e_.groups_.size() - 1)) return false;
    start(Stage::kProjector);
    Team::Work& work = next_work();
    for (int64_t i; (i = work.take(run_.n_merged_blocks)) >= 0;) {
        const int64_t first = i * run_.merged_in_block;
        if (!project(first, std::min(run_.merged_in_block, run_.n_merged - first))) return false;
    }
    return true;
}

void Encoder::Thread::work() {
    if (!blocks() || !team_.barrier()) return;
    if (run_.out && !projector()) return;
    team_.barrier();
    start(stage_);  // books the last stage
}

void Encoder::run(float* tokens, int n_tiles, int n_layers, int n_threads, Progress* progress, float* out,
                  bluelm_vision_profile* profile) const {
    Run run;
    run.tokens = tokens;
    run.out = out;
    run.n_tiles = n_tiles;
    run.n_layers = n_layers;
    run.progress = progress;
    run.wide_bytes = matmul_element_bytes(wide_);
    // As many blocks of rows for each thread, as large as they may be.
    const auto cut = [n_threads](int64_t n, int64_t* in_block, int64_t* n_blocks) {
        const int64_t blocks = round_up((n + kMaxRows - 1) / kMaxRows, n_threads);
        *in_block = std::max<int64_t>(1, (n + blocks - 1) / blocks);
        *n_blocks = (n + *in_block - 1) / *in_block;
    };
    run.n_rows = int64_t(n_tiles) * config_.n_patches();
    run.n_merged = int64_t(n_tiles) * config_.tokens_per_tile();
    cut(run.n_rows, &run.rows_in_block, &run.n_blocks);
    cut(run.n_merged, &run.merged_in_block, &run.n_merged_blocks);
    const size_t wide_row = static_cast<size_t>(config_.n_embd) * run.wide_bytes;
    run.qkv = AlignedMemory(static_cast<size_t>(run.n_rows) * 3 * wide_row);
    run.attended = AlignedMemory(static_cast<size_t>(run.n_rows) * wide_row);
    run.streamed = AlignedMemory(streamed_bytes_);
    run.work = std::vector<Team::Work>(static_cast<size_t>(n_layers) * 7 + 4);
    double ms[static_cast<size_t>(Stage::kCount)] = {};
    Team::run(n_threads, [&](Team& team, int index) {
        Thread thread(*this, run, team, index);
        thread.work();
        if (index == 0) std::copy(std::begin(thread.ms), std::end(thread.ms), std::begin(ms));
    });
    if (progress && progress->cancelled()) throw Error(BLUELM_ERR_CANCELLED, "encoding was cancelled");
    if (!profile) return;
    const auto of = [&ms](Stage stage) { return ms[static_cast<size_t>(stage)]; };
    profile->norm_ms += of(Stage::kNorm);
    profile->qkv_ms += of(Stage::kQkv);
    profile->attention_ms += of(Stage::kAttention);
    profile->attn_out_ms += of(Stage::kAttnOut);
    profile->ffn_up_ms += of(Stage::kFfnUp);
    profile->ffn_down_ms += of(Stage::kFfnDown);
    profile->projector_ms += of(Stage::kProjector);
    profile->pack_ms += of(Stage::kPack);
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
