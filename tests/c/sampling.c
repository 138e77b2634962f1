/* Random sampling: the same seed repeats, other seeds differ sooner or later, and values out of range are refused. */
#include "check.h"

#include <math.h>

static tgv_sampling_params wild(uint32_t seed)
{
    tgv_sampling_params p = TGV_SAMPLING_PARAMS_INIT;
    p.mode = TGV_SAMPLING_RANDOM;
    p.temperature = 3;
    p.top_k = -1;
    p.top_p = 1;
    p.repeat_penalty = 1;
    p.seed = seed;
    return p;
}

/* Room for any answer of 24 tokens of this vocabulary. */
typedef struct answer_text {
    char text[2048];
} answer_text;

static answer_text ask(const fixture *f, tgv_session *session)
{
    answer_text out;
    const char *answer = NULL;
    CHECK_OK(tgv_session_reset(session));
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    CHECK_OK(tgv_session_ask(session, f->question, NULL, NULL, &answer));
    CHECK(strlen(answer) < sizeof out.text);
    strcpy(out.text, answer);
    return out;
}

static tgv_session *session_with(const fixture *f, const tgv_sampling_params *sampling)
{
    tgv_session_params params = session_params();
    tgv_session *session = NULL;
    params.max_new_tokens = 24;
    params.sampling = sampling;
    CHECK_OK(tgv_session_create(f->model, &params, &session));
    return session;
}

static void check_seeds(const fixture *f)
{
    tgv_sampling_params p = wild(1), q = wild(1), zero = wild(0);
    tgv_session *a = session_with(f, &p), *b = session_with(f, &q);
    answer_text one = ask(f, a), other;
    int different = 0;
    uint32_t seed;

    /* The same seed: again in the session, in another session, and set anew. */
    other = ask(f, a);
    CHECK(strcmp(one.text, other.text) == 0);
    other = ask(f, b);
    CHECK(strcmp(one.text, other.text) == 0);
    for (seed = 2; seed < 10; seed++) {
        q = wild(seed);
        CHECK_OK(tgv_session_set_sampling(b, &q));
        other = ask(f, b);
        different += strcmp(one.text, other.text) != 0;
    }
    CHECK(different >= 4);
    CHECK_OK(tgv_session_set_sampling(b, &p));
    other = ask(f, b);
    CHECK(strcmp(one.text, other.text) == 0);

    /* Seed 0 is another one each time the sampling is set. */
    different = 0;
    for (seed = 0; seed < 8; seed++) {
        CHECK_OK(tgv_session_set_sampling(b, &zero));
        other = ask(f, b);
        different += strcmp(one.text, other.text) != 0;
    }
    CHECK(different >= 4);
    tgv_session_free(a);
    tgv_session_free(b);
}

/* Ways to say greedy: none, all zero, and random among the one most likely token. */
static void check_greedy(const fixture *f)
{
    tgv_sampling_params zeros = TGV_SAMPLING_PARAMS_INIT, top_1 = wild(5), cold = wild(5);
    tgv_session *session = session_with(f, NULL);
    answer_text answer;

    top_1.top_k = 1;
    cold.temperature = 0.001f;
    zeros.seed = 77;
    zeros.temperature = 50; /* without effect */
    answer = ask(f, session);
    CHECK(strcmp(answer.text, f->answer) == 0);
    CHECK_OK(tgv_session_set_sampling(session, &top_1));
    answer = ask(f, session);
    CHECK(strcmp(answer.text, f->answer) == 0);
    CHECK_OK(tgv_session_set_sampling(session, &cold));
    answer = ask(f, session);
    CHECK(strcmp(answer.text, f->answer) == 0);
    CHECK_OK(tgv_session_set_sampling(session, &zeros));
    answer = ask(f, session);
    CHECK(strcmp(answer.text, f->answer) == 0);
    CHECK_OK(tgv_session_set_sampling(session, NULL));
    answer = ask(f, session);
    CHECK(strcmp(answer.text, f->answer) == 0);
    tgv_session_free(session);
}

/* Refused when set and when passed to a new session; what was set before stays. */
static void refuse(const fixture *f, tgv_sampling_params bad, const char *fragment)
{
    tgv_session_params params = session_params();
    tgv_session *session = SENTINEL(tgv_session);
    params.sampling = &bad;
    CHECK_FAILS(tgv_session_set_sampling(f->session, &bad), TGV_ERROR_INVALID_ARGUMENT, fragment);
    CHECK_FAILS(tgv_session_create(f->model, &params, &session), TGV_ERROR_INVALID_ARGUMENT, fragment);
    CHECK(session == SENTINEL(tgv_session));
    CHECK_WORKS(f);
}

static void check_ranges(const fixture *f)
{
    const float nan = (float)NAN, infinity = (float)INFINITY;
    tgv_sampling_params p;
#define REFUSE(field, value, fragment) (p = wild(1), p.field = (value), refuse(f, p, fragment))
    REFUSE(mode, 2, "mode 2");
    REFUSE(mode, -1, "mode -1");
    REFUSE(temperature, -1, "temperature");
    REFUSE(temperature, nan, "temperature");
    REFUSE(temperature, infinity, "temperature");
    REFUSE(top_p, -0.5f, "top_p");
    REFUSE(top_p, 1.5f, "top_p");
    REFUSE(top_p, nan, "top_p");
    REFUSE(min_p, -0.5f, "min_p");
    REFUSE(min_p, 1.5f, "min_p");
    REFUSE(min_p, nan, "min_p");
    REFUSE(repeat_penalty, -1, "repeat_penalty");
    REFUSE(repeat_penalty, nan, "repeat_penalty");
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    check_seeds(&f);
    check_greedy(&f);
    check_ranges(&f);
    close_fixture(&f);
    return 0;
}
