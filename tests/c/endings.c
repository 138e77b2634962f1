/* Why answers end: the model, the limit on tokens, a stop text, the callback. And what comes in front of a question. */
#include "check.h"

static tgv_session *session_with(const fixture *f, const tgv_session_params *params)
{
    tgv_session *session = NULL;
    CHECK_OK(tgv_session_create(f->model, params, &session));
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    return session;
}

static void check_length(const fixture *f)
{
    tgv_session_params params = session_params();
    tgv_session *session;
    const char *answer = NULL;
    tgv_statistics s;

    params.max_new_tokens = 3;
    session = session_with(f, &params);
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, &answer));
    s = statistics_of(session);
    CHECK(s.finish == TGV_FINISH_LENGTH);
    CHECK(s.generated_tokens == 3);
    CHECK(strlen(answer) > 0 && strlen(answer) < strlen(f->answer));
    CHECK(strncmp(answer, f->answer, strlen(answer)) == 0);
    tgv_session_free(session);
}

/* `stop` is somewhere in the answer; what stands in front of it, without the space between, is the new answer. */
static void check_stop_text(const fixture *f, const char *stop)
{
    const char *stops[3] = { "never said", NULL, "\xe2\xad\x90" };
    tgv_session_params params = session_params();
    collector pieces = { "", 0, 0, 0 };
    const char *answer = NULL, *found = strstr(f->answer, stop);
    size_t length;
    tgv_session *session;

    CHECK(found != NULL);
    for (length = (size_t)(found - f->answer); length > 0 && f->answer[length - 1] == ' '; length--)
        continue;
    stops[1] = stop;
    params.stop_texts = stops;
    params.stop_text_count = 3;
    session = session_with(f, &params);
    stops[1] = NULL; /* they were copied */
    CHECK_OK(tgv_session_ask(session, f->question, collect, &pieces, &answer));
    CHECK(statistics_of(session).finish == TGV_FINISH_STOP);
    CHECK(strlen(answer) == length && strncmp(answer, f->answer, length) == 0);
    CHECK(strcmp(answer, pieces.text) == 0);
    /* The conversation goes on. */
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, NULL));
    tgv_session_free(session);
}

static void check_callback(const fixture *f)
{
    tgv_session *session = session_with(f, NULL);
    collector pieces = { "", 0, 0, 2 };
    const char *answer = NULL;
    uint32_t used;

    CHECK_OK(tgv_session_ask(session, f->question, collect, &pieces, &answer));
    CHECK(statistics_of(session).finish == TGV_FINISH_CALLBACK);
    used = statistics_of(session).context_used;
    CHECK(pieces.pieces == 2 && strcmp(answer, pieces.text) == 0);
    CHECK(strncmp(answer, f->answer, strlen(answer)) == 0 && strlen(answer) < strlen(f->answer));
    /* What was said is part of the conversation, which goes on. */
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, NULL));
    CHECK(statistics_of(session).prompt_tokens > used);
    tgv_session_free(session);
}

/* The answer is the session's until its next question. */
static void check_answer_stays(const fixture *f)
{
    tgv_session *session = session_with(f, NULL);
    const char *answer = NULL;
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, &answer));
    CHECK_OK(tgv_session_set_sampling(session, NULL));
    CHECK_OK(tgv_session_reset(session));
    CHECK_OK(tgv_session_add_image(session, f->image));
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    tgv_session_cancel(session);
    CHECK(statistics_of(session).finish == TGV_FINISH_NONE);
    CHECK(strcmp(answer, f->answer) == 0);
    tgv_session_free(session);
}

/* Positions that a first question takes with these options. */
static uint32_t prompt_tokens(const fixture *f, const char *template_name, const char *system_text)
{
    tgv_session_params params = session_params();
    tgv_session *session;
    uint32_t tokens;
    char *system = NULL;
    if (system_text != NULL) {
        system = (char *)malloc(strlen(system_text) + 1);
        CHECK(system != NULL);
        strcpy(system, system_text);
    }
    params.max_new_tokens = 1;
    params.template_name = template_name;
    params.system_text = system;
    session = session_with(f, &params);
    free(system); /* it was copied */
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, NULL));
    tokens = statistics_of(session).prompt_tokens;
    tgv_session_free(session);
    return tokens;
}

static size_t tokens_of(const fixture *f, const char *text)
{
    size_t n = 0;
    CHECK_OK(tgv_model_count_tokens(f->model, text, &n));
    return n;
}

static void check_what_comes_before(const fixture *f)
{
    const char *system = "Please look at the picture.";
    uint32_t plain = prompt_tokens(f, "plain", NULL);
    size_t i, count = tgv_model_template_count(f->model);
    tgv_model_info info = TGV_MODEL_INFO_INIT;

    CHECK_OK(tgv_model_get_info(f->model, &info));
    CHECK(plain == info.image_tokens + tokens_of(f, f->question));
    CHECK(prompt_tokens(f, "plain", "") == plain);
    CHECK(prompt_tokens(f, "plain", system) == plain + tokens_of(f, system));
    CHECK(prompt_tokens(f, NULL, NULL) > plain);
    for (i = 0; i < count; i++)
        CHECK(prompt_tokens(f, tgv_model_template_name(f->model, i), NULL) >= plain);
}

/* The system text stands in front of the first turn only. */
static void check_system_once(const fixture *f)
{
    tgv_session_params params = session_params();
    uint32_t grown[2];
    int i;
    for (i = 0; i < 2; i++) {
        tgv_session *session;
        uint32_t first;
        params.system_text = i == 0 ? "" : "Please look at the picture, and then at the picture again, and again.";
        params.max_new_tokens = 1;
        session = session_with(f, &params);
        CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, NULL));
        first = statistics_of(session).context_used;
        CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, NULL));
        grown[i] = statistics_of(session).prompt_tokens - first;
        tgv_session_free(session);
    }
    CHECK(grown[0] == grown[1]);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    CHECK(argc == OWN_ARGUMENTS + 2); /* two texts inside the answer */
    check_length(&f);
    check_stop_text(&f, argv[OWN_ARGUMENTS]);
    check_stop_text(&f, argv[OWN_ARGUMENTS + 1]);
    check_callback(&f);
    check_answer_stays(&f);
    check_what_comes_before(&f);
    check_system_once(&f);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
