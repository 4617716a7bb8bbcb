// The vision encoder's kernels at every level this CPU has, against plain C++ on fresh random shapes: ragged
// edges, one row, extreme values, NaN and infinity, unaligned rows. Usage: test_encoder_kernels.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "base/aligned_memory.h"
#include "base/error.h"
#include "base/team.h"
#include "check.h"
#include "guarded.h"
#include "kernels/cpu_level.h"
#include "kernels/encoder/attention.h"
#include "kernels/encoder/matmul.h"
#include "kernels/encoder/row_ops.h"

using namespace bluelm;
using check::Guarded;
using check::normal;
using check::uniform;

namespace {

float bf16_value(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}
uint16_t bf16_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

double element(MatmulType type, const char* row, int64_t i) {
    switch (type) {
        case MatmulType::kInt8: return reinterpret_cast<const int8_t*>(row)[i];
        case MatmulType::kBf16: return bf16_value(reinterpret_cast<const uint16_t*>(row)[i]);
        default: return reinterpret_cast<const float*>(row)[i];
    }
}

void put(MatmulType type, char* row, int64_t i, float value) {
    switch (type) {
        case MatmulType::kInt8:
            reinterpret_cast<int8_t*>(row)[i] =
                static_cast<int8_t>(std::clamp(std::lround(40 * value), -127L, 127L));
            break;
        case MatmulType::kBf16: reinterpret_cast<uint16_t*>(row)[i] = bf16_bits(value); break;
        default: reinterpret_cast<float*>(row)[i] = value;
    }
}

void test_matmul(MatmulType type, CpuLevel level, bool extreme) {
    const MatmulKernel* kernel = matmul_kernel(type, level);
    if (!kernel) return;
    const size_t size = matmul_element_bytes(type);
    const int n_rows = uniform(1, kernel->rows), n_out = uniform(1, kernel->columns);
    const int64_t n_in = uniform(1, 300), k = round_up(n_in, kernel->k_step);
    const size_t stride = static_cast<size_t>(k) * size + 4 * static_cast<size_t>(uniform(0, 5));
    // Rows of X are read up to kernel->rows; where the last one ends, so does the memory.
    const auto span = [&](int rows) {
        return stride * static_cast<size_t>(rows - 1) + static_cast<size_t>(k) * size;
    };
    const Guarded x(span(kernel->rows), size, 0), w(span(n_out), size, 0);
    const auto value = [&] { return extreme ? (uniform(0, 1) ? 127.0f : -127.0f) / 40 : normal(); };
    for (int r = 0; r < n_rows; ++r) {
        for (int64_t i = 0; i < n_in; ++i)
            put(type, x.as<char>() + static_cast<size_t>(r) * stride, i, value());
    }
    for (int o = 0; o < n_out; ++o) {
        for (int64_t i = 0; i < n_in; ++i)
            put(type, w.as<char>() + static_cast<size_t>(o) * stride, i, value());
    }
    const Guarded panel(panel_bytes(*kernel, type, k), 64);
    pack_panel(*kernel, type, w.as<char>(), stride, n_out, k, panel.data);
    const size_t c_stride = static_cast<size_t>(kernel->columns + uniform(0, 3));
    const Guarded c(
        (c_stride * static_cast<size_t>(kernel->rows - 1) + static_cast<size_t>(kernel->columns)) * 4, 4);
    const Guarded flipped(x.size(), size);
    for (size_t i = 0; i < x.size(); ++i) flipped.data[i] = static_cast<uint8_t>(x.data[i] ^ kernel->x_flip);
    matmul_pack_rows(*kernel, type, flipped.data, stride, n_rows, k);
    if (kernel->enter) kernel->enter();
    kernel->multiply(flipped.data, stride, panel.data, k, c.data, c_stride, n_rows);
    if (kernel->leave) kernel->leave();
    for (int r = 0; r < n_rows; ++r) {
        for (int o = 0; o < kernel->columns; ++o) {
            double sum = 0, magnitude = 0;
            for (int64_t i = 0; i < n_in && o < n_out; ++i) {
                const double product = element(type, x.as<char>() + static_cast<size_t>(r) * stride, i) *
                                       element(type, w.as<char>() + static_cast<size_t>(o) * stride, i);
                sum += product;
                magnitude += std::fabs(product);
            }
            const size_t at = static_cast<size_t>(r) * c_stride + static_cast<size_t>(o);
            const double found = type == MatmulType::kInt8 ? c.as<int32_t>()[at] : c.as<float>()[at];
            // int8 is exact; float sums are off by at most a rounding for each addition.
            const double bound = type == MatmulType::kInt8 ? 0 : magnitude * static_cast<double>(k) * 6e-8;
            CHECK_F(std::fabs(found - sum) <= bound, "%s: row %d of %d, output %d of %d, k %lld: %g, not %g",
                    kernel->name, r, n_rows, o, n_out, static_cast<long long>(n_in), found, sum);
        }
    }
}

float gelu_tanh(float y) {
    const double z = 0.7978845608028654 * (y + 0.044715 * double(y) * y * y);
    return static_cast<float>(0.5 * y * (1 + std::tanh(z)));
}

bool near(double found, double expected, double absolute, double relative) {
    if (std::isnan(expected)) return std::isnan(found);
    return std::fabs(found - expected) <= absolute + relative * std::fabs(expected);
}

void test_rows(CpuLevel level) {
    const RowOps& ops = row_ops(level);
    const int64_t n = uniform(1, 200), padded = n + uniform(0, 40);
    const float size = std::exp(normal() * 4);
    const size_t room = static_cast<size_t>(n) * 4;
    const Guarded x(room, 4), w(room, 4), b(room, 4), out(room, 4);
    double mean = 0, squares = 0, reach = 0;
    for (int64_t i = 0; i < n; ++i) {
        x.as<float>()[i] = size * normal();
        w.as<float>()[i] = normal();
        b.as<float>()[i] = normal();
        mean += x.as<float>()[i] / static_cast<double>(n);
        reach = std::max<double>(reach, std::fabs(x.as<float>()[i]));
    }
    for (int64_t i = 0; i < n; ++i)
        squares += (x.as<float>()[i] - mean) * (x.as<float>()[i] - mean) / static_cast<double>(n);
    ops.layer_norm(x.as<float>(), w.as<float>(), b.as<float>(), 1e-6f, n, out.as<float>());
    for (int64_t i = 0; i < n; ++i) {
        const double scale = 1 / std::sqrt(squares + 1e-6);
        const double expected = (x.as<float>()[i] - mean) * scale * w.as<float>()[i] + b.as<float>()[i];
        const double bound = 1e-5 * (1 + reach * scale * std::fabs(w.as<float>()[i]));
        CHECK_F(near(out.as<float>()[i], expected, bound, 1e-5), "%s layer_norm of %lld: %g, not %g",
                ops.name, static_cast<long long>(n), double(out.as<float>()[i]), expected);
    }

    // Quantised: within half a step of the value; zeros behind; the same from bf16.
    const Guarded q(static_cast<size_t>(padded)), half(static_cast<size_t>(n) * 2, 2);
    ops.to_bf16(x.as<float>(), n, n, half.as<uint16_t>());
    for (int64_t i = 0; i < n; ++i) {
        CHECK_F(half.as<uint16_t>()[i] == bf16_bits(x.as<float>()[i]), "%s to_bf16 of %g", ops.name,
                double(x.as<float>()[i]));
    }
    const auto flip = static_cast<uint8_t>(uniform(0, 1) * 0x80);
    for (const bool narrow : {false, true}) {
        const auto at = [&](int64_t i) {
            return narrow ? bf16_value(half.as<uint16_t>()[i]) : x.as<float>()[i];
        };
        for (const bool around : {false, true}) {
            float middle = 0;
            auto* to = q.as<int8_t>();
            const float scale =
                around ? (narrow ? ops.quantise_around_bf16(half.as<uint16_t>(), n, padded, flip, to, &middle)
                                 : ops.quantise_around(x.as<float>(), n, padded, flip, to, &middle))
                       : (narrow ? ops.quantise_bf16(half.as<uint16_t>(), n, padded, flip, to)
                                 : ops.quantise(x.as<float>(), n, padded, flip, to));
            for (int64_t i = 0; i < padded; ++i) {
                const int value = static_cast<int8_t>(static_cast<uint8_t>(to[i]) ^ flip);
                if (i >= n) {
                    CHECK_F(value == 0, "%s quantise: %d behind the row", ops.name, value);
                    continue;
                }
                CHECK_F(value >= -127 && near(double(value) * scale + middle, at(i), 0.5001 * scale, 1e-5),
                        "%s quantise: %d * %g + %g is not %g", ops.name, value, double(scale), double(middle),
                        double(at(i)));
            }
        }
    }
    // What is not finite is NaN for the row.
    const float bad[] = {NAN, INFINITY, -INFINITY, -NAN};
    x.as<float>()[uniform(0, static_cast<int>(n) - 1)] = bad[uniform(0, 3)];
    ops.to_bf16(x.as<float>(), n, n, half.as<uint16_t>());
    float middle;
    CHECK_F(std::isnan(ops.quantise(x.as<float>(), n, padded, flip, q.as<int8_t>())) &&
                std::isnan(ops.quantise_bf16(half.as<uint16_t>(), n, padded, flip, q.as<int8_t>())) &&
                std::isnan(ops.quantise_around(x.as<float>(), n, padded, flip, q.as<int8_t>(), &middle)) &&
                std::isnan(
                    ops.quantise_around_bf16(half.as<uint16_t>(), n, padded, flip, q.as<int8_t>(), &middle)),
            "%s quantise: a row that is not finite", ops.name);
    // A row of zeros, and one too small for its inverse.
    for (const float tiny : {0.0f, 1e-42f}) {
        std::fill_n(x.as<float>(), n, tiny);
        CHECK(ops.quantise(x.as<float>(), n, padded, 0, q.as<int8_t>()) == 0.0f);
        CHECK(ops.quantise_around(x.as<float>(), n, padded, 0, q.as<int8_t>(), &middle) == 0.0f);
        CHECK(q.as<int8_t>()[0] == 0);
    }
}

// Rows of weights as they are loaded.
void test_weight_rows(CpuLevel level) {
    const RowOps& ops = row_ops(level);
    const int64_t n = uniform(1, 200), n_blocks = uniform(1, 6);
    const Guarded blocks(static_cast<size_t>(n_blocks) * 34, 2),
        values(static_cast<size_t>(n_blocks) * 32 * 4, 4);
    for (int64_t i = 0; i < n_blocks * 34; ++i) blocks.data[i] = static_cast<uint8_t>(uniform(0, 255));
    ops.q8_0_to_float(blocks.as<char>(), n_blocks * 32, values.as<float>());
    for (int64_t i = 0; i < n_blocks * 32; ++i) {
        const char* block = blocks.as<char>() + i / 32 * 34;
        uint16_t half;
        std::memcpy(&half, block, sizeof half);
        const int exponent = half >> 10 & 31, mantissa = half & 1023;
        double scale = exponent == 31  ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(mantissa, -24)
                                       : std::ldexp(1024 + mantissa, exponent - 25);
        if (half & 0x8000) scale = -scale;
        const double expected = scale * static_cast<int8_t>(block[2 + i % 32]);
        CHECK_F(near(values.as<float>()[i], expected, 0, 0) ||
                    (std::isinf(expected) && values.as<float>()[i] == expected),
                "%s q8_0_to_float: %g, not %g", ops.name, double(values.as<float>()[i]), expected);
    }

    const size_t bytes = static_cast<size_t>(n) * 4;
    const Guarded x(bytes, 4), w(bytes, 4), b(bytes, 4), maxima(bytes, 4), by(bytes, 4), q(bytes / 4);
    std::vector<float> before(static_cast<size_t>(n));
    double squares = 0, sum = 0, reach = 0;
    int32_t total = 0;
    for (int64_t i = 0; i < n; ++i) {
        x.as<float>()[i] = normal();
        w.as<float>()[i] = normal();
        b.as<float>()[i] = normal();
        by.as<float>()[i] = normal();
        maxima.as<float>()[i] = before[static_cast<size_t>(i)] = std::fabs(normal());
        q.as<int8_t>()[i] = static_cast<int8_t>(uniform(-128, 127));
        total += q.as<int8_t>()[i];
        squares += std::pow(double(x.as<float>()[i]) * w.as<float>()[i], 2);
        sum += double(x.as<float>()[i]) * b.as<float>()[i];
        reach += std::fabs(double(x.as<float>()[i]) * b.as<float>()[i]);
    }
    ops.max_magnitudes(x.as<float>(), n, maxima.as<float>());
    for (int64_t i = 0; i < n; ++i) {
        CHECK_F(
            maxima.as<float>()[i] == std::max(before[static_cast<size_t>(i)], std::fabs(x.as<float>()[i])),
            "%s max_magnitudes of %lld", ops.name, static_cast<long long>(n));
    }
    float found_squares, found_sum;
    ops.products(x.as<float>(), w.as<float>(), b.as<float>(), n, &found_squares, &found_sum);
    CHECK_F(near(found_squares, squares, 0, 1e-5) && near(found_sum, sum, 1e-5 * reach, 0),
            "%s products of %lld: %g and %g, not %g and %g", ops.name, static_cast<long long>(n),
            double(found_squares), double(found_sum), squares, sum);
    std::copy_n(x.as<float>(), n, before.data());
    const float factor = normal();
    ops.multiply_each(x.as<float>(), by.as<float>(), factor, n);
    for (int64_t i = 0; i < n; ++i) {
        const double expected = double(before[static_cast<size_t>(i)]) * by.as<float>()[i] * factor;
        CHECK_F(near(x.as<float>()[i], expected, 0, 2e-7), "%s multiply_each: %g, not %g", ops.name,
                double(x.as<float>()[i]), expected);
    }
    CHECK_F(ops.add_up_int8(q.as<int8_t>(), n) == total, "%s add_up_int8 of %lld", ops.name,
            static_cast<long long>(n));
}

// What only a defect of the library could break is an error, not memory overwritten.
template <class Body>
bool fails_check(Body&& body) {
    try {
        body();
    } catch (const Error& e) {
        return e.status == BLUELM_ERR_INTERNAL && std::strstr(e.what(), "does not hold") != nullptr;
    }
    return false;
}

void test_checks() {
    MatmulKernel wide = *matmul_kernel(MatmulType::kBf16, CpuLevel::kGeneric);
    wide.columns = kMaxMatmulColumns + 8;
    std::vector<uint16_t> panel(static_cast<size_t>(wide.columns) * 8), rows(panel.size());
    CHECK(fails_check(
        [&] { pack_panel_transposed(wide, MatmulType::kBf16, rows.data(), 2, 8, 2, 2, panel.data()); }));
    wide.columns = 16;
    CHECK(fails_check([&] {  // more outputs than a panel has
        pack_panel_transposed(wide, MatmulType::kBf16, rows.data(), 2, 17, 2, 2, panel.data());
    }));
    CHECK(fails_check([&] { pack_panel(wide, MatmulType::kBf16, rows.data(), 4, 17, 2, panel.data()); }));
    wide.rows = 65;  // queries in a block
    CHECK(fails_check([&] { Attention(MatmulType::kBf16, wide, row_ops(CpuLevel::kGeneric), 10, 8); }));
    Team::WorkList work(3);
    CHECK(work[2].take(1) == 0);
    CHECK(fails_check([&] { work[3].take(1); }));
}

void test_memory() {
    for (const size_t bytes : {size_t(0), size_t(1), size_t(1000), size_t(2) << 20, (size_t(5) << 20) + 3}) {
        for (const bool mapped : {false, true}) {
            AlignedMemory memory = mapped ? AlignedMemory::mapped(bytes) : AlignedMemory(bytes);
            const AlignedMemory other = std::move(memory);
            CHECK(other.bytes() == bytes && reinterpret_cast<uintptr_t>(other.data()) % 64 == 0);
            CHECK((other.data() != nullptr) == (bytes > 0));
            for (size_t i = 0; i < bytes; ++i) {
                if (other.data()[i] != 0) CHECK_F(false, "byte %zu of %zu is not zero", i, bytes);
                other.data()[i] = 1;
            }
        }
    }
    bool refused = false;
    try {
        AlignedMemory::mapped(SIZE_MAX / 4);
    } catch (const std::bad_alloc&) {
        refused = true;
    }
    CHECK(refused);
}

void test_epilogues(CpuLevel level, bool of_int) {
    const RowOps& ops = row_ops(level);
    const RowOps::Epilogues& ends = of_int ? ops.of_int32 : ops.of_float;
    const int rows = uniform(1, 9), n = uniform(1, 70);
    const size_t c_stride = static_cast<size_t>(n + uniform(0, 5)),
                 stride = static_cast<size_t>(n + uniform(0, 5));
    const size_t cells = static_cast<size_t>(rows - 1) * c_stride + static_cast<size_t>(n),
                 room = static_cast<size_t>(rows - 1) * stride + static_cast<size_t>(n);
    const auto floats = [](int count) { return static_cast<size_t>(count) * 4; };
    const Guarded c(cells * 4, 4), row_scale(floats(rows), 4), column_scale(floats(n), 4), bias(floats(n), 4),
        sums_of(floats(n), 4), middles(floats(rows), 4), factors(floats(n), 4), out(room * 4, 4),
        half(room * 2, 2), residual(room * 4, 4);
    const float spread = uniform(0, 3) == 0 ? 30.0f : 2.0f;  // now and then far beyond GELU's middle
    for (size_t i = 0; i < cells; ++i) {
        if (of_int) {
            c.as<int32_t>()[i] = static_cast<int32_t>(normal() * 1e5f);
        } else {
            c.as<float>()[i] = normal() * spread;
        }
    }
    for (int r = 0; r < rows; ++r) {
        row_scale.as<float>()[r] = uniform(0, 9) == 0 ? NAN : 1e-3f * spread * (1 + std::fabs(normal()));
        middles.as<float>()[r] = normal();
    }
    for (int i = 0; i < n; ++i) {
        column_scale.as<float>()[i] = 0.01f;
        bias.as<float>()[i] = normal();
        factors.as<float>()[i] = std::fabs(normal());
        sums_of.as<float>()[i] = normal();
    }
    for (size_t i = 0; i < room; ++i) residual.as<float>()[i] = normal();
    Sums sums = {};
    sums.c = c.data;
    sums.c_stride = c_stride;
    sums.n_rows = rows;
    sums.n = n;
    sums.bias = bias.as<float>();
    if (of_int) {
        sums.row_scale = row_scale.as<float>();
        sums.column_scale = column_scale.as<float>();
    }
    const auto value = [&](int r, int i) -> double {
        const size_t at = static_cast<size_t>(r) * c_stride + static_cast<size_t>(i);
        if (!of_int) return double(c.as<float>()[at]) + bias.as<float>()[i];
        return double(c.as<int32_t>()[at]) * row_scale.as<float>()[r] * column_scale.as<float>()[i] +
               bias.as<float>()[i];
    };
    const auto compare = [&](const char* what, bool narrow, double absolute, double relative,
                             auto&& expected) {
        for (int r = 0; r < rows; ++r) {
            for (int i = 0; i < n; ++i) {
                const size_t at = static_cast<size_t>(r) * stride + static_cast<size_t>(i);
                const float found = narrow ? bf16_value(half.as<uint16_t>()[at]) : out.as<float>()[at];
                const double want = expected(r, i);
                const double size = std::isnan(want) ? 0 : std::fabs(value(r, i));
                CHECK_F(near(found, want, absolute * (1 + size), relative), "%s %s of %s: %g, not %g",
                        ops.name, what, of_int ? "int32" : "float", double(found), want);
            }
        }
    };
    const double bf16 = 4e-3;  // half a step of bf16 and what the shorter polynomial adds
    ends.store_f32(sums, out.as<float>(), stride);
    compare("store_f32", false, 1e-6, 1e-6, value);
    ends.store_bf16(sums, half.as<uint16_t>(), stride);
    compare("store_bf16", true, 1e-6, bf16, value);
    const auto gelu = [&](int r, int i) -> double {
        return double(gelu_tanh(static_cast<float>(value(r, i)))) * factors.as<float>()[i];
    };
    ends.gelu_f32(sums, factors.as<float>(), out.as<float>(), stride);
    compare("gelu_f32", false, 1e-5, 1e-5, gelu);
    ends.gelu_bf16(sums, factors.as<float>(), half.as<uint16_t>(), stride);
    compare("gelu_bf16", true, 1e-3, bf16, gelu);
    ends.gelu_f32(sums, nullptr, out.as<float>(), stride);
    compare("gelu_f32", false, 1e-5, 1e-5,
            [&](int r, int i) -> double { return gelu_tanh(static_cast<float>(value(r, i))); });
    ends.gelu_erf_f32(sums, nullptr, out.as<float>(), stride);
    compare("gelu_erf_f32", false, 1e-6, 1e-5, [&](int r, int i) -> double {
        return 0.5 * value(r, i) * std::erfc(-value(r, i) * std::sqrt(0.5));
    });
    if (of_int) {
        sums.row_middle = middles.as<float>();
        sums.column_sum = sums_of.as<float>();
    }
    std::copy_n(residual.as<float>(), room, out.as<float>());
    ends.residual(sums, out.as<float>(), stride);
    compare("residual", false, 1e-6, 1e-6, [&](int r, int i) -> double {
        const double more = of_int ? double(middles.as<float>()[r]) * sums_of.as<float>()[i] : 0;
        return residual.as<float>()[static_cast<size_t>(r) * stride + static_cast<size_t>(i)] + value(r, i) +
               more;
    });
}

void test_attention(MatmulType type, CpuLevel level, bool spoilt) {
    const MatmulKernel* kernel = matmul_kernel(type, level);
    if (!kernel) return;
    const int64_t n = uniform(1, 90), d = uniform(1, 96), n_head = 2;
    const size_t size = matmul_element_bytes(type), stride = static_cast<size_t>(3 * n_head * d) * size;
    const Guarded qkv(static_cast<size_t>(n) * stride, size), out(static_cast<size_t>(n * d) * size, size);
    for (int64_t i = 0; i < n * 3 * n_head * d; ++i) put(type, qkv.as<char>(), i, 2 * normal());
    const char* q = qkv.as<char>() + static_cast<size_t>(d) * size;  // the second head
    const char *k = q + static_cast<size_t>(n_head * d) * size,
               *v = k + static_cast<size_t>(n_head * d) * size;
    // Results are finite where they are in float64: a key spoils queries, a value its own channel.
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const bool is_value = uniform(0, 1) != 0;
    if (spoilt) {
        const char* row = (is_value ? v : k) + static_cast<size_t>(uniform(0, int(n) - 1)) * stride;
        put(type, const_cast<char*>(row), 0, bad[uniform(0, 2)]);
    }
    const Attention attention(type, *kernel, row_ops(level), n, d);
    const Guarded scratch(attention.scratch_bytes(), 64);
    if (kernel->enter) kernel->enter();
    attention.pack(k, stride, v, stride, scratch.data);
    const int64_t part = attention.queries_in_block() * uniform(1, 2);
    for (int64_t first = 0; first < n; first += part) {
        attention.attend(q, stride, first, std::min(n, first + part), scratch.data, out.as<char>(),
                         static_cast<size_t>(d) * size);
    }
    if (kernel->leave) kernel->leave();
    std::vector<double> p(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        double sum = 0, max = -INFINITY;
        for (int64_t j = 0; j < n; ++j) {
            double s = 0;
            for (int64_t c = 0; c < d; ++c)
                s += element(type, q + static_cast<size_t>(i) * stride, c) *
                     element(type, k + static_cast<size_t>(j) * stride, c);
            p[static_cast<size_t>(j)] = s / std::sqrt(static_cast<double>(d));
            max = std::max(max, p[static_cast<size_t>(j)]);
        }
        for (double& value : p) sum += value = std::exp(value - max);
        for (int64_t c = 0; c < d; ++c) {
            double expected = 0, reach = 0;
            for (int64_t j = 0; j < n; ++j) {
                const double value = element(type, v + static_cast<size_t>(j) * stride, c);
                expected += p[static_cast<size_t>(j)] / sum * value;
                reach = std::max(reach, std::fabs(value));
            }
            const double found = element(type, out.as<char>(), i * d + c);
            if (spoilt) {
                CHECK_F(std::isfinite(found) == std::isfinite(expected), "%s attention: %g for %g",
                        kernel->name, found, expected);
                if (!std::isfinite(expected)) continue;
            }

            // bf16: the weights of the values and the result are rounded to 8 bits, float32: to 24.
            CHECK_F(near(found, expected, (type == MatmulType::kBf16 ? 1e-2 : 3e-5) * reach, 0),
                    "%s attention, %lld tokens, head_dim %lld: %g, not %g", kernel->name,
                    static_cast<long long>(n), static_cast<long long>(d), found, expected);
        }
    }
}

}  // namespace

int main() {
    test_memory();
    test_checks();
    for (const CpuLevel level : cpu_levels()) {
        for (const MatmulType type : {MatmulType::kInt8, MatmulType::kBf16, MatmulType::kF32}) {
            for (int i = 0; i < 25; ++i) test_matmul(type, level, i % 5 == 0);
        }
        for (int i = 0; i < 100; ++i) test_rows(level);
        for (int i = 0; i < 20; ++i) test_weight_rows(level);
        for (int i = 0; i < 50; ++i) test_epilogues(level, i % 2 == 0);
        for (const MatmulType type : {MatmulType::kBf16, MatmulType::kF32}) {
            for (int i = 0; i < 8; ++i) test_attention(type, level, i % 4 == 3);
        }
    }
    return check::finish();
}
