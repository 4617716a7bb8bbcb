#include "printer.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>

#include "bluelm.h"
#include "common/program.h"

namespace tools {

void print(const std::string& text, std::FILE* to) {
    errno = 0;
    if (std::fwrite(text.data(), 1, text.size(), to) == text.size() && std::fflush(to) == 0) return;
    throw Failure(
        strf("cannot write the results: %s", errno ? std::strerror(errno) : "the output is closed"));
}

namespace {

class JsonPrinter : public Printer {
public:
    explicit JsonPrinter(const std::optional<Limits>& limits, std::FILE* to = stdout)
        : limits_(limits), to_(to) {}
    void add(const Result& result) override {
        print((first_ ? "[\n" : ",\n") + json_object(to_record(result, limits_), true), to_);
        first_ = false;
    }
    void end() override { print(first_ ? "[]\n" : "\n]\n", to_); }

private:
    const std::optional<Limits> limits_;
    std::FILE* to_;
    bool first_ = true;
};

// Another printer, and a JSON file beside it.
class SavingPrinter : public Printer {
public:
    SavingPrinter(std::unique_ptr<Printer> shown, const std::optional<Limits>& limits,
                  const std::string& path)
        : shown_(std::move(shown)), path_(path), part_(path + ".part") {
        file_.reset(std::fopen(part_.c_str(), "wb"));
        if (!file_) throw Failure(strf("%s: %s", path.c_str(), std::strerror(errno)));
        remove_at_end(part_);
        json_ = std::make_unique<JsonPrinter>(limits, file_.get());
    }
    void add(const Result& result) override {
        json_->add(result);
        shown_->add(result);
    }
    void end() override {
        json_->end();
        file_.reset();
        if (std::rename(part_.c_str(), path_.c_str()) != 0)
            throw Failure(strf("%s: %s", path_.c_str(), std::strerror(errno)));
        shown_->end();
    }

private:
    std::unique_ptr<Printer> shown_, json_;
    std::string path_, part_;
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, std::fclose};
};

class JsonlPrinter : public Printer {
public:
    explicit JsonlPrinter(const std::optional<Limits>& limits) : limits_(limits) {}
    void add(const Result& result) override { print(json_object(to_record(result, limits_), false) + "\n"); }

private:
    const std::optional<Limits> limits_;
};

class CsvPrinter : public Printer {
public:
    explicit CsvPrinter(const std::optional<Limits>& limits) : limits_(limits) {}
    void add(const Result& result) override {
        const Record record = to_record(result, limits_);
        print((first_ ? csv_header(record) + "\n" : "") + csv_row(record) + "\n");
        first_ = false;
    }

private:
    const std::optional<Limits> limits_;
    bool first_ = true;
};

// ---------------------------------------------------------------------------------------------- markdown

// Columns on a screen of UTF-8 text.
size_t width_of(const std::string& text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string padded(const std::string& text, size_t width, bool right) {
    const std::string space(width > width_of(text) ? width - width_of(text) : 0, ' ');
    return right ? space + text : text + space;
}

class MarkdownPrinter : public Printer {
public:
    MarkdownPrinter(const std::vector<Job>& jobs, const std::optional<Limits>& limits) : limits_(limits) {
        columns_ = {{"model", 26, false}, {"size", 10, true}, {"params", 9, true}, {"threads", 7, true}};
        setting(jobs, "mask", "", [](const Config& c) { return mask_text(c.cpus); });
        setting(jobs, "chunk", "128", [](const Config& c) { return strf("%d", c.chunk); });
        setting(jobs, "n_batch", "", [](const Config& c) { return strf("%d", c.n_batch); }, true);
        setting(jobs, "n_ubatch", "", [](const Config& c) { return strf("%d", c.n_ubatch); }, true);
        setting(jobs, "tile batch", "4", [](const Config& c) { return strf("%d", c.tile_batch); });
        setting(jobs, "pipeline", "0", [](const Config& c) { return strf("%d", c.pipeline); });
        setting(jobs, "K", "f16", [](const Config& c) { return ggml_type_name(c.type_k); });
        setting(jobs, "V", "f16", [](const Config& c) { return ggml_type_name(c.type_v); });
        setting(jobs, "fa", "-1", [](const Config& c) { return strf("%d", c.flash_attn); });
        setting(jobs, "streamed", "0", [](const Config& c) { return strf("%d", c.vision_weights); });
        setting(jobs, "act", "auto", [](const Config& c) {
            return c.activations == 0 ? "auto" : c.activations == 1 ? "int8" : "float";
        });
        setting(jobs, "kernels", "1", [](const Config& c) { return strf("%d", c.llm_kernels); });
        columns_.push_back({"test", 20, false});
        columns_.push_back({"ms", 20, true});
        columns_.push_back({"per second", 22, true});
        columns_.push_back({"drift", 7, true});
        if (limits_) columns_.push_back({"of limit", 15, true});
    }

    void add(const Result& r) override {
        if (!begun_) header();
        begun_ = true;
        last_ = r;
        if (!r.llm_kernels.empty()) last_llm_ = r.llm_kernels;
        if (r.peak_rss) peak_ = std::max(peak_, *r.peak_rss);
        if (r.job.kind == Kind::kTable5) return table5_.push_back(r);
        const auto share = share_of_limit(r, limits_);
        const std::optional<double> drift = drift_percent(r.ms);
        row(r, r.job.name(), r.ms, r.units, r.unit, drift ? strf("%+.1f%%", *drift) : "",
            share ? strf("%.0f%% %s", 100 * share->first, share->second) : "");
        for (const Part& part : r.parts)
            row(r, std::string("- ") + part.label, part.ms, part.units, part.unit, "", "");
    }

    void end() override {
        std::string text;
        if (!table5_.empty()) {
            text +=
                "\n| image processing (load + encode) | LLM prefilling | throughput | memory |\n|-|-|-|-|\n";
            for (const Result& r : table5_) {
                const auto ms = [&r](const char* name) {
                    return r.find(name) ? mean(r.find(name)->ms) : 0.0;
                };
                const Part *prefill = r.find("prefill"), *decode = r.find("decode");
                if (!prefill || !decode) continue;
                text += strf("| %.2f s (%.2f + %.2f) | %.2f s (%.0f tokens) | %.1f token/s | %s |\n",
                             (ms("load_mmproj") + ms("encode")) / 1e3, ms("load_mmproj") / 1e3,
                             ms("encode") / 1e3, ms("prefill") / 1e3, prefill->units,
                             1e3 * decode->units / ms("decode"),
                             r.peak_rss ? bytes_text(static_cast<double>(*r.peak_rss)).c_str() : "n/a");
            }
        }
        if (begun_) text += footer();
        print(text);
    }

private:
    struct Column {
        std::string name;
        size_t width;
        bool right;
        std::function<std::string(const Config&)> value;  // of a setting
    };

    // A column where the jobs differ in this setting, or it is not the default ("" as default: only where
    // they differ). `follows_chunk`: n_batch and n_ubatch, the chunk's by default.
    void setting(const std::vector<Job>& jobs, const char* name, const char* standard,
                 const std::function<std::string(const Config&)>& value, bool follows_chunk = false) {
        bool shown = false;
        for (const Job& job : jobs) {
            const std::string expected = follows_chunk ? strf("%d", job.config.chunk)
                                         : *standard   ? standard
                                                       : value(jobs.front().config);
            shown = shown || value(job.config) != expected;
        }
        if (shown) columns_.push_back({name, std::max<size_t>(6, std::strlen(name)), true, value});
    }

    void header() {
        std::string names = "|", line = "|";
        for (const Column& c : columns_) {
            names += " " + padded(c.name, c.width, c.right) + " |";
            line += (c.right ? std::string(c.width + 1, '-') + ":" : std::string(c.width + 2, '-')) + "|";
        }
        print(names + "\n" + line + "\n");
    }

    void row(const Result& r, const std::string& test, const std::vector<double>& ms, double units,
             const char* unit, const std::string& drift, const std::string& share) {
        const bool both = !r.llm_type.empty() && !r.vision_type.empty();
        const bool is_part = test[0] == '-';
        std::string text = "|";
        for (const Column& c : columns_) {
            std::string value;
            if (c.name == "model") value = both ? r.llm_type + " + mmproj" : r.llm_type + r.vision_type;
            if (c.name == "size") value = bytes_text(static_cast<double>(r.llm_bytes + r.vision_bytes));
            if (c.name == "params")
                value = strf("%.2f M", static_cast<double>(r.llm_params + r.vision_params) / 1e6);
            if (c.name == "threads") value = strf("%d", r.job.config.threads);
            if (c.value) value = c.value(r.job.config);
            if (is_part) value.clear();
            if (c.name == "test") value = test;
            if (c.name == "ms" && !ms.empty()) value = strf("%.2f \u00b1 %.2f", mean(ms), deviation(ms));
            if (c.name == "per second" && units > 0 && !ms.empty()) {
                std::vector<double> speeds;
                for (const double v : ms) speeds.push_back(v > 0 ? 1e3 * units / v : 0);
                value = strf("%.2f \u00b1 %.2f %s", mean(speeds), deviation(speeds), unit);
            }
            if (c.name == "drift") value = drift;
            if (c.name == "of limit") value = share;
            text += " " + padded(value, c.width, c.right) + " |";
        }
        print(text + "\n");
    }

    std::string footer() const {
        const auto pair = [](std::optional<double> a, std::optional<double> b, const char* unit) {
            return a && b ? strf("%.0f -> %.0f %s", *a, *b, unit) : std::string("n/a");
        };
        const char* level = bluelm_cpu_level();
        std::string text = strf("\nbuild: %s\n", bluelm_build_info());
        text +=
            strf("CPU: %s; %zu CPUs, %d cores, %d of them big; run on %s; kernels: %s%s\n",
                 cpu_description().c_str(), usable_cpus().size(), physical_cores(usable_cpus()),
                 physical_cores(big_cpus()), mask_text(last_.job.config.cpus).c_str(), level ? level : "n/a",
                 last_llm_.empty() ? "" : (", in llama.cpp: " + last_llm_).c_str());
        text += strf("peak RSS: %s; frequency in the last test: %s; temperature: %s\n",
                     peak_ ? bytes_text(static_cast<double>(peak_)).c_str() : "n/a",
                     pair(last_.mhz_first, last_.mhz_last, "MHz").c_str(),
                     pair(last_.celsius_first, last_.celsius_last, "C").c_str());
        return text + "drift: time of the last repetition against the first; positive is slower\n";
    }

    const std::optional<Limits> limits_;
    std::vector<Column> columns_;
    std::vector<Result> table5_;
    Result last_;
    std::string last_llm_;
    uint64_t peak_ = 0;
    bool begun_ = false;
};

}  // namespace

std::unique_ptr<Printer> make_printer(Format format, const std::vector<Job>& jobs,
                                      const std::optional<Limits>& limits, const std::string& json_path) {
    std::unique_ptr<Printer> printer;
    switch (format) {
        case Format::kJson: printer = std::make_unique<JsonPrinter>(limits); break;
        case Format::kJsonl: printer = std::make_unique<JsonlPrinter>(limits); break;
        case Format::kCsv: printer = std::make_unique<CsvPrinter>(limits); break;
        case Format::kMarkdown: printer = std::make_unique<MarkdownPrinter>(jobs, limits); break;
    }
    if (json_path.empty()) return printer;
    return std::make_unique<SavingPrinter>(std::move(printer), limits, json_path);
}

}  // namespace tools
