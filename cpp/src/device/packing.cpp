#include "device/packing.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/team.h"
#include "device/buffer.h"
#include "kernels/encoder/balance.h"

namespace bluelm {
namespace {

using Values = std::vector<float>;

const float* floats(const ggml_tensor* t) { return static_cast<const float*>(t->data); }
size_t size(int64_t n) { return static_cast<size_t>(n); }

// Runs body(thread, first, last) over shares of 0..n-1.
template <class Body>
void share_out(int n_threads, int64_t n, const Body& body) {
    const int64_t share = std::max<int64_t>(1, n / (8 * n_threads));
    Team::Work work;
    Team::run(n_threads, [&](Team&, int thread) {
        for (int64_t i; (i = work.take((n + share - 1) / share)) >= 0;)
            body(thread, i * share, std::min(n, (i + 1) * share));
    });
}

// How far channels reach: estimates from the weights before them, since no activation has been seen yet. They
// only choose factors that cancel out, so a bad one costs precision and nothing else.
class Reach {
public:
    Reach(const Graph& graph, const DeviceKernels& kernels, int n_threads)
        : graph_(graph), ops_(kernels.ops), n_threads_(n_threads) {}

    // Of a tensor's first dimension; empty: not known. has_norm: it is a norm's result.
    Values of(const ggml_tensor* x, bool* has_norm) const {
        if (const auto norm = graph_.norm_of(x)) {
            *has_norm = true;
            return of_norm(*norm);
        }
        *has_norm = false;
        if (x->op == GGML_OP_UNARY) {
            Values result = of_linear(x, true);
            for (float& value : result) value = std::max(value, 0.17f);  // GELU is at least -0.17
            return result;
        }
        if (x->op == GGML_OP_GLU) return of_glu(x);
        const ggml_tensor* attention = x;
        while (attention->op == GGML_OP_RESHAPE) attention = attention->src[0];
        if (attention->op == GGML_OP_FLASH_ATTN_EXT) return of_attention(attention, x->ne[0]);
        return {};
    }

    // The largest magnitude of each column of a matrix, joined to `maxima`.
    void join_maxima(const ggml_tensor* weights, Values& maxima) const {
        std::mutex joining;
        share_out(n_threads_, weights->ne[1], [&](int, int64_t first, int64_t last) {
            Values row(size(weights->ne[0])), own(row.size());
            for (int64_t r = first; r < last; ++r) {
                matrix_row(weights, r, row.data());
                ops_.max_magnitudes(row.data(), weights->ne[0], own.data());
            }
            const std::lock_guard<std::mutex> lock(joining);
            for (size_t i = 0; i < own.size(); ++i) maxima[i] = std::max(maxima[i], own[i]);
        });
    }

private:
    // A norm's outputs are bias + weight * (about -3..3).
    static Values of_norm(const NormNode& norm) {
        Values result(size(norm.w->ne[0]));
        for (size_t i = 0; i < result.size(); ++i)
            result[i] = 3 * std::fabs(floats(norm.w)[i]) + (norm.b ? std::fabs(floats(norm.b)[i]) : 0);
        return result;
    }

    // The linear layer whose result a tensor is: mean + 3 deviations where only its positive side counts,
    // else |mean| + 2 deviations, of independent inputs.
    Values of_linear(const ggml_tensor* result, bool is_positive) const {
        std::optional<LinearNode> linear;
        for (const ggml_tensor* t = result; t; t = t->src[0]) {
            if (is_linear(t)) {
                linear = graph_.index_of(t) >= 0 ? graph_.linear_at(graph_.index_of(t)) : std::nullopt;
                break;
            }
            if (t->op != GGML_OP_ADD && t->op != GGML_OP_UNARY) break;
        }
        if (!linear || device_buffer(linear->weights)->is_dropped(linear->weights)) return {};
        const auto norm = graph_.norm_of(linear->x);
        if (!norm) return {};
        const ggml_tensor* weights = linear->weights;
        const int64_t n = weights->ne[0];
        const Values none(size(n));
        Values reach(size(weights->ne[1]));
        share_out(n_threads_, weights->ne[1], [&](int, int64_t first, int64_t last) {
            Values row(size(n));
            for (int64_t r = first; r < last; ++r) {
                float squares, mean;
                matrix_row(weights, r, row.data());
                ops_.products(row.data(), floats(norm->w), norm->b ? floats(norm->b) : none.data(), n,
                              &squares, &mean);
                if (linear->bias) mean += floats(linear->bias)[r];
                reach[size(r)] =
                    is_positive ? mean + 3 * std::sqrt(squares) : std::fabs(mean) + 2 * std::sqrt(squares);
            }
        });
        return reach;
    }

    Values of_glu(const ggml_tensor* x) const {
        if (!x->src[1]) return {};
        Values gate = of_linear(x->src[0], true);
        const Values up = of_linear(x->src[1], false);
        if (gate.size() != up.size()) return {};
        for (size_t i = 0; i < gate.size(); ++i) gate[i] = std::max(gate[i], 0.28f) * up[i];
        return gate;
    }

    // [head_dim, heads] of V, which are a part of a linear layer's outputs.
    Values of_attention(const ggml_tensor* attention, int64_t n) const {
        const ggml_tensor *q = attention->src[0], *v = attention->src[2];
        const int64_t head_dim = v->ne[0], heads = q->ne[2], kv_heads = v->ne[2];
        if (n != head_dim * heads || kv_heads == 0 || heads % kv_heads != 0) return {};
        size_t offset = 0;
        const ggml_tensor* t = v;
        while (is_view(t) || t->op == GGML_OP_CPY || t->op == GGML_OP_CONT || t->op == GGML_OP_DUP) {
            if (t->op == GGML_OP_VIEW)
                offset += t->view_offs - (t->src[0]->view_src ? t->src[0]->view_offs : 0);
            t = t->src[0];
        }
        const Values outputs = of_linear(t, false);
        const size_t first = offset / sizeof(float);
        if (outputs.size() < first + size(head_dim * kv_heads)) return {};
        Values reach(size(n));
        for (int64_t h = 0; h < heads; ++h) {
            std::copy_n(
                outputs.begin() + static_cast<std::ptrdiff_t>(first) + h / (heads / kv_heads) * head_dim,
                head_dim, reach.begin() + h * head_dim);
        }
        return reach;
    }

    const Graph& graph_;
    const RowOps& ops_;
    const int n_threads_;
};

struct Task {
    ggml_tensor* weights;
    std::shared_ptr<const InputBalance> balance;
};

bool is_loaded(const ggml_tensor* weights) {
    const auto* row = static_cast<const char*>(weights->data);
    return std::any_of(row, row + weights->nb[1], [](char c) { return c != 0; });
}

std::shared_ptr<const InputBalance> balance_for(const Reach& reach, const ggml_tensor* x,
                                                const std::vector<ggml_tensor*>& matrices) {
    bool has_norm = false;
    Values activations = reach.of(x, &has_norm);
    if (activations.size() != size(x->ne[0])) return nullptr;
    Values maxima(activations.size());
    for (const ggml_tensor* matrix : matrices) reach.join_maxima(matrix, maxima);
    auto balance = std::make_shared<InputBalance>();
    if (has_norm) {
        SpreadFactors factors = spread_factors(std::move(activations), std::move(maxima));
        balance->inverse = std::move(factors.divide);
        balance->multiply = std::move(factors.multiply);
        balance->copies = std::move(factors.copies);
    } else {
        balance->multiply = balance_factors(std::move(activations), std::move(maxima));
        balance->inverse = balance->multiply;
    }
    for (float& value : balance->inverse) value = 1.0f / value;
    return balance;
}

}  // namespace

void pack_weights(const Graph& graph, const DeviceKernels& kernels, DevicePrecision precision,
                  int n_threads) {
    // Matrices that read the same rows, in the graph's order.
    std::vector<std::pair<const ggml_tensor*, std::vector<ggml_tensor*>>> groups;
    for (int i = 0; i < graph.n_nodes(); ++i) {
        const ggml_tensor* node = graph.node(i);
        if (!is_linear(node)) continue;
        ggml_tensor* weights = node->src[0];
        DeviceBuffer& buffer = *device_buffer(weights);
        const auto lock = buffer.lock();
        if (buffer.packed(weights) || buffer.is_dropped(weights) || !is_loaded(weights)) continue;
        const auto found = std::find_if(groups.begin(), groups.end(),
                                        [&](const auto& group) { return group.first == node->src[1]; });
        auto& matrices = found == groups.end()
                             ? groups.emplace_back(node->src[1], std::vector<ggml_tensor*>()).second
                             : found->second;
        if (std::find(matrices.begin(), matrices.end(), weights) == matrices.end())
            matrices.push_back(weights);
    }
    // All factors first: they need the matrices before, which packing gives away.
    const Reach reach(graph, kernels, n_threads);
    std::vector<Task> tasks;
    for (const auto& [x, matrices] : groups) {
        const auto balance = precision == DevicePrecision::kInt8 ? balance_for(reach, x, matrices) : nullptr;
        for (ggml_tensor* matrix : matrices) tasks.push_back({matrix, balance});
    }
    for (const Task& task : tasks) {
        MatmulType type = kernels.wide_type;
        const MatmulKernel* kernel = kernels.wide;
        if (task.balance) {
            type = MatmulType::kInt8;
            kernel = kernels.int8;
        } else if (precision == DevicePrecision::kFloat) {
            type = MatmulType::kF32;
            kernel = kernels.f32;
        }
        const auto packed = std::make_shared<PackedMatrix>(task.weights, type, *kernel, task.balance);
        share_out(n_threads, packed->n_panels(), [&](int, int64_t first, int64_t last) {
            for (int64_t panel = first; panel < last; ++panel) packed->pack(task.weights, kernels.ops, panel);
        });
        DeviceBuffer& buffer = *device_buffer(task.weights);
        const auto lock = buffer.lock();
        buffer.keep(task.weights, packed);
        const std::vector<int>& users = graph.users_of(task.weights);
        if (std::all_of(users.begin(), users.end(), [&](int i) { return is_linear(graph.node(i)); }))
            buffer.drop(task.weights);
    }
}

}  // namespace bluelm
