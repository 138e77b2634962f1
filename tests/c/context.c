/* The end of the context: questions that do not fit, answers that fill it, and what is possible afterwards.
 *
 *   context DECODER VISION PICTURE QUESTION ANSWER
 *
 * The answer must be longer than a few tokens.
 */
#include "check.h"

static tgv_session *session_of(const fixture *f, int32_t context, int32_t max_new_tokens)
{
    tgv_session_params params = session_params();
    tgv_session *session = NULL;
    params.context = context;
    params.max_new_tokens = max_new_tokens;
    CHECK_OK(tgv_session_create(f->model, &params, &session));
    CHECK(statistics_of(session).context_size == (uint32_t)context);
    return session;
}

/* Too long by far, and by one position; then a question that fits. */
static void check_long_question(const fixture *f)
{
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    const char *answer = SENTINEL(char);
    uint32_t needed;
    tgv_session *session;
    char *question;
    size_t i;

    CHECK_OK(tgv_model_get_info(f->model, &info));
    question = (char *)malloc(4 * (size_t)info.context_length + 1);
    CHECK(question != NULL);
    for (i = 0; i < 4 * (size_t)info.context_length; i++)
        question[i] = (char)('0' + i % 10); /* a token each */
    question[i] = '\0';
    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_embedding(f->session, f->embedding));
    CHECK_FAILS(tgv_session_ask(f->session, question, collect, NULL, &answer), TGV_ERROR_CONTEXT_FULL, "shorten");
    question[info.context_length] = '\0';
    CHECK_FAILS(tgv_session_ask(f->session, question, collect, NULL, &answer), TGV_ERROR_CONTEXT_FULL, "shorten");
    CHECK(answer == SENTINEL(char));
    CHECK_ANSWER(f->session, f->question, f->answer); /* the picture was still waiting */
    free(question);

    /* An answer needs at least one position. */
    needed = statistics_of(f->session).prompt_tokens;
    session = session_of(f, (int32_t)needed, 0);
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    CHECK_FAILS(tgv_session_ask(session, f->question, NULL, NULL, &answer), TGV_ERROR_CONTEXT_FULL, "larger context");
    tgv_session_free(session);
    session = session_of(f, (int32_t)needed + 1, 0);
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, &answer));
    CHECK(strncmp(answer, f->answer, strlen(answer)) == 0 && strlen(answer) < strlen(f->answer));
    CHECK(statistics_of(session).finish == TGV_FINISH_CONTEXT);
    CHECK(statistics_of(session).context_used <= needed + 1);
    tgv_session_free(session);
    CHECK_WORKS(f);
}

/* A conversation that goes on until nothing fits any more. */
static void check_filling(const fixture *f)
{
    tgv_session *session = session_of(f, 160, 24);
    const char *answer;
    tgv_status status;
    uint32_t used = 0;
    int turns, filled = 0;

    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    for (turns = 0; turns < 100; turns++) {
        collector pieces = { "", 0, 0, 0 };
        tgv_statistics s;
        answer = SENTINEL(char);
        status = tgv_session_ask(session, f->question, collect, &pieces, &answer);
        if (status != TGV_OK)
            break;
        s = statistics_of(session);
        CHECK(strcmp(answer, pieces.text) == 0);
        CHECK(s.context_used > used && s.context_used <= 160);
        CHECK(s.reused_tokens >= used || turns == 0);
        filled += s.finish == TGV_FINISH_CONTEXT;
        used = s.prompt_tokens;
    }
    CHECK_STATUS(status, TGV_ERROR_CONTEXT_FULL);
    CHECK(turns > 0 && answer == SENTINEL(char));
    CHECK(filled <= 1);
    CHECK(strstr(tgv_last_error(), "160") != NULL);
    /* Again the same; the last answer's figures stay. */
    CHECK_FAILS(tgv_session_ask(session, f->question, NULL, NULL, NULL), TGV_ERROR_CONTEXT_FULL, "reset");
    CHECK(statistics_of(session).prompt_tokens == used);
    CHECK_OK(tgv_session_reset(session));
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, NULL));
    tgv_session_free(session);
}

static void check_sizes(const fixture *f)
{
    tgv_session_params params = session_params();
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_session *session = NULL;

    CHECK_OK(tgv_model_get_info(f->model, &info));
    /* All of it, and as little as one position, which no question fits. */
    session = session_of(f, (int32_t)info.context_length, 0);
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    CHECK_ANSWER(session, f->question, f->answer);
    tgv_session_free(session);
    session = session_of(f, 1, 0);
    CHECK_FAILS(tgv_session_ask(session, f->question, NULL, NULL, NULL), TGV_ERROR_CONTEXT_FULL, "larger context");
    tgv_session_free(session);

    session = SENTINEL(tgv_session);
    params.context = (int32_t)info.context_length + 1;
    CHECK_FAILS(tgv_session_create(f->model, &params, &session), TGV_ERROR_INVALID_ARGUMENT, "trained");
    CHECK(session == SENTINEL(tgv_session));
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    check_long_question(&f);
    check_filling(&f);
    check_sizes(&f);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
