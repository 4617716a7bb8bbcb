// A result as a row of named values: the same names in JSON, JSON lines and CSV.
#ifndef BLUELM_BENCH_RECORD_H
#define BLUELM_BENCH_RECORD_H

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "roofline.h"
#include "runner.h"

namespace tools {

// The text of a JSON value: a string with quotes, a number, a list, true, or null.
using Record = std::vector<std::pair<std::string, std::string>>;

Record to_record(const Result& result, const std::optional<Limits>& limits);

std::string json_string(const std::string& text);
// "{...}", on one line or on a line for each field.
std::string json_object(const Record& record, bool on_lines);
std::string csv_header(const Record& record);
std::string csv_row(const Record& record);

// The part of its limit that a result reaches, 0..1, and which limit: "bandwidth" or "int8 peak".
std::optional<std::pair<double, const char*>> share_of_limit(const Result& result,
                                                             const std::optional<Limits>& limits);
// Last repetition against the first, in per cent: positive is slower. Nothing for one repetition.
std::optional<double> drift_percent(const std::vector<double>& ms);

}  // namespace tools

#endif  // BLUELM_BENCH_RECORD_H
