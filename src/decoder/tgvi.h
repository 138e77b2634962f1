// The decoder's C surface towards Rust. No C++ exception passes it; messages go to `error`, which is always terminated.
#pragma once

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The first three functions make llama.cpp ready: in this order, before anything else and on one thread at a time, again
// from the first if one fails for lack of memory.

// Also turns ggml's failed assertions into errors of the functions below, where they happen on the calling thread. Where they do
// not, ggml ends the process; log_abort gets the reason of each.
bool tgvi_init(void (*log_abort)(const char * message));

// Makes contexts' memory take no pages before they are used.
bool tgvi_context_init(void);

// Computes one node of a graph: above 0 when done, 0 to leave it to ggml, -1 without memory, less when it failed. `computer` is
// what was handed to tgvi_batch_process.
typedef int32_t (*tgvi_compute_op)(void * computer, const struct ggml_tensor * op);

// Sets the function for all passes with a computer, for good.
bool tgvi_compute_init(tgvi_compute_op op);

// ggml's own code for a part of a node whose rows are independent: ADD, MUL, NORM, RMS_NORM, UNARY, ROPE, SOFT_MAX. `memory` is
// shared by all parts; ROPE and SOFT_MAX use a row of the node and a cache line for each. False on failure.
bool tgvi_compute_part(const struct ggml_tensor * op, int32_t part, int32_t parts, void * memory, size_t size);

// Loads any architecture that llama.cpp knows, and phi2 files that carry the three extra norms of TinyGPT-V.
// NULL on failure; *cancelled tells whether params->progress_callback asked for it.
struct llama_model * tgvi_model_load(const char * path, const struct llama_model_params * params, bool extra_norms,
                                     float post_norm_eps, bool * cancelled, char * error, size_t error_size);

// llama_tokenize() without BOS or EOS, special tokens recognised: the number of tokens, or minus the capacity needed.
// INT32_MIN on failure.
int32_t tgvi_tokenize(const struct llama_model * model, const char * text, size_t length, int32_t * tokens,
                      size_t capacity, char * error, size_t error_size);

// A context with a thread pool of its own and one batch.
struct tgvi_context;

// With `old`, which may be in any state, that one is opened anew and returned; where that fails it lives on, good for another
// attempt only.
struct tgvi_context * tgvi_context_new(struct tgvi_context * old, struct llama_model * model,
                                       const struct llama_context_params * params, char * error, size_t error_size);
void tgvi_context_free(struct tgvi_context * context);
struct llama_context * tgvi_context_llama(struct tgvi_context * context);
// About how many nodes of a pass are computed one by one.
uint32_t tgvi_context_nodes(struct tgvi_context * context);

// Forgets a sequence's positions from `from` on: 1 when done, 0 where this kind of memory cannot forget a part, -1 on failure.
int32_t tgvi_memory_remove(struct tgvi_context * context, int32_t sequence, int32_t from);

// Makes a sequence hold what another holds. False on failure.
bool tgvi_memory_copy(struct tgvi_context * context, int32_t from, int32_t to);

// Forgets everything. False on failure.
bool tgvi_memory_clear(struct tgvi_context * context);

// Empties the batch; then entries are added, those of a sequence in order of position.
void tgvi_batch_clear(struct tgvi_context * context);
bool tgvi_batch_add_token(struct tgvi_context * context, int32_t sequence, int32_t token, int32_t position,
                          bool wants_logits);
bool tgvi_batch_add_embedding(struct tgvi_context * context, int32_t sequence, const float * values, size_t width,
                              int32_t position, bool wants_logits);

// llama_process() on the batch, its nodes computed by `computer` if that is not NULL: 0 done, 1 no room in the KV cache, 2 aborted by the abort callback, below 0 failed.
int32_t tgvi_batch_process(struct tgvi_context * context, void * computer, char * error, size_t error_size);

// How tokens are drawn from candidates: penalty, then the largest logit if `greedy`, otherwise temperature, top-k, top-p,
// min-p, chance.
typedef struct tgvi_sampling {
    bool     greedy;
    float    penalty;
    int32_t  penalty_window;
    float    temperature;
    int32_t  top_k;
    float    top_p;
    float    min_p;
    uint32_t seed;
} tgvi_sampling;

// NULL on failure.
struct llama_sampler * tgvi_sampler_new(const tgvi_sampling * with, int32_t vocabulary, char * error, size_t error_size);
void tgvi_sampler_free(struct llama_sampler * sampler);

// The chosen candidate's token; negative on failure. The candidates are changed.
int32_t tgvi_sampler_choose(struct llama_sampler * sampler, llama_token_data * candidates, size_t count, char * error,
                            size_t error_size);

// Remembers a token for the penalty.
bool tgvi_sampler_accept(struct llama_sampler * sampler, int32_t token, char * error, size_t error_size);

// What a grammar allows next: GBNF parsed by llama.cpp, and the state after the tokens accepted so far.
struct tgvi_grammar;

// Starts at rule `root`. NULL on failure.
struct tgvi_grammar * tgvi_grammar_new(const struct llama_model * model, const char * text, const char * root,
                                       char * error, size_t error_size);
void tgvi_grammar_free(struct tgvi_grammar * grammar);

// Sets the logit of every candidate that the grammar does not allow next to minus infinity.
bool tgvi_grammar_filter(const struct tgvi_grammar * grammar, llama_token_data * candidates, size_t count, char * error,
                         size_t error_size);

// Moves on by an allowed token that does not end the generation.
bool tgvi_grammar_accept(struct tgvi_grammar * grammar, int32_t token, char * error, size_t error_size);

// Whether what was accepted is a whole text of the grammar.
bool tgvi_grammar_complete(const struct tgvi_grammar * grammar);

#ifdef __cplusplus
}
#endif
