#include "text_stream.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <utility>

namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

// Bytes of the character that starts at text[at]: > 0 complete, 0 incomplete so far, < 0 that many are no
// UTF-8.
int character(const std::string& text, size_t at) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(at);
    if (lead < 0x80) return 1;
    const int length = lead >= 0xc2 && lead < 0xe0   ? 2
                       : lead >= 0xe0 && lead < 0xf0 ? 3
                       : lead >= 0xf0 && lead < 0xf5 ? 4
                                                     : 0;
    if (length == 0) return -1;
    for (int i = 1; i < length; ++i) {
        if (at + static_cast<size_t>(i) >= text.size()) return 0;
        // No overlong forms, no surrogates, nothing above U+10FFFF: the second byte tells.
        const uint8_t low = i > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const uint8_t high = i > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        const uint8_t next = byte(at + static_cast<size_t>(i));
        if (next < low || next > high) return -i;
    }
    return length;
}

}  // namespace

std::string TextStream::push(const std::string& bytes) {
    bytes_ += bytes;
    size_t at = 0;
    while (at < bytes_.size()) {
        const int n = character(bytes_, at);
        if (n == 0) break;
        if (n > 0) {
            held_.append(bytes_, at, static_cast<size_t>(n));
        } else {
            held_ += kReplacement;
        }
        at += static_cast<size_t>(n > 0 ? n : -n);
    }
    bytes_.erase(0, at);
    if (stop_.empty()) return std::exchange(held_, {});
    const size_t found = held_.find(stop_);
    if (found != std::string::npos) {
        stopped_ = true;
        return std::exchange(held_, {}).substr(0, found);
    }
    size_t n_held = std::min(stop_.size() - 1, held_.size());
    while (n_held > 0 && held_.compare(held_.size() - n_held, n_held, stop_, 0, n_held) != 0) --n_held;
    const std::string ready = held_.substr(0, held_.size() - n_held);
    held_.erase(0, ready.size());
    return ready;
}

std::string TextStream::finish() { return std::exchange(held_, {}); }

std::string printable(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<uint8_t>(text[i]);
        if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f) continue;
        if (byte == 0xc2 && i + 1 < text.size() && static_cast<uint8_t>(text[i + 1]) < 0xa0) {
            ++i;  // U+0080 to U+009F
            continue;
        }
        out += text[i];
    }
    return out;
}

std::string json_string(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        const auto byte = static_cast<uint8_t>(c);
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (byte < 0x20 || byte == 0x7f) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", byte);
            out += escaped;
        } else {
            out += c;
        }
    }
    return out + '"';
}
