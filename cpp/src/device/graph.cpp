#include "device/graph.h"

#include <algorithm>
#include <cstring>

#include "device/buffer.h"

namespace bluelm {
namespace {

// float32 [n] in the device's memory.
bool is_vector(const ggml_tensor* t, int64_t n) {
    return is_weight(t) && t->type == GGML_TYPE_F32 && t->ne[0] == n && ggml_nelements(t) == n;
}

// The other source of ADD or MUL.
const ggml_tensor* other(const ggml_tensor* node, const ggml_tensor* one) {
    return node->src[0] == one ? node->src[1] : node->src[0];
}

bool is_plain(const ggml_tensor* t) { return t->type == GGML_TYPE_F32 && ggml_is_contiguous(t); }

}  // namespace

bool is_weight(const ggml_tensor* t) {
    return t && t->op == GGML_OP_NONE && !t->view_src && device_buffer(t) && ggml_is_contiguous(t) &&
           t->buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

bool is_matrix(const ggml_tensor* t) {
    return is_weight(t) && t->ne[2] == 1 && t->ne[3] == 1 &&
           (t->type == GGML_TYPE_F32 || ggml_get_type_traits(t->type)->to_float);
}

bool is_linear(const ggml_tensor* node) {
    return node->op == GGML_OP_MUL_MAT && is_matrix(node->src[0]) && node->op_params[1] == 0 &&
           node->src[1]->type == GGML_TYPE_F32 && node->src[1]->nb[0] == sizeof(float) && is_plain(node) &&
           !ggml_is_empty(node);
}

bool is_view(const ggml_tensor* node) {
    return node->op == GGML_OP_VIEW || node->op == GGML_OP_RESHAPE || node->op == GGML_OP_PERMUTE ||
           node->op == GGML_OP_TRANSPOSE;
}

bool overlap(const ggml_tensor* a, const ggml_tensor* b) {
    const char *first = static_cast<const char*>(a->data), *second = static_cast<const char*>(b->data);
    return first && second && first < second + ggml_nbytes(b) && second < first + ggml_nbytes(a);
}

Graph::Graph(const ggml_cgraph* graph) : graph_(graph) {
    for (int i = 0; i < graph->n_nodes; ++i) {
        const ggml_tensor* node = graph->nodes[i];
        index_.emplace(node, i);
        for (const ggml_tensor* source : node->src) {
            if (!source) continue;
            std::vector<int>& users = users_[source];
            if (users.empty() || users.back() != i) users.push_back(i);
        }
    }
}

int Graph::index_of(const ggml_tensor* tensor) const {
    const auto found = index_.find(tensor);
    return found == index_.end() ? -1 : found->second;
}

const std::vector<int>& Graph::users_of(const ggml_tensor* tensor) const {
    static const std::vector<int> none;
    const auto found = users_.find(tensor);
    return found == users_.end() ? none : found->second;
}

// How many sources of the whole graph's nodes it is, as ggml counted when the graph was built. This one may
// be a part of it.
int Graph::uses(const ggml_tensor* tensor) const {
    const ggml_hash_set& set = graph_->visited_hash_set;
    const size_t begin = (reinterpret_cast<uintptr_t>(tensor) >> 4) % set.size;
    size_t i = begin;
    do {
        if (!(set.used[i / 32] >> (i % 32) & 1)) return -1;
        if (set.keys[i] == tensor) return graph_->use_counts[i];
        i = (i + 1) % set.size;
    } while (i != begin);
    return -1;
}

bool Graph::is_inner(const ggml_tensor* tensor) const {
    if (index_of(tensor) < 0 || (tensor->flags & GGML_TENSOR_FLAG_OUTPUT)) return false;
    int here = 0;
    for (int i : users_of(tensor))
        here += static_cast<int>(std::count(std::begin(node(i)->src), std::end(node(i)->src), tensor));
    return here > 0 && uses(tensor) == here;
}

int Graph::only_user(const ggml_tensor* tensor) const {
    const std::vector<int>& users = users_of(tensor);
    return users.size() == 1 && is_inner(tensor) ? users.front() : -1;
}

std::optional<LinearNode> Graph::linear_at(int i) const {
    const ggml_tensor* current = node(i);
    if (!is_linear(current)) return std::nullopt;
    LinearNode linear;
    linear.first = linear.last = i;
    linear.weights = current->src[0];
    linear.x = current->src[1];
    const int64_t n = current->ne[0];
    const auto step = [&](int to) {
        linear.inner.push_back(linear.last);
        linear.last = to;
        current = node(to);
    };
    const auto next = [&](ggml_op op) -> const ggml_tensor* {
        const int user = only_user(current);
        if (user < 0) return nullptr;
        const ggml_tensor* node_ = node(user);
        return node_->op == op && is_plain(node_) && ggml_are_same_shape(node_, current) ? node_ : nullptr;
    };
    const auto operand = [&](const ggml_tensor* user) { return other(user, current); };
    if (const ggml_tensor* add = next(GGML_OP_ADD); add && is_vector(operand(add), n)) {
        linear.bias = operand(add);
        step(index_of(add));
    }
    if (const ggml_tensor* unary = next(GGML_OP_UNARY)) {
        switch (ggml_get_unary_op(unary)) {
            case GGML_UNARY_OP_GELU: linear.activation = Activation::kGelu; break;
            case GGML_UNARY_OP_GELU_ERF: linear.activation = Activation::kGeluErf; break;
            case GGML_UNARY_OP_GELU_QUICK: linear.activation = Activation::kGeluQuick; break;
            default: break;
        }
        if (linear.activation != Activation::kNone) step(index_of(unary));
        return linear;
    }
    if (const ggml_tensor* mul = next(GGML_OP_MUL); mul && is_vector(operand(mul), n)) {
        linear.scale = operand(mul);
        step(index_of(mul));
    }
    if (const ggml_tensor* add = next(GGML_OP_ADD)) {
        const ggml_tensor* x = operand(add);
        if (x != current && is_plain(x) && ggml_are_same_shape(x, current)) {
            linear.residual = x;
            step(index_of(add));
        }
    }
    return linear;
}

std::optional<NormNode> Graph::norm_of(const ggml_tensor* tensor) const {
    NormNode norm;
    const ggml_tensor* current = tensor;
    if (index_of(current) < 0 || !is_plain(current)) return std::nullopt;
    norm.nodes.push_back(index_of(current));
    const int64_t n = current->ne[0];
    bool inner = true;
    // w or b of a node, and the way to the node before it.
    const auto operand = [&](ggml_op op) -> const ggml_tensor* {
        if (current->op != op) return nullptr;
        const ggml_tensor* value = is_vector(current->src[1], n)   ? current->src[1]
                                   : is_vector(current->src[0], n) ? current->src[0]
                                                                   : nullptr;
        if (!value) return nullptr;
        const ggml_tensor* before = other(current, value);
        if (!ggml_are_same_shape(before, current)) return nullptr;
        current = before;
        norm.nodes.push_back(index_of(current));
        inner = inner && only_user(current) >= 0;
        return value;
    };
    norm.b = operand(GGML_OP_ADD);
    norm.w = operand(GGML_OP_MUL);
    if (!norm.w || index_of(current) < 0 || (current->op != GGML_OP_NORM && current->op != GGML_OP_RMS_NORM))
        return std::nullopt;
    norm.is_rms = current->op == GGML_OP_RMS_NORM;
    if (norm.is_rms && norm.b) return std::nullopt;
    norm.x = current->src[0];
    if (norm.x->type != GGML_TYPE_F32 || norm.x->nb[0] != sizeof(float)) return std::nullopt;
    std::memcpy(&norm.eps, current->op_params, sizeof norm.eps);
    inner = inner && is_inner(tensor);
    for (int user : users_of(tensor))
        inner =
            inner && is_linear(node(user)) && node(user)->src[1] == tensor && node(user)->src[0] != tensor;
    norm.is_inner = inner;
    return norm;
}

std::optional<NormNode> Graph::norm_at(int i) const {
    const ggml_tensor* current = node(i);
    if (current->op != GGML_OP_NORM && current->op != GGML_OP_RMS_NORM) return std::nullopt;
    std::optional<NormNode> found;
    for (int user = only_user(current); user >= 0; user = only_user(current)) {
        current = node(user);
        const auto norm = norm_of(current);
        if (!norm) break;
        found = norm;
    }
    return found;
}

}  // namespace bluelm
