#include "mmproj/vision_config.h"

#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "ggml.h"
#include "picture/tiler.h"

namespace bluelm {
namespace {

// A GGUF that is sound but something else: said plainly, before its missing keys are listed.
void check_kind(const MmprojHeader& header) {
    const auto text = [&header](const char* key) -> std::string {
        const int64_t id = gguf_find_key(header.gguf(), key);
        if (id < 0 || gguf_get_kv_type(header.gguf(), id) != GGUF_TYPE_STRING) return {};
        return std::string(gguf_get_val_str(header.gguf(), id)).substr(0, 40);
    };
    const std::string architecture = text("general.architecture");
    const std::string projector = text("clip.projector_type");
    if (!architecture.empty() && architecture != "clip") {
        throw Error(BLUELM_ERR_UNSUPPORTED,
                    format("%s: a language model (architecture %s), not an mmproj; give it as the model",
                           header.path().c_str(), architecture.c_str()));
    }
    if (!projector.empty() && projector != "bluelm") {
        throw Error(
            BLUELM_ERR_UNSUPPORTED,
            format("%s: an mmproj with projector type '%s'; this library runs 'bluelm', which bluelm-gguf "
                   "convert writes",
                   header.path().c_str(), projector.c_str()));
    }
}

std::string ftype_name(uint32_t ftype) {
    switch (ftype) {
        case GGML_FTYPE_ALL_F32: return "f32";
        case GGML_FTYPE_MOSTLY_F16: return "f16";
        case GGML_FTYPE_MOSTLY_Q4_0: return "q4_0";
        case GGML_FTYPE_MOSTLY_Q8_0: return "q8_0";
        // gguf.LlamaFileType.MOSTLY_BF16 is 32 where ggml_ftype has 24: files carry the former
        case 32: return "bf16";
        default: return format("ftype %u", ftype);
    }
}

void read_tiler(MmprojHeader& header, VisionConfig& c) {
    bluelm_tiler_params& t = c.tiler;
    t = default_tiler_params();
    t.tile = c.image_size;
    t.method = header.choice("bluelm.tiler.method", {"relaxed", "llava_next", "internvl", "single"});
    t.alpha = header.f32("bluelm.tiler.alpha", 0.0f, 1.0f);
    t.thumbnail = header.choice("bluelm.tiler.thumbnail", {"none", "first", "last"});
    t.thumbnail_for_single = header.boolean("bluelm.tiler.thumbnail_for_single");
    t.fit = header.choice("bluelm.tiler.fit", {"pad_center", "pad_top_left", "stretch"});
    t.filter = header.choice("bluelm.tiler.resize", {"bicubic", "bilinear"});
    if (header.has("bluelm.tiler.fit_rounding"))
        t.fit_rounding = static_cast<uint8_t>(header.choice("bluelm.tiler.fit_rounding", {"floor", "ceil"}));
    size_t n = 0;
    if (const int32_t* rgb = header.i32_array("bluelm.tiler.pad_rgb", 3, 3, &n)) {
        for (int i = 0; i < 3; ++i) {
            if (rgb[i] < 0 || rgb[i] > 255)
                header.problems.push_back("bluelm.tiler.pad_rgb is not in 0..255");
            t.pad_rgb[i] = static_cast<uint8_t>(rgb[i]);
        }
    }
    if (const int32_t* grids = header.i32_array("bluelm.tiler.grids", 2, 2 * BLUELM_MAX_GRIDS, &n)) {
        if (n % 2 != 0) header.problems.push_back("bluelm.tiler.grids has an odd number of elements");
        t.n_grids = static_cast<int32_t>(n / 2);
        std::memset(t.grids, 0, sizeof t.grids);
        std::memcpy(t.grids, grids, static_cast<size_t>(t.n_grids) * 2 * sizeof(int32_t));
    }
    if (!header.problems.empty()) return;
    try {
        check_tiler_params(t);
    } catch (const Error& e) {
        header.problems.push_back(std::string("bluelm.tiler.*: ") + e.what());
    }
}

// Files from before these keys have none of them: views one after the other.
void read_assembly(MmprojHeader& header, VisionConfig& c) {
    c.assembly.column_major = c.column_major;
    if (c.patch_size && c.downsample) c.assembly.side = c.merged_grid();
    if (!header.has("bluelm.assembly.method")) return;
    c.assembly.anyres = header.choice("bluelm.assembly.method", {"concat", "anyres"}) == 1;
    if (!c.assembly.anyres) return;
    c.assembly.max_tiles = static_cast<int32_t>(header.u32("bluelm.assembly.max_tiles", 0, kMaxGridTiles));
}

// The projector's width is no key: it is the number of rows of mm.0.weight.
int32_t projector_width(MmprojHeader& header) {
    const int64_t id = gguf_find_tensor(header.gguf(), "mm.0.weight");
    if (id < 0) return 0;  // the table reports it as missing
    const int64_t h = gguf_get_tensor_ne(header.gguf(), id)[1];
    if (h >= 1 && h <= (1 << 17)) return static_cast<int32_t>(h);
    header.problems.push_back(format("mm.0.weight has %lld rows", static_cast<long long>(h)));
    return 0;
}

}  // namespace

bluelm_vision_info vision_info(const VisionConfig& c, int64_t n_params, int64_t weight_bytes) {
    bluelm_vision_info info = {};
    info.struct_size = sizeof info;
    info.image_size = c.image_size;
    info.patch_size = c.patch_size;
    info.n_embd = c.n_embd;
    info.n_layer = c.n_layer;
    info.n_head = c.n_head;
    info.n_ff = c.n_ff;
    info.n_ff_unpadded = c.n_ff_unpadded;
    info.downsample = c.downsample;
    info.tokens_per_tile = c.tokens_per_tile();
    info.n_embd_out = c.n_embd_out;
    info.has_post_ln = c.post_layernorm;
    info.has_input_norm = c.input_norm;
    info.column_major = c.column_major;
    info.n_params = n_params;
    info.weight_bytes = weight_bytes;
    std::snprintf(info.name, sizeof info.name, "%s", c.name.c_str());
    std::snprintf(info.ftype, sizeof info.ftype, "%s", c.ftype.c_str());
    return info;
}

VisionConfig read_config(MmprojHeader& header) {
    check_kind(header);
    VisionConfig c;
    // Absurd sizes end here: what passes is still compared with every tensor's shape, and the tensors with
    // the file's size, before anything is allocated.
    header.u32("bluelm.version", 1, 1);
    if (!header.boolean("clip.has_vision_encoder"))
        header.problems.push_back("clip.has_vision_encoder is not true");
    if (!header.boolean("clip.use_gelu")) header.problems.push_back("clip.use_gelu is not true");
    c.image_size = static_cast<int32_t>(header.u32("clip.vision.image_size", 1, kMaxTile));
    c.patch_size = static_cast<int32_t>(header.u32("clip.vision.patch_size", 1, 256));
    c.n_embd = static_cast<int32_t>(header.u32("clip.vision.embedding_length", 1, 1 << 15));
    c.n_ff = static_cast<int32_t>(header.u32("clip.vision.feed_forward_length", 1, 1 << 17));
    c.n_ff_unpadded =
        static_cast<int32_t>(header.u32("bluelm.vision.feed_forward_length_unpadded", 1, 1 << 17));
    c.n_layer = static_cast<int32_t>(header.u32("clip.vision.block_count", 1, 256));
    c.n_head = static_cast<int32_t>(header.u32("clip.vision.attention.head_count", 1, 1 << 10));
    c.n_embd_out = static_cast<int32_t>(header.u32("clip.vision.projection_dim", 1, 1 << 16));
    c.layer_norm_eps = header.f32("clip.vision.attention.layer_norm_epsilon", 1e-12f, 1e-2f);
    header.f32_triple("clip.vision.image_mean", -1e3f, 1e3f, c.image_mean);
    header.f32_triple("clip.vision.image_std", 1e-6f, 1e3f, c.image_std);
    c.post_layernorm = header.boolean("bluelm.vision.post_layernorm");
    c.downsample = static_cast<int32_t>(header.u32("bluelm.projector.downsample", 1, 2));
    c.column_major = header.choice("bluelm.projector.token_order", {"row_major", "column_major"}) == 1;
    c.projector_gelu_tanh = header.choice("bluelm.projector.hidden_act", {"gelu", "gelu_tanh"}) == 1;
    c.input_norm = gguf_find_tensor(header.gguf(), "mm.input_norm.weight") >= 0 ||
                   gguf_find_tensor(header.gguf(), "mm.input_norm.bias") >= 0;
    if (c.input_norm) c.projector_eps = header.f32("bluelm.projector.layer_norm_epsilon", 1e-12f, 1e-2f);
    // gguf-py does not write empty strings: an absent one is empty.
    c.prompt_prefix = header.optional_string("bluelm.prompt.image_prefix");
    c.prompt_suffix = header.optional_string("bluelm.prompt.image_suffix");
    c.name = header.optional_string("general.name");
    c.ftype =
        header.has("general.file_type") ? ftype_name(header.u32("general.file_type", 0, UINT32_MAX)) : "";

    if (c.image_size && c.patch_size) {
        if (c.patch_size > c.image_size)
            header.problems.push_back("the patch is larger than the image");
        else if (c.n_patches() > (1 << 14))
            header.problems.push_back(format("%d patches a tile", c.n_patches()));
    }
    if (c.n_embd && c.n_head && c.n_embd % c.n_head != 0) {
        header.problems.push_back(
            format("embedding_length %d is no multiple of head_count %d", c.n_embd, c.n_head));
    }
    if (c.n_ff_unpadded > c.n_ff) header.problems.push_back("feed_forward_length is below the unpadded one");
    read_tiler(header, c);
    read_assembly(header, c);
    header.throw_problems();
    c.n_hidden = projector_width(header);
    return c;
}

}  // namespace bluelm
