#include "kernels/llm/pack.h"

#include <cstring>

namespace bluelm {
namespace {

// Blocks as GGUF stores them.
struct BlockQ4_0 {
    ggml_fp16_t d;
    uint8_t q[16];  // inputs 0..15 in the low nibbles, 16..31 in the high ones
};
struct BlockQ8_0 {
    ggml_fp16_t d;
    int8_t q[32];
};
struct BlockQ4_K {
    ggml_fp16_t d, dmin;
    uint8_t scales[12];  // 8 scales and 8 minimums of 6 bits
    uint8_t q[128];
};
struct BlockQ6_K {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    ggml_fp16_t d;
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_K) == 144 &&
                  sizeof(BlockQ6_K) == 210,
              "blocks as GGUF stores them");

constexpr int64_t kSuper = 8;  // cells in a block of 256 inputs

template <class T>
T* at(uint8_t* bytes, size_t offset) {
    return reinterpret_cast<T*>(bytes + offset);
}

void q4_k_scale(const BlockQ4_K& b, int j, uint8_t* scale, uint8_t* minimum) {
    if (j < 4) {
        *scale = b.scales[j] & 63;
        *minimum = b.scales[j + 4] & 63;
    } else {
        *scale = static_cast<uint8_t>((b.scales[j + 4] & 15) | ((b.scales[j - 4] >> 6) << 4));
        *minimum = static_cast<uint8_t>((b.scales[j + 4] >> 4) | ((b.scales[j] >> 6) << 4));
    }
}

// Values of one output in one cell, as unsigned numbers.
void values_of(LlmType type, const void* blocks, int64_t index, int64_t cell, uint8_t* out) {
    switch (type) {
        case LlmType::q4_0: {
            const BlockQ4_0& b = static_cast<const BlockQ4_0*>(blocks)[index + cell];
            for (int i = 0; i < 16; ++i) {
                out[i] = b.q[i] & 15;
                out[i + 16] = b.q[i] >> 4;
            }
            return;
        }
        case LlmType::q8_0: {
            const BlockQ8_0& b = static_cast<const BlockQ8_0*>(blocks)[index + cell];
            for (int i = 0; i < 32; ++i) out[i] = static_cast<uint8_t>(b.q[i] + 128);
            return;
        }
        case LlmType::q4_K: {
            const BlockQ4_K& b = static_cast<const BlockQ4_K*>(blocks)[index + cell / kSuper];
            const int64_t j = cell % kSuper;
            const uint8_t* q = b.q + j / 2 * 32;
            for (int i = 0; i < 32; ++i) out[i] = j % 2 ? q[i] >> 4 : q[i] & 15;
            return;
        }
        case LlmType::q6_K: {
            const BlockQ6_K& b = static_cast<const BlockQ6_K*>(blocks)[index + cell / kSuper];
            const int64_t j = cell % kSuper, half = j / 4, part = j % 4;
            const uint8_t* ql = b.ql + half * 64 + part % 2 * 32;
            const uint8_t* qh = b.qh + half * 32;
            for (int i = 0; i < 32; ++i) {
                const int low = part < 2 ? ql[i] & 15 : ql[i] >> 4;
                out[i] = static_cast<uint8_t>(low | (((qh[i] >> (2 * part)) & 3) << 4));
            }
            return;
        }
    }
}

// Four bytes at a time: a vector's lane is an output's four inputs, and no shift below crosses a byte.
uint32_t four_of(const uint8_t* bytes) {
    uint32_t word;
    std::memcpy(&word, bytes, sizeof word);
    return word;
}
void store(uint8_t* bytes, uint32_t word) { std::memcpy(bytes, &word, sizeof word); }

void store_cell(LlmType type, const uint8_t (&value)[kPanelOutputs][kCellInputs], uint8_t* cell) {
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
        const uint8_t* v = value[o];
        uint8_t* lane = cell + o * 4;
        if (type == LlmType::q8_0) {
            for (int64_t g = 0; g < 8; ++g) store(lane + g * 64, four_of(v + 4 * g));
            continue;
        }
        for (int64_t h = 0; h < 4; ++h) {
            const uint32_t low = four_of(v + 8 * h) & 0x0F0F0F0Fu,
                           high = four_of(v + 8 * h + 4) & 0x0F0F0F0Fu;
            store(lane + h * 64, low | high << 4);
        }
        if (type != LlmType::q6_K) continue;
        for (int64_t e = 0; e < 2; ++e) {
            uint32_t bits = 0;
            for (int64_t j = 0; j < 4; ++j)
                bits |= (four_of(v + 16 * e + 4 * j) >> 4 & 0x03030303u) << (2 * j);
            store(lane + 256 + e * 64, bits);
        }
    }
}

void store_scales(LlmType type, const void* blocks, int64_t index, int64_t out, int64_t n_cells,
                  uint8_t* scales) {
    const auto o = static_cast<size_t>(out);
    for (int64_t cell = 0; cell < n_cells; ++cell) {
        const auto c = static_cast<size_t>(cell), j = c % kSuper;
        switch (type) {
            case LlmType::q4_0:
                at<ggml_fp16_t>(scales, c * 32)[o] = static_cast<const BlockQ4_0*>(blocks)[index + cell].d;
                break;
            case LlmType::q8_0:
                at<ggml_fp16_t>(scales, c * 32)[o] = static_cast<const BlockQ8_0*>(blocks)[index + cell].d;
                break;
            case LlmType::q4_K: {
                const BlockQ4_K& b = static_cast<const BlockQ4_K*>(blocks)[index + cell / kSuper];
                uint8_t* super = scales + c / kSuper * 256;
                at<ggml_fp16_t>(super, 0)[o] = b.d;
                at<ggml_fp16_t>(super, 32)[o] = b.dmin;
                uint8_t scale, minimum;
                q4_k_scale(b, static_cast<int>(j), &scale, &minimum);
                uint8_t* low = super + 64 + j * 24;
                low[o] = static_cast<uint8_t>((scale & 15) | ((minimum & 15) << 4));
                const int high = (scale >> 4) | ((minimum >> 4) << 2);
                low[16 + o % 8] = static_cast<uint8_t>(low[16 + o % 8] | (o < 8 ? high : high << 4));
                break;
            }
            case LlmType::q6_K: {
                const BlockQ6_K& b = static_cast<const BlockQ6_K*>(blocks)[index + cell / kSuper];
                uint8_t* super = scales + c / kSuper * 288;
                at<ggml_fp16_t>(super, 0)[o] = b.d;
                // Halves of cell j of a block are scales 2j and 2j+1: 16 inputs each, in order.
                at<int8_t>(super, 32 + j * 32)[o] = b.scales[2 * j];
                at<int8_t>(super, 32 + j * 32 + 16)[o] = b.scales[2 * j + 1];
                break;
            }
        }
    }
}

}  // namespace

bool llm_type(ggml_type type, LlmType* out) {
    switch (type) {
        case GGML_TYPE_Q4_0: *out = LlmType::q4_0; return true;
        case GGML_TYPE_Q4_K: *out = LlmType::q4_K; return true;
        case GGML_TYPE_Q6_K: *out = LlmType::q6_K; return true;
        case GGML_TYPE_Q8_0: *out = LlmType::q8_0; return true;
        default: return false;
    }
}

void llm_pack(LlmType type, const void* blocks, int64_t n_out, int64_t n_in, int64_t first, int64_t last,
              uint8_t* packed) {
    const int64_t n_cells = n_in / kCellInputs;
    const bool is_super = type == LlmType::q4_K || type == LlmType::q6_K;
    const int64_t per_row = is_super ? n_cells / kSuper : n_cells;
    const size_t stride = llm_panel_bytes(type, n_in);
    for (int64_t p = first; p < last; ++p) {
        uint8_t* panel = packed + static_cast<size_t>(p) * stride;
        const int64_t count =
            n_out - p * kPanelOutputs < kPanelOutputs ? n_out - p * kPanelOutputs : kPanelOutputs;
        uint8_t value[kPanelOutputs][kCellInputs] = {};
        for (int64_t cell = 0; cell < n_cells; ++cell) {
            for (int64_t o = 0; o < count; ++o)
                values_of(type, blocks, (p * kPanelOutputs + o) * per_row, cell, value[o]);
            store_cell(type, value, panel + static_cast<size_t>(cell) * llm_cell_bytes(type));
        }
        uint8_t* scales = panel + static_cast<size_t>(n_cells) * llm_cell_bytes(type);
        std::memset(scales, 0, static_cast<size_t>(panel + stride - scales));
        for (int64_t o = 0; o < count; ++o)
            store_scales(type, blocks, (p * kPanelOutputs + o) * per_row, o, n_cells, scales);
    }
}

void llm_unpack(LlmType type, const uint8_t* panel, int64_t n_in, int64_t cell, LlmCell* out) {
    const auto n_cells = static_cast<size_t>(n_in / kCellInputs), c = static_cast<size_t>(cell);
    const uint8_t* q = panel + c * llm_cell_bytes(type);
    for (size_t o = 0; o < 16; ++o) {
        for (size_t i = 0; i < 32; ++i) {
            const size_t g = i / 4, byte = o * 4 + i % 4;
            if (type == LlmType::q8_0) {
                out->value[o][i] = q[g * 64 + byte];
                continue;
            }
            int v = (q[g / 2 * 64 + byte] >> (g % 2 * 4)) & 15;
            if (type == LlmType::q6_K) v |= ((q[256 + g / 4 * 64 + byte] >> (g % 4 * 2)) & 3) << 4;
            out->value[o][i] = static_cast<uint8_t>(v);
        }
    }
    const uint8_t* scales = panel + n_cells * llm_cell_bytes(type);
    const auto half_at = [](const uint8_t* bytes, size_t i) {
        ggml_fp16_t h;
        std::memcpy(&h, bytes + 2 * i, sizeof h);
        return ggml_fp16_to_fp32(h);
    };
    for (size_t o = 0; o < 16; ++o) {
        for (size_t half = 0; half < 2; ++half) {
            float scale = 0, offset = 0;
            if (type == LlmType::q4_0 || type == LlmType::q8_0) {
                scale = half_at(scales + c * 32, o);
                offset = scale * (type == LlmType::q4_0 ? -8.0f : -128.0f);
            } else if (type == LlmType::q4_K) {
                const uint8_t* super = scales + c / 8 * 256;
                const uint8_t* low = super + 64 + c % 8 * 24;
                const int high = (low[16 + o % 8] >> (o < 8 ? 0 : 4)) & 15;
                scale = half_at(super, o) * static_cast<float>((low[o] & 15) | ((high & 3) << 4));
                offset = -half_at(super + 32, o) * static_cast<float>((low[o] >> 4) | ((high >> 2) << 4));
            } else {
                const uint8_t* super = scales + c / 8 * 288;
                const auto s = static_cast<int8_t>(super[32 + c % 8 * 32 + half * 16 + o]);
                scale = half_at(super, o) * static_cast<float>(s);
                offset = -32.0f * scale;
            }
            out->scale[half][o] = scale;
            out->offset[half][o] = offset;
        }
    }
}

}  // namespace bluelm
