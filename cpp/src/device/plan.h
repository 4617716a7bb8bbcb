// How the device runs a graph: a graph of its own for ggml's CPU backend, in which custom nodes
// (device/steps.h) stand for what is recognised (device/graph.h) and the nodes that nothing else uses are
// left out.
//
// A step stands where the last of its nodes stood. Memory of the graph was laid out for the original order,
// so each input of a step must still hold what it held: where the graph reuses its memory before that, less
// is fused.
#ifndef BLUELM_DEVICE_PLAN_H
#define BLUELM_DEVICE_PLAN_H

#include <map>
#include <memory>
#include <vector>

#include "device/graph.h"
#include "device/steps.h"

namespace bluelm {

class Plan {
public:
    // The matrices are packed. Throws Error UNSUPPORTED where a matrix is needed whose pages are gone,
    // std::bad_alloc.
    Plan(const Graph& graph, const DeviceKernels& kernels, StepMemory& memory, Watch& watch, int n_threads);
    ~Plan();
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;

    // For the CPU backend.
    ggml_cgraph* graph() const { return planned_; }
    // Cost of the node that the CPU backend computes i-th, not counting empty ones.
    const std::vector<double>& costs() const { return costs_; }
    // Steps among them, and nodes of the original that they stand for.
    int n_steps() const { return static_cast<int>(steps_.size()); }

private:
    struct RowsInUse {  // what is in StepMemory's rows
        const ggml_tensor* x = nullptr;
        const InputBalance* balance = nullptr;
        const MatmulKernel* kernel = nullptr;
        bool is_one_sided = false;
    };

    void plan_node(int i);
    bool leave_out_norm(int i);
    void add_linear(const LinearNode& linear);
    void add_rows(const LinearNode& linear, const std::shared_ptr<const PackedMatrix>& matrix,
                  bool* is_one_sided);
    LinearNode shortened(LinearNode linear, bool can_scale) const;
    bool is_intact(const ggml_tensor* tensor, int from, int to, const std::vector<int>& but) const;
    bool add_cast(int i);
    void add_attention(int i);
    void add_step(std::unique_ptr<Step> step);
    void leave_out(int i) { left_out_[static_cast<size_t>(i)] = true; }

    const Graph& graph_;
    const DeviceKernels& kernels_;
    StepMemory& memory_;
    Watch& watch_;
    const int n_threads_;
    std::vector<bool> left_out_;
    std::map<int, LinearNode> pending_;             // by their last node
    std::map<const ggml_tensor*, NormNode> norms_;  // left out, by their results
    std::map<const ggml_tensor*, const float*>
        in_bf16_;                              // stored as bf16, with the factors they were multiplied by
    std::map<const ggml_tensor*, bool> cast_;  // K and V that are bf16
    RowsInUse rows_;

    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<ggml_tensor*> nodes_;
    std::vector<Step*> step_of_node_;
    std::vector<double> costs_;
    ggml_context* context_ = nullptr;
    ggml_cgraph* planned_ = nullptr;
};

}  // namespace bluelm

#endif  // BLUELM_DEVICE_PLAN_H
