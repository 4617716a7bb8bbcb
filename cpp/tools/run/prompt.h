// The prompt of one question: the rules of bluelm_gguf/llm/prompt.py, with llama.cpp's built-in chat
// templates in place of Jinja.
#ifndef BLUELM_TOOLS_PROMPT_H
#define BLUELM_TOOLS_PROMPT_H

#include <string>
#include <vector>

#include "llama.h"

struct Question {
    std::string system;  // may be empty
    std::string text;
    int n_pictures = 0;
    std::string image_prefix, image_suffix;  // bluelm.prompt.* of the mmproj
};

// Tokens in a row, or the place of a picture.
struct Segment {
    bool is_picture = false;
    std::vector<llama_token> tokens;
};

struct Prompt {
    std::vector<Segment> segments;
    std::string stop;  // a text that ends the answer, or empty
};

// `chat_template`: a name of llama_chat_builtin_templates, or empty for the one in the model's file; a file
// without one gets "User: ... Assistant:". Throws Failure for a template that llama.cpp's C API does not
// know.
Prompt build_prompt(const llama_model* model, const std::string& model_path, const std::string& chat_template,
                    const Question& question);

#endif  // BLUELM_TOOLS_PROMPT_H
