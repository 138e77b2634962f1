/* The header as a contract: layout of every struct, value of every constant, type of every function, initialisers.
 *
 * Compiled as C99, C11 and C++17. tests/c_abi.rs checks that nothing of the header is missing here.
 */
#include "check.h"

#define AT_COMPILE_TIME(name, condition) typedef char name[(condition) ? 1 : -1]

#define CONSTANT(name, value) AT_COMPILE_TIME(value_of_##name, name == (value))

CONSTANT(TGV_ABI_VERSION, 1);

CONSTANT(TGV_OK, 0);
CONSTANT(TGV_ERROR_INVALID_ARGUMENT, 7001);
CONSTANT(TGV_ERROR_INVALID_UTF8, 7002);
CONSTANT(TGV_ERROR_FILE_NOT_FOUND, 7003);
CONSTANT(TGV_ERROR_IO, 7004);
CONSTANT(TGV_ERROR_BAD_MODEL_FILE, 7005);
CONSTANT(TGV_ERROR_UNSUPPORTED_MODEL, 7006);
CONSTANT(TGV_ERROR_MODEL_MISMATCH, 7007);
CONSTANT(TGV_ERROR_BAD_IMAGE, 7008);
CONSTANT(TGV_ERROR_IMAGE_TOO_LARGE, 7009);
CONSTANT(TGV_ERROR_CONTEXT_FULL, 7010);
CONSTANT(TGV_ERROR_CANCELLED, 7011);
CONSTANT(TGV_ERROR_OUT_OF_MEMORY, 7012);
CONSTANT(TGV_ERROR_UNSUPPORTED_CPU, 7013);
CONSTANT(TGV_ERROR_BUSY, 7014);
CONSTANT(TGV_ERROR_DECODER, 7015);
CONSTANT(TGV_ERROR_INTERNAL, 7016);
CONSTANT(TGV_ERROR_BAD_EMBEDDING_FILE, 7017);

CONSTANT(TGV_LOG_DEBUG, 1);
CONSTANT(TGV_LOG_INFO, 2);
CONSTANT(TGV_LOG_WARNING, 3);
CONSTANT(TGV_LOG_ERROR, 4);

CONSTANT(TGV_PIXELS_RGB, 1);
CONSTANT(TGV_PIXELS_RGBA, 2);
CONSTANT(TGV_PIXELS_BGR, 3);
CONSTANT(TGV_PIXELS_BGRA, 4);
CONSTANT(TGV_PIXELS_GRAY, 5);

CONSTANT(TGV_SAMPLING_GREEDY, 0);
CONSTANT(TGV_SAMPLING_RANDOM, 1);

CONSTANT(TGV_PROFILE_MAPPED, 0);
CONSTANT(TGV_PROFILE_FAST, 1);

CONSTANT(TGV_FILES_MAPPED, 0);
CONSTANT(TGV_FILES_COPIED, 1);
CONSTANT(TGV_PRECISION_AUTO, 0);
CONSTANT(TGV_PRECISION_EXACT, 1);

CONSTANT(TGV_WHEN_FULL_FAIL, 0);
CONSTANT(TGV_WHEN_FULL_DROP_OLDEST, 1);

CONSTANT(TGV_KV_F16, 0);
CONSTANT(TGV_KV_F32, 1);

CONSTANT(TGV_PHASE_ENCODE, 0);
CONSTANT(TGV_PHASE_PREFILL, 1);
CONSTANT(TGV_PHASE_DECODE, 2);

CONSTANT(TGV_FINISH_NONE, 0);
CONSTANT(TGV_FINISH_STOP, 1);
CONSTANT(TGV_FINISH_LENGTH, 2);
CONSTANT(TGV_FINISH_CONTEXT, 3);
CONSTANT(TGV_FINISH_CALLBACK, 4);

AT_COMPILE_TIME(status_is_four_bytes, sizeof(tgv_status) == 4 && (tgv_status)-1 < 0);

/* Layout on 64-bit machines; fields keep their order on others. */
#if UINTPTR_MAX == UINT64_MAX
#define STRUCT(type, size) AT_COMPILE_TIME(size_of_##type, sizeof(type) == (size))
#define FIELD(type, field, offset, size) \
    AT_COMPILE_TIME(type##_##field, offsetof(type, field) == (offset) && sizeof(((type *)0)->field) == (size))

STRUCT(tgv_model_params, 64);
FIELD(tgv_model_params, struct_size, 0, 8);
FIELD(tgv_model_params, threads, 8, 4);
FIELD(tgv_model_params, gpu_layers, 12, 4);
FIELD(tgv_model_params, on_progress, 16, 8);
FIELD(tgv_model_params, user_data, 24, 8);
FIELD(tgv_model_params, embedding_cache_mb, 32, 4);
FIELD(tgv_model_params, profile, 36, 4);
FIELD(tgv_model_params, processor_mask, 40, 8);
FIELD(tgv_model_params, memory_limit, 48, 8);
FIELD(tgv_model_params, precision, 56, 4);
FIELD(tgv_model_params, files, 60, 4);

STRUCT(tgv_model_info, 64);
FIELD(tgv_model_info, struct_size, 0, 8);
FIELD(tgv_model_info, embedding_width, 8, 4);
FIELD(tgv_model_info, image_tokens, 12, 4);
FIELD(tgv_model_info, image_size, 16, 4);
FIELD(tgv_model_info, context_length, 20, 4);
FIELD(tgv_model_info, vocabulary, 24, 4);
FIELD(tgv_model_info, stage, 28, 4);
FIELD(tgv_model_info, threads, 32, 4);
FIELD(tgv_model_info, reserved, 36, 4);
FIELD(tgv_model_info, decoder_parameters, 40, 8);
FIELD(tgv_model_info, decoder_bytes, 48, 8);
FIELD(tgv_model_info, vision_bytes, 56, 8);

STRUCT(tgv_memory_plan, 56);
FIELD(tgv_memory_plan, struct_size, 0, 8);
FIELD(tgv_memory_plan, mapped_bytes, 8, 8);
FIELD(tgv_memory_plan, model_bytes, 16, 8);
FIELD(tgv_memory_plan, cache_bytes, 24, 8);
FIELD(tgv_memory_plan, encode_bytes, 32, 8);
FIELD(tgv_memory_plan, session_bytes, 40, 8);
FIELD(tgv_memory_plan, private_bytes, 48, 8);

STRUCT(tgv_encode_params, 24);
FIELD(tgv_encode_params, struct_size, 0, 8);
FIELD(tgv_encode_params, on_progress, 8, 8);
FIELD(tgv_encode_params, user_data, 16, 8);

STRUCT(tgv_sampling_params, 40);
FIELD(tgv_sampling_params, struct_size, 0, 8);
FIELD(tgv_sampling_params, mode, 8, 4);
FIELD(tgv_sampling_params, temperature, 12, 4);
FIELD(tgv_sampling_params, top_k, 16, 4);
FIELD(tgv_sampling_params, top_p, 20, 4);
FIELD(tgv_sampling_params, min_p, 24, 4);
FIELD(tgv_sampling_params, repeat_penalty, 28, 4);
FIELD(tgv_sampling_params, seed, 32, 4);
FIELD(tgv_sampling_params, reserved, 36, 4);

STRUCT(tgv_session_params, 112);
FIELD(tgv_session_params, struct_size, 0, 8);
FIELD(tgv_session_params, context, 8, 4);
FIELD(tgv_session_params, threads, 12, 4);
FIELD(tgv_session_params, max_new_tokens, 16, 4);
FIELD(tgv_session_params, when_full, 20, 4);
FIELD(tgv_session_params, template_name, 24, 8);
FIELD(tgv_session_params, system_text, 32, 8);
FIELD(tgv_session_params, stop_texts, 40, 8);
FIELD(tgv_session_params, stop_text_count, 48, 8);
FIELD(tgv_session_params, sampling, 56, 8);
FIELD(tgv_session_params, on_progress, 64, 8);
FIELD(tgv_session_params, user_data, 72, 8);
FIELD(tgv_session_params, template_text, 80, 8);
FIELD(tgv_session_params, image_text, 88, 8);
FIELD(tgv_session_params, kv_type, 96, 4);
FIELD(tgv_session_params, reserved, 100, 4);
FIELD(tgv_session_params, on_phase, 104, 8);

STRUCT(tgv_statistics, 72);
FIELD(tgv_statistics, struct_size, 0, 8);
FIELD(tgv_statistics, encode_ms, 8, 8);
FIELD(tgv_statistics, prefill_ms, 16, 8);
FIELD(tgv_statistics, decode_ms, 24, 8);
FIELD(tgv_statistics, prompt_tokens, 32, 4);
FIELD(tgv_statistics, image_tokens, 36, 4);
FIELD(tgv_statistics, reused_tokens, 40, 4);
FIELD(tgv_statistics, generated_tokens, 44, 4);
FIELD(tgv_statistics, context_used, 48, 4);
FIELD(tgv_statistics, context_size, 52, 4);
FIELD(tgv_statistics, finish, 56, 4);
FIELD(tgv_statistics, dropped_turns, 60, 4);
FIELD(tgv_statistics, dropped_images, 64, 4);
FIELD(tgv_statistics, reserved, 68, 4);

STRUCT(tgv_rank_params, 24);
FIELD(tgv_rank_params, struct_size, 0, 8);
FIELD(tgv_rank_params, end_text, 8, 8);
FIELD(tgv_rank_params, no_bos, 16, 4);
FIELD(tgv_rank_params, reserved, 20, 4);

STRUCT(tgv_box, 32);
FIELD(tgv_box, struct_size, 0, 8);
FIELD(tgv_box, label, 8, 8);
FIELD(tgv_box, x0, 16, 4);
FIELD(tgv_box, y0, 20, 4);
FIELD(tgv_box, x1, 24, 4);
FIELD(tgv_box, y1, 28, 4);
#endif

/* Every function with its exact type: another type does not compile, a missing function does not link. */
struct functions {
    const char *(*version)(void);
    uint32_t (*abi_version)(void);
    const char *(*last_error)(void);
    const char *(*status_name)(tgv_status);
    tgv_status (*set_log_callback)(tgv_log_callback, void *);
    tgv_status (*add_log_callback)(tgv_log_callback, void *, uint64_t *);
    tgv_status (*remove_log_callback)(uint64_t);
    tgv_status (*model_load)(const char *, const char *, const tgv_model_params *, tgv_model **);
    void (*model_free)(tgv_model *);
    tgv_status (*model_get_info)(const tgv_model *, tgv_model_info *);
    const char *(*model_description)(const tgv_model *);
    size_t (*model_template_count)(const tgv_model *);
    const char *(*model_template_name)(const tgv_model *, size_t);
    tgv_status (*model_count_tokens)(const tgv_model *, const char *, size_t *);
    tgv_status (*model_plan)(const char *, const char *, const tgv_model_params *, const tgv_session_params *,
                             tgv_memory_plan *);
    tgv_status (*model_get_cache_size)(const tgv_model *, size_t *, size_t *);
    tgv_status (*image_from_file)(const char *, tgv_image **);
    tgv_status (*image_from_memory)(const void *, size_t, tgv_image **);
    tgv_status (*image_from_pixels)(const void *, size_t, uint32_t, uint32_t, size_t, int32_t, tgv_image **);
    tgv_status (*image_get_size)(const tgv_image *, uint32_t *, uint32_t *);
    void (*image_free)(tgv_image *);
    tgv_status (*embedding_encode)(const tgv_model *, const tgv_image *, const tgv_encode_params *, tgv_embedding **);
    tgv_status (*embedding_encode_each)(const tgv_model *, const tgv_image *const *, size_t, const tgv_encode_params *,
                                        tgv_embedding **);
    tgv_status (*embedding_from_values)(const tgv_model *, const float *, size_t, tgv_embedding **);
    tgv_status (*embedding_get_size)(const tgv_embedding *, size_t *, size_t *);
    tgv_status (*embedding_copy)(const tgv_embedding *, float *, size_t);
    tgv_status (*embedding_save)(const tgv_model *, const tgv_embedding *, const char *);
    tgv_status (*embedding_load)(const tgv_model *, const char *, tgv_embedding **);
    void (*embedding_free)(tgv_embedding *);
    tgv_status (*session_create)(const tgv_model *, const tgv_session_params *, tgv_session **);
    void (*session_free)(tgv_session *);
    tgv_status (*session_add_image)(tgv_session *, const tgv_image *);
    tgv_status (*session_add_embedding)(tgv_session *, const tgv_embedding *);
    tgv_status (*session_ask)(tgv_session *, const char *, tgv_text_callback, void *, const char **);
    tgv_status (*session_reset)(tgv_session *);
    tgv_status (*session_set_sampling)(tgv_session *, const tgv_sampling_params *);
    void (*session_cancel)(tgv_session *);
    tgv_status (*session_statistics)(const tgv_session *, tgv_statistics *);
    tgv_status (*session_set_grammar)(tgv_session *, const char *);
    tgv_status (*session_set_answers)(tgv_session *, const char *const *, size_t);
    tgv_status (*session_rank)(tgv_session *, const char *, const char *const *, size_t, const tgv_rank_params *, float *);
    tgv_status (*session_ask_each)(tgv_session *, const char *const *, size_t, tgv_answer_callback, void *);
    tgv_status (*boxes_create)(const tgv_image *, tgv_boxes **);
    tgv_status (*boxes_push)(tgv_boxes *, const char *);
    size_t (*boxes_count)(const tgv_boxes *);
    tgv_status (*boxes_get)(const tgv_boxes *, size_t, tgv_box *);
    tgv_status (*boxes_draw)(const tgv_boxes *, const tgv_image *, const char *);
    void (*boxes_free)(tgv_boxes *);
};

static const struct functions functions = {
    tgv_version,
    tgv_abi_version,
    tgv_last_error,
    tgv_status_name,
    tgv_set_log_callback,
    tgv_add_log_callback,
    tgv_remove_log_callback,
    tgv_model_load,
    tgv_model_free,
    tgv_model_get_info,
    tgv_model_description,
    tgv_model_template_count,
    tgv_model_template_name,
    tgv_model_count_tokens,
    tgv_model_plan,
    tgv_model_get_cache_size,
    tgv_image_from_file,
    tgv_image_from_memory,
    tgv_image_from_pixels,
    tgv_image_get_size,
    tgv_image_free,
    tgv_embedding_encode,
    tgv_embedding_encode_each,
    tgv_embedding_from_values,
    tgv_embedding_get_size,
    tgv_embedding_copy,
    tgv_embedding_save,
    tgv_embedding_load,
    tgv_embedding_free,
    tgv_session_create,
    tgv_session_free,
    tgv_session_add_image,
    tgv_session_add_embedding,
    tgv_session_ask,
    tgv_session_reset,
    tgv_session_set_sampling,
    tgv_session_cancel,
    tgv_session_statistics,
    tgv_session_set_grammar,
    tgv_session_set_answers,
    tgv_session_rank,
    tgv_session_ask_each,
    tgv_boxes_create,
    tgv_boxes_push,
    tgv_boxes_count,
    tgv_boxes_get,
    tgv_boxes_draw,
    tgv_boxes_free,
};

/* Callback types, likewise. */
static int32_t a_progress(float fraction, void *user_data) { (void)user_data; return fraction > 2; }
static int32_t a_text(const char *text, size_t length, void *user_data) { (void)text; (void)user_data; return length > 9; }
static void a_log(int32_t level, const char *text, void *user_data) { (void)level; (void)text; (void)user_data; }
static int32_t an_answer(size_t index, const char *answer, size_t length, int32_t finish, void *user_data)
{
    (void)answer;
    (void)user_data;
    return index + length > 9 && finish == 0;
}
static int32_t a_phase(int32_t phase, float fraction, float remaining_ms, void *user_data)
{
    (void)user_data;
    return phase > 2 && fraction + remaining_ms > 0;
}
static const tgv_phase_callback phase = a_phase;
static const tgv_answer_callback answer = an_answer;
static const tgv_progress_callback progress = a_progress;
static const tgv_text_callback text = a_text;
static const tgv_log_callback logger = a_log;

static int all_zero(const void *bytes, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++)
        if (((const char *)bytes)[i] != 0)
            return 0;
    return 1;
}

/* An initialiser sets the size and nothing else. */
#define CHECK_INIT(type, init)                                                                                        \
    do {                                                                                                              \
        type value = init;                                                                                            \
        CHECK(value.struct_size == sizeof value);                                                                     \
        CHECK(all_zero((const char *)&value + sizeof value.struct_size, sizeof value - sizeof value.struct_size));    \
    } while (0)

static void check_status_names(void)
{
#define NAMED(status) CHECK(strcmp(tgv_status_name(status), #status) == 0)
    NAMED(TGV_OK);
    NAMED(TGV_ERROR_INVALID_ARGUMENT);
    NAMED(TGV_ERROR_INVALID_UTF8);
    NAMED(TGV_ERROR_FILE_NOT_FOUND);
    NAMED(TGV_ERROR_IO);
    NAMED(TGV_ERROR_BAD_MODEL_FILE);
    NAMED(TGV_ERROR_UNSUPPORTED_MODEL);
    NAMED(TGV_ERROR_MODEL_MISMATCH);
    NAMED(TGV_ERROR_BAD_IMAGE);
    NAMED(TGV_ERROR_IMAGE_TOO_LARGE);
    NAMED(TGV_ERROR_CONTEXT_FULL);
    NAMED(TGV_ERROR_CANCELLED);
    NAMED(TGV_ERROR_OUT_OF_MEMORY);
    NAMED(TGV_ERROR_UNSUPPORTED_CPU);
    NAMED(TGV_ERROR_BUSY);
    NAMED(TGV_ERROR_DECODER);
    NAMED(TGV_ERROR_INTERNAL);
    NAMED(TGV_ERROR_BAD_EMBEDDING_FILE);
    CHECK(strcmp(tgv_status_name(1), "unknown status") == 0);
    CHECK(strcmp(tgv_status_name(INT32_MIN), "unknown status") == 0);
    CHECK(strcmp(tgv_status_name(TGV_ERROR_BAD_EMBEDDING_FILE + 1), "unknown status") == 0);
}

int main(void)
{
    char version[64];

    CHECK(!all_zero(&functions, sizeof functions));
    CHECK(progress != NULL && text != NULL && logger != NULL && answer != NULL && phase != NULL);

    CHECK_INIT(tgv_model_params, TGV_MODEL_PARAMS_INIT);
    CHECK_INIT(tgv_model_info, TGV_MODEL_INFO_INIT);
    CHECK_INIT(tgv_encode_params, TGV_ENCODE_PARAMS_INIT);
    CHECK_INIT(tgv_sampling_params, TGV_SAMPLING_PARAMS_INIT);
    CHECK_INIT(tgv_session_params, TGV_SESSION_PARAMS_INIT);
    CHECK_INIT(tgv_statistics, TGV_STATISTICS_INIT);
    CHECK_INIT(tgv_rank_params, TGV_RANK_PARAMS_INIT);
    CHECK_INIT(tgv_memory_plan, TGV_MEMORY_PLAN_INIT);
    CHECK_INIT(tgv_box, TGV_BOX_INIT);

    CHECK(functions.abi_version() == TGV_ABI_VERSION);
    CHECK(strcmp(functions.version(), TGV_VERSION) == 0);
    snprintf(version, sizeof version, "%d.%d.%d", TGV_VERSION_MAJOR, TGV_VERSION_MINOR, TGV_VERSION_PATCH);
    CHECK(strncmp(TGV_VERSION, version, strlen(version)) == 0);
    CHECK(strcmp(tgv_last_error(), "") == 0);
    check_status_names();
    return 0;
}
