/* tinygptv: questions about pictures, answered on the user's own device.
 *
 * Generated from src/ffi; change it there and run `make header`.
 *
 * Rules of every function:
 * - What can fail returns a tgv_status. On failure all out parameters are untouched and tgv_last_error() tells what to do.
 * - Handles are opaque. `T **out` gives you a handle to free with its _free function; `const T *` and `const char *` results
 *   are borrowed. Handles may be freed in any order: what a session or an embedding needs of its model stays alive.
 * - Structs start with their size: initialise them with their _INIT macro. Zero means default in every option.
 * - Functions that take a handle as const may be called from several threads at once.
 * - Callbacks run on the thread of the call they were passed to and never after it has returned. They must not throw or
 *   longjmp.
 * - Nothing is printed, and nothing ends the process: see tgv_set_log_callback.
 * - Every function that computes may return TGV_ERROR_OUT_OF_MEMORY. Nothing is lost then: call it again when there is memory.
 * - Several users in one process, who know nothing of each other, are fine: the only thing they share is the log, see
 *   tgv_add_log_callback.
 */

#ifndef TINYGPTV_H
#define TINYGPTV_H

#include <stddef.h>
#include <stdint.h>

/* Version of this header; tgv_version() tells the library's. */
#define TGV_VERSION "0.1.0"
#define TGV_VERSION_MAJOR 0
#define TGV_VERSION_MINOR 1
#define TGV_VERSION_PATCH 0


/**
 * Version of the ABI that this header describes. The library keeps it as long as programs built against this header run
 * with it unchanged.
 */
#define TGV_ABI_VERSION 1

/**
 * Log level: details for a developer of this library.
 */
#define TGV_LOG_DEBUG 1

/**
 * Log level: progress and figures.
 */
#define TGV_LOG_INFO 2

/**
 * Log level: something to look at that does not fail the call.
 */
#define TGV_LOG_WARNING 3

/**
 * Log level: the reason of a failure.
 */
#define TGV_LOG_ERROR 4

/**
 * Weights stay as they are in the files. Of mapped files they are ready at once, and the system can drop and share their
 * pages.
 */
#define TGV_PROFILE_MAPPED 0

/**
 * Decoder weights are copied into another layout where this processor computes faster with it: a longer load, and private
 * memory of the decoder file's size. Where the library's own loops are faster on the file's layout (on x86 with Q4_K, Q5_K,
 * Q6_K and floating-point weights) this is the same as TGV_PROFILE_MAPPED.
 */
#define TGV_PROFILE_FAST 1

/**
 * Images are encoded as exactly as the weights deserve: with 8-bit weights, activations are rounded to 8 bits too, or, on
 * processors with AMX, to bfloat16, and so with BF16 weights there. That is several times faster.
 */
#define TGV_PRECISION_AUTO 0

/**
 * Images are encoded in single precision whatever the weights are.
 */
#define TGV_PRECISION_EXACT 1

/**
 * The files are memory-mapped. They must not be written to or truncated while the model or a session of it lives: the process
 * would be killed by a bus error, or compute with other weights. Renaming another file over one, or deleting it, is fine.
 */
#define TGV_FILES_MAPPED 0

/**
 * The files are read into private memory of their size, so that anything may happen to them once the model is loaded.
 */
#define TGV_FILES_COPIED 1

/**
 * Pixel layout: red, green, blue; one byte each.
 */
#define TGV_PIXELS_RGB 1

/**
 * Pixel layout: red, green, blue, alpha. Alpha is dropped, as the reference does.
 */
#define TGV_PIXELS_RGBA 2

/**
 * Pixel layout: blue, green, red.
 */
#define TGV_PIXELS_BGR 3

/**
 * Pixel layout: blue, green, red, alpha.
 */
#define TGV_PIXELS_BGRA 4

/**
 * Pixel layout: one byte of gray.
 */
#define TGV_PIXELS_GRAY 5

/**
 * Sampling mode: always the most likely token, so that the same question gets the same answer.
 */
#define TGV_SAMPLING_GREEDY 0

/**
 * Sampling mode: at random, by the other fields of tgv_sampling_params.
 */
#define TGV_SAMPLING_RANDOM 1

/**
 * A question that does not fit into the context fails with TGV_ERROR_CONTEXT_FULL.
 */
#define TGV_WHEN_FULL_FAIL 0

/**
 * The oldest questions and answers are forgotten until the next question and an answer fit (one of max_new_tokens, or of a
 * quarter of the context where that is less). Their images stay; only when the question does not fit otherwise the oldest
 * images go too, but never the newest one.
 */
#define TGV_WHEN_FULL_DROP_OLDEST 1

/**
 * A KV cache in half precision: the fastest, and right for use.
 */
#define TGV_KV_F16 0

/**
 * A KV cache in single precision, twice as large, with attention computed in single precision: for comparisons.
 */
#define TGV_KV_F32 1

/**
 * Encoding an image.
 */
#define TGV_PHASE_ENCODE 0

/**
 * Evaluating a prompt.
 */
#define TGV_PHASE_PREFILL 1

/**
 * Generating an answer. Its fraction is that of max_new_tokens: an answer mostly ends before.
 */
#define TGV_PHASE_DECODE 2

/**
 * The answer has not been asked for yet.
 */
#define TGV_FINISH_NONE 0

/**
 * The model was done.
 */
#define TGV_FINISH_STOP 1

/**
 * The answer reached max_new_tokens.
 */
#define TGV_FINISH_LENGTH 2

/**
 * The context was full.
 */
#define TGV_FINISH_CONTEXT 3

/**
 * The text callback asked to stop.
 */
#define TGV_FINISH_CALLBACK 4

/**
 * The boxes of an answer, found while it streams. Any thread may use it; calls take turns.
 */
typedef struct tgv_boxes tgv_boxes;

/**
 * An encoded image, ready for any session of the model that encoded it. Immutable: any number of threads may use it.
 */
typedef struct tgv_embedding tgv_embedding;

/**
 * A picture's pixels. Immutable: any number of threads may use it at once.
 */
typedef struct tgv_image tgv_image;

/**
 * A loaded model. Immutable: any number of threads and sessions may use it at once.
 */
typedef struct tgv_model tgv_model;

/**
 * A conversation with a model. Used by one thread at a time; a call that comes while another is running, or from inside a
 * callback of it, returns TGV_ERROR_BUSY. Only tgv_session_cancel may be called at any moment.
 */
typedef struct tgv_session tgv_session;

/**
 * Result of every function that can fail: TGV_OK or one of TGV_ERROR_.... Codes are never renumbered or reused.
 */
typedef int32_t tgv_status;

/**
 * Gets one message: its level (TGV_LOG_...), its text as UTF-8 without a line end, valid during the call, and the pointer
 * that was passed with the callback. May be called from any thread that uses the library, and from several at once.
 */
typedef void (*tgv_log_callback)(int32_t level, const char *text, void *user_data);

/**
 * `int32_t (*)(float fraction, void *user_data)`: called with the fraction done, from 0 to 1, on the thread of the call
 * that it was passed to and never after that call has returned. Return 0 to go on, anything else to stop; the call then
 * returns TGV_ERROR_CANCELLED.
 */
typedef int32_t (*tgv_progress_callback)(float fraction, void *user_data);

/**
 * How to load a model. Initialise with TGV_MODEL_PARAMS_INIT; zero means default in every field.
 */
typedef struct tgv_model_params {
  /**
   * sizeof(tgv_model_params), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * Threads for image encoding and decoding; 0 takes one for each processor, of fast and slow ones the fast.
   */
  int32_t threads;
  /**
   * Decoder layers to put on a GPU, in builds with a GPU feature.
   */
  int32_t gpu_layers;
  /**
   * Gets the fraction loaded and may ask to stop; may be NULL.
   */
  tgv_progress_callback on_progress;
  /**
   * Passed to on_progress.
   */
  void *user_data;
  /**
   * Megabytes of embeddings to keep, so that a picture that comes again is not encoded again; 0 is 32, -1 keeps none.
   */
  int32_t embedding_cache_mb;
  /**
   * What loading prefers: TGV_PROFILE_....
   */
  int32_t profile;
  /**
   * Processors that the library's own threads are bound to, the lowest bit for processor 0; 0 is all. The calling thread
   * works too and is left alone. Linux and Android only.
   */
  uint64_t processor_mask;
  /**
   * Private bytes that the model and its sessions may take together: what would take more is refused before it is
   * allocated, with the plan in the message. 0 is no limit. See tgv_model_plan.
   */
  uint64_t memory_limit;
  /**
   * How exactly images are encoded: TGV_PRECISION_....
   */
  int32_t precision;
  /**
   * How the files' weights are held: TGV_FILES_....
   */
  int32_t files;
} tgv_model_params;

/**
 * Figures of a model. Initialise with TGV_MODEL_INFO_INIT.
 */
typedef struct tgv_model_info {
  /**
   * sizeof(tgv_model_info), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * Floats of one embedding vector: the decoder's width.
   */
  uint32_t embedding_width;
  /**
   * Vectors an image takes, each one position of the context; 0 for a model without a vision file.
   */
  uint32_t image_tokens;
  /**
   * Side in pixels that images are resized to; 0 for a model without a vision file.
   */
  uint32_t image_size;
  /**
   * Positions the decoder was trained for: the largest context of a session.
   */
  uint32_t context_length;
  /**
   * Tokens of the vocabulary.
   */
  uint32_t vocabulary;
  /**
   * Training stage 1 to 4; 0 when the files do not tell.
   */
  uint32_t stage;
  /**
   * Threads for image encoding.
   */
  uint32_t threads;
  /**
   * Always 0.
   */
  uint32_t reserved;
  /**
   * Weights of the decoder, in numbers.
   */
  uint64_t decoder_parameters;
  /**
   * Size of the decoder file in bytes.
   */
  uint64_t decoder_bytes;
  /**
   * Size of the vision file in bytes; 0 without one.
   */
  uint64_t vision_bytes;
} tgv_model_info;

/**
 * How to encode an image. Initialise with TGV_ENCODE_PARAMS_INIT.
 */
typedef struct tgv_encode_params {
  /**
   * sizeof(tgv_encode_params), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * Gets the fraction done and may ask to stop; may be NULL.
   */
  tgv_progress_callback on_progress;
  /**
   * Passed to on_progress.
   */
  void *user_data;
} tgv_encode_params;

/**
 * How tokens are chosen. Initialise with TGV_SAMPLING_PARAMS_INIT; all-zero is greedy. With TGV_SAMPLING_RANDOM, zero
 * takes the model's own value.
 */
typedef struct tgv_sampling_params {
  /**
   * sizeof(tgv_sampling_params), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * TGV_SAMPLING_GREEDY or TGV_SAMPLING_RANDOM.
   */
  int32_t mode;
  /**
   * Divides the logits: below 1 is more careful, above 1 more varied.
   */
  float temperature;
  /**
   * Keep the k most likely tokens; negative keeps all.
   */
  int32_t top_k;
  /**
   * Keep the most likely tokens that together reach this probability, above 0 and up to 1.
   */
  float top_p;
  /**
   * Keep tokens at least this likely relative to the most likely one, 0 to 1; 0 keeps all.
   */
  float min_p;
  /**
   * Above 1 weakens tokens that the answer already has. Zero is 1 (off) in greedy mode.
   */
  float repeat_penalty;
  /**
   * The same seed gives the same answer; 0 takes another one for each call that sets the sampling.
   */
  uint32_t seed;
  /**
   * Always 0.
   */
  uint32_t reserved;
} tgv_sampling_params;

/**
 * Gets what a session is doing (TGV_PHASE_...), the fraction of it that is done, and the milliseconds that are left at the
 * pace so far, -1 as long as it is too early to tell. Called on the thread of the call on the session and never after it
 * has returned. Return 0 to go on, anything else to stop; the call then returns TGV_ERROR_CANCELLED.
 */
typedef int32_t (*tgv_phase_callback)(int32_t phase, float fraction, float remaining_ms, void *user_data);

/**
 * How a session works. Initialise with TGV_SESSION_PARAMS_INIT; zero means default in every field.
 */
typedef struct tgv_session_params {
  /**
   * sizeof(tgv_session_params), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * Positions of the context; 0 takes what the model was trained for, 4096 at most.
   */
  int32_t context;
  /**
   * Threads of the decoder, no more than processors are used; 0 takes the model's, or 1 for a very small decoder.
   */
  int32_t threads;
  /**
   * Most tokens of an answer; 0 takes 300.
   */
  int32_t max_new_tokens;
  /**
   * What to do when the context is full: TGV_WHEN_FULL_....
   */
  int32_t when_full;
  /**
   * Prompt template by name, see tgv_model_template_name; NULL takes the model's default.
   */
  const char *template_name;
  /**
   * System text in front of the first turn; NULL takes the template's own, "" none.
   */
  const char *system_text;
  /**
   * Texts that end an answer, besides the model's own; may be NULL.
   */
  const char *const *stop_texts;
  /**
   * How many stop_texts there are.
   */
  size_t stop_text_count;
  /**
   * How tokens are chosen; NULL is greedy.
   */
  const struct tgv_sampling_params *sampling;
  /**
   * Gets the fraction done while tgv_session_add_image encodes, and may ask to stop; may be NULL.
   */
  tgv_progress_callback on_progress;
  /**
   * Passed to on_progress.
   */
  void *user_data;
  /**
   * A template of your own in place of a named one: one turn, with {images} where images go and {question}, each once.
   * May be NULL.
   */
  const char *template_text;
  /**
   * With template_text: how one image is written, with {image} where its embedding goes; NULL takes that of the named
   * template.
   */
  const char *image_text;
  /**
   * Numbers of the KV cache: TGV_KV_....
   */
  int32_t kv_type;
  /**
   * Always 0.
   */
  int32_t reserved;
  /**
   * Hears of every phase of every call on the session, and may ask to stop; gets user_data. May be NULL.
   */
  tgv_phase_callback on_phase;
} tgv_session_params;

/**
 * Gets the next piece of an answer: whole UTF-8 characters, terminated, valid during the call, and their length in bytes.
 * Called on the thread of tgv_session_ask and never after it has returned. Return 0 to go on, anything else to end the
 * answer here.
 */
typedef int32_t (*tgv_text_callback)(const char *text, size_t length, void *user_data);

/**
 * Figures of a session's last answer. Initialise with TGV_STATISTICS_INIT.
 */
typedef struct tgv_statistics {
  /**
   * sizeof(tgv_statistics), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * Milliseconds of encoding the images added for the answer.
   */
  double encode_ms;
  /**
   * Milliseconds of evaluating the prompt.
   */
  double prefill_ms;
  /**
   * Milliseconds of generating the answer.
   */
  double decode_ms;
  /**
   * Positions of the prompt, images and earlier turns included.
   */
  uint32_t prompt_tokens;
  /**
   * Of these, positions of the images added for the answer.
   */
  uint32_t image_tokens;
  /**
   * Of the prompt's positions, those that the KV cache already held.
   */
  uint32_t reused_tokens;
  /**
   * Tokens generated, the ending one included.
   */
  uint32_t generated_tokens;
  /**
   * Positions that the conversation takes now.
   */
  uint32_t context_used;
  /**
   * Positions that the context can hold.
   */
  uint32_t context_size;
  /**
   * Why the answer ended: TGV_FINISH_....
   */
  int32_t finish;
  /**
   * Earlier questions with their answers that were forgotten to make room, see TGV_WHEN_FULL_DROP_OLDEST.
   */
  uint32_t dropped_turns;
  /**
   * Images that were forgotten with them.
   */
  uint32_t dropped_images;
  /**
   * Always 0.
   */
  int32_t reserved;
} tgv_statistics;

/**
 * How candidates are ranked. Initialise with TGV_RANK_PARAMS_INIT; all-zero is what the paper's ranking script does.
 */
typedef struct tgv_rank_params {
  /**
   * sizeof(tgv_rank_params), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * Text that ends each candidate and counts like a part of it; NULL is a newline, "" none.
   */
  const char *end_text;
  /**
   * 1 leaves out the BOS token in front of the prompt, with which models are trained.
   */
  int32_t no_bos;
  /**
   * Always 0.
   */
  int32_t reserved;
} tgv_rank_params;

/**
 * Gets a complete answer of tgv_session_ask_each: the index of its question, the answer (terminated, valid during the
 * call), its length in bytes, and why it ended (TGV_FINISH_...). Called on the thread of tgv_session_ask_each and never
 * after it has returned. Return 0 to go on, anything else to leave the other questions unanswered.
 */
typedef int32_t (*tgv_answer_callback)(size_t index, const char *answer, size_t length, int32_t finish, void *user_data);

/**
 * How much memory a model and its sessions take, in bytes. Initialise with TGV_MEMORY_PLAN_INIT.
 */
typedef struct tgv_memory_plan {
  /**
   * sizeof(tgv_memory_plan), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * Pages of the two files, which the system may drop at any time and shares between processes.
   */
  uint64_t mapped_bytes;
  /**
   * Private: a loaded model.
   */
  uint64_t model_bytes;
  /**
   * Private: the embedding cache when it is full.
   */
  uint64_t cache_bytes;
  /**
   * Private: encoding an image, while it lasts.
   */
  uint64_t encode_bytes;
  /**
   * Private: one session with the given context. Most of it is the KV cache, which on Linux and Android takes memory only
   * as it is filled.
   */
  uint64_t session_bytes;
  /**
   * Private: all of that, with one session. This is what memory_limit is compared with.
   */
  uint64_t private_bytes;
} tgv_memory_plan;

/**
 * One box, in pixels of the picture. Initialise with TGV_BOX_INIT.
 */
typedef struct tgv_box {
  /**
   * sizeof(tgv_box), set by the INIT macro.
   */
  size_t struct_size;
  /**
   * The phrase that the box belongs to, UTF-8, "" for none. Belongs to the list of boxes.
   */
  const char *label;
  /**
   * Left edge.
   */
  float x0;
  /**
   * Upper edge.
   */
  float y0;
  /**
   * Right edge, not left of x0.
   */
  float x1;
  /**
   * Lower edge, not above y0.
   */
  float y1;
} tgv_box;

/**
 * Success.
 */
#define TGV_OK 0

/**
 * An argument is NULL or outside what the function documents.
 */
#define TGV_ERROR_INVALID_ARGUMENT 7001

/**
 * A text is not UTF-8.
 */
#define TGV_ERROR_INVALID_UTF8 7002

/**
 * A file does not exist.
 */
#define TGV_ERROR_FILE_NOT_FOUND 7003

/**
 * The operating system refused to open, read, map or write a file.
 */
#define TGV_ERROR_IO 7004

/**
 * A model file is truncated, damaged or of another format.
 */
#define TGV_ERROR_BAD_MODEL_FILE 7005

/**
 * A sound model file that this library cannot run.
 */
#define TGV_ERROR_UNSUPPORTED_MODEL 7006

/**
 * Decoder and vision file are swapped or do not belong together.
 */
#define TGV_ERROR_MODEL_MISMATCH 7007

/**
 * Picture data that cannot be decoded or make no picture.
 */
#define TGV_ERROR_BAD_IMAGE 7008

/**
 * A picture over the limits on sides, pixels or memory.
 */
#define TGV_ERROR_IMAGE_TOO_LARGE 7009

/**
 * The conversation does not fit the session's context.
 */
#define TGV_ERROR_CONTEXT_FULL 7010

/**
 * The call was cancelled by tgv_session_cancel or by a progress callback.
 */
#define TGV_ERROR_CANCELLED 7011

/**
 * Memory could not be had.
 */
#define TGV_ERROR_OUT_OF_MEMORY 7012

/**
 * The processor lacks instructions that this build needs.
 */
#define TGV_ERROR_UNSUPPORTED_CPU 7013

/**
 * The handle is in use by another call.
 */
#define TGV_ERROR_BUSY 7014

/**
 * llama.cpp failed unexpectedly.
 */
#define TGV_ERROR_DECODER 7015

/**
 * A defect of this library.
 */
#define TGV_ERROR_INTERNAL 7016

/**
 * A saved embedding is damaged or something else.
 */
#define TGV_ERROR_BAD_EMBEDDING_FILE 7017

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The library's version, such as "1.2.3". Compare with TGV_VERSION of the header. Static, never NULL.
 *
 * Thread-safety: any thread.
 */
const char *tgv_version(void);

/**
 * The ABI version the library was built with. It must equal TGV_ABI_VERSION of the header.
 *
 * Thread-safety: any thread.
 */
uint32_t tgv_abi_version(void);

/**
 * What went wrong in the last call that failed on this thread, and what to do, as UTF-8. Never NULL; empty if none has
 * failed yet. The text belongs to the library and stays valid until the next failing call on this thread.
 *
 * Thread-safety: each thread has its own.
 */
const char *tgv_last_error(void);

/**
 * The name of a status code, such as "TGV_ERROR_IO"; "unknown status" for other numbers. Static, never NULL.
 *
 * Thread-safety: any thread.
 */
const char *tgv_status_name(tgv_status status);

/**
 * Sends all messages of the library, llama.cpp's included, to `callback`, or nowhere when it is NULL (the default). The
 * library itself never writes to stdout or stderr. When this returns, the callback set before is not running and will not
 * be called again.
 *
 * This is the program's own callback, one for the whole process. A library or a plugin that lives in a program with others
 * takes tgv_add_log_callback instead.
 *
 * Errors: TGV_ERROR_BUSY when called from inside a log callback.
 *
 * Thread-safety: any thread, but without a lock that the callback takes.
 */
tgv_status tgv_set_log_callback(tgv_log_callback callback,
                                void *user_data);

/**
 * Sends all messages to one more callback, beside that of tgv_set_log_callback and any others. Each gets the messages of
 * all models in the process: llama.cpp does not tell which one they are about.
 *
 * @param out_id  a number to remove it by, never 0 and never given again; untouched on failure
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT for NULL; TGV_ERROR_BUSY when called from inside a log callback.
 *
 * Thread-safety: any thread, but without a lock that a log callback takes.
 */
tgv_status tgv_add_log_callback(tgv_log_callback callback,
                                void *user_data,
                                uint64_t *out_id);

/**
 * Removes a callback that tgv_add_log_callback added. When this returns, it is not running and will not be called again.
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT for a number that no callback has; TGV_ERROR_BUSY when called from inside a log
 * callback.
 *
 * Thread-safety: any thread, but without a lock that the callback takes.
 */
tgv_status tgv_remove_log_callback(uint64_t id);

/**
 * Loads a model from its two GGUF files. Both are checked completely before they are used. Unless tgv_model_params.files is
 * TGV_FILES_COPIED they are then memory-mapped, and must not be changed while the model or a session of it lives.
 *
 * @param decoder_path  the decoder file, UTF-8
 * @param vision_path   the vision file, UTF-8; NULL loads a decoder that answers about text only
 * @param params        NULL for defaults
 * @param out_model     the new model, to be freed with tgv_model_free; untouched on failure
 *
 * Errors: TGV_ERROR_FILE_NOT_FOUND, _IO, _BAD_MODEL_FILE, _UNSUPPORTED_MODEL, _MODEL_MISMATCH, _CANCELLED,
 * _UNSUPPORTED_CPU, _OUT_OF_MEMORY, _INVALID_ARGUMENT, _INVALID_UTF8.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_model_load(const char *decoder_path,
                          const char *vision_path,
                          const struct tgv_model_params *params,
                          struct tgv_model **out_model);

/**
 * Frees a model; NULL does nothing. Sessions and embeddings made with it stay usable and keep what they need of it.
 *
 * Thread-safety: any thread, once.
 */
void tgv_model_free(struct tgv_model *model);

/**
 * Tells a model's figures.
 *
 * @param out_info  initialised with TGV_MODEL_INFO_INIT; untouched on failure
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_model_get_info(const struct tgv_model *model, struct tgv_model_info *out_info);

/**
 * One line about the model for a person, UTF-8: name, architecture, sizes. Belongs to the model. Empty for NULL.
 *
 * Thread-safety: any thread.
 */
const char *tgv_model_description(const struct tgv_model *model);

/**
 * How many prompt templates the model has; 0 for NULL.
 *
 * Thread-safety: any thread.
 */
size_t tgv_model_template_count(const struct tgv_model *model);

/**
 * The name of a prompt template, for tgv_session_params.template_name. Belongs to the model. Empty for NULL and for an
 * index that is not below tgv_model_template_count.
 *
 * Thread-safety: any thread.
 */
const char *tgv_model_template_name(const struct tgv_model *model, size_t index);

/**
 * Tells how many tokens a text is, that is, how many positions of the context it takes.
 *
 * @param text       UTF-8
 * @param out_count  untouched on failure
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_model_count_tokens(const struct tgv_model *model, const char *text, size_t *out_count);

/**
 * Tells how many embeddings the model's cache holds and how much memory they take. Either pointer may be NULL.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_model_get_cache_size(const struct tgv_model *model, size_t *out_count, size_t *out_bytes);

/**
 * Reads a picture file: PNG, JPEG, WebP, GIF (first frame), BMP, TIFF or PNM, recognised by content.
 *
 * @param path       UTF-8
 * @param out_image  the new image, to be freed with tgv_image_free; untouched on failure
 *
 * Errors: TGV_ERROR_FILE_NOT_FOUND, _IO, _BAD_IMAGE (also for formats left out of the build), _IMAGE_TOO_LARGE,
 * _INVALID_ARGUMENT, _INVALID_UTF8.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_image_from_file(const char *path, struct tgv_image **out_image);

/**
 * Decodes a picture file that is in memory; see tgv_image_from_file. The data are not needed afterwards.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_image_from_memory(const void *data, size_t size, struct tgv_image **out_image);

/**
 * Takes pixels from memory. They are copied.
 *
 * @param pixels  the first row first
 * @param size    bytes at `pixels`: at least (height - 1) * stride + width * bytes a pixel
 * @param stride  bytes from one row to the next; 0 for rows without a gap
 * @param format  TGV_PIXELS_...
 *
 * Errors: TGV_ERROR_BAD_IMAGE for zero sides, _IMAGE_TOO_LARGE, _INVALID_ARGUMENT when size, stride or format do not fit.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_image_from_pixels(const void *pixels,
                                 size_t size,
                                 uint32_t width,
                                 uint32_t height,
                                 size_t stride,
                                 int32_t format,
                                 struct tgv_image **out_image);

/**
 * Tells an image's sides in pixels. Either pointer may be NULL.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_image_get_size(const struct tgv_image *image, uint32_t *out_width, uint32_t *out_height);

/**
 * Frees an image; NULL does nothing.
 *
 * Thread-safety: any thread, once.
 */
void tgv_image_free(struct tgv_image *image);

/**
 * Encodes an image: the expensive half of a question. Keep the result to ask about the same image again. The model keeps
 * the last embeddings too (embedding_cache_mb): a picture that it has encoded lately is not encoded again.
 *
 * @param params         NULL for defaults
 * @param out_embedding  the new embedding, to be freed with tgv_embedding_free; untouched on failure
 *
 * Errors: TGV_ERROR_CANCELLED, _OUT_OF_MEMORY, _INVALID_ARGUMENT (also for a model without a vision file).
 *
 * Thread-safety: any thread; several may encode with one model at once.
 */
tgv_status tgv_embedding_encode(const struct tgv_model *model,
                                const struct tgv_image *image,
                                const struct tgv_encode_params *params,
                                struct tgv_embedding **out_embedding);

/**
 * Encodes several images one after the other: all or none.
 *
 * @param images          `count` images
 * @param params          NULL for defaults; the progress is that of all images together
 * @param out_embeddings  room for `count` embeddings, each to be freed with tgv_embedding_free; untouched on failure
 *
 * Errors: TGV_ERROR_CANCELLED, _OUT_OF_MEMORY, _INVALID_ARGUMENT (also for a model without a vision file).
 *
 * Thread-safety: any thread; several may encode with one model at once.
 */
tgv_status tgv_embedding_encode_each(const struct tgv_model *model,
                                     const struct tgv_image *const *images,
                                     size_t count,
                                     const struct tgv_encode_params *params,
                                     struct tgv_embedding **out_embeddings);

/**
 * Makes an embedding from floats that tgv_embedding_copy gave, perhaps in an earlier run of the program.
 *
 * @param values  row-major vectors of the model's embedding_width
 * @param count   number of floats
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT when count is no multiple of the width or a value is not finite.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_embedding_from_values(const struct tgv_model *model,
                                     const float *values,
                                     size_t count,
                                     struct tgv_embedding **out_embedding);

/**
 * Tells the shape of an embedding: `rows` vectors of `width` floats. Either pointer may be NULL.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_embedding_get_size(const struct tgv_embedding *embedding, size_t *out_rows, size_t *out_width);

/**
 * Copies an embedding's floats out, row-major.
 *
 * @param values  room for `count` floats; untouched on failure
 * @param count   must be rows * width
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_embedding_copy(const struct tgv_embedding *embedding, float *values, size_t count);

/**
 * Saves an embedding, for tgv_embedding_load in another run of the program. The file appears when it is complete.
 *
 * @param model  the one that encoded it
 * @param path   UTF-8; an existing file is replaced
 *
 * Errors: TGV_ERROR_IO, _INVALID_ARGUMENT, _INVALID_UTF8.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_embedding_save(const struct tgv_model *model, const struct tgv_embedding *embedding, const char *path);

/**
 * Loads an embedding that tgv_embedding_save wrote with the same vision file.
 *
 * @param path           UTF-8
 * @param out_embedding  the embedding, to be freed with tgv_embedding_free; untouched on failure
 *
 * Errors: TGV_ERROR_FILE_NOT_FOUND, _IO, _BAD_EMBEDDING_FILE, _MODEL_MISMATCH for one of another vision file,
 * _INVALID_ARGUMENT, _INVALID_UTF8.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_embedding_load(const struct tgv_model *model, const char *path, struct tgv_embedding **out_embedding);

/**
 * Frees an embedding; NULL does nothing. Sessions it was added to keep what they need.
 *
 * Thread-safety: any thread, once.
 */
void tgv_embedding_free(struct tgv_embedding *embedding);

/**
 * Starts a conversation. Everything that params points to is copied, but on_progress, on_phase and user_data.
 *
 * @param params       NULL for defaults
 * @param out_session  the new session, to be freed with tgv_session_free; untouched on failure
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _OUT_OF_MEMORY.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_session_create(const struct tgv_model *model,
                              const struct tgv_session_params *params,
                              struct tgv_session **out_session);

/**
 * Frees a session; NULL does nothing. The model it was created with may have been freed before. A call that is running on
 * the session, of which this may be a callback, comes to its end first.
 *
 * Thread-safety: any thread, once.
 */
void tgv_session_free(struct tgv_session *session);

/**
 * Encodes an image and puts it in front of the next question. Several images before one question are allowed.
 *
 * Errors: TGV_ERROR_CANCELLED, _BUSY, _OUT_OF_MEMORY, _INVALID_ARGUMENT. On failure the session is as it was.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_add_image(struct tgv_session *session, const struct tgv_image *image);

/**
 * Puts an image that was encoded before in front of the next question. The embedding may be freed afterwards.
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT for an embedding of another model's width, _BUSY.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_add_embedding(struct tgv_session *session, const struct tgv_embedding *embedding);

/**
 * Asks a question about the images added since the last one, or goes on with the conversation.
 *
 * @param question    UTF-8, not empty
 * @param on_text     gets the answer piece by piece; may be NULL
 * @param user_data   passed to on_text
 * @param out_answer  the whole answer, which belongs to the session and stays valid until the next tgv_session_ask on it
 *                    or its end; may be NULL; untouched on failure
 *
 * An answer that the model, max_new_tokens, a full context or the callback ended is a success; tgv_session_statistics
 * tells which it was. After a failure the conversation is as it was before the call.
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _CONTEXT_FULL, _CANCELLED, _BUSY, _DECODER.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_ask(struct tgv_session *session,
                           const char *question,
                           tgv_text_callback on_text,
                           void *user_data,
                           const char **out_answer);

/**
 * Forgets the conversation and the images waiting. The next conversation does not evaluate again what it has in common
 * with the beginning of the last one, such as the same embedding.
 *
 * Errors: TGV_ERROR_BUSY.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_reset(struct tgv_session *session);

/**
 * Changes how tokens are chosen from the next question on.
 *
 * @param params  NULL for greedy
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT, _BUSY.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_set_sampling(struct tgv_session *session, const struct tgv_sampling_params *params);

/**
 * Makes the call that is running on the session (tgv_session_add_image, _ask, _ask_each or _rank) return
 * TGV_ERROR_CANCELLED soon. Without such a call, and for NULL, it has no effect.
 *
 * Thread-safety: any thread, at any moment of the session's life, also from callbacks.
 */
void tgv_session_cancel(struct tgv_session *session);

/**
 * Tells the figures of the last answer.
 *
 * @param out_statistics  initialised with TGV_STATISTICS_INIT; untouched on failure
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT, _BUSY.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_statistics(const struct tgv_session *session, struct tgv_statistics *out_statistics);

/**
 * Makes every answer from the next question on follow a grammar in GBNF, the notation of llama.cpp: its rule "root" is the
 * answer. For example: root ::= "{" "\"count\": " [0-9]+ "}". An answer may still end early, at max_new_tokens or with the
 * context; tgv_session_statistics tells.
 *
 * @param grammar  copied; NULL lets answers be free again
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT, with the place, for a text that is no grammar; the session then keeps the constraint
 * it had. _INVALID_UTF8, _BUSY.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_set_grammar(struct tgv_session *session,
                                   const char *grammar);

/**
 * Makes every answer from the next question on one of the given texts. White space at their ends does not count.
 *
 * @param answers  `count` texts, copied; with a count of 0 answers are free again
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT for an empty text, one that contains a stop text, or more than 4096; the session then
 * keeps the constraint it had. _INVALID_UTF8, _BUSY.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_set_answers(struct tgv_session *session,
                                   const char *const *answers,
                                   size_t count);

/**
 * Tells how likely the model finds each of several answers to a question about the images added and the conversation so
 * far. Both stay as they are: the next question gets the same images. The prompt is evaluated once and the candidates side
 * by side. The paper ranks with the prompt template "rank".
 *
 * @param candidates  `count` texts
 * @param params      NULL for defaults
 * @param out_losses  `count` floats: the mean loss of each candidate's tokens, in nats; the lowest is the model's choice.
 *                    Untouched on failure
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _CONTEXT_FULL, _CANCELLED, _BUSY, _DECODER.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_rank(struct tgv_session *session,
                            const char *question,
                            const char *const *candidates,
                            size_t count,
                            const struct tgv_rank_params *params,
                            float *out_losses);

/**
 * Answers several questions, each as if it alone were asked next, about the images added and the conversation so far, which
 * both stay as they are. What the questions have in common, the images above all, is evaluated once, and several answers
 * are generated side by side, which is much faster than one after the other. Answers come in the order in which they are
 * complete. When the callback ends it early, that is a success.
 *
 * @param questions  `count` texts
 * @param on_answer  gets each answer
 * @param user_data  passed to on_answer
 *
 * tgv_session_statistics then tells the sums over all questions.
 *
 * Errors: TGV_ERROR_INVALID_ARGUMENT, _INVALID_UTF8, _CONTEXT_FULL when one question alone does not fit, _CANCELLED, _BUSY,
 * _DECODER. Answers delivered before a failure are good.
 *
 * Thread-safety: one thread at a time.
 */
tgv_status tgv_session_ask_each(struct tgv_session *session,
                                const char *const *questions,
                                size_t count,
                                tgv_answer_callback on_answer,
                                void *user_data);

/**
 * Tells how much memory a model and a session would take, from the files' headers: nothing is loaded.
 *
 * @param decoder_path    as for tgv_model_load
 * @param vision_path     as for tgv_model_load
 * @param model_params    NULL for defaults
 * @param session_params  context and kv_type count; NULL for defaults
 * @param out_plan        initialised with TGV_MEMORY_PLAN_INIT; untouched on failure
 *
 * The KV cache and the encoder's memory are exact, the rest are upper estimates.
 *
 * Errors: as for tgv_model_load and tgv_session_create.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_model_plan(const char *decoder_path,
                          const char *vision_path,
                          const struct tgv_model_params *model_params,
                          const struct tgv_session_params *session_params,
                          struct tgv_memory_plan *out_plan);

/**
 * Starts a list of the boxes that an answer about `image` names. Feed it the answer with tgv_boxes_push, in one piece or
 * from the text callback.
 *
 * @param out_boxes  the new, empty list, to be freed with tgv_boxes_free; untouched on failure
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_boxes_create(const struct tgv_image *image,
                            struct tgv_boxes **out_boxes);

/**
 * Takes the next piece of the answer. A box `{<x0><y0><x1><y1>}`, with or without a phrase `<p>...</p>` in front, is in the list
 * as soon as its last number has come. Text that makes no box is passed over.
 *
 * @param text  UTF-8
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_boxes_push(struct tgv_boxes *boxes,
                          const char *text);

/**
 * How many boxes there are so far; 0 for NULL.
 *
 * Thread-safety: any thread.
 */
size_t tgv_boxes_count(const struct tgv_boxes *boxes);

/**
 * Tells a box.
 *
 * @param index    below tgv_boxes_count
 * @param out_box  initialised with TGV_BOX_INIT; untouched on failure. Its label stays valid as long as the list.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_boxes_get(const struct tgv_boxes *boxes, size_t index, struct tgv_box *out_box);

/**
 * Draws the boxes and their labels onto a copy of the picture and writes it as a PNG file.
 *
 * @param image  the picture, as passed to tgv_boxes_create or of the same size
 * @param path   UTF-8; an existing file is replaced
 *
 * Errors: TGV_ERROR_IO, _OUT_OF_MEMORY, _INVALID_ARGUMENT (also in a build without PNG), _INVALID_UTF8.
 *
 * Thread-safety: any thread.
 */
tgv_status tgv_boxes_draw(const struct tgv_boxes *boxes, const struct tgv_image *image, const char *path);

/**
 * Frees a list of boxes, and with it their labels; NULL does nothing.
 *
 * Thread-safety: any thread, once.
 */
void tgv_boxes_free(struct tgv_boxes *boxes);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TINYGPTV_H */

/* Initialisers: every field zero but the size. */
#define TGV_MODEL_PARAMS_INIT { sizeof(tgv_model_params), 0, 0, NULL, NULL, 0, 0, 0, 0, 0, 0 }
#define TGV_MEMORY_PLAN_INIT { sizeof(tgv_memory_plan), 0, 0, 0, 0, 0, 0 }
#define TGV_MODEL_INFO_INIT { sizeof(tgv_model_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define TGV_ENCODE_PARAMS_INIT { sizeof(tgv_encode_params), NULL, NULL }
#define TGV_SAMPLING_PARAMS_INIT { sizeof(tgv_sampling_params), 0, 0, 0, 0, 0, 0, 0, 0 }
#define TGV_SESSION_PARAMS_INIT \
  { sizeof(tgv_session_params), 0, 0, 0, 0, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL }
#define TGV_RANK_PARAMS_INIT { sizeof(tgv_rank_params), NULL, 0, 0 }
#define TGV_STATISTICS_INIT { sizeof(tgv_statistics), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define TGV_BOX_INIT { sizeof(tgv_box), NULL, 0, 0, 0, 0 }
