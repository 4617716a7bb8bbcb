// A matrix of a ggml graph, packed for the kernels (kernels/encoder/matmul.h): y = W x for W [n_out, n_in] of
// any type that ggml turns into floats.
//
// int8 has one scale for each row of W and one for each row of x, so one large channel would decide the scale
// of all. Channels are therefore evened out where the graph tells how far each reaches
// (kernels/encoder/balance.h); matrices that read the same rows share one InputBalance, so these rows are
// quantised once.
#ifndef BLUELM_DEVICE_PACKED_MATRIX_H
#define BLUELM_DEVICE_PACKED_MATRIX_H

#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned_memory.h"
#include "ggml.h"
#include "kernels/encoder/matmul.h"
#include "kernels/encoder/row_ops.h"

namespace bluelm {

// What is done to rows of n_in values before a matrix reads them.
struct InputBalance {
    std::vector<float> inverse;   // [n_in], multiplies the rows
    std::vector<float> multiply;  // [n_in], multiplies the weights' columns: 1 / inverse, less where copied
    std::vector<int32_t> copies;  // channels that appear once more behind the n_in
};

class PackedMatrix {
public:
    // Allocates. balance: NULL for none. Throws std::bad_alloc.
    PackedMatrix(const ggml_tensor* weights, MatmulType type, const MatmulKernel& kernel,
                 std::shared_ptr<const InputBalance> balance);

    // Packs one panel of the weights it was made for; any thread, each panel once.
    void pack(const ggml_tensor* weights, const RowOps& ops, int64_t panel);

    MatmulType type() const { return type_; }
    const MatmulKernel& kernel() const { return *kernel_; }
    const std::shared_ptr<const InputBalance>& balance() const { return balance_; }
    int64_t n_in() const { return n_in_; }
    int64_t n_columns() const {  // n_in and copies
        return n_in_ + (balance_ ? static_cast<int64_t>(balance_->copies.size()) : 0);
    }
    int64_t k() const { return k_; }  // n_columns padded for the kernel
    int64_t n_out() const { return n_out_; }
    int64_t n_panels() const { return n_panels_; }
    const char* panel(int64_t index) const {
        return memory_.data() + static_cast<size_t>(index) * panel_bytes_;
    }
    const float* scales() const { return scales_.data(); }  // [n_out]; int8 only
    const float* sums() const { return sums_.data(); }      // [n_out], of an output's weights; int8 only

private:
    MatmulType type_;
    const MatmulKernel* kernel_;
    std::shared_ptr<const InputBalance> balance_;
    int64_t n_in_, n_out_, k_, n_panels_;
    size_t panel_bytes_;
    AlignedMemory memory_;
    std::vector<float> scales_, sums_;
};

// Row r of a matrix as floats.
void matrix_row(const ggml_tensor* weights, int64_t r, float* out);

}  // namespace bluelm

#endif  // BLUELM_DEVICE_PACKED_MATRIX_H
