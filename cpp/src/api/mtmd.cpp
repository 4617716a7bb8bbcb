// The C API of libmtmd's encoders: argument checks, nothing else.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "bluelm.h"
#include "device/device.h"
#include "mtmd/mtmd_vision.h"

struct bluelm_mtmd {
    bluelm::MtmdVision vision;
};

struct bluelm_mtmd_picture {
    bluelm::MtmdPicture picture;
};

using bluelm::format;
using bluelm::require;

namespace {

constexpr int32_t kMostPixels = 20000;  // of a side

const mtmd_input_chunk* chunk_of(const bluelm_mtmd_picture* picture, int32_t i) {
    require(picture != nullptr, "picture is NULL");
    require(i >= 0 && static_cast<size_t>(i) < picture->picture.size(), "no such piece");
    return picture->picture.chunk(static_cast<size_t>(i));
}

bool is_view(const mtmd_input_chunk* chunk) {
    return mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_IMAGE;
}

void require_room(size_t have, size_t want) {
    if (have < want) {
        throw bluelm::Error(BLUELM_ERR_INVALID_ARGUMENT, format("out holds %zu, %zu are needed", have, want));
    }
}

}  // namespace

bluelm_status bluelm_mtmd_params_default(bluelm_mtmd_params* out) {
    return bluelm::guard([&] {
        require(out != nullptr, "out is NULL");
        *out = {sizeof(bluelm_mtmd_params), 1, 0, 0, 0, nullptr};
    });
}

const char* bluelm_mtmd_best_device(void) {
    const char* wanted = std::getenv("BLUELM_MTMD_DEVICE");
    if (wanted && std::strcmp(wanted, "0") == 0) return "";
    try {
        bluelm::encoder_device();
        return bluelm::encoder_device_is_fast() ? "BLUELM" : "";
    } catch (...) {  // another ggml, or an unknown level, which others tell
        return "";
    }
}

bluelm_status bluelm_mtmd_init(const char* path, const llama_model* llm, const bluelm_mtmd_params* params,
                               bluelm_progress progress, void* user_data, bluelm_mtmd** out) {
    return bluelm::guard([&] {
        require(path != nullptr, "path is NULL");
        require(llm != nullptr, "llm is NULL");
        require(out != nullptr, "out is NULL");
        *out = nullptr;
        bluelm_mtmd_params chosen;
        bluelm_mtmd_params_default(&chosen);
        if (params) {
            bluelm::require_struct(params, "params");
            chosen = *params;
        }
        require(chosen.n_threads >= 1 && chosen.n_threads <= 512, "n_threads must be from 1 to 512");
        *out = new bluelm_mtmd{{path, llm, chosen, progress, user_data}};
    });
}

void bluelm_mtmd_free(bluelm_mtmd* mtmd) { delete mtmd; }

bluelm_status bluelm_mtmd_get_info(const bluelm_mtmd* mtmd, bluelm_mtmd_info* out) {
    return bluelm::guard([&] {
        require(mtmd != nullptr, "mtmd is NULL");
        require(out != nullptr, "out is NULL");
        const mtmd_context* ctx = mtmd->vision.context();
        *out = {sizeof(bluelm_mtmd_info), mtmd->vision.n_embd(), mtmd_decode_use_mrope(ctx) ? 4 : 1,
                mtmd_decode_use_non_causal(ctx, nullptr), mtmd_support_audio(ctx)};
    });
}

bluelm_status bluelm_mtmd_picture_init(const bluelm_mtmd* mtmd, const uint8_t* rgb, int32_t width,
                                       int32_t height, bluelm_mtmd_picture** out) {
    return bluelm::guard([&] {
        require(mtmd != nullptr, "mtmd is NULL");
        require(out != nullptr, "out is NULL");
        *out = nullptr;
        if (width < 1 || height < 1 || width > kMostPixels || height > kMostPixels) {
            throw bluelm::Error(
                BLUELM_ERR_INVALID_ARGUMENT,
                format("a picture of %dx%d pixels; sides are from 1 to %d", width, height, kMostPixels));
        }
        *out = new bluelm_mtmd_picture{{mtmd->vision.context(), rgb, width, height}};
    });
}

void bluelm_mtmd_picture_free(bluelm_mtmd_picture* picture) { delete picture; }

bluelm_status bluelm_mtmd_picture_size(const bluelm_mtmd_picture* picture, int32_t* n_pieces_out) {
    return bluelm::guard([&] {
        require(picture != nullptr && n_pieces_out != nullptr, "picture or n_pieces_out is NULL");
        *n_pieces_out = static_cast<int32_t>(picture->picture.size());
    });
}

bluelm_status bluelm_mtmd_picture_get_piece(const bluelm_mtmd_picture* picture, int32_t i,
                                            bluelm_mtmd_piece* out) {
    return bluelm::guard([&] {
        const mtmd_input_chunk* chunk = chunk_of(picture, i);
        require(out != nullptr, "out is NULL");
        *out = {sizeof(bluelm_mtmd_piece), is_view(chunk),
                static_cast<int32_t>(mtmd_input_chunk_get_n_tokens(chunk)),
                mtmd_input_chunk_get_n_pos(chunk)};
    });
}

bluelm_status bluelm_mtmd_picture_get_tokens(const bluelm_mtmd_picture* picture, int32_t i, int32_t* out,
                                             size_t out_size) {
    return bluelm::guard([&] {
        const mtmd_input_chunk* chunk = chunk_of(picture, i);
        require(out != nullptr, "out is NULL");
        require(!is_view(chunk), "this piece is a view");
        size_t n = 0;
        const llama_token* tokens = mtmd_input_chunk_get_tokens_text(chunk, &n);
        require_room(out_size, n);
        std::copy(tokens, tokens + n, out);
    });
}

bluelm_status bluelm_mtmd_picture_get_positions(const bluelm_mtmd_picture* picture, int32_t i, int32_t pos0,
                                                int32_t* out, size_t out_size) {
    return bluelm::guard([&] {
        const mtmd_input_chunk* chunk = chunk_of(picture, i);
        require(out != nullptr, "out is NULL");
        require(is_view(chunk), "this piece is no view");
        require(pos0 >= 0, "pos0 is negative");
        const mtmd_image_tokens* tokens = mtmd_input_chunk_get_tokens_image(chunk);
        const size_t n = mtmd_input_chunk_get_n_tokens(chunk);
        require_room(out_size, 4 * n);
        for (size_t k = 0; k < n; ++k) {
            const mtmd_decoder_pos pos = mtmd_image_tokens_get_decoder_pos(tokens, pos0, k);
            out[k] = static_cast<int32_t>(pos.t);
            out[n + k] = static_cast<int32_t>(pos.y);
            out[2 * n + k] = static_cast<int32_t>(pos.x);
            out[3 * n + k] = static_cast<int32_t>(pos.z);
        }
    });
}

bluelm_status bluelm_mtmd_encode(bluelm_mtmd* mtmd, const bluelm_mtmd_picture* picture, int32_t i,
                                 int64_t done, int64_t total, bluelm_progress progress, void* user_data,
                                 float* out, size_t out_floats) {
    return bluelm::guard([&] {
        require(mtmd != nullptr, "mtmd is NULL");
        const mtmd_input_chunk* chunk = chunk_of(picture, i);
        require(is_view(chunk), "this piece is no view");
        require(picture->picture.has_pixels(), "the picture was prepared without pixels");
        require(out != nullptr, "out is NULL");
        require_room(out_floats,
                     mtmd_input_chunk_get_n_tokens(chunk) * static_cast<size_t>(mtmd->vision.n_embd()));
        mtmd->vision.encode(picture->picture, static_cast<size_t>(i), progress, user_data, done, total, out);
    });
}
