#include "device/steps.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace bluelm {
namespace {

constexpr int64_t kMaxRows = 384;  // rows in a block: 384 x 1152 bytes and a panel fit a second-level cache

size_t size(int64_t n) { return static_cast<size_t>(n); }
size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
const float* floats(const ggml_tensor* t) { return static_cast<const float*>(t->data); }

int64_t row_bytes(const PackedMatrix& matrix) {
    return matrix.k() * static_cast<int64_t>(matmul_element_bytes(matrix.type()));
}

float scale_of(const ggml_tensor* attention) {
    float scale;
    std::memcpy(&scale, attention->op_params, sizeof scale);
    return scale;
}

// Enters and leaves a kernel's state for a thread.
class Entered {
public:
    explicit Entered(const MatmulKernel& kernel) : kernel_(kernel) {
        if (kernel.enter) kernel.enter();
    }
    ~Entered() {
        if (kernel_.leave) kernel_.leave();
    }
    Entered(const Entered&) = delete;
    Entered& operator=(const Entered&) = delete;

private:
    const MatmulKernel& kernel_;
};

}  // namespace

void StepMemory::allocate(int n_threads) {
    thread_bytes = aligned(thread_bytes);
    const auto grow = [](AlignedMemory& memory, size_t bytes) {
        if (memory.bytes() < bytes) {
            memory = AlignedMemory();
            memory = AlignedMemory::mapped(bytes);
        }
    };
    grow(rows, rows_bytes);
    grow(scales, 2 * size(n_rows) * sizeof(float));
    grow(threads, size(n_threads) * thread_bytes);
}

const char* TensorRows::row(int64_t r) const {
    const ggml_tensor* t = tensor;
    const int64_t i1 = r % t->ne[1], i2 = r / t->ne[1] % t->ne[2], i3 = r / (t->ne[1] * t->ne[2]);
    return static_cast<const char*>(t->data) + size(i1) * t->nb[1] + size(i2) * t->nb[2] +
           size(i3) * t->nb[3];
}

// ---------------------------------------------------------------------------------------------------- rows

RowsStep::RowsStep(const DeviceKernels& kernels, StepMemory& memory, Watch& watch, const Source& source,
                   std::shared_ptr<const PackedMatrix> matrix)
    : Step(kernels, memory, watch), source_(source), matrix_(std::move(matrix)) {
    const int64_t n = matrix_->n_in();
    if (source_.norm) {
        const NormNode& norm = *source_.norm;
        norm_w_.assign(floats(norm.w), floats(norm.w) + n);
        norm_b_.assign(size(n), 0.0f);
        if (norm.b) std::copy_n(floats(norm.b), n, norm_b_.begin());
        if (source_.factors) {
            for (size_t i = 0; i < norm_w_.size(); ++i) {
                norm_w_[i] *= source_.factors[i];
                norm_b_[i] *= source_.factors[i];
            }
            source_.factors = nullptr;
        }
        source_.x = norm.x;
    }
    rows_.tensor = source_.x;
    n_rows_ = rows_.count();
    share_ = round_up(16, matrix_->kernel().rows);
    const int64_t padded = round_up(n_rows_, matrix_->kernel().rows);
    memory.rows_bytes = std::max(memory.rows_bytes, size(padded * row_bytes(*matrix_)));
    memory.n_rows = std::max(memory.n_rows, padded);
    memory.thread_bytes = std::max(memory.thread_bytes, size(matrix_->n_columns()) * sizeof(float));
}

// Row r; `scratch` has room for one.
void RowsStep::put(int64_t r, float* scratch) const {
    const PackedMatrix& matrix = *matrix_;
    const RowOps& ops = kernels_.ops;
    const int64_t n = matrix.n_in(), n_all = matrix.n_columns(), k = matrix.k();
    const uint8_t flip = matrix.kernel().x_flip;
    char* to = memory_.rows.data() + size(r * row_bytes(matrix));
    auto* quantised = reinterpret_cast<int8_t*>(to);
    float *scale = memory_.scale() + r, *middle = memory_.middle() + r;
    if (source_.is_bf16) {
        const auto* from = static_cast<const uint16_t*>(source_.x->data) + r * n;
        if (matrix.type() == MatmulType::kInt8 && !source_.factors && n_all == n) {
            *scale = source_.is_one_sided ? ops.quantise_around_bf16(from, n, k, flip, quantised, middle)
                                          : ops.quantise_bf16(from, n, k, flip, quantised);
            return;
        }
        ops.to_float(from, n, scratch);
    }
    const float* from = source_.is_bf16 ? scratch : reinterpret_cast<const float*>(rows_.row(r));
    if (source_.norm) {
        if (source_.norm->is_rms) {
            ops.rms_norm(from, norm_w_.data(), source_.norm->eps, n, scratch);
        } else {
            ops.layer_norm(from, norm_w_.data(), norm_b_.data(), source_.norm->eps, n, scratch);
        }
        from = scratch;
    }
    if (source_.factors) {
        if (from != scratch) std::memcpy(scratch, from, size(n) * sizeof(float));
        ops.multiply_each(scratch, source_.factors, 1.0f, n);
        from = scratch;
    }
    if (n_all > n) {
        if (from != scratch) std::memcpy(scratch, from, size(n) * sizeof(float));
        from = scratch;
        for (int64_t i = n; i < n_all; ++i) scratch[i] = scratch[matrix.balance()->copies[size(i - n)]];
    }
    switch (matrix.type()) {
        case MatmulType::kInt8:
            *scale = source_.is_one_sided ? ops.quantise_around(from, n_all, k, flip, quantised, middle)
                                          : ops.quantise(from, n_all, k, flip, quantised);
            break;
        case MatmulType::kBf16: ops.to_bf16(from, n_all, k, reinterpret_cast<uint16_t*>(to)); break;
        case MatmulType::kF32:
            std::memcpy(to, from, size(n_all) * sizeof(float));
            std::memset(to + size(n_all) * sizeof(float), 0, size(k - n_all) * sizeof(float));
            break;
    }
}

void RowsStep::run(int ith, int) {
    auto* scratch = reinterpret_cast<float*>(memory_.of_thread(ith));
    const size_t stride = size(row_bytes(*matrix_));
    for (int64_t i; (i = work_.take((n_rows_ + share_ - 1) / share_)) >= 0;) {
        const int64_t first = i * share_, last = std::min(n_rows_, first + share_);
        for (int64_t r = first; r < last; ++r) put(r, scratch);
        matmul_pack_rows(matrix_->kernel(), matrix_->type(), memory_.rows.data() + size(first) * stride,
                         stride, last - first, matrix_->k());
    }
}

// -------------------------------------------------------------------------------------------------- linear

LinearStep::LinearStep(const DeviceKernels& kernels, StepMemory& memory, Watch& watch, const End& end,
                       std::shared_ptr<const PackedMatrix> matrix)
    : Step(kernels, memory, watch), end_(end), matrix_(std::move(matrix)), n_rows_(ggml_nrows(end.out)) {
    const size_t n_out = size(matrix_->n_out());
    bias_.assign(n_out, 0.0f);
    if (end_.bias) std::copy_n(floats(end_.bias), n_out, bias_.begin());
    if (matrix_->type() == MatmulType::kInt8) {
        scales_.assign(matrix_->scales(), matrix_->scales() + n_out);
        sums_of_rows_.assign(matrix_->sums(), matrix_->sums() + n_out);
        for (size_t i = 0; end_.scale && i < n_out; ++i) {
            scales_[i] *= floats(end_.scale)[i];
            sums_of_rows_[i] *= floats(end_.scale)[i];
            bias_[i] *= floats(end_.scale)[i];
        }
    }
    stride_ = n_out;
    const MatmulKernel& kernel = matrix_->kernel();
    n_blocks_ = (n_rows_ + kMaxRows - 1) / kMaxRows;
    in_block_ = round_up((n_rows_ + n_blocks_ - 1) / n_blocks_, kernel.rows);
    n_blocks_ = (n_rows_ + in_block_ - 1) / in_block_;
    memory.thread_bytes = std::max(memory.thread_bytes, size(kernel.rows * kernel.columns) * sizeof(float));
}

double LinearStep::cost() const {
    return 1e-6 * static_cast<double>(n_rows_) * static_cast<double>(matrix_->k()) *
           static_cast<double>(matrix_->n_out());
}

// A block of sums whose first is of this row and output.
void LinearStep::store(const Sums& sums, int64_t row, int64_t column) const {
    const RowOps::Epilogues& ends =
        matrix_->type() == MatmulType::kInt8 ? kernels_.ops.of_int32 : kernels_.ops.of_float;
    const size_t at = size(row) * stride_ + size(column);
    float* out = static_cast<float*>(end_.out->data) + at;
    uint16_t* half = static_cast<uint16_t*>(end_.out->data) + at;
    const float* multiply = end_.multiply ? end_.multiply + column : nullptr;
    switch (end_.activation) {
        case Activation::kGelu:
            return end_.is_bf16 ? ends.gelu_bf16(sums, multiply, half, stride_)
                                : ends.gelu_f32(sums, multiply, out, stride_);
        case Activation::kGeluErf:
            return end_.is_bf16 ? ends.gelu_erf_bf16(sums, multiply, half, stride_)
                                : ends.gelu_erf_f32(sums, multiply, out, stride_);
        case Activation::kGeluQuick:
            return end_.is_bf16 ? ends.gelu_quick_bf16(sums, multiply, half, stride_)
                                : ends.gelu_quick_f32(sums, multiply, out, stride_);
        case Activation::kNone: break;
    }
    if (!end_.residual && !end_.is_one_sided) return ends.store_f32(sums, out, stride_);
    const size_t bytes = size(sums.n) * sizeof(float);
    if (!end_.residual) {
        for (int r = 0; r < sums.n_rows; ++r) std::memset(out + size(r) * stride_, 0, bytes);
    } else if (end_.residual->data != end_.out->data) {
        for (int r = 0; r < sums.n_rows; ++r)
            std::memcpy(out + size(r) * stride_, floats(end_.residual) + at + size(r) * stride_, bytes);
    }
    ends.residual(sums, out, stride_);
}

void LinearStep::run(int ith, int nth) {
    const PackedMatrix& matrix = *matrix_;
    const MatmulKernel& kernel = matrix.kernel();
    const bool is_int8 = matrix.type() == MatmulType::kInt8;
    const size_t stride = size(row_bytes(matrix));
    // Enough pieces for threads that are not equally fast, each of some panels.
    const int64_t strip = std::max<int64_t>(1, matrix.n_panels() * n_blocks_ / (8 * nth));
    const int64_t n_strips = (matrix.n_panels() + strip - 1) / strip;
    const Entered entered(kernel);
    Sums sums = {};
    sums.c = memory_.of_thread(ith);
    sums.c_stride = size(kernel.columns);
    for (int64_t i; (i = work_.take(n_blocks_ * n_strips)) >= 0;) {
        if (watch_.stopped(ith, &kernel)) return;
        const int64_t first = i / n_strips * in_block_, last = std::min(n_rows_, first + in_block_);
        const int64_t begin = i % n_strips * strip, end = std::min(matrix.n_panels(), begin + strip);
        for (int64_t panel = begin; panel < end; ++panel) {
            const int64_t column = panel * kernel.columns;
            sums.n = static_cast<int>(std::min<int64_t>(kernel.columns, matrix.n_out() - column));
            sums.bias = bias_.data() + column;
            if (is_int8) {
                sums.column_scale = scales_.data() + column;
                sums.column_sum = sums_of_rows_.data() + column;
            }
            for (int64_t r = first; r < last; r += kernel.rows) {
                sums.n_rows = static_cast<int>(std::min<int64_t>(kernel.rows, last - r));
                sums.row_scale = is_int8 ? memory_.scale() + r : nullptr;
                sums.row_middle = end_.is_one_sided ? memory_.middle() + r : nullptr;
                kernel.multiply(memory_.rows.data() + size(r) * stride, stride, matrix.panel(panel),
                                matrix.k(), memory_.of_thread(ith), sums.c_stride, sums.n_rows);
                store(sums, r, column);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------- cast

CastStep::CastStep(const DeviceKernels& kernels, StepMemory& memory, Watch& watch, const ggml_tensor* from,
                   ggml_tensor* to)
    : Step(kernels, memory, watch), from_{from}, to_(to) {}

void CastStep::run(int ith, int nth) {
    const int64_t n = to_->ne[0], rows = ggml_nrows(to_);
    auto* to = static_cast<uint16_t*>(to_->data);
    for (int64_t r = rows * ith / nth; r < rows * (ith + 1) / nth; ++r)
        kernels_.ops.to_bf16(reinterpret_cast<const float*>(from_.row(r)), n, n, to + r * n);
}

// ----------------------------------------------------------------------------------------------- attention

bool AttentionStep::supports(const ggml_tensor* op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    const auto is_cache = [&](const ggml_tensor* t) {
        return (t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_F32) &&
               t->nb[0] == ggml_type_size(t->type) && t->ne[0] == q->ne[0] && t->ne[1] == k->ne[1] &&
               t->ne[2] == k->ne[2] && t->ne[3] == q->ne[3];
    };
    float parameters[3];  // scale, max_bias, soft cap
    std::memcpy(parameters, op->op_params, sizeof parameters);
    if (op->op != GGML_OP_FLASH_ATTN_EXT || op->src[4] || parameters[1] != 0 || parameters[2] != 0)
        return false;
    if (q->type != GGML_TYPE_F32 || q->nb[0] != sizeof(float) || !is_cache(k) || !is_cache(v)) return false;
    if (k->ne[2] == 0 || q->ne[2] % k->ne[2] != 0 || ggml_is_empty(q) || ggml_is_empty(k)) return false;
    if (mask && (mask->type != GGML_TYPE_F16 || mask->nb[0] != 2 || mask->ne[0] < k->ne[1] ||
                 mask->ne[1] < q->ne[1] || q->ne[2] % mask->ne[2] != 0 || q->ne[3] % mask->ne[3] != 0)) {
        return false;
    }
    return op->type == GGML_TYPE_F32 && ggml_is_contiguous(op);
}

AttentionStep::AttentionStep(const DeviceKernels& kernels, StepMemory& memory, Watch& watch, ggml_tensor* op,
                             bool k_is_bf16, bool v_is_bf16, int n_threads)
    : Step(kernels, memory, watch),
      op_(op),
      k_is_bf16_(k_is_bf16),
      v_is_bf16_(v_is_bf16),
      d_(op->src[0]->ne[0]),
      n_q_(op->src[0]->ne[1]),
      n_kv_(op->src[1]->ne[1]),
      heads_(op->src[0]->ne[2]),
      batches_(op->src[0]->ne[3]),
      attention_(kernels.wide_type, *kernels.wide, kernels.ops, n_kv_, d_, scale_of(op)),
      wide_bytes_(matmul_element_bytes(kernels.wide_type)) {
    const int64_t n_heads = heads_ * batches_;
    parts_ = std::clamp<int64_t>((8 * n_threads + n_heads - 1) / n_heads, 1, 16);
    part_ = round_up((n_q_ + parts_ - 1) / parts_, attention_.queries_in_block());
    parts_ = (n_q_ + part_ - 1) / part_;
    k_at_ = aligned(attention_.scratch_bytes());
    v_at_ = k_at_ + aligned(size(n_kv_ * d_) * wide_bytes_);
    q_at_ = v_at_ + aligned(size(n_kv_ * d_) * wide_bytes_);
    out_at_ = q_at_ + aligned(size(part_ * d_) * wide_bytes_ + size(d_) * sizeof(float));
    memory.thread_bytes = std::max(memory.thread_bytes, out_at_ + aligned(size(part_ * d_) * wide_bytes_));
}

double AttentionStep::cost() const {
    return 2e-6 * static_cast<double>(n_q_ * n_kv_) * static_cast<double>(d_ * heads_ * batches_);
}

// A head's rows in the wide type: where they lie, or converted into `to`.
const char* AttentionStep::as_wide(const ggml_tensor* t, int64_t head, int64_t batch, bool is_bf16, char* to,
                                   size_t* stride) const {
    const char* from = static_cast<const char*>(t->data) + size(head) * t->nb[2] + size(batch) * t->nb[3];
    const bool is_bf16_wide = kernels_.wide_type == MatmulType::kBf16;
    if (is_bf16 || (t->type == GGML_TYPE_F32 && !is_bf16_wide)) {
        *stride = t->nb[1];
        return from;
    }
    *stride = size(d_) * wide_bytes_;
    std::vector<float> row(size(d_));
    for (int64_t r = 0; r < t->ne[1]; ++r, from += t->nb[1], to += *stride) {
        const float* values = reinterpret_cast<const float*>(from);
        if (t->type == GGML_TYPE_F16) {
            ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(from), row.data(), d_);
            values = row.data();
        }
        if (is_bf16_wide) {
            kernels_.ops.to_bf16(values, d_, d_, reinterpret_cast<uint16_t*>(to));
        } else {
            std::memcpy(to, values, *stride);
        }
    }
    return to - size(t->ne[1]) * *stride;
}

void AttentionStep::run(int ith, int) {
    const ggml_tensor *q = op_->src[0], *k = op_->src[1], *v = op_->src[2], *mask = op_->src[3];
    char* memory = memory_.of_thread(ith);
    const Entered entered(*kernels_.wide);
    const size_t stride = size(d_) * wide_bytes_;
    int64_t packed = -1;
    for (int64_t unit; (unit = work_.take(parts_ * heads_ * batches_)) >= 0;) {
        if (watch_.stopped(ith, kernels_.wide)) return;
        const int64_t index = unit / parts_, head = index % heads_, batch = index / heads_;
        const int64_t kv_head = head / (heads_ / k->ne[2]);
        if (index != packed) {
            size_t k_stride, v_stride;
            const char* keys = as_wide(k, kv_head, batch, k_is_bf16_, memory + k_at_, &k_stride);
            const char* values = as_wide(v, kv_head, batch, v_is_bf16_, memory + v_at_, &v_stride);
            attention_.pack(keys, k_stride, values, v_stride, memory);
            packed = index;
        }
        const int64_t first = unit % parts_ * part_, last = std::min(n_q_, first + part_);
        const char* from = static_cast<const char*>(q->data) + size(head) * q->nb[2] + size(batch) * q->nb[3];
        for (int64_t r = first; r < last; ++r) {
            const auto* row = reinterpret_cast<const float*>(from + size(r) * q->nb[1]);
            char* to = memory + q_at_ + size(r - first) * stride;
            if (kernels_.wide_type == MatmulType::kBf16) {
                kernels_.ops.to_bf16(row, d_, d_, reinterpret_cast<uint16_t*>(to));
            } else {
                std::memcpy(to, row, stride);
            }
        }
        AttentionMask masked;
        if (mask) {
            masked.data = static_cast<const char*>(mask->data) + size(first) * mask->nb[1] +
                          size(head % mask->ne[2]) * mask->nb[2] + size(batch % mask->ne[3]) * mask->nb[3];
            masked.stride = mask->nb[1];
        }
        attention_.attend(memory + q_at_, stride, 0, last - first, memory, memory + out_at_, stride,
                          mask ? &masked : nullptr);
        for (int64_t r = first; r < last; ++r) {
            float* to = static_cast<float*>(op_->data) + ((batch * n_q_ + r) * heads_ + head) * d_;
            const char* row = memory + out_at_ + size(r - first) * stride;
            if (kernels_.wide_type == MatmulType::kBf16) {
                kernels_.ops.to_float(reinterpret_cast<const uint16_t*>(row), d_, to);
            } else {
                std::memcpy(to, row, stride);
            }
        }
    }
}

}  // namespace bluelm
