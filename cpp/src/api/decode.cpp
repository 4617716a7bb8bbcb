// The C API of decoding: argument checks, nothing else.
#include "llama/decode.h"

#include "base/error.h"
#include "bluelm.h"

bluelm_status bluelm_decode(llama_context* ctx, int32_t token, int32_t pos, int32_t seq_id,
                            bluelm_progress progress, void* user_data) {
    return bluelm::guard([&] {
        bluelm::require(ctx != nullptr, "ctx is NULL");
        bluelm::decode(ctx, token, pos, seq_id, progress, user_data);
    });
}
