// The encoder's matmuls, blocked: C = X W^T for rows X [m, k] and weights W [n, k], in three types and at
// every CPU level.
//
//   type   X rows                  W                     C      sum over k
//   int8   int8, see x_flip        int8 in -127..127     int32  exact
//   bf16   bf16                    bf16                  float  float32
//   f32    float                   float                 float  float32
//
// What all kernels share is the dword: 4, 2 or 1 consecutive k of a row. An x86 kernel broadcasts a dword of
// X and multiplies it with a vector of dwords of W, one for each output; an AMX tile holds 16 x 16 dwords. So
// one layout serves all of them. W is cut into panels of `columns` outputs; a panel lies in memory as
//
//            output 0    1    2   ..  columns-1
//   dword 0  [ w w w w | ....| ...          ]     w: k = 0..3 of output 0 (int8)
//   dword 1  [ w w w w | ....| ...          ]     k = 4..7
//   ..                                            up to k padded with zeros to a multiple of k_step
//
// behind `columns` int32 where the kernel starts its sums (only with x_flip; see there). A call multiplies up
// to `rows` rows of X with one panel.
#ifndef BLUELM_MATMUL_H
#define BLUELM_MATMUL_H

#include <cstddef>
#include <cstdint>

#include "base/round_up.h"
#include "kernels/cpu_level.h"

namespace bluelm {

enum class MatmulType { kInt8, kBf16, kF32 };

constexpr int kMaxMatmulColumns = 64;  // of any kernel

struct MatmulKernel {
    const char* name;
    int rows;     // rows of X in one call; X and C must have them all, also where fewer are asked for
    int columns;  // outputs in a panel
    int k_step;   // k is a multiple of this
    // int8: rows of X hold q ^ x_flip. With 0x80 that is q + 128 as an unsigned byte, which is what vpdpbusd
    // wants; its sums then start at -128 * (sum of the output's weights), so C is exact again.
    uint8_t x_flip;
    // x: first row, x_stride bytes apart, any alignment. panel: 64-byte aligned. c: int32 or float, c_stride
    // elements apart. Rows of C from n_rows on are not written or not meaningful.
    void (*multiply)(const void* x, size_t x_stride, const void* panel, int64_t k, void* c, size_t c_stride,
                     int n_rows);
    // What a thread does before its first and after its last call (AMX: the shape of the tiles); may be NULL.
    void (*enter)();
    void (*leave)();
    // Arm: consecutive bytes of k that a panel holds of each output, where x86 has its dword. 8 for the
    // matrix instructions, 16 for plain NEON.
    int group = 4;
    // Arm: x comes packed like a panel of `rows` outputs, which saves loads in the inner loop:
    // matmul_pack_rows does it. x is then the first of the `rows` rows that were packed together.
    bool packs_x = false;
};

// The kernel for a type at a level, or NULL where there is none (bf16 on CPUs without it).
const MatmulKernel* matmul_kernel(MatmulType type, CpuLevel level);

// Bytes of an element of X and W.
constexpr size_t matmul_element_bytes(MatmulType type) {
    return type == MatmulType::kInt8 ? 1 : type == MatmulType::kBf16 ? 2 : 4;
}

// Bytes of a panel for k (a multiple of k_step).
size_t panel_bytes(const MatmulKernel& kernel, MatmulType type, int64_t k);

// Packs one panel from rows of W: n_rows <= columns rows (the others become zeros) of k elements of the type,
// `stride` bytes apart.
void pack_panel(const MatmulKernel& kernel, MatmulType type, const void* rows, size_t stride, int n_rows,
                int64_t k, void* panel);

// Packs one panel from columns of W: element (output i, k) is at from + k * stride + i * element size, n_k <=
// k of them (zeros behind). bf16 and f32 only: the values of attention.
void pack_panel_transposed(const MatmulKernel& kernel, MatmulType type, const void* from, size_t stride,
                           int n_columns, int64_t n_k, int64_t k, void* panel);

// Where kernel.packs_x: packs rows of X in place, each `kernel.rows` of them into the room of these rows.
// `stride` is at least k elements; rows are read up to a multiple of kernel.rows. Nothing to do for other
// kernels.
void matmul_pack_rows(const MatmulKernel& kernel, MatmulType type, void* x, size_t stride, int64_t n_rows,
                      int64_t k);

// One file for each instruction set, named by tile (rows x outputs) and instruction set.
#if defined(__x86_64__) && defined(__GNUC__)
extern const MatmulKernel kMatmulInt8Avx2, kMatmulF32Avx2;          // matmul_6x16_avx2.cpp
extern const MatmulKernel kMatmulInt8AvxVnni;                       // matmul_6x16_avx_vnni.cpp
extern const MatmulKernel kMatmulInt8Avx512Vnni, kMatmulF32Avx512;  // matmul_8x48_avx512_vnni.cpp
extern const MatmulKernel kMatmulBf16Avx512;                        // matmul_8x48_avx512_bf16.cpp
extern const MatmulKernel kMatmulInt8Amx, kMatmulBf16Amx;           // matmul_32x32_amx.cpp
#elif defined(__aarch64__) && defined(__GNUC__)
extern const MatmulKernel kMatmulInt8Neon, kMatmulF32Neon;   // matmul_8x12_neon.cpp
extern const MatmulKernel kMatmulInt8Dotprod;                // matmul_8x12_dotprod.cpp
extern const MatmulKernel kMatmulInt8I8mm, kMatmulBf16I8mm;  // matmul_8x12_i8mm.cpp
#endif

}  // namespace bluelm

#endif  // BLUELM_MATMUL_H
