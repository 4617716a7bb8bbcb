// The device for libmtmd's encoders against ggml's own CPU backend: linear layers of every type and shape
// with what follows them, norms, attention with and without masks, whole blocks, on fresh random input; what
// it does with memory, threads, cancelling and graphs cut in pieces. Usage: test_device.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "device/buffer.h"
#include "device/device.h"
#include "device/layout.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

using namespace bluelm;
using check::normal;
using check::uniform;

namespace {

using Context = std::unique_ptr<ggml_context, decltype(&ggml_free)>;
using Backend = std::unique_ptr<ggml_backend, decltype(&ggml_backend_free)>;
using Buffer = std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)>;

// A graph of `build` on a backend through ggml's scheduler, with weights of its own. Weights and inputs hold
// the same values in every Net of a seed.
class Net {
public:
    using Build = std::function<ggml_tensor*(Net&)>;

    Net(bool is_device, uint32_t seed, const Build& build)
        : random_(seed), weights_(make_context()), nodes_(make_context()) {
        if (is_device) backend_.reset(ggml_backend_dev_init(encoder_device(), nullptr));
        cpu_.reset(ggml_backend_cpu_init());
        ggml_backend_cpu_set_n_threads(cpu_.get(), 1);
        output = build(*this);
        ggml_set_output(output);
        graph_ = ggml_new_graph_custom(nodes_.get(), 512, false);
        ggml_build_forward_expand(graph_, output);
        ggml_backend_t first = is_device ? backend_.get() : cpu_.get();
        buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(weights_.get(),
                                                               ggml_backend_get_default_buffer_type(first)));
        if (buffer_) ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        for (auto& [tensor, values] : values_)
            if (!(tensor->flags & GGML_TENSOR_FLAG_INPUT)) set(tensor, values);
        ggml_backend_t all[] = {first, cpu_.get()};
        scheduler_ = ggml_backend_sched_new(all, nullptr, is_device ? 2 : 1, 512, false, true);
    }
    ~Net() { ggml_backend_sched_free(scheduler_); }
    Net(const Net&) = delete;
    Net& operator=(const Net&) = delete;

    ggml_context* nodes() { return nodes_.get(); }

    ggml_tensor* weight(ggml_type type, int64_t a, int64_t b = 1, float size = 1, float middle = 0) {
        ggml_tensor* t = ggml_new_tensor_2d(weights_.get(), type, a, b);
        fill(t, size, middle);
        return t;
    }
    ggml_tensor* input(int64_t a, int64_t b, int64_t c = 1, int64_t d = 1, float size = 1) {
        ggml_tensor* t = ggml_new_tensor_4d(nodes_.get(), GGML_TYPE_F32, a, b, c, d);
        ggml_set_input(t);
        fill(t, size, 0);
        return t;
    }
    std::vector<float>& values(ggml_tensor* t) {
        for (auto& [tensor, values] : values_)
            if (tensor == t) return values;
        std::abort();
    }

    // eval: asked for each node, as a scheduler's callback; NULL for none.
    ggml_status run(ggml_backend_sched_eval_callback eval = nullptr) {
        ggml_backend_sched_set_eval_callback(scheduler_, eval, nullptr);
        if (!is_allocated_ && !ggml_backend_sched_alloc_graph(scheduler_, graph_))
            return GGML_STATUS_ALLOC_FAILED;
        is_allocated_ = true;
        for (auto& [tensor, values] : values_)
            if (tensor->flags & GGML_TENSOR_FLAG_INPUT) set(tensor, values);
        return ggml_backend_sched_graph_compute(scheduler_, graph_);
    }
    std::vector<float> result() const {
        std::vector<float> values(static_cast<size_t>(ggml_nelements(output)));
        ggml_backend_tensor_get(output, values.data(), 0, ggml_nbytes(output));
        return values;
    }
    int n_splits() const { return ggml_backend_sched_get_n_splits(scheduler_); }

    ggml_tensor* output = nullptr;

private:
    static Context make_context() {
        return Context(
            ggml_init({512 * ggml_tensor_overhead() + ggml_graph_overhead_custom(512, false), nullptr, true}),
            ggml_free);
    }
    void fill(ggml_tensor* t, float size, float middle) {
        std::vector<float> values(static_cast<size_t>(ggml_nelements(t)));
        std::normal_distribution<float> draw;
        for (float& v : values) v = middle + size * draw(random_);
        values_.emplace_back(t, std::move(values));
    }
    static void set(ggml_tensor* t, const std::vector<float>& values) {
        if (t->type == GGML_TYPE_F32) return ggml_backend_tensor_set(t, values.data(), 0, ggml_nbytes(t));
        std::vector<uint8_t> stored(ggml_nbytes(t));
        ggml_quantize_chunk(t->type, values.data(), stored.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
        ggml_backend_tensor_set(t, stored.data(), 0, stored.size());
    }

    std::mt19937 random_;
    Context weights_, nodes_;
    Backend backend_{nullptr, ggml_backend_free}, cpu_{nullptr, ggml_backend_free};
    Buffer buffer_{nullptr, ggml_backend_buffer_free};
    std::vector<std::pair<ggml_tensor*, std::vector<float>>> values_;
    ggml_cgraph* graph_ = nullptr;
    bool is_allocated_ = false;
    ggml_backend_sched_t scheduler_ = nullptr;
};

// Root of the mean square of the difference, relative to that of `expected`.
double error(const std::vector<float>& found, const std::vector<float>& expected) {
    double squares = 0, all = 0;
    for (size_t i = 0; i < found.size(); ++i) {
        squares += (double(found[i]) - expected[i]) * (double(found[i]) - expected[i]);
        all += double(expected[i]) * expected[i];
    }
    return found.size() == expected.size() ? std::sqrt(squares / (all + 1e-30)) : 1e30;
}

void compare(const char* what, double bound, const Net::Build& build, int n_threads = 0) {
    const uint32_t seed = check::random_engine()();
    Net expected(false, seed, build), found(true, seed, build);
    CHECK_F(expected.run() == GGML_STATUS_SUCCESS, "%s: ggml does not compute it", what);
    const DeviceCall call(n_threads > 0 ? n_threads : uniform(1, 2), nullptr, nullptr);
    CHECK_F(found.run() == GGML_STATUS_SUCCESS, "%s: the device does not compute it", what);
    const double difference = error(found.result(), expected.result());
    CHECK_F(difference <= bound, "%s: error %g, at most %g", what, difference, bound);
    CHECK_F(found.n_splits() == 1, "%s: %d splits", what, found.n_splits());
    const std::vector<float> before = found.result();
    CHECK_F(found.run() == GGML_STATUS_SUCCESS && found.result() == before, "%s: a second run differs", what);
}

// int8: rows of both sides have 8 bits for what reaches 3 to 4 deviations: 2 * (4 / 127 / sqrt(12)) ~ 0.02 of
// one product's size at the worst, which is the sums' as well. bf16 has 8 bits of mantissa: 2^-9 a side. q8_0
// and q4_0: ggml rounds its activations to 8 bits, too.
constexpr double kInt8 = 0.03, kBf16 = 0.012, kQuantised = 0.03, kF32 = 2e-3;

double bound_for(ggml_type type) { return ggml_is_quantized(type) ? kQuantised : kBf16; }

ggml_tensor* layer_norm(Net& net, ggml_tensor* x, bool is_rms = false) {
    const int64_t n = x->ne[0];
    ggml_tensor* w = net.weight(GGML_TYPE_F32, n, 1, 0.3f, 1.0f);
    if (is_rms) return ggml_mul(net.nodes(), ggml_rms_norm(net.nodes(), x, 1e-6f), w);
    ggml_tensor* b = net.weight(GGML_TYPE_F32, n, 1, 0.3f);
    return ggml_add(net.nodes(), ggml_mul(net.nodes(), ggml_norm(net.nodes(), x, 1e-6f), w), b);
}

ggml_tensor* linear(Net& net, ggml_tensor* x, int64_t n_out, ggml_type type = GGML_TYPE_F32,
                    bool bias = true) {
    const float size = 1.0f / std::sqrt(static_cast<float>(x->ne[0]));
    ggml_tensor* y = ggml_mul_mat(net.nodes(), net.weight(type, x->ne[0], n_out, size), x);
    return bias ? ggml_add(net.nodes(), y, net.weight(GGML_TYPE_F32, n_out, 1, 0.3f)) : y;
}

void test_linear() {
    const ggml_type types[] = {GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0,
                               GGML_TYPE_Q4_0, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K};
    for (const ggml_type type : types) {
        const int64_t block = ggml_blck_size(type);
        const int64_t n_in = block == 1 ? uniform(1, 300) : block * uniform(1, 3), n_out = uniform(1, 200);
        const int64_t rows = uniform(1, 90), batch = uniform(1, 3);
        const std::string name = std::string("linear ") + ggml_type_name(type);
        compare(name.c_str(), bound_for(type), [&](Net& net) {
            return linear(net, net.input(n_in, rows, batch), n_out, type, rows % 2 == 0);
        });
        compare((name + " behind a norm").c_str(), kInt8, [&](Net& net) {
            return linear(net, layer_norm(net, net.input(n_in + 256 * (block == 256), rows)), n_out, type);
        });
    }
    compare("4304 inputs", kBf16,
            [&](Net& net) { return linear(net, net.input(4304, 7), 33, GGML_TYPE_F16); });
    compare("a view's rows", kBf16, [&](Net& net) {
        ggml_tensor* x = net.input(100, 40);
        ggml_tensor* view = ggml_view_2d(net.nodes(), x, 60, 20, 2 * x->nb[1], 12 * sizeof(float));
        return linear(net, view, 50);
    });
    compare("rms norm", kInt8,
            [&](Net& net) { return linear(net, layer_norm(net, net.input(130, 50), true), 70); });
    // A norm and a product that something else needs as well.
    compare("not only ours", kInt8, [&](Net& net) {
        ggml_tensor* x = layer_norm(net, net.input(96, 30));
        ggml_tensor* y = linear(net, x, 96);
        return ggml_add(net.nodes(), ggml_mul(net.nodes(), ggml_gelu(net.nodes(), y), x),
                        ggml_sin(net.nodes(), y));
    });
    compare("sum of two layers", kInt8, [&](Net& net) {
        ggml_tensor* x = layer_norm(net, net.input(96, 30));
        ggml_tensor* y = linear(net, x, 64, GGML_TYPE_F32, false);
        return ggml_add(net.nodes(), y, linear(net, x, 64, GGML_TYPE_F32, false));
    });
}

ggml_tensor* activated(Net& net, ggml_tensor* x, int kind) {
    switch (kind) {
        case 0: return ggml_gelu(net.nodes(), x);
        case 1: return ggml_gelu_erf(net.nodes(), x);
        case 2: return ggml_gelu_quick(net.nodes(), x);
        default: return ggml_silu(net.nodes(), x);
    }
}

void test_feed_forward() {
    for (int kind = 0; kind < 4; ++kind) {
        const int64_t d = uniform(20, 200), f = uniform(20, 300), rows = uniform(1, 120);
        for (const bool has_norm : {false, true}) {
            for (const bool has_scale : {false, true}) {
                const std::string name = "feed forward " + std::to_string(kind) + (has_norm ? " norm" : "") +
                                         (has_scale ? " scale" : "");
                compare(name.c_str(), kInt8, [&](Net& net) {
                    ggml_tensor* x = ggml_sin(net.nodes(), net.input(d, rows));
                    ggml_tensor* y = linear(net, has_norm ? layer_norm(net, x) : x, f);
                    y = linear(net, activated(net, y, kind), d);
                    if (has_scale) y = ggml_mul(net.nodes(), y, net.weight(GGML_TYPE_F32, d, 1, 0.3f, 1.0f));
                    return kind % 2 ? ggml_add(net.nodes(), x, y) : ggml_add(net.nodes(), y, x);
                });
            }
        }
    }
    compare("activation at the end", kInt8, [&](Net& net) {
        return ggml_gelu_erf(net.nodes(), linear(net, layer_norm(net, net.input(64, 9)), 80));
    });
    compare("swiglu", kInt8, [&](Net& net) {
        ggml_tensor* x = net.input(100, 33);
        ggml_tensor* n = layer_norm(net, x, true);
        ggml_tensor *up = linear(net, n, 150), *gate = linear(net, n, 150);
        return ggml_add(net.nodes(), x, linear(net, ggml_swiglu_split(net.nodes(), gate, up), 100));
    });
}

// As libmtmd's graphs have it: Q, K, V [head_dim, heads, n], permuted, K and V cast.
ggml_tensor* attention(Net& net, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v, ggml_tensor* mask) {
    ggml_context* ctx = net.nodes();
    const float scale = 1.0f / std::sqrt(static_cast<float>(q->ne[0]));
    q = ggml_permute(ctx, q, 0, 2, 1, 3);
    k = ggml_cast(ctx, ggml_permute(ctx, k, 0, 2, 1, 3), GGML_TYPE_F16);
    v = ggml_cast(ctx, ggml_permute(ctx, v, 0, 2, 1, 3), GGML_TYPE_F16);
    if (mask) mask = ggml_cast(ctx, mask, GGML_TYPE_F16);
    ggml_tensor* out = ggml_flash_attn_ext(ctx, q, k, v, mask, scale, 0, 0);
    ggml_prec_set_acc(out, GGML_PREC_F32);
    return ggml_reshape_2d(ctx, out, out->ne[0] * out->ne[1], out->ne[2] * out->ne[3]);
}

void test_attention() {
    for (int round = 0; round < 12; ++round) {
        const int64_t d = 8 * uniform(1, 16), heads = uniform(1, 4), shared = round % 4 == 3 ? 2 : 1;
        const int64_t n_q = uniform(1, 150), n_kv = round % 3 == 2 ? uniform(1, 150) : n_q,
                      batch = uniform(1, 2);
        const int64_t window = uniform(1, 40);
        const int kind = round % 4;  // 0: no mask, 1: windows, 2: any values, 3: no mask, shared K and V
        compare(("attention " + std::to_string(kind)).c_str(), kBf16, [&](Net& net) {
            ggml_tensor* q = net.input(d, heads * shared, n_q, batch);
            ggml_tensor *k = net.input(d, heads, n_kv, batch), *v = net.input(d, heads, n_kv, batch);
            ggml_tensor* mask = nullptr;
            if (kind == 1 || kind == 2) {
                mask = net.input(n_kv, n_q);
                std::vector<float>& values = net.values(mask);
                for (int64_t i = 0; kind == 1 && i < n_q; ++i)
                    for (int64_t j = 0; j < n_kv; ++j)
                        values[static_cast<size_t>(i * n_kv + j)] =
                            i / window == j / window || (j == 0 && n_kv < n_q) ? 0.0f : -INFINITY;
            }
            return attention(net, q, k, v, mask);
        });
    }
}

// A transformer block with Q, K and V from one matrix or three.
ggml_tensor* block(Net& net, ggml_tensor* x, int64_t heads, bool is_fused) {
    ggml_context* ctx = net.nodes();
    const int64_t d = x->ne[0], n = x->ne[1], head_dim = d / heads;
    ggml_tensor *normed = layer_norm(net, x), *q, *k, *v;
    if (is_fused) {
        ggml_tensor* all = linear(net, normed, 3 * d);
        const size_t head = static_cast<size_t>(head_dim) * 4, row = all->nb[1],
                     third = static_cast<size_t>(d) * 4;
        q = ggml_view_3d(ctx, all, head_dim, heads, n, head, row, 0);
        k = ggml_view_3d(ctx, all, head_dim, heads, n, head, row, third);
        v = ggml_view_3d(ctx, all, head_dim, heads, n, head, row, 2 * third);
    } else {
        q = ggml_reshape_3d(ctx, linear(net, normed, d), head_dim, heads, n);
        k = ggml_reshape_3d(ctx, linear(net, normed, d), head_dim, heads, n);
        v = ggml_reshape_3d(ctx, linear(net, normed, d), head_dim, heads, n);
    }
    x = ggml_add(ctx, linear(net, attention(net, q, k, v, nullptr), d), x);
    return ggml_add(ctx, x, linear(net, ggml_gelu(ctx, linear(net, layer_norm(net, x), 3 * d)), d));
}

Net::Build blocks(int64_t d, int64_t n, bool is_fused) {
    return [=](Net& net) {
        ggml_tensor* x = ggml_sin(net.nodes(), net.input(d, n));
        for (int i = 0; i < 3; ++i) x = block(net, x, 4, is_fused);
        return layer_norm(net, x);
    };
}

void test_blocks() {
    for (const bool is_fused : {false, true}) {
        for (int n_threads = 1; n_threads <= 4; n_threads += 3)
            compare("blocks", kInt8, blocks(4 * uniform(5, 30), uniform(1, 200), is_fused), n_threads);
    }
    // Threads change no bit, nor does a graph that is cut behind every node change much.
    const uint32_t seed = check::random_engine()();
    Net net(true, seed, blocks(96, 100, false)), cut(true, seed, blocks(96, 100, false));
    std::vector<float> first;
    for (int n_threads = 1; n_threads <= 4; ++n_threads) {
        const DeviceCall call(n_threads, nullptr, nullptr);
        CHECK(net.run() == GGML_STATUS_SUCCESS);
        if (first.empty()) first = net.result();
        CHECK_F(net.result() == first, "%d threads: another result", n_threads);
    }
    CHECK(cut.run([](ggml_tensor*, bool, void*) { return true; }) == GGML_STATUS_SUCCESS);
    CHECK_F(error(cut.result(), first) < kInt8, "node by node: error %g", error(cut.result(), first));
}

void test_cancelling() {
    const uint32_t seed = check::random_engine()();
    Net net(true, seed, blocks(256, 500, false));
    CHECK(net.run() == GGML_STATUS_SUCCESS);
    const std::vector<float> expected = net.result();
    struct Seen {
        int calls = 0, stop_at = 0;
        float last = 0;
        bool is_rising = true;
    } seen;
    const auto progress = [](float fraction, void* data) {
        auto& s = *static_cast<Seen*>(data);
        s.is_rising = s.is_rising && fraction >= s.last && fraction <= 1;
        s.last = fraction;
        return ++s.calls != s.stop_at;
    };
    {
        const DeviceCall call(1, progress, &seen);
        CHECK(net.run() == GGML_STATUS_SUCCESS && net.result() == expected);
    }
    CHECK_F(seen.calls > 0 && seen.is_rising, "%d calls", seen.calls);
    for (int stop_at = 1; stop_at <= std::min(2, seen.calls); ++stop_at) {
        Seen again;
        again.stop_at = stop_at;
        const DeviceCall call(2, progress, &again);
        const ggml_status status = net.run();
        // How often it is asked depends on the machine; the first time is certain.
        CHECK(status == GGML_STATUS_ABORTED || (stop_at > 1 && again.calls < stop_at));
    }
    CHECK(net.run() == GGML_STATUS_SUCCESS && net.result() == expected);
    // Two at once.
    Net other(true, seed, blocks(256, 500, false));
    std::thread thread([&] { CHECK(other.run() == GGML_STATUS_SUCCESS); });
    CHECK(net.run() == GGML_STATUS_SUCCESS);
    thread.join();
    CHECK(net.result() == expected && other.result() == expected);
}

// Channels of a norm 100 times larger than the others: evened out, int8 keeps its precision. Two matmuls in a
// row with an error of kInt8 each give a cosine of 1 - kInt8^2 = 0.9991 at the worst; single rows may have
// twice that.
void test_outliers() {
    const uint32_t seed = check::random_engine()();
    const auto build = [](Net& net) {
        ggml_tensor* w = net.weight(GGML_TYPE_F32, 256, 1, 0.3f, 1.0f);
        for (size_t i = 0; i < 5; ++i) net.values(w)[50 * i] *= 100;
        ggml_tensor* b = net.weight(GGML_TYPE_F32, 256, 1, 0.3f);
        ggml_context* ctx = net.nodes();
        ggml_tensor* x = ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, net.input(256, 80), 1e-6f), w), b);
        return linear(net, ggml_gelu(ctx, linear(net, x, 512)), 256);
    };
    Net expected(false, seed, build), found(true, seed, build);
    CHECK(expected.run() == GGML_STATUS_SUCCESS && found.run() == GGML_STATUS_SUCCESS);
    const std::vector<float> a = found.result(), b = expected.result();
    double mean = 0;
    for (size_t r = 0; r < 80; ++r) {
        double dot = 0, aa = 0, bb = 0;
        for (size_t i = r * 256; i < (r + 1) * 256; ++i) {
            dot += double(a[i]) * b[i];
            aa += double(a[i]) * a[i];
            bb += double(b[i]) * b[i];
        }
        const double cosine = dot / std::sqrt(aa * bb);
        CHECK_F(cosine >= 0.998, "outliers: cosine %.6f of row %zu", cosine, r);
        mean += cosine / 80;
    }
    CHECK_F(mean >= 0.9995, "outliers: mean cosine %.6f", mean);
}

void test_memory() {
    const ggml_backend_dev_t device = encoder_device();
    const ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(device);
    CHECK(ggml_backend_buft_is_host(type));
    CHECK(ggml_backend_dev_supports_buft(device, type));
    // What would bring a language model's nodes here.
    CHECK(!ggml_backend_dev_supports_buft(device, ggml_backend_cpu_buffer_type()));
    CHECK(ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_ACCEL);
    const Context ctx(ggml_init({8 * ggml_tensor_overhead(), nullptr, true}), ggml_free);
    ggml_tensor* w = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, 64, 64);
    ggml_tensor* y = ggml_mul_mat(ctx.get(), w, ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, 64, 4));
    CHECK(ggml_backend_dev_supports_op(device, y));
    // llama.cpp asks with a buffer of no bytes whether a weight may come.
    const Buffer none(ggml_backend_buft_alloc_buffer(type, 0), ggml_backend_buffer_free);
    w->buffer = none.get();
    CHECK(!ggml_backend_dev_supports_op(device, y));
    w->buffer = nullptr;
}

void test_dropped_pages() {
    // Packed at the first run; the original is gone then, and comes back when it is written again.
    const uint32_t seed = check::random_engine()();
    ggml_tensor* matrix = nullptr;
    Net net(true, seed, [&](Net& n) {
        matrix = n.weight(GGML_TYPE_F32, 512, 256);
        return ggml_mul_mat(n.nodes(), matrix, n.input(512, 10));
    });
    DeviceBuffer& buffer = *device_buffer(matrix);
    CHECK(net.run() == GGML_STATUS_SUCCESS && buffer.packed(matrix));
#if defined(__linux__)
    CHECK(buffer.is_dropped(matrix));
#endif
    const std::vector<float> before = net.result();
    std::vector<float> twice = net.values(matrix);
    for (float& v : twice) v *= 2;
    ggml_backend_tensor_set(matrix, twice.data(), 0, ggml_nbytes(matrix));
    CHECK(!buffer.packed(matrix) && !buffer.is_dropped(matrix) && net.run() == GGML_STATUS_SUCCESS);
    const std::vector<float> after = net.result();
    std::vector<float> expected = before;
    for (float& v : expected) v *= 2;
    CHECK_F(error(after, expected) < 1e-6, "written again: error %g", error(after, expected));
}

}  // namespace

int main() {
    require_linked_ggml();
    if (!encoder_device_is_fast()) {
        std::printf("plain C++: the device leaves all to ggml\n");
        test_memory();
        return check::finish();
    }
    test_memory();
    test_dropped_pages();
    test_linear();
    test_feed_forward();
    test_attention();
    test_blocks();
    test_outliers();
    test_cancelling();
    return check::finish();
}
