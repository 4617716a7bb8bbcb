// Runs jobs and measures them.
#ifndef BLUELM_BENCH_RUNNER_H
#define BLUELM_BENCH_RUNNER_H

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs.h"
#include "models.h"

namespace tools {

// One measured part of a job, a value for each repetition.
struct Part {
    const char* name;   // "resize", "prefill": the JSON field is NAME_ms
    const char* label;  // for the table
    double units;       // tokens or tiles in it; 0: a time only
    const char* unit;
    std::vector<double> ms;
};

struct Result {
    Job job;
    int64_t unix_time = 0;
    std::vector<double> ms;  // each repetition's time
    double units = 0;        // tokens or tiles of a repetition; 0: a time only
    const char* unit = "";   // "t" or "tiles"
    std::vector<Part> parts;
    int n_tiles = 0, image_tokens = 0;
    std::string llm_type, vision_type, llm_kernels;
    std::string llm_file, vision_file;  // names without directory
    int64_t llm_bytes = 0, llm_params = 0, vision_bytes = 0, vision_params = 0;
    // At the first and the last repetition.
    std::optional<double> mhz_first, mhz_last, celsius_first, celsius_last;
    std::optional<uint64_t> peak_rss;
    // What a repetition takes by arithmetic and by memory traffic.
    double ops = 0, bytes = 0;

    Part& part(const char* name, const char* label, double n = 0, const char* of = "");
    const Part* find(const char* name) const;
};

double mean(const std::vector<double>& values);
double deviation(const std::vector<double>& values);  // of the sample; 0 for fewer than two

class Runner {
public:
    // An empty path: that model is not measured.
    Runner(const Options& options, std::string llm_path, std::string vision_path);

    // The result of a whole job; after a signal, of the repetitions that were completed (perhaps none).
    // Throws Failure.
    Result run(const Job& job);

private:
    void load(const Job& job);
    void describe(const Job& job, Result& result) const;
    void warm_up_vision(int n_tiles);
    void measure_load(const Job& job, Result& result);
    void measure_image(const Job& job, Result& result);
    void measure_prompt(const Job& job, Result& result);
    void measure_generate(const Job& job, Result& result);
    void measure_e2e(const Job& job, Result& result);
    template <class Body>
    void repeat(const Job& job, Result& result, const Body& body);
    int64_t image_tokens(const Size& size, int* n_tiles) const;

    const Options& options_;
    std::string llm_path_, vision_path_;
    std::unique_ptr<Llm> llm_;
    std::unique_ptr<Vision> vision_;
    Config llm_config_, vision_config_;  // with which they were loaded
};

}  // namespace tools

#endif  // BLUELM_BENCH_RUNNER_H
