#include "record.h"

#include <cmath>
#include <ctime>

#include "bluelm.h"
#include "common/program.h"

namespace tools {
namespace {

std::string number(double value) { return std::isfinite(value) ? strf("%.6g", value) : "null"; }
std::string whole(int64_t value) { return strf("%lld", static_cast<long long>(value)); }
std::string list(const std::vector<double>& values) {
    std::string text = "[";
    for (const double v : values) text += (text.size() > 1 ? ", " : "") + number(v);
    return text + "]";
}
template <class T>
std::string maybe(const std::optional<T>& value) {
    return value ? number(static_cast<double>(*value)) : "null";
}

std::string utc(int64_t unix_time) {
    const std::time_t seconds = static_cast<std::time_t>(unix_time);
    std::tm parts = {};
    gmtime_r(&seconds, &parts);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

const char* flash_text(int value) { return value < 0 ? "auto" : value == 0 ? "off" : "on"; }

const char* weights_text(int value) { return value == BLUELM_WEIGHTS_STREAMED ? "streamed" : "resident"; }

const char* activations_text(int value) {
    return value == BLUELM_ACTIVATIONS_INT8 ? "int8" : value == BLUELM_ACTIVATIONS_FLOAT ? "float" : "auto";
}

// Every part that a test may have; absent ones are null, so that all rows have the same fields.
const char* const kParts[] = {"norm",      "qkv",         "attention",   "attn_out", "ffn_up",     "ffn_down",
                              "pack",      "load_mmproj", "load_llm",    "resize",   "patch_embd", "vit",
                              "projector", "encode",      "first_token", "prefill",  "decode"};

}  // namespace

std::string json_string(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        const unsigned char u = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (u < 0x20) {
            out += strf("\\u%04x", u);
        } else {
            out += c;
        }
    }
    return out + "\"";
}

std::optional<double> drift_percent(const std::vector<double>& ms) {
    if (ms.size() < 2 || ms.front() <= 0) return std::nullopt;
    return 100 * (ms.back() / ms.front() - 1);
}

std::optional<std::pair<double, const char*>> share_of_limit(const Result& r,
                                                             const std::optional<Limits>& limits) {
    if (!limits || r.ms.empty()) return std::nullopt;
    const double seconds = mean(r.ms) / 1e3;
    if (r.bytes > 0 && limits->bandwidth_gbs > 0)
        return std::make_pair(r.bytes / seconds / 1e9 / limits->bandwidth_gbs, "bandwidth");
    if (r.ops > 0 && limits->int8_gops > 0)
        return std::make_pair(r.ops / seconds / 1e9 / limits->int8_gops, "int8 peak");
    return std::nullopt;
}

Record to_record(const Result& r, const std::optional<Limits>& limits) {
    const Job& job = r.job;
    const Config& c = job.config;
    const double ms = mean(r.ms);
    std::vector<double> speeds;
    for (const double v : r.ms) speeds.push_back(v > 0 ? 1e3 * r.units / v : 0);
    const auto share = share_of_limit(r, limits);
    const char* level = bluelm_cpu_level();
    Record out = {
        {"build", json_string(bluelm_build_info())},
        {"cpu", json_string(cpu_description())},
        {"cpu_level", level ? json_string(level) : "null"},
        {"n_cpus", whole(static_cast<int64_t>(usable_cpus().size()))},
        {"n_cores", whole(physical_cores(usable_cpus()))},
        {"model_file", json_string(r.llm_file)},
        {"model_type", json_string(r.llm_type)},
        {"model_size", whole(r.llm_bytes)},
        {"model_n_params", whole(r.llm_params)},
        {"mmproj_file", json_string(r.vision_file)},
        {"mmproj_type", json_string(r.vision_type)},
        {"mmproj_size", whole(r.vision_bytes)},
        {"mmproj_n_params", whole(r.vision_params)},
        {"test", json_string(job.name())},
        {"width", whole(job.image.width)},
        {"height", whole(job.image.height)},
        {"n_tiles", whole(r.n_tiles)},
        {"image_tokens", whole(r.image_tokens)},
        {"n_prompt", whole(job.n_prompt)},
        {"n_gen", whole(job.n_gen)},
        {"n_depth", whole(job.n_depth)},
        {"n_threads", whole(c.threads)},
        {"cpu_mask", json_string(mask_text(c.cpus))},
        {"chunk", whole(c.chunk)},
        {"n_batch", whole(c.n_batch)},
        {"n_ubatch", whole(c.n_ubatch)},
        {"tile_batch", whole(c.tile_batch)},
        {"pipeline", whole(c.pipeline)},
        {"type_k", json_string(ggml_type_name(c.type_k))},
        {"type_v", json_string(ggml_type_name(c.type_v))},
        {"flash_attn", json_string(flash_text(c.flash_attn))},
        {"vision_weights", json_string(weights_text(c.vision_weights))},
        {"activations", json_string(activations_text(c.activations))},
        {"llm_kernels", r.llm_kernels.empty() ? "null" : json_string(r.llm_kernels)},
        {"test_time", json_string(utc(r.unix_time))},
        {"repetitions", whole(static_cast<int64_t>(r.ms.size()))},
        {"avg_ms", number(ms)},
        {"stddev_ms", number(deviation(r.ms))},
        {"unit", r.units > 0 ? json_string(r.unit) : "null"},
        {"avg_ts", r.units > 0 ? number(mean(speeds)) : "null"},
        {"stddev_ts", r.units > 0 ? number(deviation(speeds)) : "null"},
        {"samples_ms", list(r.ms)},
        {"drift_percent", maybe(drift_percent(r.ms))},
    };
    for (const char* name : kParts) {
        const Part* part = r.find(name);
        out.push_back({std::string(name) + "_ms", part ? number(mean(part->ms)) : "null"});
    }
    for (const char* name : {"prefill", "decode"}) {
        const Part* part = r.find(name);
        const bool known = part && part->units > 0 && mean(part->ms) > 0;
        out.push_back(
            {std::string(name) + "_ts", known ? number(1e3 * part->units / mean(part->ms)) : "null"});
    }
    const auto limit = [&limits](double Limits::* field) {
        return limits ? number((*limits).*field) : "null";
    };
    const Record rest = {
        {"frequency_first_mhz", maybe(r.mhz_first)},
        {"frequency_last_mhz", maybe(r.mhz_last)},
        {"temperature_first_c", maybe(r.celsius_first)},
        {"temperature_last_c", maybe(r.celsius_last)},
        {"peak_rss", r.peak_rss ? whole(static_cast<int64_t>(*r.peak_rss)) : "null"},
        {"bandwidth_gbs", limit(&Limits::bandwidth_gbs)},
        {"int8_gops", limit(&Limits::int8_gops)},
        {"bf16_gflops", limit(&Limits::bf16_gflops)},
        {"f32_gflops", limit(&Limits::f32_gflops)},
        {"limit", share ? json_string(share->second) : "null"},
        {"limit_percent", share ? number(100 * share->first) : "null"},
    };
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
}

std::string json_object(const Record& record, bool on_lines) {
    std::string text = on_lines ? "  {\n" : "{";
    for (size_t i = 0; i < record.size(); ++i) {
        text +=
            strf("%s%s: ", on_lines ? "    " : "", json_string(record[i].first).c_str()) + record[i].second;
        if (i + 1 < record.size()) text += on_lines ? ",\n" : ", ";
    }
    return text + (on_lines ? "\n  }" : "}");
}

std::string csv_header(const Record& record) {
    std::string text;
    for (const auto& [name, value] : record) text += (text.empty() ? "" : ",") + name;
    return text;
}

// null is an empty field; strings and lists are quoted.
std::string csv_row(const Record& record) {
    std::string text;
    for (size_t i = 0; i < record.size(); ++i) {
        const std::string& value = record[i].second;
        if (i) text += ',';
        if (value == "null") continue;
        if (value[0] != '"' && value[0] != '[') {
            text += value;
            continue;
        }
        text += '"';
        // A JSON string without its own quotes; its escapes are undone, and quotes doubled.
        const std::string inner = value[0] == '"' ? value.substr(1, value.size() - 2) : value;
        for (size_t k = 0; k < inner.size(); ++k) {
            if (inner[k] == '\\' && value[0] == '"' && inner[k + 1] != 'u') ++k;
            text += inner[k] == '"' ? "\"\"" : std::string(1, inner[k]);
        }
        text += '"';
    }
    return text;
}

}  // namespace tools
