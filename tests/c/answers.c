/* Answers questions as a user would, streaming, and compares every answer; then looks at the figures of each.
 *
 *   answers DECODER VISION exact|similar (PICTURE QUESTION ANSWER)...
 *
 * `similar` is for quantised weights: a box may be off by two percent of the picture, everything else must be equal.
 */
#include "check.h"

static int similar(const char *answer, const char *expected)
{
    int a[4], b[4], i;
    const char *form = "{<%d><%d><%d><%d>}";
    if (sscanf(expected, form, &b[0], &b[1], &b[2], &b[3]) != 4)
        return strcmp(answer, expected) == 0;
    if (sscanf(answer, form, &a[0], &a[1], &a[2], &a[3]) != 4)
        return 0;
    for (i = 0; i < 4; i++)
        if (abs(a[i] - b[i]) > 2)
            return 0;
    return 1;
}

static void check_statistics(const tgv_session *session, const tgv_model_info *info, const char *answer)
{
    tgv_statistics s = statistics_of(session);
    CHECK(s.encode_ms >= 0 && s.prefill_ms > 0 && s.decode_ms > 0);
    CHECK(s.image_tokens == info->image_tokens);
    CHECK(s.prompt_tokens > s.image_tokens);
    CHECK(s.reused_tokens < s.prompt_tokens);
    CHECK(s.finish == TGV_FINISH_STOP);
    CHECK(s.context_size == info->context_length);
    CHECK(s.context_used >= s.prompt_tokens && s.context_used < s.prompt_tokens + s.generated_tokens);
    CHECK(s.struct_size == sizeof s && s.reserved == 0);
    /* The answer's own tokens, perhaps a space in front, and the one that ends it. */
    CHECK(s.generated_tokens >= 2 && s.generated_tokens <= strlen(answer) + 2);
}

int main(int argc, char **argv)
{
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_embedding *embedding = NULL;
    const char *shown = "";
    tgv_session *session = NULL;
    tgv_model *model;
    int exact, i;

    CHECK(argc >= 7 && (argc - 4) % 3 == 0);
    exact = strcmp(argv[3], "exact") == 0;
    model = load_model(argv[1], argv[2]);
    CHECK_OK(tgv_model_get_info(model, &info));
    CHECK_OK(tgv_session_create(model, NULL, &session));
    CHECK(statistics_of(session).finish == TGV_FINISH_NONE);
    CHECK(statistics_of(session).context_size == info.context_length);

    for (i = 4; i < argc; i += 3) {
        const char *picture = argv[i], *question = argv[i + 1], *expected = argv[i + 2], *answer = NULL;
        collector pieces = { "", 0, 0, 0 };
        int again = strcmp(picture, shown) == 0;
        if (!again) {
            tgv_image *image = open_image(picture);
            tgv_embedding_free(embedding);
            embedding = encode(model, image);
            tgv_image_free(image);
            shown = picture;
        }
        CHECK_OK(tgv_session_reset(session));
        CHECK(statistics_of(session).finish == TGV_FINISH_NONE);
        CHECK_OK(tgv_session_add_embedding(session, embedding));
        CHECK_OK(tgv_session_ask(session, question, collect, &pieces, &answer));
        if (exact ? strcmp(answer, expected) != 0 : !similar(answer, expected)) {
            fprintf(stderr, "%s: %s\n    answered \"%s\", expected \"%s\"\n", picture, question, answer, expected);
            return 1;
        }
        CHECK(strcmp(pieces.text, answer) == 0);
        CHECK(pieces.pieces > 1 || strlen(answer) < 10);
        check_statistics(session, &info, answer);
        /* The beginning of the prompt and the picture are still in the KV cache. */
        CHECK(!again || statistics_of(session).reused_tokens > info.image_tokens);
    }

    tgv_session_free(session);
    tgv_embedding_free(embedding);
    tgv_model_free(model);
    return 0;
}
