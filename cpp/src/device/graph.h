// What the device recognises in a ggml graph: linear layers with what follows them, the norms before them,
// attention. Nothing is decided by names; operations, shapes and the number of uses decide.
#ifndef BLUELM_DEVICE_GRAPH_H
#define BLUELM_DEVICE_GRAPH_H

#include <optional>
#include <unordered_map>
#include <vector>

#include "device/ggml_private.h"

namespace bluelm {

enum class Activation { kNone, kGelu, kGeluErf, kGeluQuick };

// y = norm(x) * w + b, in float32.
struct NormNode {
    std::vector<int> nodes;  // from the result back to the norm
    const ggml_tensor* x = nullptr;
    const ggml_tensor* w = nullptr;  // [n]
    const ggml_tensor* b = nullptr;  // [n], or NULL
    bool is_rms = false;
    float eps = 0;
    bool is_inner = false;  // all that uses the result multiplies a matrix of ours with it, in this graph
};

// y = activation(W x + bias) or (W x + bias) * scale + residual.
struct LinearNode {
    int first = 0, last = 0;  // MUL_MAT, and the node whose result is y
    ggml_tensor* weights = nullptr;
    const ggml_tensor* x = nullptr;
    const ggml_tensor *bias = nullptr, *scale = nullptr, *residual = nullptr;  // or NULL
    Activation activation = Activation::kNone;
    std::vector<int> inner;  // nodes between, whose results nobody else uses
};

class Graph {
public:
    explicit Graph(const ggml_cgraph* graph);

    int n_nodes() const { return graph_->n_nodes; }
    ggml_tensor* node(int i) const { return graph_->nodes[i]; }
    // The node's place, or -1: not computed here.
    int index_of(const ggml_tensor* tensor) const;
    // Nodes that have it as a source, in order; in this graph only.
    const std::vector<int>& users_of(const ggml_tensor* tensor) const;
    // Whether it is used here and nowhere else, and no output.
    bool is_inner(const ggml_tensor* tensor) const;
    // The only node that uses it, if it is inner and used once; else -1.
    int only_user(const ggml_tensor* tensor) const;

    // The linear layer that a MUL_MAT begins.
    std::optional<LinearNode> linear_at(int i) const;
    // The norm that makes a tensor, if one does.
    std::optional<NormNode> norm_of(const ggml_tensor* tensor) const;
    // The norm that begins at NORM or RMS_NORM, as far as it goes.
    std::optional<NormNode> norm_at(int i) const;

private:
    int uses(const ggml_tensor* tensor) const;

    const ggml_cgraph* graph_;
    std::unordered_map<const ggml_tensor*, int> index_;
    std::unordered_map<const ggml_tensor*, std::vector<int>> users_;
};

// Whether a tensor is a weight in the device's memory.
bool is_weight(const ggml_tensor* tensor);
// Whether it is one that can be packed, the weights of a MUL_MAT.
bool is_matrix(const ggml_tensor* tensor);
// Whether a node is MUL_MAT with such weights, for rows of floats.
bool is_linear(const ggml_tensor* node);
// Whether a node only gives memory another shape.
bool is_view(const ggml_tensor* node);
// Whether bytes of both lie in the same place.
bool overlap(const ggml_tensor* a, const ggml_tensor* b);

}  // namespace bluelm

#endif  // BLUELM_DEVICE_GRAPH_H
