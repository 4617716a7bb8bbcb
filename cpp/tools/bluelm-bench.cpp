// bluelm-bench: measures bluelm on this machine, a phone for one. Uses bluelm.h and llama.h (with ggml.h and
// gguf.h) only; --help describes the options, docs/benchmarks.md the output.
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <new>

#include "bench/jobs.h"
#include "bench/models.h"
#include "bench/options.h"
#include "bench/printer.h"
#include "bench/roofline.h"
#include "bench/runner.h"
#include "bench/synthetic.h"
#include "bluelm.h"
#include "common/llama_log.h"
#include "common/program.h"
#include "common/system.h"
#include "llama.h"

namespace {

using tools::strf;

uint64_t file_bytes(const std::string& path) {
    struct stat info = {};
    return !path.empty() && stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

// Positions that a test fills in the KV cache; a picture counts as the most tiles that the paper allows.
int64_t positions(const tools::Job& job) {
    const int64_t image = job.kind == tools::Kind::kE2e ? 17 * 196 : 0;
    return image + job.n_depth + job.n_prompt + job.n_gen;
}

// Said before anything is allocated or written: the weights and the largest KV cache.
void check_memory(const tools::Options& o, const tools::SyntheticShape* shape,
                  const std::vector<tools::Job>& jobs) {
    if (!o.memory_check) return;
    const double weights =
        shape ? static_cast<double>(tools::llm_file_bytes(*shape) + tools::mmproj_file_bytes(*shape))
              : static_cast<double>(file_bytes(o.model) + file_bytes(o.mmproj));
    const tools::LlmCost cost = shape ? tools::llm_cost(*shape) : tools::llm_cost(o.model);
    double cache = 0;
    for (const tools::Job& job : jobs) {
        cache = std::max(cache, cost.kv_bytes(positions(job), job.config.type_k, job.config.type_v));
    }
    tools::check_memory(shape ? strf("--synthetic %s", shape->name) : "the files", weights, cache);
}

int run(int argc, char** argv) {
    const tools::Options options = tools::parse_options(argc, argv);
    tools::install_signal_handlers();
    const tools::SyntheticShape* shape = nullptr;
    if (!options.synthetic.empty()) {
        shape = tools::find_shape(options.synthetic);
        if (!shape)
            throw tools::UsageError(
                strf("--synthetic %s: not one of demo, 0.5b, 3b", options.synthetic.c_str()));
    }
    const std::vector<tools::Job> jobs = tools::plan_jobs(options);
    tools::catch_llama_log(options.verbose);
    check_memory(options, shape, jobs);

    llama_backend_init();
    tools::check(bluelm_llama_prepare());
    tools::register_llm_kernels(!options.llm_kernels.empty() && options.llm_kernels.back() == 1);
    std::string llm = options.model, vision = options.mmproj;
    std::optional<tools::Limits> limits;
    std::unique_ptr<tools::Printer> printer;
    try {
        if (options.roofline) {
            const tools::Config& c = jobs.front().config;
            tools::set_affinity(c.cpus);
            if (options.progress) std::fprintf(stderr, "bluelm-bench: limits of this machine\n");
            limits = tools::measure_limits(c.threads, options.bandwidth_gbs);
            if (options.format == tools::Format::kMarkdown)
                tools::print(tools::calculator_text(*limits, options.model, c.type_k, c.type_v));
        }
        printer = tools::make_printer(options.format, jobs, limits, options.json_path);
        if (shape) {
            if (options.progress)
                std::fprintf(stderr, "bluelm-bench: writing random weights (%s)\n", shape->name);
            const tools::SyntheticFiles files = tools::write_synthetic(*shape, options.synthetic_dir);
            llm = files.llm;
            vision = files.mmproj;
        }
        tools::Runner runner(options, llm, vision);
        for (size_t i = 0; i < jobs.size(); ++i) {
            if (options.progress)
                std::fprintf(stderr, "bluelm-bench: %zu/%zu: %s\n", i + 1, jobs.size(),
                             jobs[i].name().c_str());
            const tools::Result result = runner.run(jobs[i]);
            if (!result.ms.empty()) printer->add(result);
            tools::check_stopped();
        }
    } catch (const tools::Interrupted&) {
    } catch (...) {
        if (printer) printer->end();  // what was measured before it stays readable
        throw;
    }
    if (printer) printer->end();
    return tools::stop_signal() ? 128 + tools::stop_signal() : 0;
}

}  // namespace

int main(int argc, char** argv) {
    const auto fail = [](int code, const char* message) {
        std::fprintf(stderr, "bluelm-bench: error: %s\n", message);
        return code;
    };
    try {
        return run(argc, argv);
    } catch (const tools::UsageError& e) {
        return fail(2, e.what());
    } catch (const std::bad_alloc&) {
        return fail(1, "out of memory");
    } catch (const std::exception& e) {
        return fail(1, e.what());
    }
}
