// The language model's matmul kernels, each level this CPU has against the plain one and against float64, on
// fresh random shapes. Usage: test_llm_kernels [SEED|random [ROUNDS]]. Exit status 0: all agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "guarded.h"
#include "kernels/llm/matmul.h"

using namespace bluelm;
using check::Guarded;

namespace {

int failures = 0;
uint64_t seed;

void fail(const std::string& what) {
    if (++failures <= 20)
        std::fprintf(stderr, "FAILED (seed %llu): %s\n", (unsigned long long)seed, what.c_str());
}

constexpr ggml_type kGgmlTypes[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K, GGML_TYPE_Q8_0};

constexpr size_t kLine = 64;  // what the kernels' own memory is aligned to

struct Case {
    ggml_type type;
    int64_t n_out, n_in, n_rows;
    float spread;      // of the weights' block scales
    bool has_outlier;  // one activation 100 times the others
    int fill;          // every byte of the weights but their fp16 scales; -1: random
    std::string name() const {
        return std::string(ggml_type_name(type)) + " [" + std::to_string(n_out) + ", " +
               std::to_string(n_in) + "] x " + std::to_string(n_rows) + (has_outlier ? " outlier" : "") +
               (fill < 0 ? "" : " all " + std::to_string(fill));
    }
};

struct Weights {
    std::vector<uint8_t> blocks;
    std::vector<float> values;  // as ggml reads the blocks [n_out, n_in]
    Guarded packed;
    Weights(const Case& c, LlmType type, std::mt19937_64& rng)
        : blocks(ggml_row_size(c.type, c.n_in) * static_cast<size_t>(c.n_out)),
          values(static_cast<size_t>(c.n_out * c.n_in)),
          packed(static_cast<size_t>(llm_panels(c.n_out)) * llm_panel_bytes(type, c.n_in), kLine) {
        // Random bytes are blocks too, all values and scales among them; only what fp16 says is kept finite.
        std::normal_distribution<float> normal;
        for (uint8_t& b : blocks)
            b = static_cast<uint8_t>(c.fill < 0 ? rng() : static_cast<uint64_t>(c.fill));
        const size_t size = ggml_type_size(c.type);
        for (size_t at = 0; at < blocks.size(); at += size) {
            const auto put = [&](size_t offset, float f) {
                const ggml_fp16_t h = ggml_fp32_to_fp16(f);
                std::memcpy(blocks.data() + at + offset, &h, sizeof h);
            };
            const float d = 0.01f * std::exp(c.spread * normal(rng));
            const float sign = rng() % 8 ? 1.0f : -1.0f;
            if (c.type == GGML_TYPE_Q6_K) {
                put(208, sign * d / 64);
            } else {
                put(0, c.type == GGML_TYPE_Q4_K ? d / 32 : sign * d);
                if (c.type == GGML_TYPE_Q4_K) put(2, d / 5);
            }
        }
        ggml_get_type_traits(c.type)->to_float(blocks.data(), values.data(), c.n_out * c.n_in);
        llm_pack(type, Guarded(blocks, 2).data, c.n_out, c.n_in, 0, llm_panels(c.n_out), packed.data);
    }
};

void check_unpack(const Case& c, LlmType type, const Weights& w) {
    for (int64_t o = 0; o < c.n_out; ++o) {
        const uint8_t* panel = w.packed.data + static_cast<size_t>(o / 16) * llm_panel_bytes(type, c.n_in);
        for (int64_t cell = 0; cell < c.n_in / 32; ++cell) {
            LlmCell u;
            llm_unpack(type, panel, c.n_in, cell, &u);
            for (int64_t i = 0; i < 32; ++i) {
                const float got = u.scale[i / 16][o % 16] * u.value[o % 16][i] + u.offset[i / 16][o % 16];
                const float want = w.values[static_cast<size_t>(o * c.n_in + cell * 32 + i)];
                if (std::fabs(got - want) > 1e-5f * (std::fabs(u.offset[i / 16][o % 16]) + std::fabs(want)))
                    return fail("unpack " + c.name());
            }
        }
    }
}

// Runs one level's product, `big` or small, with rows strided and misaligned.
std::vector<float> run(const LlmKernels& k, bool is_gemm, const Case& c, LlmType type, const Weights& w,
                       const std::vector<float>& x, int64_t x_stride) {
    const Guarded out(static_cast<size_t>(c.n_rows * c.n_out) * 4, 4);
    // The last row's padding is not there.
    const auto n_x = static_cast<size_t>((c.n_rows - 1) * x_stride + c.n_in);
    const Guarded activations(std::vector<float>(x.data(), x.data() + n_x));
    const StridedRows rows = {activations.as<char>(), c.n_rows, 1, static_cast<size_t>(x_stride) * 4, 0, 0};
    const int64_t n_panels = llm_panels(c.n_out), n_cells = c.n_in / 32;
    if (is_gemm) {
        const Guarded work(k.gemm->x_bytes(type, c.n_rows, c.n_in), kLine),
            scratch(k.gemm->scratch_bytes(type, c.n_in), kLine);
        const int64_t groups = (c.n_rows + k.gemm->row_block - 1) / k.gemm->row_block;
        k.gemm->pack_x(type, rows, c.n_rows, c.n_in, groups / 2, groups, work.data);
        k.gemm->pack_x(type, rows, c.n_rows, c.n_in, 0, groups / 2, work.data);
        const int64_t middle = n_panels / 2;
        for (const auto& [a, b] : {std::pair{middle, n_panels}, std::pair{int64_t{0}, middle}})
            if (a < b)
                k.gemm->multiply({type, c.n_in, c.n_out, c.n_rows, work.data, w.packed.data, a, b,
                                  out.as<float>(), scratch.data});
    } else {
        const size_t row_bytes = llm_q8_row_bytes(c.n_in);
        const Guarded work(row_bytes * static_cast<size_t>(c.n_rows), kLine);
        for (int64_t r = 0; r < c.n_rows; ++r) {
            uint8_t* row = work.data + static_cast<size_t>(r) * row_bytes;
            k.gemv->pack_x(rows[r], c.n_in, n_cells / 2, n_cells, row);
            k.gemv->pack_x(rows[r], c.n_in, 0, n_cells / 2, row);
        }
        for (int64_t p = 0; p < n_panels; ++p)
            k.gemv->multiply(type, w.packed.data + static_cast<size_t>(p) * llm_panel_bytes(type, c.n_in),
                             c.n_in, work.data, row_bytes, c.n_rows, out.as<float>() + p * 16, c.n_out,
                             std::min<int64_t>(16, c.n_out - p * 16));
    }
    return {out.as<float>(), out.as<float>() + c.n_rows * c.n_out};
}

// What quantising the activations may change: each product w * x by w * step / 2, with a step of 1/127 of the
// largest activation of a group; errors of many terms add up like their squares' root, 6 of these are room
// enough for any of the millions of results. Weights of 8 bits with shared scales, or bf16, add their own;
// the big product of avx2 keeps the weights and rounds scales to 1/4000 of a group's largest.
void check_result(const LlmKernels& k, bool is_gemm, const Case& c, const Weights& w,
                  const std::vector<float>& x, int64_t x_stride, const std::vector<float>& got) {
    const bool is_amx = is_gemm && std::strcmp(k.name, "amx") == 0;
    const bool is_arm = std::strcmp(k.name, "dotprod") == 0 || std::strcmp(k.name, "i8mm") == 0;
    const int64_t group = !is_gemm || is_amx ? 32 : is_arm ? 256 : 128;
    const double w_steps = std::strcmp(k.name, "avx2") == 0 ? 8000 : 127;  // twice the error, of the largest
    for (int64_t r = 0; r < c.n_rows; ++r) {
        for (int64_t o = 0; o < c.n_out; ++o) {
            double want = 0, variance = 0, magnitude = 0;
            for (int64_t g = 0; g < c.n_in; g += group) {
                const int64_t end = std::min(g + group, c.n_in);
                double x_most = 0, w_most = 0, xx = 0, ww = 0;
                for (int64_t i = g; i < end; ++i) {
                    const double xi = x[static_cast<size_t>(r * x_stride + i)];
                    const double wi = w.values[static_cast<size_t>(o * c.n_in + i)];
                    want += xi * wi;
                    magnitude += std::fabs(xi * wi);
                    x_most = std::max(x_most, std::fabs(xi));
                    w_most = std::max(w_most, std::fabs(wi));
                    xx += xi * xi;
                    ww += wi * wi;
                    if (is_amx) variance += xi * xi * wi * wi * 2 / (256.0 * 256.0);
                }
                if (!is_amx) variance += x_most * x_most / (254.0 * 254.0) * ww;
                // A bound of w_most: for Q4_K the range of a block may reach further than its values do.
                if (!is_amx && is_gemm) variance += w_most * w_most / (w_steps * w_steps) * xx;
            }
            const double error = std::fabs(got[static_cast<size_t>(r * c.n_out + o)] - want);
            // Where all terms are alike their errors add up; a saturated sum would be off by far more.
            const double alike = c.fill < 0 ? 1e-5 : 1.0 / 200;
            if (!(error <= 6 * std::sqrt(variance) + alike * magnitude + 1e-30)) {
                fail(std::string(k.name) + (is_gemm ? " big " : " small ") + c.name() + " row " +
                     std::to_string(r) + " output " + std::to_string(o) + ": off by " +
                     std::to_string(error) + ", allowed " + std::to_string(6 * std::sqrt(variance)));
                return;
            }
        }
    }
}

void check_not_finite(const LlmKernels& k, bool is_gemm, Case c, LlmType type, const Weights& w,
                      std::vector<float> x, int64_t x_stride, std::mt19937_64& rng) {
    const int64_t row = static_cast<int64_t>(rng() % static_cast<uint64_t>(c.n_rows));
    const auto index =
        static_cast<size_t>(row * x_stride + static_cast<int64_t>(rng() % static_cast<uint64_t>(c.n_in)));
    const auto clean = run(k, is_gemm, c, type, w, x, x_stride);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
        x[index] = bad;
        const auto got = run(k, is_gemm, c, type, w, x, x_stride);
        for (int64_t i = 0; i < c.n_rows * c.n_out; ++i) {
            const bool is_row = i / c.n_out == row;
            const float a = got[static_cast<size_t>(i)], b = clean[static_cast<size_t>(i)];
            // bf16 keeps infinity, and 0 * infinity is NaN: only "not a number to rely on" is the same for
            // all.
            if (is_row ? std::isfinite(a) : a != b)
                return fail(std::string(k.name) + " not finite: " + c.name());
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const bool is_given = argc > 1 && std::strcmp(argv[1], "random") != 0;
    seed = is_given ? std::strtoull(argv[1], nullptr, 10) : std::random_device{}();
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 12;
    std::mt19937_64 rng(seed);
    ggml_init_params params = {1 << 16, nullptr, true};
    ggml_free(ggml_init(params));  // the fp16 table

    std::vector<const LlmKernels*> levels = {&llm_kernels_reference()};
    for (const CpuLevel level : cpu_levels()) {
        const LlmKernels* k = &llm_kernels_at(level);
        if (std::find(levels.begin(), levels.end(), k) == levels.end()) levels.push_back(k);
    }
    int n_cases = 0;
    for (const ggml_type ggml : kGgmlTypes) {
        LlmType type;
        if (!llm_type(ggml, &type)) return 2;
        for (int i = 0; i < rounds; ++i) {
            const auto below = [&](uint64_t n) { return static_cast<int64_t>(rng() % n); };
            const int64_t block = ggml_blck_size(ggml);
            Case c = {ggml,
                      1 + below(i % 3 ? 80 : 17),
                      block * (1 + below(block == 32 ? 45 : 6)),
                      i % 4 == 0 ? 1 + below(5) : 1 + below(i == 1 ? 530 : 70),
                      i % 2 ? 0.5f : 0.0f,
                      i % 5 == 4,
                      i == 8    ? 0xFF
                      : i == 10 ? 0x80
                                : -1};
            const Weights w(c, type, rng);
            if (i < 4) check_unpack(c, type, w);
            const int64_t stride = c.n_in + below(7);
            std::vector<float> x(static_cast<size_t>(c.n_rows * stride));
            std::normal_distribution<float> normal;
            const float size = i == 6   ? 1e-36f
                               : i == 7 ? 1e30f
                                        : 1.0f;  // vanishing, and near the end of float
            for (float& v : x) v = size * normal(rng);
            if (c.fill >= 0)
                std::fill(x.begin(), x.end(), i == 8 ? 1.0f : -1.0f);  // sums as large as they get
            if (c.has_outlier) x[static_cast<size_t>(below(x.size()))] = 100 * size;
            const auto plain = run(llm_kernels_reference(), false, c, type, w, x, stride);
            for (const LlmKernels* k : levels) {
                const auto small = run(*k, false, c, type, w, x, stride);
                if (i != 6) check_result(*k, false, c, w, x, stride, small);
                // The same integers everywhere: only the order of the float sums differs.
                for (int64_t j = 0; j < c.n_rows * c.n_out; ++j) {
                    double scale = 0;
                    for (int64_t n = 0; n < c.n_in; ++n)
                        scale += std::fabs(
                            static_cast<double>(w.values[static_cast<size_t>(j % c.n_out * c.n_in + n)]) *
                            x[static_cast<size_t>(j / c.n_out * stride + n)]);
                    if (!(std::fabs(small[static_cast<size_t>(j)] - plain[static_cast<size_t>(j)]) <=
                          2e-5 * scale + 1e-30)) {
                        fail(std::string(k->name) + " is not the plain form: " + c.name());
                        break;
                    }
                }
                check_not_finite(*k, false, c, type, w, x, stride, rng);
                if (!k->gemm) continue;
                if (i != 6) check_result(*k, true, c, w, x, stride, run(*k, true, c, type, w, x, stride));
                check_not_finite(*k, true, c, type, w, x, stride, rng);
            }
            ++n_cases;
        }
    }
    std::printf("seed %llu: %d cases, %zu levels (best %s), %d failures\n", (unsigned long long)seed, n_cases,
                levels.size(), levels.back()->name, failures);
    return failures ? 1 : 0;
}
