// What row_ops_body.h asks for, with 512-bit vectors.
#ifndef BLUELM_ROW_OPS_512BIT_H
#define BLUELM_ROW_OPS_512BIT_H

#define BLUELM_HAS_RECIPROCAL 1
#define BLUELM_LANES 16
#define BLUELM_RECIPROCAL(x) ((Vec)_mm512_rcp14_ps((__m512)(x)))
#define BLUELM_MAX(a, b) ((Vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define BLUELM_MIN(a, b) ((Vec)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define BLUELM_LOW_BYTES(x) ((VecB)_mm512_cvtepi32_epi8((__m512i)(x)))
#define BLUELM_LOW_HALVES(x) ((VecH)_mm512_cvtepi32_epi16((__m512i)(x)))
#define BLUELM_SIGNED_BYTES(x) ((VecI)_mm512_cvtepi8_epi32((__m128i)(x)))

#endif  // BLUELM_ROW_OPS_512BIT_H
