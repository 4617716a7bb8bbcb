#include "device/plan.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/error.h"
#include "device/buffer.h"

namespace bluelm {
namespace {

// A step's place in the CPU backend's graph.
void run_step(ggml_tensor*, int ith, int nth, void* step) { static_cast<Step*>(step)->run(ith, nth); }

std::shared_ptr<const PackedMatrix> packed(const ggml_tensor* weights) {
    DeviceBuffer& buffer = *device_buffer(weights);
    const auto lock = buffer.lock();
    return buffer.packed(weights);
}

bool is_dropped(const ggml_tensor* tensor) {
    DeviceBuffer* buffer = device_buffer(tensor);
    if (!buffer) return false;
    const auto lock = buffer->lock();
    return buffer->is_dropped(tensor);
}

}  // namespace

Plan::Plan(const Graph& graph, const DeviceKernels& kernels, StepMemory& memory, Watch& watch, int n_threads)
    : graph_(graph),
      kernels_(kernels),
      memory_(memory),
      watch_(watch),
      n_threads_(n_threads),
      left_out_(static_cast<size_t>(graph.n_nodes())) {
    for (int i = 0; i < graph.n_nodes(); ++i) plan_node(i);
    memory_.allocate(n_threads_);

    const size_t n = std::max<size_t>(1, nodes_.size());
    const ggml_init_params params = {
        (steps_.size() + 1) * ggml_tensor_overhead() + ggml_graph_overhead_custom(n, false) + 4096, nullptr,
        true};
    context_ = ggml_init(params);
    if (!context_) throw std::bad_alloc();
    planned_ = ggml_new_graph_custom(context_, n, false);
    for (size_t i = 0; i < nodes_.size(); ++i) {
        ggml_tensor* node = nodes_[i];
        if (Step* step = step_of_node_[i]) {
            node = ggml_custom_4d(context_, GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0, run_step, GGML_N_TASKS_MAX,
                                  step);
            node->flags |= GGML_TENSOR_FLAG_COMPUTE;
        }
        ggml_graph_add_node(planned_, node);
    }
}

Plan::~Plan() { ggml_free(context_); }

void Plan::add_step(std::unique_ptr<Step> step) {
    nodes_.push_back(nullptr);
    step_of_node_.push_back(step.get());
    costs_.push_back(step->cost());
    steps_.push_back(std::move(step));
}

// Whether no node from `from` on and before `to` writes where the tensor lies, but for those listed.
bool Plan::is_intact(const ggml_tensor* tensor, int from, int to, const std::vector<int>& but) const {
    for (int i = from; i < to; ++i) {
        const ggml_tensor* node = graph_.node(i);
        if (is_view(node) || node == tensor || left_out_[static_cast<size_t>(i)]) continue;
        if (std::find(but.begin(), but.end(), i) == but.end() && overlap(node, tensor)) return false;
    }
    return true;
}

void Plan::plan_node(int i) {
    ggml_tensor* node = graph_.node(i);
    const size_t at = static_cast<size_t>(i);
    const bool is_computed = (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
    if (!is_computed || is_view(node) || node->op == GGML_OP_NONE || ggml_is_empty(node)) return;
    if (is_linear(node) && !left_out_[at]) {
        if (const auto matrix = packed(node->src[0])) {
            LinearNode linear = shortened(*graph_.linear_at(i), matrix->type() == MatmulType::kInt8);
            for (int inner : linear.inner) leave_out(inner);
            if (linear.last != i) leave_out(linear.last);
            pending_.emplace(linear.last, std::move(linear));
        }
    }
    if (const auto found = pending_.find(i); found != pending_.end()) return add_linear(found->second);
    if (left_out_[at] || leave_out_norm(i)) return;
    if (add_cast(i)) return;
    if (kernels_.is_fast && AttentionStep::supports(node)) {
        add_attention(i);
        return;
    }
    for (const ggml_tensor* source : node->src) {
        if (source && is_dropped(source->view_src ? source->view_src : source)) {
            throw Error(BLUELM_ERR_UNSUPPORTED,
                        format("%s: this graph needs the original of a matrix that another one let go",
                               source->name));
        }
    }
    nodes_.push_back(node);
    step_of_node_.push_back(nullptr);
    costs_.push_back(1e-6 * static_cast<double>(ggml_nelements(node)));
}

// A norm whose result only our matmuls read is computed with their rows.
bool Plan::leave_out_norm(int i) {
    const auto norm = graph_.norm_at(i);
    if (!norm || !norm->is_inner) return false;
    const ggml_tensor* result = graph_.node(norm->nodes.front());
    // The norm's input must still be there where the last of them ends.
    std::vector<int> own = norm->nodes;
    int end = 0;
    for (int user : graph_.users_of(result)) {
        if (!packed(graph_.node(user)->src[0])) return false;
        const LinearNode linear = *graph_.linear_at(user);
        end = std::max(end, linear.last);
        own.insert(own.end(), linear.inner.begin(), linear.inner.end());
    }
    if (!is_intact(norm->x, i, end, own)) return false;
    for (int node : norm->nodes) leave_out(node);
    norms_[result] = *norm;
    return true;
}

// As much of a linear layer's end as its inputs' memory lasts for.
LinearNode Plan::shortened(LinearNode linear, bool can_scale) const {
    const auto cut = [&](size_t n_inner) {
        linear.last = linear.inner[n_inner];
        linear.inner.resize(n_inner);
    };
    const size_t n_bias = linear.bias ? 1 : 0;
    if (linear.scale && !can_scale) {
        cut(n_bias);
        linear.scale = linear.residual = nullptr;
    }
    const ggml_tensor* x = linear.x;
    if (const auto norm = norms_.find(x); norm != norms_.end()) x = norm->second.x;
    std::vector<int> own = linear.inner;
    while (linear.last != linear.first) {
        const ggml_tensor *out = graph_.node(linear.last), *residual = linear.residual;
        const bool is_same = residual && residual->data == out->data;
        const bool is_taken = pending_.count(linear.last) > 0;  // a sum of two linear layers
        const bool is_safe =
            !is_taken && (!residual || ((is_same || !overlap(residual, out)) &&
                                        is_intact(residual, linear.first, linear.last, own)));
        if (is_safe && is_intact(x, linear.first, linear.last, own)) break;
        cut(linear.inner.size() - 1);
        if (linear.residual)
            linear.residual = nullptr;
        else if (linear.scale)
            linear.scale = nullptr;
        else if (linear.activation != Activation::kNone)
            linear.activation = Activation::kNone;
        else
            linear.bias = nullptr;
    }
    return linear;
}

void Plan::add_rows(const LinearNode& linear, const std::shared_ptr<const PackedMatrix>& matrix,
                    bool* is_one_sided) {
    const ggml_tensor* x = linear.x;
    const auto norm = norms_.find(x);
    const auto bf16 = in_bf16_.find(x);
    const InputBalance* balance = matrix->balance().get();
    const bool is_int8 = matrix->type() == MatmulType::kInt8;
    RowsStep::Source source;
    source.x = x;
    source.norm = norm == norms_.end() ? nullptr : &norm->second;
    source.is_bf16 = bf16 != in_bf16_.end();
    source.factors = balance ? balance->inverse.data() : nullptr;
    if (source.is_bf16 && bf16->second == source.factors) source.factors = nullptr;  // multiplied already
    // GELU's values are -0.17 at the least. The epilogue that knows of middles has no activation.
    source.is_one_sided = is_int8 && linear.activation == Activation::kNone && x->op == GGML_OP_UNARY;
    *is_one_sided = source.is_one_sided;
    if (rows_.x == x && rows_.balance == balance && rows_.kernel == &matrix->kernel() &&
        rows_.is_one_sided == source.is_one_sided) {
        return;
    }
    rows_ = {x, balance, &matrix->kernel(), source.is_one_sided};
    add_step(std::make_unique<RowsStep>(kernels_, memory_, watch_, source, matrix));
}

void Plan::add_linear(const LinearNode& linear) {
    const auto matrix = packed(linear.weights);
    LinearStep::End end;
    add_rows(linear, matrix, &end.is_one_sided);
    end.bias = linear.bias;
    end.scale = linear.scale;
    end.residual = linear.residual;
    end.activation = linear.activation;
    end.out = graph_.node(linear.last);
    // What only goes into another of our matmuls behind GELU is kept as bf16, evened out.
    const int user = linear.activation != Activation::kNone ? graph_.only_user(end.out) : -1;
    if (user >= 0 && is_linear(graph_.node(user)) && graph_.node(user)->src[1] == end.out &&
        kernels_.wide_type == MatmulType::kBf16) {
        if (const auto next = packed(graph_.node(user)->src[0])) {
            end.multiply = next->balance() ? next->balance()->inverse.data() : nullptr;
            end.is_bf16 = true;
            in_bf16_[end.out] = end.multiply;
        }
    }
    add_step(std::make_unique<LinearStep>(kernels_, memory_, watch_, end, matrix));
}

// float32 -> float16 of K or V for attention of ours.
bool Plan::add_cast(int i) {
    ggml_tensor* node = graph_.node(i);
    if (node->op != GGML_OP_CPY || node->type != GGML_TYPE_F16 || kernels_.wide_type != MatmulType::kBf16 ||
        !kernels_.is_fast) {
        return false;
    }
    const ggml_tensor* from = node->src[0];
    if (from->type != GGML_TYPE_F32 || from->nb[0] != sizeof(float) || !ggml_are_same_shape(from, node) ||
        !ggml_is_contiguous(node) || node->view_src || !graph_.is_inner(node)) {
        return false;
    }
    for (int user : graph_.users_of(node)) {
        const ggml_tensor* reader = graph_.node(user);
        if (reader == node) continue;  // ggml_cast names the result as a source
        const bool is_ours = AttentionStep::supports(reader) && reader->src[3] != node &&
                             (reader->src[1] == node || reader->src[2] == node);
        if (!is_ours) return false;
    }
    cast_[node] = true;
    add_step(std::make_unique<CastStep>(kernels_, memory_, watch_, from, node));
    return true;
}

void Plan::add_attention(int i) {
    ggml_tensor* node = graph_.node(i);
    add_step(std::make_unique<AttentionStep>(kernels_, memory_, watch_, node, cast_.count(node->src[1]) > 0,
                                             cast_.count(node->src[2]) > 0, n_threads_));
}

}  // namespace bluelm
