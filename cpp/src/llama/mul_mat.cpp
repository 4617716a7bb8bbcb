#include "llama/mul_mat.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "base/round_up.h"
#include "kernels/llm/matmul.h"

namespace bluelm {
namespace {

constexpr int64_t kChunksPerThread = 8;  // cores are not equally fast: whoever is done helps the others
constexpr int64_t kMaxShare =
    8;  // panels: tens of microseconds at most, in which others wait for the last one
constexpr int64_t kMaxStrip = 16;  // panels; the sums of 512 rows x 256 outputs stay in cache

const LlmKernels& kernels() { return llm_kernels_in_use(); }

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
    bool is_gemm() const { return kernels().gemm && n_rows >= kernels().gemm->from_rows; }
};

// Chunks of work for the threads of a pool. Each has a run of consecutive ones, so that it reads consecutive
// memory; when they are done it takes from the others' runs.
class Chunks {
public:
    static size_t bytes(int n_threads) { return static_cast<size_t>(n_threads) * sizeof(Run); }

    // `memory`: the same for all threads. Each calls this before a barrier.
    Chunks(const ggml_compute_params& params, uint8_t* memory, int64_t n_chunks)
        : runs_(reinterpret_cast<Run*>(memory)), ith_(params.ith), nth_(params.nth), n_chunks_(n_chunks) {
        new (runs_ + ith_) Run{begin(ith_)};
    }

    // Calls work(chunk) for this thread's share, behind the barrier.
    template <class Work>
    void each(const Work& work) {
        for (int i = 0; i < nth_; ++i) {
            const int owner = (ith_ + i) % nth_;
            for (int64_t c;
                 (c = runs_[owner].next.fetch_add(1, std::memory_order_relaxed)) < begin(owner + 1);)
                work(c);
        }
    }

private:
    struct alignas(64) Run {
        std::atomic<int64_t> next;
    };
    int64_t begin(int thread) const { return n_chunks_ * thread / nth_; }

    Run* runs_;
    int ith_, nth_;
    int64_t n_chunks_;
};

void gemv(const ggml_compute_params& params, const Shape& s, const StridedRows& x, const ggml_tensor* weights,
          float* out, uint8_t* runs, uint8_t* work) {
    const size_t row_bytes = llm_q8_row_bytes(s.n_in);
    const int64_t n_cells = s.n_in / kCellInputs, ith = params.ith, nth = params.nth;
    for (int64_t r = 0; r < s.n_rows; ++r) {
        kernels().gemv->pack_x(x[r], s.n_in, ith * n_cells / nth, (ith + 1) * n_cells / nth,
                               work + static_cast<size_t>(r) * row_bytes);
    }
    const int64_t share = std::clamp<int64_t>(s.n_panels / (nth * kChunksPerThread), 1, kMaxShare);
    Chunks chunks(params, runs, (s.n_panels + share - 1) / share);
    ggml_barrier(params.threadpool);

    const auto* packed = static_cast<const uint8_t*>(weights->data);
    const size_t panel_bytes = llm_panel_bytes(s.type, s.n_in);
    chunks.each([&](int64_t c) {
        for (int64_t p = c * share; p < std::min((c + 1) * share, s.n_panels); ++p) {
            const int64_t first = p * kPanelOutputs;
            kernels().gemv->multiply(s.type, packed + static_cast<size_t>(p) * panel_bytes, s.n_in, work,
                                     row_bytes, s.n_rows, out + first, s.n_out,
                                     std::min(kPanelOutputs, s.n_out - first));
        }
    });
}

void gemm(const ggml_compute_params& params, const Shape& s, const StridedRows& x, const ggml_tensor* weights,
          float* out, uint8_t* runs, uint8_t* work) {
    const int64_t ith = params.ith, nth = params.nth;
    const int64_t n_groups = (s.n_rows + kernels().gemm->row_block - 1) / kernels().gemm->row_block;
    kernels().gemm->pack_x(s.type, x, s.n_rows, s.n_in, ith * n_groups / nth, (ith + 1) * n_groups / nth,
                           work);
    const int64_t together = kernels().gemm->panels;
    int64_t width = s.n_panels / (nth * kChunksPerThread) / together * together;
    width = std::min(std::max(width, together), kMaxStrip / together * together);
    Chunks chunks(params, runs, (s.n_panels + width - 1) / width);
    ggml_barrier(params.threadpool);

    uint8_t* scratch = work + whole_lines(kernels().gemm->x_bytes(s.type, s.n_rows, s.n_in)) +
                       static_cast<size_t>(ith) * whole_lines(kernels().gemm->scratch_bytes(s.type, s.n_in));
    chunks.each([&](int64_t c) {
        kernels().gemm->multiply({s.type, s.n_in, s.n_out, s.n_rows, work,
                                  static_cast<const uint8_t*>(weights->data), c * width,
                                  std::min((c + 1) * width, s.n_panels), out, scratch});
    });
}

}  // namespace

const LlmKernels& llm_kernels_in_use() {
    // Once: a weight that is packed, and the work memory ggml planned for, suit every level, but a level that
    // changes between planning and computing does not.
    static const LlmKernels& chosen = llm_kernels_at(cpu_level());
    return chosen;
}

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
    const size_t runs = alignment + Chunks::bytes(n_threads);
    if (!s.is_gemm()) return runs + static_cast<size_t>(s.n_rows) * llm_q8_row_bytes(s.n_in);
    return runs + whole_lines(kernels().gemm->x_bytes(s.type, s.n_rows, s.n_in)) +
           static_cast<size_t>(n_threads) * whole_lines(kernels().gemm->scratch_bytes(s.type, s.n_in));
}

void llm_matmul(const ggml_compute_params& params, ggml_tensor* op) {
    const Shape s(op);
    const ggml_tensor* x = op->src[1];
    const StridedRows rows = {
        static_cast<const char*>(x->data), x->ne[1], x->ne[2], x->nb[1], x->nb[2], x->nb[3]};
    const auto address = reinterpret_cast<uintptr_t>(params.wdata);
    uint8_t* runs = static_cast<uint8_t*>(params.wdata) + (whole_lines(address) - address);
    uint8_t* work = runs + Chunks::bytes(params.nth);
    auto* out = static_cast<float*>(op->data);
    if (s.is_gemm())
        gemm(params, s, rows, op->src[0], out, runs, work);
    else
        gemv(params, s, rows, op->src[0], out, runs, work);
}

}  // namespace bluelm
