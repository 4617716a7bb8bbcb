// What the device computes itself: steps that stand in a ggml graph as custom nodes, run by ggml's own
// threads.
//
//   RowsStep        rows, normed and evened out, as a matmul reads them: int8 with scales, or bf16
//   LinearStep      rows x matrix, with bias, GELU, scale and residual at the end of each block of sums
//   CastStep        float32 -> bf16 where the graph has float32 -> float16, for attention
//   AttentionStep   softmax(scale Q K^T + mask) V of all heads
#ifndef BLUELM_DEVICE_STEPS_H
#define BLUELM_DEVICE_STEPS_H

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned_memory.h"
#include "base/team.h"
#include "device/call.h"
#include "device/graph.h"
#include "device/kernels.h"
#include "device/packed_matrix.h"
#include "kernels/encoder/attention.h"

namespace bluelm {

// What the steps of a graph share. Memory is there once all steps have asked for theirs.
struct StepMemory {
    size_t rows_bytes = 0;    // rows as a matmul reads them; one matmul's at a time
    int64_t n_rows = 0;       // of them, for scales and middles
    size_t thread_bytes = 0;  // of each thread
    AlignedMemory rows, scales, threads;

    void allocate(int n_threads);
    char* of_thread(int thread) const { return threads.data() + static_cast<size_t>(thread) * thread_bytes; }
    float* scale() const { return reinterpret_cast<float*>(scales.data()); }
    float* middle() const { return scale() + n_rows; }
};

class Step {
public:
    Step(const DeviceKernels& kernels, StepMemory& memory, Watch& watch)
        : kernels_(kernels), memory_(memory), watch_(watch) {}
    virtual ~Step() = default;
    // Called by each of nth threads.
    virtual void run(int ith, int nth) = 0;
    // Multiplications, in millions: what progress is counted in.
    virtual double cost() const = 0;

protected:
    const DeviceKernels& kernels_;
    StepMemory& memory_;
    Watch& watch_;
    Team::Work work_;
};

// A tensor's rows: all but its first dimension counted as one.
struct TensorRows {
    const ggml_tensor* tensor = nullptr;
    int64_t count() const { return ggml_nrows(tensor); }
    const char* row(int64_t r) const;
};

class RowsStep final : public Step {
public:
    // x: float32, or bf16 rows without gaps where is_bf16. norm: applied first, x is then its input. factors:
    // multiply what is quantised, NULL for 1. is_one_sided: rows are quantised around a middle.
    struct Source {
        const ggml_tensor* x = nullptr;
        bool is_bf16 = false;
        const NormNode* norm = nullptr;
        const float* factors = nullptr;
        bool is_one_sided = false;
    };
    RowsStep(const DeviceKernels&, StepMemory&, Watch&, const Source& source,
             std::shared_ptr<const PackedMatrix> matrix);
    void run(int ith, int nth) override;
    double cost() const override { return 0; }

private:
    void put(int64_t r, float* scratch) const;

    Source source_;
    std::shared_ptr<const PackedMatrix> matrix_;
    std::vector<float> norm_w_, norm_b_;  // evened out
    TensorRows rows_;
    int64_t n_rows_, share_;
};

class LinearStep final : public Step {
public:
    // out: float32 [n_out, rows], or bf16 in its place. multiply: behind the activation, NULL for 1.
    struct End {
        const ggml_tensor *bias = nullptr, *scale = nullptr, *residual = nullptr;
        Activation activation = Activation::kNone;
        const float* multiply = nullptr;
        ggml_tensor* out = nullptr;
        bool is_bf16 = false;
        bool is_one_sided = false;  // the rows are
    };
    LinearStep(const DeviceKernels&, StepMemory&, Watch&, const End& end,
               std::shared_ptr<const PackedMatrix> matrix);
    void run(int ith, int nth) override;
    double cost() const override;

private:
    void store(const Sums& sums, int64_t row, int64_t column) const;

    End end_;
    std::shared_ptr<const PackedMatrix> matrix_;
    std::vector<float> bias_, scales_, sums_of_rows_;
    int64_t n_rows_, in_block_, n_blocks_;
    size_t stride_;
};

class CastStep final : public Step {
public:
    CastStep(const DeviceKernels&, StepMemory&, Watch&, const ggml_tensor* from, ggml_tensor* to);
    void run(int ith, int nth) override;
    double cost() const override { return 0; }

private:
    TensorRows from_;
    ggml_tensor* to_;
};

class AttentionStep final : public Step {
public:
    // Whether a FLASH_ATTN_EXT is one that this computes.
    static bool supports(const ggml_tensor* op);
    // k_is_bf16, v_is_bf16: where the graph has float16.
    AttentionStep(const DeviceKernels&, StepMemory&, Watch&, ggml_tensor* op, bool k_is_bf16, bool v_is_bf16,
                  int n_threads);
    void run(int ith, int nth) override;
    double cost() const override;

private:
    const char* as_wide(const ggml_tensor* t, int64_t head, int64_t batch, bool is_bf16, char* to,
                        size_t* stride) const;

    ggml_tensor* op_;
    bool k_is_bf16_, v_is_bf16_;
    int64_t d_, n_q_, n_kv_, heads_, batches_, parts_, part_;
    Attention attention_;
    size_t wide_bytes_, k_at_, v_at_, q_at_, out_at_;
};

}  // namespace bluelm

#endif  // BLUELM_DEVICE_STEPS_H
