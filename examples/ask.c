/* Asks one or more questions about a picture and streams the answers.
 *
 *   cc -std=c99 ask.c -I include -L target/release -ltinygptv -o ask
 *   ask MODEL.gguf VISION.gguf PICTURE "question" ["next question" ...]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tinygptv.h"

static const char USAGE[] =
    "usage: ask [options] MODEL VISION PICTURE QUESTION...\n"
    "\n"
    "Looks at PICTURE and answers each QUESTION. The questions are independent of each other;\n"
    "the picture is encoded once.\n"
    "\n"
    "  MODEL     the decoder, a .gguf file\n"
    "  VISION    the vision file of the same model\n"
    "  PICTURE   PNG, JPEG, WebP, GIF, BMP, TIFF or PNM\n"
    "\n"
    "options:\n"
    "  -t N      use N threads (default: all processors)\n"
    "  -n N      at most N tokens an answer (default: 300)\n"
    "  -p NAME   prompt template (default: the model's own)\n"
    "  -s        print statistics to stderr\n"
    "  -v        print the library's log to stderr\n"
    "  -h        show this help\n";

struct options {
    int threads;
    int max_tokens;
    int statistics;
    const char *template_name;
};

static int fail(const char *what)
{
    fprintf(stderr, "ask: %s: %s\n", what, tgv_last_error());
    return 1;
}

static int print_text(const char *text, size_t length, void *user_data)
{
    (void)user_data;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return ferror(stdout); /* a closed pipe ends the answer */
}

static void print_log(int32_t level, const char *text, void *user_data)
{
    (void)user_data;
    fprintf(stderr, "[%d] %s\n", (int)level, text);
}

static int print_statistics(const tgv_session *session)
{
    tgv_statistics s = TGV_STATISTICS_INIT;
    if (tgv_session_statistics(session, &s) != TGV_OK)
        return fail("statistics");
    fprintf(stderr, "prefill %.0f ms for %u tokens (%u reused), answer %.0f ms for %u tokens\n", s.prefill_ms,
            (unsigned)s.prompt_tokens, (unsigned)s.reused_tokens, s.decode_ms, (unsigned)s.generated_tokens);
    return 0;
}

static int answer_all(tgv_session *session, const tgv_embedding *embedding, char **questions, int count,
                      const struct options *options)
{
    int i;
    for (i = 0; i < count; i++) {
        if (count > 1)
            printf("> %s\n", questions[i]);
        if (tgv_session_reset(session) != TGV_OK || tgv_session_add_embedding(session, embedding) != TGV_OK)
            return fail("session");
        if (tgv_session_ask(session, questions[i], print_text, NULL, NULL) != TGV_OK) {
            printf("\n");
            return fail("question");
        }
        printf("\n");
        if (options->statistics && print_statistics(session) != 0)
            return 1;
    }
    return 0;
}

static int run(const char *decoder_path, const char *vision_path, const char *picture_path, char **questions, int count,
               const struct options *options)
{
    tgv_model_params model_params = TGV_MODEL_PARAMS_INIT;
    tgv_session_params session_params = TGV_SESSION_PARAMS_INIT;
    tgv_model *model = NULL;
    tgv_image *image = NULL;
    tgv_embedding *embedding = NULL;
    tgv_session *session = NULL;
    int result = 1;

    model_params.threads = options->threads;
    session_params.max_new_tokens = options->max_tokens;
    session_params.template_name = options->template_name;
    if (tgv_model_load(decoder_path, vision_path, &model_params, &model) != TGV_OK)
        fail("model");
    else if (tgv_image_from_file(picture_path, &image) != TGV_OK)
        fail("picture");
    else if (tgv_embedding_encode(model, image, NULL, &embedding) != TGV_OK)
        fail("encoding");
    else if (tgv_session_create(model, &session_params, &session) != TGV_OK)
        fail("session");
    else
        result = answer_all(session, embedding, questions, count, options);

    /* Freeing is allowed in any order, and for what was never created. */
    tgv_session_free(session);
    tgv_embedding_free(embedding);
    tgv_image_free(image);
    tgv_model_free(model);
    return result;
}

/* The number after an option, or -1. */
static int number(const char *text)
{
    char *end;
    long n;
    if (text == NULL)
        return -1;
    n = strtol(text, &end, 10);
    return *end == '\0' && end != text && n >= 0 && n <= 1000000 ? (int)n : -1;
}

static int usage_error(const char *what)
{
    fprintf(stderr, "ask: %s\n%s", what, USAGE);
    return 2;
}

int main(int argc, char **argv)
{
    struct options options = { 0, 0, 0, NULL };
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            fputs(USAGE, stdout);
            return 0;
        } else if (strcmp(argv[i], "-s") == 0) {
            options.statistics = 1;
        } else if (strcmp(argv[i], "-v") == 0) {
            tgv_set_log_callback(print_log, NULL);
        } else if (strcmp(argv[i], "-t") == 0) {
            if ((options.threads = number(argv[++i])) < 0)
                return usage_error("-t needs a number");
        } else if (strcmp(argv[i], "-n") == 0) {
            if ((options.max_tokens = number(argv[++i])) < 0)
                return usage_error("-n needs a number");
        } else if (strcmp(argv[i], "-p") == 0 && argv[i + 1] != NULL) {
            options.template_name = argv[++i];
        } else {
            return usage_error("unknown option, or one without its value");
        }
    }
    if (argc - i < 4)
        return usage_error("a model, a vision file, a picture and a question are needed");
    if (tgv_abi_version() != TGV_ABI_VERSION) {
        fprintf(stderr, "ask: the library has ABI version %u, this program was built for %u\n",
                (unsigned)tgv_abi_version(), (unsigned)TGV_ABI_VERSION);
        return 1;
    }
    return run(argv[i], argv[i + 1], argv[i + 2], argv + i + 3, argc - i - 3, &options);
}
