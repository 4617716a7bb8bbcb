// The encoder's matmul at AMX, int8 and bf16: 32 rows x 32 outputs a call, in four tiles of 16 x 16 dwords.
//
//              panel: tmm6  tmm7        per 64 bytes of k: 4 tiles are loaded (8 cycles each from the first-
//   x rows 0-15   tmm4 [tmm0][tmm1]     level cache) and 4 products run (16 cycles each)
//        16-31    tmm5 [tmm2][tmm3]
//
// Instructions are written as inline assembly: GCC before 12.4 drops the stores that fill the operand of its
// own _tile_loadconfig (GCC bug 114098), and tile numbers have to be literal anyway.
#if defined(__x86_64__) && defined(__GNUC__)

#include "kernels/amx_tiles.h"
#include "kernels/encoder/matmul.h"
#include "kernels/target.h"

BLUELM_TARGET_BEGIN("amx-tile,amx-int8,amx-bf16")

namespace bluelm {
namespace {

constexpr TileConfig kConfig;

void enter() { load_config(kConfig); }
void leave() { release_tiles(); }

#define BLUELM_LOAD(tile, address, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%" tile : : "r"(address), "r"(stride) : "memory")
#define BLUELM_STORE(tile, address, stride) \
    __asm__ volatile("tilestored %%" tile ", (%0,%1,1)" : : "r"(address), "r"(stride) : "memory")
#define BLUELM_ZERO(tile) __asm__ volatile("tilezero %%" tile :)

// int8: k_bytes of q and 4 of them a dword; bf16: 2 a dword. Rows and panel look the same to the loads.
#define BLUELM_AMX_KERNEL(NAME, PRODUCT, ELEMENT_BYTES)                                               \
    void NAME(const void* x, size_t x_stride, const void* panel, int64_t k, void* c, size_t c_stride, \
              int n_rows) {                                                                           \
        const char* upper = static_cast<const char*>(x);                                              \
        const char* lower = upper + 16 * x_stride;                                                    \
        const char* w = static_cast<const char*>(panel);                                              \
        char* out = static_cast<char*>(c);                                                            \
        const size_t w_stride = 128, out_stride = 4 * c_stride;                                       \
        const int64_t n_steps = k * ELEMENT_BYTES / 64;                                               \
        BLUELM_ZERO("tmm0");                                                                          \
        BLUELM_ZERO("tmm1");                                                                          \
        if (n_rows <= 16) {                                                                           \
            for (int64_t i = 0; i < n_steps; ++i, upper += 64, w += 2048) {                           \
                BLUELM_LOAD("tmm4", upper, x_stride);                                                 \
                BLUELM_LOAD("tmm6", w, w_stride);                                                     \
                BLUELM_LOAD("tmm7", w + 64, w_stride);                                                \
                __asm__ volatile(PRODUCT " %%tmm6, %%tmm4, %%tmm0" :);                                \
                __asm__ volatile(PRODUCT " %%tmm7, %%tmm4, %%tmm1" :);                                \
            }                                                                                         \
            BLUELM_STORE("tmm0", out, out_stride);                                                    \
            BLUELM_STORE("tmm1", out + 64, out_stride);                                               \
            return;                                                                                   \
        }                                                                                             \
        BLUELM_ZERO("tmm2");                                                                          \
        BLUELM_ZERO("tmm3");                                                                          \
        for (int64_t i = 0; i < n_steps; ++i, upper += 64, lower += 64, w += 2048) {                  \
            BLUELM_LOAD("tmm6", w, w_stride);                                                         \
            BLUELM_LOAD("tmm4", upper, x_stride);                                                     \
            BLUELM_LOAD("tmm7", w + 64, w_stride);                                                    \
            BLUELM_LOAD("tmm5", lower, x_stride);                                                     \
            __asm__ volatile(PRODUCT " %%tmm6, %%tmm4, %%tmm0" :);                                    \
            __asm__ volatile(PRODUCT " %%tmm7, %%tmm4, %%tmm1" :);                                    \
            __asm__ volatile(PRODUCT " %%tmm6, %%tmm5, %%tmm2" :);                                    \
            __asm__ volatile(PRODUCT " %%tmm7, %%tmm5, %%tmm3" :);                                    \
        }                                                                                             \
        BLUELM_STORE("tmm0", out, out_stride);                                                        \
        BLUELM_STORE("tmm1", out + 64, out_stride);                                                   \
        BLUELM_STORE("tmm2", out + 16 * out_stride, out_stride);                                      \
        BLUELM_STORE("tmm3", out + 16 * out_stride + 64, out_stride);                                 \
    }

BLUELM_AMX_KERNEL(multiply_int8, "tdpbssd", 1)
BLUELM_AMX_KERNEL(multiply_bf16, "tdpbf16ps", 2)

}  // namespace

const MatmulKernel kMatmulInt8Amx = {"amx int8", 32, 32, 64, 0, multiply_int8, enter, leave};
const MatmulKernel kMatmulBf16Amx = {"amx bf16", 32, 32, 32, 0, multiply_bf16, enter, leave};

}  // namespace bluelm

BLUELM_TARGET_END

#endif
