// bluelm-run: one question about pictures, answered on this machine. Standalone: libbluelm and llama.cpp are
// linked in, pictures are read with stb_image. Options and rules are those of `bluelm-gguf run`.
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "bluelm.h"
#include "common/llama_log.h"
#include "common/program.h"
#include "common/system.h"
#include "llama.h"
#include "run/models.h"
#include "run/options.h"
#include "run/session.h"
#include "run/text_stream.h"

namespace {

void print_json(const Reply& reply, const std::vector<Encoded>& pictures) {
    std::printf("{\"text\": %s, \"finish_reason\": \"%s\", \"tokens\": [", json_string(reply.text).c_str(),
                reply.finish_reason.c_str());
    for (size_t i = 0; i < reply.tokens.size(); ++i) std::printf(i ? ", %d" : "%d", reply.tokens[i]);
    std::printf(
        "], \"timings\": {\"load_ms\": %.3f, \"encode_ms\": %.3f, \"prefill_ms\": %.3f, \"prefill_tps\": "
        "%.3f, "
        "\"decode_ms\": %.3f, \"decode_tps\": %.3f, \"ttft_ms\": %.3f, \"total_ms\": %.3f, "
        "\"image_tokens\": %" PRId64 ", \"text_tokens\": %" PRId64
        ", \"generated_tokens\": %zu}, \"images\": [",
        reply.load_ms, reply.encode_ms, reply.prefill_ms, reply.prefill_tps(), reply.decode_ms,
        reply.decode_tps(), reply.ttft_ms, reply.total_ms, reply.image_tokens, reply.text_tokens,
        reply.tokens.size());
    for (size_t i = 0; i < pictures.size(); ++i) {
        const Encoded& e = pictures[i];
        std::printf(
            "%s{\"width\": %d, \"height\": %d, \"cols\": %d, \"rows\": %d, \"n_tiles\": %d, "
            "\"image_tokens\": %" PRId64 ", \"pixels_crc32\": \"%08x\", \"views_crc32\": \"%08x\"}",
            i ? ", " : "", e.plan.width, e.plan.height, e.plan.cols, e.plan.rows, e.plan.n_tiles, e.n_tokens,
            e.pixels_crc, e.views_crc);
    }
    std::printf("], \"build\": %s}\n", json_string(bluelm_build_info()).c_str());
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
        throw tools::Failure(std::string("the answer cannot be written (") + std::strerror(errno) + ")");
}

void print_times(const Reply& reply) {
    std::fprintf(stderr, "load %.0f ms", reply.load_ms);
    if (reply.image_tokens > 0) std::fprintf(stderr, " | image %.0f ms", reply.encode_ms);
    std::fprintf(stderr,
                 " | prefill %" PRId64
                 " tokens, %.1f token/s | decode %zu tokens, %.1f token/s | first token "
                 "after %.0f ms\n",
                 reply.image_tokens + reply.text_tokens, reply.prefill_tps(), reply.tokens.size(),
                 reply.decode_tps(), reply.ttft_ms);
}

int run(int argc, char** argv) {
    Options options = parse_options(argc, argv);
    tools::install_signal_handlers();
    const std::vector<tools::Cpu> cpus = tools::parse_cpu_mask(options.cpu_mask);
    tools::set_affinity(cpus);
    if (options.n_threads == 0) options.n_threads = tools::physical_cores(cpus);
    tools::warn_of_threads("", options.n_threads, cpus);
    tools::catch_llama_log(options.verbose);
    check_memory(options);
    llama_backend_init();
    check(bluelm_llama_prepare());
    const bluelm_status kernels = bluelm_llm_kernels_register();
    if (kernels != BLUELM_ERR_UNSUPPORTED) check(kernels);  // llama.cpp's own do as well
    Session session(options);
    session.run();
    if (options.json) print_json(session.reply(), session.pictures());
    print_times(session.reply());
    return tools::stop_signal() ? 128 + tools::stop_signal() : 0;
}

}  // namespace

int main(int argc, char** argv) {
    const auto fail = [](const char* message, const char* hint = "") {
        std::fprintf(stderr, "error: %s%s\n", message, hint);
        return 1;
    };
    try {
        return run(argc, argv);
    } catch (const tools::UsageError& e) {
        fail(e.what(), " (bluelm-run --help)");
        return 2;
    } catch (const tools::Interrupted&) {
        return 128 + tools::stop_signal();
    } catch (const std::bad_alloc&) {
        return fail("not enough memory");
    } catch (const std::exception& e) {
        return fail(e.what());
    }
}
