#include "prompt.h"

#include <random>
#include <utility>

#include "common/program.h"

using tools::Failure;

namespace {

// A stretch of the prompt. What a person wrote must not act as template syntax.
struct Part {
    std::string text;
    bool is_written = false;
};

std::vector<llama_token> tokenize(const llama_vocab* vocab, const std::string& text, bool special) {
    if (text.empty()) return {};
    const int32_t length = static_cast<int32_t>(text.size());
    std::vector<llama_token> tokens(text.size() + 16);
    int32_t n = llama_tokenize(vocab, text.data(), length, tokens.data(), static_cast<int32_t>(tokens.size()),
                               false, special);
    if (n < 0 && n != INT32_MIN) {
        tokens.resize(static_cast<size_t>(-n));
        n = llama_tokenize(vocab, text.data(), length, tokens.data(), static_cast<int32_t>(tokens.size()),
                           false, special);
    }
    if (n < 0) throw Failure("a text of " + std::to_string(length) + " bytes cannot be tokenised");
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

// Adjacent texts as one, as in training; piece by piece where a written one spells a special token.
std::vector<llama_token> tokenize_run(const llama_vocab* vocab, const std::vector<Part>& run) {
    std::string whole;
    bool is_plain = true;
    for (const Part& part : run) {
        whole += part.text;
        is_plain = is_plain && (!part.is_written ||
                                tokenize(vocab, part.text, true) == tokenize(vocab, part.text, false));
    }
    if (is_plain) return tokenize(vocab, whole, true);
    std::vector<llama_token> tokens;
    for (const Part& part : run) {
        const std::vector<llama_token> piece = tokenize(vocab, part.text, !part.is_written);
        tokens.insert(tokens.end(), piece.begin(), piece.end());
    }
    return tokens;
}

std::string token_text(const llama_vocab* vocab, llama_token token) {
    return token == LLAMA_TOKEN_NULL ? "" : llama_vocab_get_text(vocab, token);
}

// The conversation with placeholders for what was written.
std::string render(const llama_model* model, const std::string& path, const std::string& name,
                   const std::string& system_mark, const std::string& user_mark, bool* has_template) {
    const char* own = name.empty() ? llama_model_chat_template(model, nullptr) : name.c_str();
    const std::string text = own ? own : "";
    *has_template = text.find_first_not_of(" \t\r\n") != std::string::npos;
    if (!*has_template) {
        return (system_mark.empty() ? "" : system_mark + "\n\n") + "User: " + user_mark + "\nAssistant:";
    }
    std::vector<llama_chat_message> messages;
    if (!system_mark.empty()) messages.push_back({"system", system_mark.c_str()});
    messages.push_back({"user", user_mark.c_str()});
    std::vector<char> buffer(4096);
    for (;;) {
        const int32_t n = llama_chat_apply_template(text.c_str(), messages.data(), messages.size(), true,
                                                    buffer.data(), static_cast<int32_t>(buffer.size()));
        if (n < 0) {
            throw Failure(
                name.empty()
                    ? path +
                          ": its chat template is none that llama.cpp knows by itself; name one with "
                          "--chat-template (for example chatml), or use bluelm-gguf run"
                    : "--chat-template " + name + ": llama.cpp knows no template of this name");
        }
        if (static_cast<size_t>(n) <= buffer.size())
            return std::string(buffer.data(), static_cast<size_t>(n));
        buffer.resize(static_cast<size_t>(n));
    }
}

}  // namespace

Prompt build_prompt(const llama_model* model, const std::string& model_path, const std::string& chat_template,
                    const Question& question) {
    const llama_vocab* vocab = llama_model_get_vocab(model);
    std::random_device random;  // nobody can write what nobody can guess
    std::string nonce;
    for (int i = 0; i < 4; ++i) nonce += std::to_string(random());
    const std::string user_mark = "[[" + nonce + ":user]]";
    const std::string system_mark = question.system.empty() ? "" : "[[" + nonce + ":system]]";
    bool has_template = false;
    std::string rest = render(model, model_path, chat_template, system_mark, user_mark, &has_template);

    Prompt prompt;
    if (!has_template) prompt.stop = "\nUser:";
    const llama_token bos = llama_vocab_bos(vocab);
    const std::string bos_text = token_text(vocab, bos);
    const bool writes_bos = !bos_text.empty() && rest.compare(0, bos_text.size(), bos_text) == 0;
    std::vector<llama_token> tokens;
    if (llama_vocab_get_add_bos(vocab) && bos != LLAMA_TOKEN_NULL && !writes_bos) tokens.push_back(bos);

    std::vector<Part> run;
    const auto end_text = [&] {
        const std::vector<llama_token> more = tokenize_run(vocab, run);
        tokens.insert(tokens.end(), more.begin(), more.end());
        run.clear();
        if (!tokens.empty()) prompt.segments.push_back({false, std::exchange(tokens, {})});
    };
    const auto take_before = [&](const std::string& mark) {
        const size_t at = rest.find(mark);
        if (at == std::string::npos)
            throw Failure(model_path + ": its chat template leaves out a text of the conversation");
        run.push_back({rest.substr(0, at), false});
        rest.erase(0, at + mark.size());
    };
    if (!system_mark.empty()) {
        take_before(system_mark);
        run.push_back({question.system, true});
    }
    take_before(user_mark);
    for (int i = 0; i < question.n_pictures; ++i) {
        run.push_back({question.image_prefix, false});
        end_text();
        prompt.segments.push_back({true, {}});
        run.push_back({question.image_suffix, false});
    }
    run.push_back({question.text, true});
    run.push_back({rest, false});
    end_text();
    return prompt;
}
