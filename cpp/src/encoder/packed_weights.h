// The encoder's matmul weights, arranged for the kernels of this CPU (kernels/matmul.h). They come from the
// file's tensors of any type, a row at a time. For int8 each row (output) gets one scale; before that,
// channels (inputs) are rebalanced (rebalance.h).
#ifndef BLUELM_PACKED_WEIGHTS_H
#define BLUELM_PACKED_WEIGHTS_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/encoder/matmul.h"
#include "kernels/encoder/row_ops.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

// One matmul: where its weights come from, and where its panels lie in the memory of its group.
class PackedLinear {
public:
    // Rows of the file's tensors one behind the other: Q, K and V are one matmul.
    struct Part {
        const Linear* linear;
        const float* row_factor =
            nullptr;  // [rows], beside a column_factor; multiplies weights and biases; NULL: 1
    };

    PackedLinear() = default;
    // column_factor: [n_in], multiplies the weights' columns; NULL: 1. copies: channels that appear once
    // more, behind the n_in of the file; kept by pointer, NULL: none.
    PackedLinear(MatmulType type, const MatmulKernel& kernel, std::vector<Part> parts,
                 const float* column_factor, const std::vector<int32_t>* copies = nullptr);

    MatmulType type() const { return type_; }
    const MatmulKernel& kernel() const { return *kernel_; }
    int64_t n_out() const { return n_out_; }
    int64_t n_in() const { return n_in_ + n_copies_; }
    int64_t k() const { return k_; }  // n_in padded for the kernel
    int64_t n_panels() const { return n_panels_; }
    // Bytes in the group's memory, a multiple of 64.
    size_t bytes() const;

    const char* panel(const char* memory, int64_t index) const {
        return memory + static_cast<size_t>(index) * panel_bytes_;
    }
    const float* scales(const char* memory) const {  // [n_out]; int8 only
        return reinterpret_cast<const float*>(memory + static_cast<size_t>(n_panels_) * panel_bytes_);
    }
    const float* biases(const char* memory) const {  // [n_out]
        return scales(memory) + n_panels_ * kernel_->columns;
    }

    const float* sums(const char* memory) const {  // [n_out], of an output's weights; int8 only
        return biases(memory) + n_panels_ * kernel_->columns;
    }

    // Reads the rows of one panel and packs them. Throws Error IO.
    void pack(const WeightFile& file, const RowOps& ops, int64_t panel, char* memory) const;

private:
    MatmulType type_ = MatmulType::kF32;
    const MatmulKernel* kernel_ = nullptr;
    std::vector<Part> parts_;
    const float* column_factor_ = nullptr;
    const std::vector<int32_t>* copies_ = nullptr;
    int64_t n_copies_ = 0;
    int64_t n_out_ = 0, n_in_ = 0, k_ = 0, n_panels_ = 0;
    size_t panel_bytes_ = 0;
};

}  // namespace bluelm

#endif  // BLUELM_PACKED_WEIGHTS_H
