// Rows of a matrix in the file as floats.
#ifndef BLUELM_STORED_ROWS_H
#define BLUELM_STORED_ROWS_H

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/encoder/row_ops.h"
#include "mmproj/vision_weights.h"

namespace bluelm {

// n values of a type that mmproj files may have.
void to_floats(const RowOps& ops, ggml_type type, const char* from, int64_t n, float* out);

// Rows first..first+count-1, one by one to use(index, row). A row is the caller's to change and has `room`
// more values behind it. Throws Error IO.
template <class Use>
void each_row(const WeightFile& file, const RowOps& ops, const StoredTensor& stored, int64_t first,
              int64_t count, int64_t room, Use&& use) {
    constexpr size_t kBytes = 128 << 10;  // read at a time: stays in the second-level cache
    const size_t row_bytes = ggml_row_size(stored.type, stored.n_in);
    const int64_t at_a_time = std::max<int64_t>(1, static_cast<int64_t>(kBytes / row_bytes));
    thread_local std::vector<char> raw;
    thread_local std::vector<float> row;
    row.resize(static_cast<size_t>(stored.n_in + room));
    for (int64_t begin = first; begin < first + count; begin += at_a_time) {
        const int64_t n = std::min(at_a_time, first + count - begin);
        raw.resize(static_cast<size_t>(n) * row_bytes);
        file.read(stored.offset + static_cast<uint64_t>(begin) * row_bytes, raw.data(), raw.size());
        for (int64_t i = 0; i < n; ++i) {
            to_floats(ops, stored.type, raw.data() + static_cast<size_t>(i) * row_bytes, stored.n_in,
                      row.data());
            use(begin + i, row.data());
        }
    }
}

}  // namespace bluelm

#endif  // BLUELM_STORED_ROWS_H
