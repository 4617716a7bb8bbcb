#include "llm_matmul.h"

#include <algorithm>

#include "kernels/llm_kernels.h"

namespace bluelm {
namespace {

constexpr int64_t kChunksPerThread = 8;  // cores are not equally fast: whoever is done takes the next
constexpr int64_t kMaxStrip = 16;        // panels; the sums of 512 rows x 256 outputs stay in cache

const LlmKernels& kernels() {
    // Once: a weight that is packed, and the work memory ggml planned for, suit every level, but a level that
    // changes between planning and computing does not.
    static const LlmKernels& chosen = llm_kernels_at(cpu_level());
    return chosen;
}

struct Shape {
    LlmType type;
    int64_t n_in, n_out, n_rows, n_panels;
    explicit Shape(const ggml_tensor* op)
        : type(LlmType::q4_0),
          n_in(op->src[0]->ne[0]),
          n_out(op->src[0]->ne[1]),
          n_rows(ggml_nrows(op->src[1])),
          n_panels(llm_panels(n_out)) {
        llm_type(op->src[0]->type, &type);
    }
    bool is_big() const { return kernels().big && n_rows >= kernels().big_from; }
};

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

void small_product(const ggml_compute_params& params, const Shape& s, const LlmRows& x,
                   const ggml_tensor* weights, float* out, uint8_t* work) {
    const size_t row_bytes = llm_small_row_bytes(s.n_in);
    const int64_t n_cells = s.n_in / kCellInputs, ith = params.ith, nth = params.nth;
    for (int64_t r = 0; r < s.n_rows; ++r) {
        kernels().quantise(x[r], s.n_in, ith * n_cells / nth, (ith + 1) * n_cells / nth,
                           work + static_cast<size_t>(r) * row_bytes);
    }
    if (ith == 0) ggml_threadpool_chunk_set(params.threadpool, static_cast<int>(nth));
    ggml_barrier(params.threadpool);

    const auto* packed = static_cast<const uint8_t*>(weights->data);
    const size_t panel_bytes = llm_panel_bytes(s.type, s.n_in);
    const int64_t share = std::max<int64_t>(1, s.n_panels / (nth * kChunksPerThread));
    const int64_t n_chunks = (s.n_panels + share - 1) / share;
    for (int64_t c = ith; c < n_chunks; c = ggml_threadpool_chunk_add(params.threadpool, 1)) {
        for (int64_t p = c * share; p < std::min((c + 1) * share, s.n_panels); ++p) {
            const int64_t first = p * kPanelOutputs;
            kernels().small(s.type, packed + static_cast<size_t>(p) * panel_bytes, s.n_in, work, row_bytes,
                            s.n_rows, out + first, s.n_out, std::min(kPanelOutputs, s.n_out - first));
        }
    }
}

void big_product(const ggml_compute_params& params, const Shape& s, const LlmRows& x,
                 const ggml_tensor* weights, float* out, uint8_t* work) {
    const int64_t ith = params.ith, nth = params.nth;
    const int64_t n_groups = (s.n_rows + kernels().row_group - 1) / kernels().row_group;
    kernels().convert(s.type, x, s.n_rows, s.n_in, ith * n_groups / nth, (ith + 1) * n_groups / nth, work);
    if (ith == 0) ggml_threadpool_chunk_set(params.threadpool, static_cast<int>(nth));
    ggml_barrier(params.threadpool);

    uint8_t* scratch = work + aligned(kernels().activation_bytes(s.type, s.n_rows, s.n_in)) +
                       static_cast<size_t>(ith) * aligned(kernels().scratch_bytes(s.type, s.n_in));
    int64_t width = s.n_panels / (nth * kChunksPerThread) / 2 * 2;  // two panels at a time is what is fast
    width = std::min(std::max<int64_t>(width, 2), kMaxStrip);
    const int64_t n_strips = (s.n_panels + width - 1) / width;
    for (int64_t c = ith; c < n_strips; c = ggml_threadpool_chunk_add(params.threadpool, 1)) {
        kernels().big({s.type, s.n_in, s.n_out, s.n_rows, work, static_cast<const uint8_t*>(weights->data),
                       c * width, std::min((c + 1) * width, s.n_panels), out, scratch});
    }
}

}  // namespace

bool llm_matmul_supports(const ggml_tensor* op) {
    const ggml_tensor *weights = op->src[0], *x = op->src[1];
    LlmType type;
    return llm_type(weights->type, &type) && !weights->view_src && weights->ne[2] == 1 &&
           weights->ne[3] == 1 && ggml_is_contiguous(weights) && x->type == GGML_TYPE_F32 &&
           x->nb[0] == sizeof(float) && op->type == GGML_TYPE_F32 && ggml_is_contiguous(op);
}

size_t llm_matmul_work_size(int n_threads, const ggml_tensor* op) {
    const Shape s(op);
    const size_t alignment = 64;  // ggml's work memory has none in particular
    if (!s.is_big()) return alignment + static_cast<size_t>(s.n_rows) * llm_small_row_bytes(s.n_in);
    return alignment + aligned(kernels().activation_bytes(s.type, s.n_rows, s.n_in)) +
           static_cast<size_t>(n_threads) * aligned(kernels().scratch_bytes(s.type, s.n_in));
}

void llm_matmul(const ggml_compute_params& params, ggml_tensor* op) {
    const Shape s(op);
    const ggml_tensor* x = op->src[1];
    const LlmRows rows = {
        static_cast<const char*>(x->data), x->ne[1], x->ne[2], x->nb[1], x->nb[2], x->nb[3]};
    const auto address = reinterpret_cast<uintptr_t>(params.wdata);
    uint8_t* work = static_cast<uint8_t*>(params.wdata) + (aligned(address) - address);
    auto* out = static_cast<float*>(op->data);
    if (s.is_big())
        big_product(params, s, rows, op->src[0], out, work);
    else
        small_product(params, s, rows, op->src[0], out, work);
}

}  // namespace bluelm
