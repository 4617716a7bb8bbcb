// libbluelm: pictures for llama.cpp, after BlueLM-V-3B (arXiv 2411.10640).
//
// What it holds: the relaxed-aspect-ratio tiler, a batched SigLIP encoder with downsampler and projector,
// and chunked prefill into a llama_context that the caller owns.
//
// Manners
//   - Every call returns a bluelm_status (BLUELM_OK is 0) and leaves results in its trailing `out` arguments.
//   - After a status other than BLUELM_OK, bluelm_last_error() holds one line that says what is wrong, with
//     which file, and what to do. It is thread-local and valid until the next call on the same thread.
//   - Parameter structs start with struct_size (set by *_default); NULL stands for the defaults.
//   - Inputs are borrowed for the call. What *_init returns is freed with *_free; *_free(NULL) is legal.
//   - Nothing here aborts the process on bad input: files and arguments are checked before they are used.
//   - A bluelm_vision must not be used by two threads at the same time; distinct handles may.
#ifndef BLUELM_H
#define BLUELM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLUELM_API __attribute__((visibility("default")))

// Raised whenever a signature or a struct below changes; compared when the library is loaded.
#define BLUELM_ABI_VERSION 4

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context;  // llama.h
struct llama_model;

typedef int32_t bluelm_status;
enum {
    BLUELM_OK = 0,
    BLUELM_ERR_INVALID_ARGUMENT = 1,  // an argument is out of range; nothing was done
    BLUELM_ERR_IO = 2,                // a file is missing or cannot be read
    BLUELM_ERR_FORMAT = 3,            // a file is not GGUF, is truncated, or lacks keys or tensors
    BLUELM_ERR_UNSUPPORTED = 4,       // a sound file of a kind that this build does not run
    BLUELM_ERR_MISMATCH = 5,          // two files, or a file and a context, do not belong together
    BLUELM_ERR_OUT_OF_MEMORY = 6,
    BLUELM_ERR_CANCELLED = 7,     // the progress callback returned false
    BLUELM_ERR_CONTEXT_FULL = 8,  // the tokens do not fit into the llama_context
    BLUELM_ERR_DECODE = 9,        // llama_decode failed
    BLUELM_ERR_INTERNAL = 10,
};

enum { BLUELM_STAGE_ENCODE = 0, BLUELM_STAGE_PREFILL = 1, BLUELM_STAGE_DECODE = 2 };

// Called before, between and after units of work (encode: batches of tiles, prefill: chunks of tokens), and
// while a unit is being computed again every 50 ms or so with the same numbers. Always on the thread that
// made the call. Returning false cancels.
typedef bool (*bluelm_progress)(int32_t stage, int64_t done, int64_t total, void* user_data);

BLUELM_API int32_t bluelm_abi_version(void);
// "0.1.0 (llama.cpp <commit or package version>; <CPU features>)"; static.
BLUELM_API const char* bluelm_build_info(void);
// Which instructions the kernels use on this machine: "generic", "avx2", "avx-vnni", "avx512-vnni",
// "avx512-bf16", "amx", "neon", "dotprod" or "i8mm"; static. The environment variable BLUELM_CPU_LEVEL forces
// one that the CPU has; NULL, with the reason in bluelm_last_error(), if it names another.
BLUELM_API const char* bluelm_cpu_level(void);
// What bluelm_llm_kernels_register does to ggml's lists, without turning the kernels on, and OK where they
// cannot be. To be called before llama.cpp loads a model in this process.
BLUELM_API bluelm_status bluelm_llama_prepare(void);
BLUELM_API const char* bluelm_last_error(void);
BLUELM_API const char* bluelm_status_name(bluelm_status status);

// ---------------------------------------------------------------------------------------------- tiler: plan

enum {
    BLUELM_TILER_RELAXED = 0,     // paper, Algorithm 1
    BLUELM_TILER_LLAVA_NEXT = 1,  // larger effective resolution wins, ties by less waste
    BLUELM_TILER_INTERNVL = 2,    // closest aspect ratio, then stretched without padding
    BLUELM_TILER_SINGLE = 3,      // always one view
};
enum { BLUELM_THUMBNAIL_NONE = 0, BLUELM_THUMBNAIL_FIRST = 1, BLUELM_THUMBNAIL_LAST = 2 };
enum { BLUELM_FIT_PAD_CENTER = 0, BLUELM_FIT_PAD_TOP_LEFT = 1, BLUELM_FIT_STRETCH = 2 };
enum { BLUELM_FILTER_BICUBIC = 0, BLUELM_FILTER_BILINEAR = 1 };
// A fitted side that is no whole number of pixels: Algorithm 1's int(), or LLaVA-NeXT's ceil().
enum { BLUELM_ROUND_FLOOR = 0, BLUELM_ROUND_CEIL = 1 };

#define BLUELM_MAX_GRIDS 256

typedef struct bluelm_tiler_params {
    size_t struct_size;
    int32_t method;                // BLUELM_TILER_*
    int32_t tile;                  // edge of a tile in pixels (384)
    float alpha;                   // relaxed only (0.1)
    int32_t thumbnail;             // BLUELM_THUMBNAIL_*
    int32_t thumbnail_for_single;  // 0: a 1:1 grid is one view only
    int32_t fit;                   // BLUELM_FIT_*
    int32_t filter;                // BLUELM_FILTER_*
    uint8_t pad_rgb[3];
    uint8_t fit_rounding;                // BLUELM_ROUND_*
    int32_t n_grids;                     // candidates, in any order: the search sorts them itself
    int32_t grids[BLUELM_MAX_GRIDS][2];  // {columns, rows}
} bluelm_tiler_params;

// Relaxed up to 4:4, tile 384, thumbnail first.
BLUELM_API bluelm_status bluelm_tiler_params_default(bluelm_tiler_params* out);
// Replaces the candidates by 1..max_cols x 1..max_rows; max_tiles > 0 keeps those with cols*rows <=
// max_tiles.
BLUELM_API bluelm_status bluelm_tiler_params_set_grids(bluelm_tiler_params* params, int32_t max_cols,
                                                       int32_t max_rows, int32_t max_tiles);

// Pure geometry: what will be cut from a picture of width x height.
typedef struct bluelm_tile_plan {
    size_t struct_size;
    int32_t width, height;          // the picture
    int32_t cols, rows;             // the grid
    int32_t tile;                   // pixels
    int32_t fit_width, fit_height;  // the picture resized into the grid
    int32_t pad_left, pad_top;      // where it lies on the canvas of cols*tile x rows*tile
    int32_t thumbnail_index;        // index of the thumbnail among the views, or -1
    int32_t n_tiles;                // views in all: cols*rows, and the thumbnail if there is one
    int64_t effective, wasted;      // Re and Rw of Algorithm 1, in pixels
} bluelm_tile_plan;

// Errors: INVALID_ARGUMENT for sizes outside 1..20000 or params out of range.
BLUELM_API bluelm_status bluelm_tiler_plan(const bluelm_tiler_params* params, int32_t width, int32_t height,
                                           bluelm_tile_plan* out);

// -------------------------------------------------------------------------------------------- tiler: pixels

// Antialiased resize of 8-bit RGB, rows packed (stride = 3*width). Bit-exact with Pillow's
// Image.resize(BICUBIC / BILINEAR). `dst` holds dst_height*dst_width*3 bytes.
BLUELM_API bluelm_status bluelm_resize_rgb8(const uint8_t* src, int32_t src_width, int32_t src_height,
                                            uint8_t* dst, int32_t dst_width, int32_t dst_height,
                                            int32_t filter);

// Cuts views first..first+count-1 of the plan: out is [count, tile, tile, 3] uint8. The picture is
// plan->height x plan->width x 3, packed.
BLUELM_API bluelm_status bluelm_tiler_cut(const bluelm_tiler_params* params, const bluelm_tile_plan* plan,
                                          const uint8_t* rgb, int32_t first, int32_t count, uint8_t* out,
                                          size_t out_bytes);

// ---------------------------------------------------------------------------------------------------- vision

typedef struct bluelm_vision bluelm_vision;

// Where the encoder's weights are between two encodes.
enum {
    BLUELM_WEIGHTS_RESIDENT = 0,  // in memory, arranged for this CPU's kernels when the file is loaded
    BLUELM_WEIGHTS_STREAMED = 1,  // in the file: each block is read and arranged when its turn comes, once
                                  // for all tiles of a batch, and dropped after it
};
// What activations are rounded to in front of the blocks' matmuls.
enum {
    BLUELM_ACTIVATIONS_AUTO = 0,   // INT8 for q8_0 and q4_0 files, FLOAT for the others
    BLUELM_ACTIVATIONS_INT8 = 1,   // 8 bits, one scale per token; weights too, one scale per output
    BLUELM_ACTIVATIONS_FLOAT = 2,  // bf16, or float32 for f32 and f16 files and on CPUs without bf16
};

typedef struct bluelm_vision_params {
    size_t struct_size;
    int32_t n_threads;    // <= 0: the number of physical cores
    int32_t batch;        // tiles per ViT run, 1..17 (paper section 3.3: 4)
    int32_t pipeline;     // 1: patch embedding of the next batch overlaps the ViT of this one
    int32_t weights;      // BLUELM_WEIGHTS_*
    int32_t activations;  // BLUELM_ACTIVATIONS_*
} bluelm_vision_params;

typedef struct bluelm_vision_info {
    size_t struct_size;
    int32_t image_size, patch_size;
    int32_t n_embd, n_layer, n_head, n_ff;  // n_ff as stored (padded)
    int32_t n_ff_unpadded;
    int32_t downsample;       // 1 or 2
    int32_t tokens_per_tile;  // 196 or 729
    int32_t n_embd_out;       // the LLM's n_embd
    int32_t has_post_ln, has_input_norm, column_major;
    int64_t n_params;
    int64_t weight_bytes;  // as stored in the file
    char name[128];
    char ftype[16];
} bluelm_vision_info;

typedef struct bluelm_vision_timings {
    size_t struct_size;
    double resize_ms;      // resize, pad, cut
    double patch_embd_ms;  // normalise + patch embedding
    double vit_ms;         // transformer blocks + downsampler + projector
    double total_ms;       // wall time of the call; below the sum of parts where the pipeline overlaps
    int32_t n_tiles, n_batches;
} bluelm_vision_timings;

// Where the time of the last encode went, in wall milliseconds over all its batches. What a thread waits for
// at the end of a stage counts as part of it.
typedef struct bluelm_vision_profile {
    size_t struct_size;
    double resize_ms;      // resize, pad, cut
    double patch_embd_ms;  // normalise + patch embedding + positions
    double norm_ms;        // LayerNorms, and quantising rows
    double qkv_ms;
    double attention_ms;
    double attn_out_ms;
    double ffn_up_ms;  // with GELU
    double ffn_down_ms;
    double projector_ms;    // last norm, downsampler, projector
    double pack_ms;         // reading and arranging weights (STREAMED)
    double total_ms;        // wall time of the call
    int64_t multiply_adds;  // in matmuls and attention, padding not counted
    int32_t n_tiles, n_batches, n_threads;
} bluelm_vision_profile;

// The head of an mmproj GGUF (docs/mmproj.md): what the file says, without its weights.
typedef struct bluelm_mmproj bluelm_mmproj;

// Errors: IO, FORMAT, UNSUPPORTED (an LLM given as mmproj, another projector), OUT_OF_MEMORY.
BLUELM_API bluelm_status bluelm_mmproj_open(const char* path, bluelm_mmproj** out);
BLUELM_API void bluelm_mmproj_free(bluelm_mmproj* mmproj);
BLUELM_API bluelm_status bluelm_mmproj_get_info(const bluelm_mmproj* mmproj, bluelm_vision_info* out);
// The tiler that the file asks for.
BLUELM_API bluelm_status bluelm_mmproj_get_tiler(const bluelm_mmproj* mmproj, bluelm_tiler_params* out);
// Pure geometry: the tiles of a picture of width x height, and the tokens that bluelm_vision_encode makes of
// it. tiler NULL: the file's own. plan_out and n_tokens_out may be NULL. Errors: INVALID_ARGUMENT for sizes
// outside 1..20000, params out of range, a tile that is not the encoder's, and a picture so thin that
// cropping leaves nothing of it.
BLUELM_API bluelm_status bluelm_mmproj_plan(const bluelm_mmproj* mmproj, const bluelm_tiler_params* tiler,
                                            int32_t width, int32_t height, bluelm_tile_plan* plan_out,
                                            int64_t* n_tokens_out);

BLUELM_API bluelm_status bluelm_vision_params_default(bluelm_vision_params* out);
// Reads an mmproj GGUF (docs/mmproj.md). Every missing or misshapen tensor is listed in one message.
// Errors: IO, FORMAT, UNSUPPORTED (an LLM given as mmproj, another projector), OUT_OF_MEMORY.
BLUELM_API bluelm_status bluelm_vision_init(const char* path, const bluelm_vision_params* params,
                                            bluelm_vision** out);
BLUELM_API void bluelm_vision_free(bluelm_vision* vision);
BLUELM_API bluelm_status bluelm_vision_get_info(const bluelm_vision* vision, bluelm_vision_info* out);
// The tiler that the file asks for.
BLUELM_API bluelm_status bluelm_vision_get_tiler(const bluelm_vision* vision, bluelm_tiler_params* out);
// Text around an image's tokens ("" and "\n" for LLaVA's kind). Static for the life of the handle.
BLUELM_API bluelm_status bluelm_vision_get_prompt(const bluelm_vision* vision, const char** prefix_out,
                                                  const char** suffix_out);

// Plans, cuts and encodes a picture [height, width, 3] uint8, and puts its tokens together as the file asks.
// out: [n_tokens, n_embd_out] float32: views in plan order, n_tokens = plan.n_tiles * tokens_per_tile; or,
// with `bluelm.assembly.method` anyres, stitched to one map without padding (docs/mmproj.md), n_tokens
// depending on the picture's shape. out == NULL only sets *n_tokens_out. tiler NULL: the file's own. timings
// may be NULL.
BLUELM_API bluelm_status bluelm_vision_encode(bluelm_vision* vision, const bluelm_tiler_params* tiler,
                                              const uint8_t* rgb, int32_t width, int32_t height,
                                              bluelm_progress progress, void* user_data, float* out,
                                              size_t out_floats, int64_t* n_tokens_out,
                                              bluelm_vision_timings* timings);

// Views already cut, tiles [n_tiles, image_size, image_size, 3] uint8, each for itself:
// out [n_tiles, tokens_per_tile, n_embd_out].
BLUELM_API bluelm_status bluelm_vision_encode_tiles(bluelm_vision* vision, const uint8_t* tiles,
                                                    int32_t n_tiles, bluelm_progress progress,
                                                    void* user_data, float* out, size_t out_floats,
                                                    bluelm_vision_timings* timings);

// All zeros before the first encode; unchanged by one that failed.
BLUELM_API bluelm_status bluelm_vision_get_profile(const bluelm_vision* vision, bluelm_vision_profile* out);

// One stage's activations for parity tests and debugging. stage: "pixels" [n, 3, S, S] (normalised),
// "patch_embd" [n, 729, D] (with positions), "layer.K" [n, 729, D] (output of block K), "post_ln",
// "merged" [n, T, s*s*D], "projector" [n, T, n_embd_out]. out NULL: only *n_floats_out is set.
BLUELM_API bluelm_status bluelm_vision_dump_stage(bluelm_vision* vision, const uint8_t* tiles,
                                                  int32_t n_tiles, const char* stage, float* out,
                                                  size_t out_floats, size_t* n_floats_out);

// --------------------------------------------------------------------------------------------- vision:
// libmtmd

// llama.cpp's own encoders for all projector types that its libmtmd knows (not in standalone builds). A
// picture becomes pieces in order: tokens (begin, end, row and column markers), and views, each a block of
// embeddings. On Linux a child process tries first what libmtmd aborts on: a file when it is loaded, a view
// of a new size before it is encoded.
typedef struct bluelm_mtmd bluelm_mtmd;
typedef struct bluelm_mtmd_picture bluelm_mtmd_picture;

typedef struct bluelm_mtmd_params {
    size_t struct_size;
    int32_t n_threads;                           // 1..512
    int32_t image_min_tokens, image_max_tokens;  // of projectors with views of any size; <= 0: the file's
    int32_t verbose;                             // 1: libmtmd's log goes to stderr
    // Name of the ggml device that computes; "BLUELM": this library's own kernels. NULL: ggml's CPU backend.
    const char* device;
} bluelm_mtmd_params;

typedef struct bluelm_mtmd_info {
    size_t struct_size;
    int32_t n_embd;       // width of the embeddings: the LLM's
    int32_t n_pos;        // positions for each embedding: 4 where the LLM has M-RoPE, else 1
    int32_t non_causal;   // 1: the tokens of a view attend to each other in both directions
    int32_t takes_audio;  // 1: the file also holds an encoder for sound
} bluelm_mtmd_info;

typedef struct bluelm_mtmd_piece {
    size_t struct_size;
    int32_t is_view;   // 0: tokens
    int32_t n_tokens;  // tokens, or rows of embeddings
    int32_t n_pos;     // positions it takes: n_tokens, or fewer with M-RoPE
} bluelm_mtmd_piece;

BLUELM_API bluelm_status bluelm_mtmd_params_default(bluelm_mtmd_params* out);
// The device worth taking on this CPU: "BLUELM", or "" for ggml's CPU backend, also where the environment
// variable BLUELM_MTMD_DEVICE is 0. Static.
BLUELM_API const char* bluelm_mtmd_best_device(void);
// Loads a vision file for a language model, which must outlive the handle. progress may be NULL; its stage is
// ENCODE, its numbers percent.
// Errors: FORMAT (with libmtmd's reason), UNSUPPORTED (no pictures), MISMATCH (another width), CANCELLED.
BLUELM_API bluelm_status bluelm_mtmd_init(const char* path, const struct llama_model* llm,
                                          const bluelm_mtmd_params* params, bluelm_progress progress,
                                          void* user_data, bluelm_mtmd** out);
BLUELM_API void bluelm_mtmd_free(bluelm_mtmd* mtmd);
BLUELM_API bluelm_status bluelm_mtmd_get_info(const bluelm_mtmd* mtmd, bluelm_mtmd_info* out);

// Cuts and scales a picture [height, width, 3] uint8, sides 1..20000. rgb NULL: only its pieces are counted,
// and it cannot be encoded.
BLUELM_API bluelm_status bluelm_mtmd_picture_init(const bluelm_mtmd* mtmd, const uint8_t* rgb, int32_t width,
                                                  int32_t height, bluelm_mtmd_picture** out);
BLUELM_API void bluelm_mtmd_picture_free(bluelm_mtmd_picture* picture);
BLUELM_API bluelm_status bluelm_mtmd_picture_size(const bluelm_mtmd_picture* picture, int32_t* n_pieces_out);
BLUELM_API bluelm_status bluelm_mtmd_picture_get_piece(const bluelm_mtmd_picture* picture, int32_t i,
                                                       bluelm_mtmd_piece* out);
// The tokens of a piece that is no view; -1 where the vocabulary lacks a marker.
BLUELM_API bluelm_status bluelm_mtmd_picture_get_tokens(const bluelm_mtmd_picture* picture, int32_t i,
                                                        int32_t* out, size_t out_size);
// Positions of a view that begins at pos0: out [4, n_tokens], as bluelm_prefill_view takes them (M-RoPE).
BLUELM_API bluelm_status bluelm_mtmd_picture_get_positions(const bluelm_mtmd_picture* picture, int32_t i,
                                                           int32_t pos0, int32_t* out, size_t out_size);

// Encodes view i: out [n_tokens, n_embd]. The callback gets `done` and `total` as they are, between nodes of
// the graph. Errors: FORMAT, CANCELLED; the handle stays usable.
BLUELM_API bluelm_status bluelm_mtmd_encode(bluelm_mtmd* mtmd, const bluelm_mtmd_picture* picture, int32_t i,
                                            int64_t done, int64_t total, bluelm_progress progress,
                                            void* user_data, float* out, size_t out_floats);

// --------------------------------------------------------------------------------------------------- prefill

typedef struct bluelm_prefill_params {
    size_t struct_size;
    int32_t chunk;   // tokens per llama_decode, 1..n_batch of the context (paper section 3.4: 128)
    int32_t seq_id;  // 0
} bluelm_prefill_params;

BLUELM_API bluelm_status bluelm_prefill_params_default(bluelm_prefill_params* out);

// Decodes tokens (or embeddings [n, n_embd]) at positions pos0.. in chunks; logits are kept for the last one
// only, and only where want_logits. *n_done_out (may be NULL) counts what is in the KV cache, also after
// CANCELLED or an error: whole chunks. (A recurrent state cannot go back by a part: clear it then.)
// With a progress callback, the context's abort callback is set during the call, and is NULL after it.
//
// Errors: INVALID_ARGUMENT (chunk, token ids), CONTEXT_FULL (names both numbers; nothing decoded),
// MISMATCH (n_embd), CANCELLED, DECODE.
BLUELM_API bluelm_status bluelm_prefill_tokens(struct llama_context* ctx, const bluelm_prefill_params* params,
                                               const int32_t* tokens, int64_t n, int32_t pos0,
                                               bool want_logits, bluelm_progress progress, void* user_data,
                                               int64_t* n_done_out);
BLUELM_API bluelm_status bluelm_prefill_embd(struct llama_context* ctx, const bluelm_prefill_params* params,
                                             const float* embd, int64_t n, int32_t n_embd, int32_t pos0,
                                             bool want_logits, bluelm_progress progress, void* user_data,
                                             int64_t* n_done_out);

// One view of a picture. positions: NULL (pos0, pos0 + 1, ...) or [4, n] for LLMs with M-RoPE, the first row
// not below pos0. non_causal: its tokens attend to each other in both directions, for which all of them go
// through one llama_decode: n must not exceed the context's n_ubatch and n_batch. With positions or
// non_causal, it is in the KV cache as a whole or not at all.
// Errors: as above; UNSUPPORTED: non_causal and too many tokens for the context.
BLUELM_API bluelm_status bluelm_prefill_view(struct llama_context* ctx, const bluelm_prefill_params* params,
                                             const float* embd, int64_t n, int32_t n_embd, int32_t pos0,
                                             const int32_t* positions, bool non_causal, bool want_logits,
                                             bluelm_progress progress, void* user_data, int64_t* n_done_out);

// ---------------------------------------------------------------------------------------------------- decode

// Decodes one token of an answer at position pos, the next one of its sequence, and keeps its logits.
// Progress (may be NULL) is called with (BLUELM_STAGE_DECODE, 0, 1) every 50 ms or so while the token is
// being computed, never for one that is there sooner; the context's abort callback is set during the call,
// and is NULL after it. After anything but BLUELM_OK the token is not in the KV cache. (A recurrent state
// cannot go back by a token: clear it then.)
//
// Errors: INVALID_ARGUMENT (token, pos, seq_id; nothing decoded), CONTEXT_FULL, CANCELLED, DECODE.
BLUELM_API bluelm_status bluelm_decode(struct llama_context* ctx, int32_t token, int32_t pos, int32_t seq_id,
                                       bluelm_progress progress, void* user_data);

// ------------------------------------------------------------------------------------- language model's file

// Whether llama.cpp can be given this file: reads its head, and those of the other parts of a split model,
// and finds what llama.cpp would end the process over (docs/reliability.md). To be called before llama.cpp
// loads a file that is not one's own. Errors: IO, FORMAT (damaged, truncated, or values that cannot be: all
// in one message), UNSUPPORTED (no language model).
BLUELM_API bluelm_status bluelm_llm_check(const char* path);

// --------------------------------------------------------------------------------------------------- machine

// Physical cores among n_cpus CPUs, by the system's numbers; cpus NULL: among those that this process may run
// on, by its affinity. Hyper-threads of a core count once. At most a container's CPU quota (cgroup v1 and
// v2), at least 1.
BLUELM_API bluelm_status bluelm_machine_cores(const int32_t* cpus, int32_t n_cpus, int32_t* out);
// Bytes that can still be had without swapping, within a container's limit and the process's own (RLIMIT_AS);
// -1 where nobody says.
BLUELM_API bluelm_status bluelm_machine_memory(int64_t* out);
// Gives back the pages of a file's read-only mappings: of an LLM whose matrices have been copied into an
// order of our own (docs/memory.md). What is still used comes back when it is touched. *n_bytes_out (may be
// NULL): how much is mapped so; 0 but on Linux and Android. No other thread may unmap the file meanwhile.
BLUELM_API bluelm_status bluelm_drop_mapped_pages(const char* path, int64_t* n_bytes_out);

// ------------------------------------------------------------------------------- kernels inside llama.cpp

// Puts this library's matmul kernels into llama.cpp's CPU backend and turns them on: models that any user of
// the same llama.cpp loads from now on keep their Q4_0, Q4_K, Q6_K and Q8_0 matrices in an order of our own
// (instead of llama.cpp's repacked one), and compute with them. Matrices of models loaded before stay as they
// are; attention has no weights, and all models compute it with our kernels from their next llama_decode on.
// It also takes ggml's AMX kernels from every user of the same llama.cpp, since they crash with some
// compilers (GCC bug 114098). May be called again, which changes no list. The first call, of this or of the
// other two, changes lists of ggml that its compute threads read: no other thread may load a model or compute
// with ggml meanwhile. Where llama.cpp has loaded a model before, nothing is inserted. (The first call forks
// a child process that tries that out.) The environment variable BLUELM_LLM_KERNELS=0 keeps the kernels off,
// and so does a CPU for which there is nothing faster than llama.cpp's own; BLUELM_CPU_LEVEL chooses them at
// the first call. Errors: UNSUPPORTED where this llama.cpp lets no kernels in, or where it loaded a model
// before; INVALID_ARGUMENT for a BLUELM_CPU_LEVEL this CPU does not have. llama.cpp runs on as it is then.
BLUELM_API bluelm_status bluelm_llm_kernels_register(void);
// Turns them off, or on again: matmuls for models loaded from now on, since one that is loaded keeps its
// matrices in the order they were loaded in and computes with the kernels for it; attention for all models,
// from their next llama_decode on.
BLUELM_API bluelm_status bluelm_llm_kernels_enable(bool is_on);
// "amx", "avx512-vnni", ...; "" where they are off. Static.
BLUELM_API const char* bluelm_llm_kernels_name(void);

#ifdef __cplusplus
}
#endif

#endif  // BLUELM_H
