// The whole encoder on a tiny random mmproj against the network written down in float64.
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "bluelm.h"
#include "check.h"
#include "tiny_gguf.h"

namespace {

constexpr int kImage = 70, kPatch = 14, kGrid = 5, kPatches = 25, kMerged = 3;
constexpr int kWidth = 64, kHeads = 4, kHeadDim = 16, kFfn = 256, kLayers = 2, kHidden = 96, kOut = 64;
constexpr int kTokens = kMerged * kMerged;

using Matrix = std::vector<double>;  // rows one after the other

void describe(TinyGguf& file, ggml_type type) {
    file.set("general.architecture", "clip");
    file.set("general.type", "mmproj");
    file.set("general.name", "tiny");
    file.set("general.file_type", type == GGML_TYPE_Q8_0 ? 7 : 0);
    file.set("clip.projector_type", "bluelm");
    file.set("clip.has_vision_encoder", true);
    file.set("clip.use_gelu", true);
    file.set("clip.vision.image_size", kImage);
    file.set("clip.vision.patch_size", kPatch);
    file.set("clip.vision.embedding_length", kWidth);
    file.set("clip.vision.feed_forward_length", kFfn);
    file.set("clip.vision.block_count", kLayers);
    file.set("clip.vision.attention.head_count", kHeads);
    file.set("clip.vision.projection_dim", kOut);
    file.set("clip.vision.attention.layer_norm_epsilon", 1e-6f);
    file.set("clip.vision.image_mean", std::vector<float>(3, 0.5f));
    file.set("clip.vision.image_std", std::vector<float>(3, 0.5f));
    file.set("bluelm.version", 1);
    file.set("bluelm.vision.feed_forward_length_unpadded", kFfn);
    file.set("bluelm.vision.post_layernorm", false);
    file.set("bluelm.projector.downsample", 2);
    file.set("bluelm.projector.token_order", "row_major");
    file.set("bluelm.projector.hidden_act", "gelu");
    file.set("bluelm.projector.layer_norm_epsilon", 1e-5f);
    file.set("bluelm.tiler.method", "relaxed");
    file.set("bluelm.tiler.alpha", 0.1f);
    file.set("bluelm.tiler.grids", std::vector<int32_t>{1, 1, 2, 1, 1, 2, 2, 2});
    file.set("bluelm.tiler.thumbnail", "first");
    file.set("bluelm.tiler.thumbnail_for_single", false);
    file.set("bluelm.tiler.fit", "pad_center");
    file.set("bluelm.tiler.resize", "bicubic");
    file.set("bluelm.tiler.pad_rgb", std::vector<int32_t>(3, 0));

    const auto linear = [&](const std::string& name, int n_out, int n_in) {
        file.tensor(name + ".weight", {n_in, n_out}, type, 1.0f / std::sqrt(static_cast<float>(n_in)));
        file.tensor(name + ".bias", {n_out}, GGML_TYPE_F32, 0.1f);
    };
    const auto norm = [&](const std::string& name) {
        file.tensor(name + ".weight", {kWidth}, GGML_TYPE_F32, 0.1f, 1.0f);
        file.tensor(name + ".bias", {kWidth}, GGML_TYPE_F32, 0.1f);
    };
    file.tensor("v.patch_embd.weight", {kPatch, kPatch, 3, kWidth}, GGML_TYPE_F32, 1.0f / 24);
    file.tensor("v.patch_embd.bias", {kWidth}, GGML_TYPE_F32, 0.1f);
    file.tensor("v.position_embd.weight", {kWidth, kPatches}, GGML_TYPE_F32, 0.3f);
    for (int i = 0; i < kLayers; ++i) {
        const std::string block = "v.blk." + std::to_string(i) + ".";
        norm(block + "ln1");
        norm(block + "ln2");
        for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_out"})
            linear(block + part, kWidth, kWidth);
        linear(block + "ffn_up", kFfn, kWidth);
        linear(block + "ffn_down", kWidth, kFfn);
    }
    linear("mm.0", kHidden, 4 * kWidth);
    linear("mm.2", kOut, kHidden);
}

class Reference {
public:
    explicit Reference(const TinyGguf& file) : file_(file) {}

    // One tile [70, 70, 3] -> [9, 64].
    Matrix encode(const uint8_t* tile) const {
        Matrix x = patches(tile);
        for (int i = 0; i < kLayers; ++i) {
            const std::string block = "v.blk." + std::to_string(i) + ".";
            add(x, linear(block + "attn_out", attention(block, norm(block + "ln1", x)), kWidth, kWidth));
            Matrix up = linear(block + "ffn_up", norm(block + "ln2", x), kFfn, kWidth);
            for (double& v : up)
                v = 0.5 * v * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
            add(x, linear(block + "ffn_down", up, kWidth, kFfn));
        }
        Matrix hidden = linear("mm.0", merge(x), kHidden, 4 * kWidth);
        for (double& v : hidden) v = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
        return linear("mm.2", hidden, kOut, kHidden);
    }

private:
    const std::vector<float>& values(const std::string& name) const { return file_.values.at(name); }

    static void add(Matrix& x, const Matrix& y) {
        for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    }

    Matrix linear(const std::string& name, const Matrix& x, size_t n_out, size_t n_in) const {
        const std::vector<float>&w = values(name + ".weight"), &b = values(name + ".bias");
        Matrix out(x.size() / n_in * n_out);
        for (size_t row = 0; row < x.size() / n_in; ++row) {
            for (size_t o = 0; o < n_out; ++o) {
                double sum = b[o];
                for (size_t k = 0; k < n_in; ++k) sum += x[row * n_in + k] * w[o * n_in + k];
                out[row * n_out + o] = sum;
            }
        }
        return out;
    }

    Matrix norm(const std::string& name, Matrix x) const {
        const std::vector<float>&w = values(name + ".weight"), &b = values(name + ".bias");
        for (size_t row = 0; row < x.size(); row += kWidth) {
            double mean = 0, variance = 0;
            for (size_t i = 0; i < kWidth; ++i) mean += x[row + i] / kWidth;
            for (size_t i = 0; i < kWidth; ++i)
                variance += (x[row + i] - mean) * (x[row + i] - mean) / kWidth;
            for (size_t i = 0; i < kWidth; ++i)
                x[row + i] = (x[row + i] - mean) / std::sqrt(variance + 1e-6) * w[i] + b[i];
        }
        return x;
    }

    Matrix patches(const uint8_t* tile) const {
        const std::vector<float>&w = values("v.patch_embd.weight"), &b = values("v.patch_embd.bias"),
              &position = values("v.position_embd.weight");
        Matrix x(kPatches * kWidth);
        for (size_t p = 0; p < kPatches; ++p) {
            for (size_t d = 0; d < kWidth; ++d) {
                double sum = b[d] + position[p * kWidth + d];
                for (size_t c = 0; c < 3; ++c)
                    for (size_t y = 0; y < kPatch; ++y)
                        for (size_t col = 0; col < kPatch; ++col) {
                            const size_t row = p / kGrid * kPatch + y, column = p % kGrid * kPatch + col;
                            const double pixel = (tile[(row * kImage + column) * 3 + c] / 255.0 - 0.5) / 0.5;
                            sum += pixel * w[((d * 3 + c) * kPatch + y) * kPatch + col];
                        }
                x[p * kWidth + d] = sum;
            }
        }
        return x;
    }

    Matrix attention(const std::string& block, const Matrix& x) const {
        const Matrix q = linear(block + "attn_q", x, kWidth, kWidth),
                     k = linear(block + "attn_k", x, kWidth, kWidth),
                     v = linear(block + "attn_v", x, kWidth, kWidth);
        Matrix out(x.size());
        for (size_t head = 0; head < kHeads; ++head) {
            const size_t at = head * kHeadDim;
            for (size_t i = 0; i < kPatches; ++i) {
                double weights[kPatches], sum = 0;
                for (size_t j = 0; j < kPatches; ++j) {
                    double score = 0;
                    for (size_t d = 0; d < kHeadDim; ++d)
                        score += q[i * kWidth + at + d] * k[j * kWidth + at + d];
                    weights[j] = std::exp(score / std::sqrt(static_cast<double>(kHeadDim)));
                    sum += weights[j];
                }
                for (size_t j = 0; j < kPatches; ++j)
                    for (size_t d = 0; d < kHeadDim; ++d)
                        out[i * kWidth + at + d] += weights[j] / sum * v[j * kWidth + at + d];
            }
        }
        return out;
    }

    // 5x5 tokens, zeros at the right and bottom, 2x2 blocks -> [9, 4 * 64].
    static Matrix merge(const Matrix& x) {
        Matrix out(kTokens * 4 * kWidth);
        for (size_t row = 0; row < kGrid; ++row)
            for (size_t column = 0; column < kGrid; ++column)
                for (size_t d = 0; d < kWidth; ++d)
                    out[((row / 2 * kMerged + column / 2) * 4 + row % 2 * 2 + column % 2) * kWidth + d] =
                        x[(row * kGrid + column) * kWidth + d];
        return out;
    }

    const TinyGguf& file_;
};

std::vector<float> encode(const std::string& path, const std::vector<uint8_t>& tiles, int n_tiles, int batch,
                          int pipeline, const char* level) {
    bluelm_vision_params params;
    bluelm_vision_params_default(&params);
    params.n_threads = 2;
    params.batch = batch;
    params.pipeline = pipeline;
    setenv("BLUELM_CPU_LEVEL", level, 1);
    bluelm_vision* vision = nullptr;
    std::vector<float> out(static_cast<size_t>(n_tiles) * kTokens * kOut);
    CHECK_F(bluelm_vision_init(path.c_str(), &params, &vision) == BLUELM_OK, "%s", bluelm_last_error());
    if (vision) {
        CHECK_F(bluelm_vision_encode_tiles(vision, tiles.data(), n_tiles, nullptr, nullptr, out.data(),
                                           out.size(), nullptr) == BLUELM_OK,
                "%s", bluelm_last_error());
    }
    bluelm_vision_free(vision);
    return out;
}

// tolerance: of the largest difference, as a part of the values' root mean square.
void test(ggml_type type, double tolerance) {
    TinyGguf file;
    describe(file, type);
    const std::string path = file.write();
    constexpr int kTiles = 5;
    std::vector<uint8_t> tiles(size_t(kTiles) * kImage * kImage * 3);
    for (uint8_t& value : tiles) value = static_cast<uint8_t>(check::uniform(0, 255));
    Matrix expected;
    for (int i = 0; i < kTiles; ++i) {
        const Matrix one = Reference(file).encode(&tiles[static_cast<size_t>(i) * kImage * kImage * 3]);
        expected.insert(expected.end(), one.begin(), one.end());
    }
    for (const char* level : {"generic", ""}) {  // plain C++, and this CPU's best
        const std::vector<float> alone = encode(path, tiles, kTiles, 1, 0, level);
        const double error = error_of(alone, expected);
        CHECK_F(error < tolerance, "%s, level '%s': error %g", ggml_type_name(type), level, error);
        // How tiles are batched must not change a bit.
        CHECK(encode(path, tiles, kTiles, 2, 0, level) == alone);
        CHECK(encode(path, tiles, kTiles, 4, 1, level) == alone);
    }
}

}  // namespace

int main() {
    test(GGML_TYPE_F32, 1e-4);
    // Activations are rounded to 8 bits in every matmul, one part in 254 of a block's largest value; over two
    // blocks and the projector the largest of 2880 errors has been up to 0.06.
    test(GGML_TYPE_Q8_0, 0.12);
    bluelm_vision* vision = nullptr;
    CHECK(bluelm_vision_init("/nonexistent/mmproj.gguf", nullptr, &vision) == BLUELM_ERR_IO && !vision);
    TinyGguf::remove_files();
    return check::finish();
}
