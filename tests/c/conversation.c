/* A conversation of several turns about one picture keeps its beginning in the KV cache and answers as the reference does.
 *
 *   conversation DECODER VISION PICTURE (QUESTION ANSWER)...
 */
#include "check.h"

int main(int argc, char **argv)
{
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_session_params params = session_params();
    tgv_statistics before = TGV_STATISTICS_INIT;
    tgv_session *session = NULL, *fresh;
    tgv_image *image;
    tgv_model *model;
    int i;

    CHECK(argc >= 8 && argc % 2 == 0);
    model = load_model(argv[1], argv[2]);
    CHECK_OK(tgv_model_get_info(model, &info));
    image = open_image(argv[3]);
    params.max_new_tokens = 40; /* without a picture the model rambles */
    CHECK_OK(tgv_session_create(model, &params, &session));
    CHECK_OK(tgv_session_add_image(session, image));

    for (i = 4; i < argc; i += 2) {
        tgv_statistics now;
        CHECK_ANSWER(session, argv[i], argv[i + 1]);
        now = statistics_of(session);
        if (i == 4) {
            CHECK(now.image_tokens == info.image_tokens);
            CHECK(now.encode_ms > 0);
        } else {
            CHECK(now.image_tokens == 0);
            CHECK(now.encode_ms == 0);
            /* All of the earlier turns is prompt now, and none of it was evaluated again. */
            CHECK(now.prompt_tokens > before.context_used);
            CHECK(now.reused_tokens >= before.prompt_tokens);
            CHECK(now.reused_tokens <= now.prompt_tokens - 1);
        }
        CHECK(now.context_used > before.context_used);
        before = now;
    }

    /* The second question alone, without the first turn, takes fewer positions: the turns above did add up. */
    fresh = create_session(model);
    CHECK_OK(tgv_session_add_image(fresh, image));
    CHECK_OK(tgv_session_ask(fresh, argv[6], NULL, NULL, NULL));
    CHECK(statistics_of(fresh).context_used < before.context_used);

    /* After a reset the conversation starts over: without a picture, without the earlier turns. */
    CHECK_OK(tgv_session_reset(session));
    CHECK_OK(tgv_session_ask(session, argv[4], NULL, NULL, NULL));
    CHECK(statistics_of(session).image_tokens == 0);
    CHECK(statistics_of(session).prompt_tokens < before.prompt_tokens);
    CHECK_OK(tgv_session_reset(session));
    CHECK_OK(tgv_session_add_image(session, image));
    CHECK_ANSWER(session, argv[4], argv[5]);

    /* Two pictures in one turn take two places. */
    CHECK_OK(tgv_session_reset(session));
    CHECK_OK(tgv_session_add_image(session, image));
    CHECK_OK(tgv_session_add_image(session, image));
    CHECK_OK(tgv_session_ask(session, argv[4], NULL, NULL, NULL));
    CHECK(statistics_of(session).image_tokens == 2 * info.image_tokens);

    tgv_session_free(fresh);
    tgv_session_free(session);
    tgv_image_free(image);
    tgv_model_free(model);
    return 0;
}
