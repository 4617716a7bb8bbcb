// One token of an answer into a llama_context that the caller owns.
#ifndef BLUELM_DECODE_H
#define BLUELM_DECODE_H

#include <cstdint>

#include "bluelm.h"

namespace bluelm {

// Decodes a token as bluelm_decode documents; throws Error. Allocates nothing.
void decode(llama_context* ctx, int32_t token, int32_t pos, int32_t seq_id, bluelm_progress progress,
            void* user_data);

}  // namespace bluelm

#endif  // BLUELM_DECODE_H
