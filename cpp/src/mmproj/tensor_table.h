// The table of an mmproj's tensors (docs/mmproj.md): what has to be in the file, and where it goes.
#ifndef BLUELM_TENSOR_TABLE_H
#define BLUELM_TENSOR_TABLE_H

#include <cstdint>
#include <string>
#include <vector>

#include "mmproj/mmproj_header.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

struct TensorInfo {
    enum class Kind {
        kF32,     // norms, biases, positions
        kWeight,  // a matmul's weight: any of the file's types
        kPatch,   // the patch convolution: F32, F16 or BF16
    };
    std::string name;
    std::vector<int64_t> shape;  // rows first, as in docs/mmproj.md
    Kind kind;
    ggml_tensor** slot;    // of a vector: where the loaded tensor goes; else NULL
    StoredTensor* stored;  // of a matrix: where it lies in the file; else NULL
    int64_t id = -1;       // in the file
};

// Every tensor that weights.config needs. weights.blocks must have its final size: slots point into it.
std::vector<TensorInfo> tensor_table(VisionWeights& weights);

// Finds the tensors in the file. Throws Error FORMAT that names each one that is missing, unknown, misshapen,
// of the wrong type or truncated.
void find_tensors(MmprojHeader& header, std::vector<TensorInfo>& table);

}  // namespace bluelm

#endif  // BLUELM_TENSOR_TABLE_H
