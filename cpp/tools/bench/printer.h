// Results as they come: a markdown table as llama-bench prints it, JSON, JSON lines or CSV.
#ifndef BLUELM_BENCH_PRINTER_H
#define BLUELM_BENCH_PRINTER_H

#include <cstdio>
#include <memory>
#include <string>

#include "record.h"

namespace tools {

class Printer {
public:
    virtual ~Printer() = default;
    virtual void add(const Result& result) = 0;
    // Closes the list or the table; also after Ctrl-C.
    virtual void end() {}
};

// `jobs`: all that will come, so that a table shows the settings in which they differ. json_path: results go
// there too, as JSON, under a temporary name until end(); empty: nowhere. Throws Failure.
std::unique_ptr<Printer> make_printer(Format format, const std::vector<Job>& jobs,
                                      const std::optional<Limits>& limits, const std::string& json_path);

// Writes and flushes. Throws Failure if that does not work (a full disk, a closed pipe).
void print(const std::string& text, std::FILE* to = stdout);

}  // namespace tools

#endif  // BLUELM_BENCH_PRINTER_H
