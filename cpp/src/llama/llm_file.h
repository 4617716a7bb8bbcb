// Whether llama.cpp can be given a language model's file: everything in its head that llama.cpp would not
// refuse, but end the process over (GGML_ASSERT, GGML_ABORT, a null or an index that it does not look at), as
// far as the head tells. docs/reliability.md has the table: what each check is for.
#ifndef BLUELM_LLM_FILE_H
#define BLUELM_LLM_FILE_H

#include <string>

namespace bluelm {

// Reads the file's head, and those of the other parts of a model that is split, never the weights.
// Throws Error: IO (missing, cannot be read), FORMAT (not GGUF, truncated, or values that cannot be: all of
// them in one message), UNSUPPORTED (no language model, or a kind that is not run).
void check_llm_file(const std::string& path);

}  // namespace bluelm

#endif  // BLUELM_LLM_FILE_H
