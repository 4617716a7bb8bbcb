// Forgets what row_ops.cpp defined for one inclusion of row_ops_body.h. No include guard on purpose.
#undef BLUELM_TARGET
#undef BLUELM_LANES
#undef BLUELM_HAS_RECIPROCAL
#undef BLUELM_RECIPROCAL
#undef BLUELM_MAX
#undef BLUELM_MIN
#undef BLUELM_TO_BF16
#undef BLUELM_FROM_BF16
#undef BLUELM_LOW_BYTES
#undef BLUELM_LOW_HALVES
#undef BLUELM_SIGNED_BYTES
#undef BLUELM_INLINE
