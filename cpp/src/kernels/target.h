// Functions between BLUELM_TARGET_BEGIN("avx2,fma") and BLUELM_TARGET_END may use these instructions,
// whatever the rest of the library is compiled for. Headers of others are included before, so that no inline
// function of theirs is compiled with them: the linker keeps one copy of such a function for all files.
#ifndef BLUELM_TARGET_H
#define BLUELM_TARGET_H

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
