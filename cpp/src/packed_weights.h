// The encoder's matmul weights, arranged for the kernels of this CPU (kernels/matmul.h).
//
// Weights come from the file's tensors of any type, a row at a time. For int8 each row (output) gets one
// scale. Before that, channels (inputs) are rebalanced: an activation is divided and its weights are
// multiplied by the same factor, which changes nothing but evens out how far both reach, so that an outlier
// channel does not decide the scale for all others (the idea of SmoothQuant, arXiv 2211.10438). The divisions
// cost nothing or next to nothing:
//
//   input of          divided in
//   Q, K, V           weight and bias of the LayerNorm before them
//   attention output  rows of V (attention is linear in V)
//   FFN up            weight and bias of the LayerNorm before it
//   FFN down          one multiplication behind GELU
//
// A channel that still reaches much further than the others, on both sides, goes into the first and third of
// these matmuls several times, with its weights divided by the number of copies (outlier channel splitting,
// arXiv 1901.09504): again the same function.
#ifndef BLUELM_PACKED_WEIGHTS_H
#define BLUELM_PACKED_WEIGHTS_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/matmul.h"
#include "kernels/row_ops.h"
#include "vision_weights.h"

namespace bluelm {

// Memory for matrices: 64-byte aligned, zeroed, in large pages where the system has them.
class AlignedMemory {
public:
    AlignedMemory() = default;
    explicit AlignedMemory(size_t bytes);  // throws std::bad_alloc
    char* data() const { return data_.get(); }
    size_t bytes() const { return bytes_; }

private:
    struct Free {
        void operator()(char* p) const;
    };
    std::unique_ptr<char, Free> data_;
    size_t bytes_ = 0;
};

// One matmul: where its weights come from, and where its panels lie in the memory of its group.
class PackedLinear {
public:
    // Rows of the file's tensors one behind the other: Q, K and V are one matmul.
    struct Part {
        const Linear* linear;
        const float* row_factor = nullptr;  // [rows], multiplies weights and biases; NULL: 1
    };

    PackedLinear() = default;
    // column_factor: [n_in], multiplies the weights' columns; NULL: 1. copies: channels that appear once
    // more, behind the n_in of the file; kept by pointer, NULL: none.
    PackedLinear(MatmulType type, const MatmulKernel& kernel, std::vector<Part> parts,
                 const float* column_factor, const std::vector<int32_t>* copies = nullptr);

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

constexpr int64_t kMaxCopies = 64;  // what AMX pads k to

// What rebalancing makes of a block's LayerNorms, and its factors.
struct BalancedBlock {
    std::vector<float> ln1_w, ln1_b, ln2_w, ln2_b;  // [D]
    std::vector<float> qkv_in, out_in, up_in;       // [D], multiply weights' columns
    std::vector<int32_t> qkv_copies, up_copies;     // channels that appear once more, at most kMaxCopies
    std::vector<float> v_rows;                      // [D], multiply rows of V
    std::vector<float> down_in;                     // [F], multiply weights' columns
    std::vector<float> after_gelu;                  // [F], multiply activations; empty: 1
};

// rebalance false: LayerNorms as they are, everything else empty. Throws Error IO.
BalancedBlock balance_block(const WeightFile& file, const VitBlock& block, bool rebalance);

}  // namespace bluelm

#endif  // BLUELM_PACKED_WEIGHTS_H
