// What the language model's kernels add to the error of a quantised file: many rows, whose weights are
// rounded once more to 8 bits with shared scales, against few rows, which multiply the file's own values with
// activations that share a scale per 32 (as llama.cpp does). Both are compared with the floats that the file
// was made from. Usage: test_llm_noise. Prints the relative errors.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/llm/matmul.h"

using namespace bluelm;

namespace {

constexpr int64_t kIn = 2560, kOut = 96, kRows = 32;

struct Aligned {
    std::vector<uint8_t> bytes;
    uint8_t* data;
    explicit Aligned(size_t n) : bytes(n + 64) {
        data = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
    }
};

std::vector<float> few_rows(const LlmKernels& k, LlmType type, const uint8_t* packed,
                            const std::vector<float>& x) {
    std::vector<float> out(kRows * kOut);
    Aligned work(llm_q8_row_bytes(kIn));
    for (int64_t r = 0; r < kRows; ++r) {
        k.gemv->pack_x(x.data() + r * kIn, kIn, 0, kIn / 32, work.data);
        for (int64_t p = 0; p < llm_panels(kOut); ++p)
            k.gemv->multiply(type, packed + static_cast<size_t>(p) * llm_panel_bytes(type, kIn), kIn,
                             work.data, 0, 1, out.data() + r * kOut + p * kPanelOutputs, kOut, kPanelOutputs);
    }
    return out;
}

std::vector<float> many_rows(const LlmKernels& k, LlmType type, const uint8_t* packed,
                             const std::vector<float>& x) {
    std::vector<float> out(kRows * kOut);
    Aligned work(k.gemm->x_bytes(type, kRows, kIn)), scratch(k.gemm->scratch_bytes(type, kIn));
    const StridedRows rows = {reinterpret_cast<const char*>(x.data()), kRows, 1, kIn * 4, 0, 0};
    k.gemm->pack_x(type, rows, kRows, kIn, 0, (kRows + k.gemm->row_block - 1) / k.gemm->row_block, work.data);
    k.gemm->multiply(
        {type, kIn, kOut, kRows, work.data, packed, 0, llm_panels(kOut), out.data(), scratch.data});
    return out;
}

double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
    double error = 0, square = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        square += want[i] * want[i];
    }
    return std::sqrt(error / square);
}

// What many rows may have of the error of few. Measured with scales per 256 (dotprod, i8mm): Q4_0 1.005, Q4_K
// 1.016, Q6_K 1.10 for normal activations; 1.06, 1.09, 1.7 where one in 256 is 30 times the others, which is
// what activations with a scale per 256 cost ggml's K types, too. Q8_0 keeps scales per 32.
double allowed(ggml_type type, bool has_outliers) {
    if (type == GGML_TYPE_Q8_0) return 1.05;
    if (type == GGML_TYPE_Q6_K) return has_outliers ? 2.0 : 1.2;
    return has_outliers ? 1.15 : 1.03;
}

}  // namespace

int main() {
    ggml_free(ggml_init({1 << 16, nullptr, true}));  // the fp16 table
    for (const ggml_type ggml : {GGML_TYPE_Q4_0, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K, GGML_TYPE_Q8_0}) {
        LlmType type;
        CHECK(llm_type(ggml, &type));
        std::vector<float> w(kOut * kIn);
        for (float& v : w) v = check::normal();
        std::vector<uint8_t> blocks(ggml_row_size(ggml, kIn) * kOut);
        ggml_quantize_chunk(ggml, w.data(), blocks.data(), 0, kOut, kIn, nullptr);
        Aligned packed(static_cast<size_t>(llm_panels(kOut)) * llm_panel_bytes(type, kIn));
        llm_pack(type, blocks.data(), kOut, kIn, 0, llm_panels(kOut), packed.data);
        for (const bool has_outliers : {false, true}) {
            std::vector<float> x(kRows * kIn);
            for (size_t i = 0; i < x.size(); ++i)
                x[i] = check::normal() * (has_outliers && i % 256 == 100 ? 30.0f : 1.0f);
            std::vector<double> want(kRows * kOut);
            for (size_t i = 0; i < want.size(); ++i)
                for (size_t j = 0; j < kIn; ++j)
                    want[i] += static_cast<double>(x[i / kOut * kIn + j]) * w[i % kOut * kIn + j];
            for (const CpuLevel level : cpu_levels()) {
                const LlmKernels& k = llm_kernels_at(level);
                if (!k.gemm) continue;
                const double few = relative_error(few_rows(k, type, packed.data, x), want),
                             many = relative_error(many_rows(k, type, packed.data, x), want);
                std::printf("%-12s %s%s: few rows %.5f, many rows %.5f\n", k.name, ggml_type_name(ggml),
                            has_outliers ? ", outliers" : "", few, many);
                CHECK_F(many <= few * allowed(ggml, has_outliers), "%s %s%s: few rows %f, many rows %f",
                        k.name, ggml_type_name(ggml), has_outliers ? ", outliers" : "", few, many);
            }
        }
    }
    ggml_quantize_free();
    return check::finish();
}
