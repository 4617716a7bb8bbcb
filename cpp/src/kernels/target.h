// How a kernel is compiled for instructions that the rest of the library must not use: one source file for
// each instruction set, its code between
//
//     BLUELM_TARGET_BEGIN("avx2,fma")
//     BLUELM_TARGET_END
//
// All other headers are included before, so that no inline function of theirs is compiled with these
// instructions: the linker keeps one copy of such a function for all files. Code that several instruction
// sets share is in a header (gemm_256bit.h, row_ops_body.h), which each file includes behind BEGIN; its
// functions are in anonymous namespaces, so that each file has its own.
#ifndef BLUELM_TARGET_H
#define BLUELM_TARGET_H

#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)
// GCC 12 warns about its own headers' placeholders for masked-out lanes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__)
#include <arm_neon.h>
#endif

#define BLUELM_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define BLUELM_TARGET_BEGIN(features) \
    BLUELM_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define BLUELM_TARGET_END BLUELM_PRAGMA(clang attribute pop)
#else
#define BLUELM_TARGET_BEGIN(features) BLUELM_PRAGMA(GCC push_options) BLUELM_PRAGMA(GCC target(features))
#define BLUELM_TARGET_END BLUELM_PRAGMA(GCC pop_options)
#endif

#endif  // BLUELM_TARGET_H
