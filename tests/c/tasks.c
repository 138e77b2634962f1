/* Ranking, constrained answers, batches of questions, dropping of old turns, and templates of the caller's own. The question
 * is one that the picture answers with one word. */
#include "check.h"

static void look_again(const fixture *f)
{
    CHECK_OK(tgv_session_reset(f->session));
    CHECK_OK(tgv_session_add_embedding(f->session, f->embedding));
}

static void check_rank(const fixture *f)
{
    const char *candidates[3] = { "nothing of the kind", NULL, "perhaps" };
    tgv_rank_params params = TGV_RANK_PARAMS_INIT;
    float losses[3] = { -1, -1, -1 }, with_end[3];
    int i;

    CHECK_FAILS(tgv_session_rank(f->session, f->question, candidates, 3, NULL, losses), TGV_ERROR_INVALID_ARGUMENT,
                "candidate is NULL");
    CHECK_FAILS(tgv_session_rank(f->session, f->question, NULL, 3, NULL, losses), TGV_ERROR_INVALID_ARGUMENT, "NULL");
    CHECK_FAILS(tgv_session_rank(f->session, f->question, candidates, 0, NULL, losses), TGV_ERROR_INVALID_ARGUMENT,
                "no candidates");
    CHECK_FAILS(tgv_session_rank(f->session, f->question, candidates, SIZE_MAX, NULL, losses),
                TGV_ERROR_INVALID_ARGUMENT, "at most");
    candidates[1] = f->answer;
    CHECK_FAILS(tgv_session_rank(f->session, NULL, candidates, 3, NULL, losses), TGV_ERROR_INVALID_ARGUMENT, "question");
    CHECK_FAILS(tgv_session_rank(f->session, f->question, candidates, 3, NULL, NULL), TGV_ERROR_INVALID_ARGUMENT,
                "out_losses");
    params.no_bos = 2;
    CHECK_FAILS(tgv_session_rank(f->session, f->question, candidates, 3, &params, losses), TGV_ERROR_INVALID_ARGUMENT,
                "no_bos");
    params.no_bos = 1;
    params.end_text = "\xff";
    CHECK_FAILS(tgv_session_rank(f->session, f->question, candidates, 3, &params, losses), TGV_ERROR_INVALID_UTF8,
                "end_text");
    candidates[0] = "\xc3\x28";
    CHECK_FAILS(tgv_session_rank(f->session, f->question, candidates, 3, NULL, losses), TGV_ERROR_INVALID_UTF8,
                "candidate");
    CHECK(losses[0] == -1 && losses[1] == -1 && losses[2] == -1);

    candidates[0] = "nothing of the kind";
    params.end_text = "###";
    look_again(f);
    CHECK_OK(tgv_session_rank(f->session, f->question, candidates, 3, NULL, losses));
    CHECK_OK(tgv_session_rank(f->session, f->question, candidates, 3, &params, with_end));
    CHECK(losses[1] < losses[0] && losses[1] < losses[2]);
    CHECK(with_end[1] < with_end[0] && with_end[1] < with_end[2]);
    for (i = 0; i < 3; i++)
        CHECK(losses[i] > 0 && losses[i] != with_end[i]);
    /* The image still waits. */
    CHECK_ANSWER(f->session, f->question, f->answer);
}

static void check_constraints(const fixture *f)
{
    const char *answers[3] = { "perhaps", "\"never\"\n\\", NULL }, *answer = NULL;

    look_again(f);
    CHECK_FAILS(tgv_session_set_answers(f->session, answers, 3), TGV_ERROR_INVALID_ARGUMENT, "NULL");
    CHECK_FAILS(tgv_session_set_answers(f->session, NULL, 1), TGV_ERROR_INVALID_ARGUMENT, "NULL");
    CHECK_FAILS(tgv_session_set_answers(f->session, answers, 4097), TGV_ERROR_INVALID_ARGUMENT, "at most");
    answers[2] = " ";
    CHECK_FAILS(tgv_session_set_answers(f->session, answers, 3), TGV_ERROR_INVALID_ARGUMENT, "empty");
    answers[2] = "so ### on";
    CHECK_FAILS(tgv_session_set_answers(f->session, answers, 3), TGV_ERROR_INVALID_ARGUMENT, "###");
    CHECK_OK(tgv_session_set_answers(f->session, answers + 1, 1));
    CHECK_ANSWER(f->session, f->question, answers[1]);
    CHECK_FAILS(tgv_session_set_grammar(f->session, "root ::= [a-z"), TGV_ERROR_INVALID_ARGUMENT, "grammar");
    CHECK_FAILS(tgv_session_set_grammar(f->session, "root ::= (\"a\" | \nroot\n) oh"), TGV_ERROR_INVALID_ARGUMENT, "grammar");
    CHECK_FAILS(tgv_session_set_grammar(f->session, "\xff"), TGV_ERROR_INVALID_UTF8, "grammar");
    look_again(f);
    CHECK_ANSWER(f->session, f->question, answers[1]);

    CHECK_OK(tgv_session_set_grammar(f->session, "root ::= [x-z] [x-z]"));
    look_again(f);
    CHECK_OK(tgv_session_ask(f->session, f->question, NULL, NULL, &answer));
    CHECK(strlen(answer) == 2 && strspn(answer, "xyz") == 2);
    CHECK(statistics_of(f->session).finish == TGV_FINISH_STOP);

    CHECK_OK(tgv_session_set_grammar(f->session, NULL));
    CHECK_WORKS(f);
    CHECK_OK(tgv_session_set_answers(f->session, answers, 1));
    CHECK_OK(tgv_session_set_answers(f->session, NULL, 0));
    CHECK_WORKS(f);
}

enum { QUESTIONS = 20 };

typedef struct batch {
    const fixture *f;
    int told[QUESTIONS], count, stop_after;
} batch;

static int32_t on_answer(size_t index, const char *answer, size_t length, int32_t finish, void *user_data)
{
    batch *b = (batch *)user_data;
    CHECK(index < QUESTIONS && strlen(answer) == length && is_utf8(answer, length));
    CHECK(finish == TGV_FINISH_STOP);
    CHECK(index % 2 == 1 || strcmp(answer, b->f->answer) == 0);
    CHECK_FAILS(tgv_session_reset(b->f->session), TGV_ERROR_BUSY, "busy");
    b->told[index]++;
    b->count++;
    return b->count == b->stop_after;
}

static void check_batches(const fixture *f)
{
    batch b = { f, { 0 }, 0, 0 }, cut = { f, { 0 }, 0, 3 };
    const char *questions[QUESTIONS];
    tgv_statistics s;
    int i;

    for (i = 0; i < QUESTIONS; i++)
        questions[i] = i % 2 == 0 ? f->question : "Describe this image.";
    look_again(f);
    CHECK_OK(tgv_session_ask_each(f->session, questions, QUESTIONS, on_answer, &b));
    for (i = 0; i < QUESTIONS; i++)
        CHECK(b.told[i] == 1);
    s = statistics_of(f->session);
    CHECK(s.image_tokens > 0 && s.reused_tokens >= (QUESTIONS - 1) * s.image_tokens);
    CHECK_OK(tgv_session_ask_each(f->session, questions, QUESTIONS, on_answer, &cut));
    CHECK(cut.count == 3);
    CHECK_OK(tgv_session_ask_each(f->session, questions, 2, NULL, NULL));
    CHECK_OK(tgv_session_ask_each(f->session, NULL, 0, on_answer, &b));
    questions[3] = NULL;
    CHECK_FAILS(tgv_session_ask_each(f->session, questions, QUESTIONS, on_answer, &b), TGV_ERROR_INVALID_ARGUMENT, "NULL");
    questions[3] = " ";
    CHECK_FAILS(tgv_session_ask_each(f->session, questions, QUESTIONS, on_answer, &b), TGV_ERROR_INVALID_ARGUMENT, "empty");
    CHECK(b.count == QUESTIONS);
    CHECK_ANSWER(f->session, f->question, f->answer);
}

static void check_session_params(const fixture *f)
{
    tgv_session_params params = session_params();
    tgv_session *session = SENTINEL(tgv_session);
    uint32_t dropped = 0;
    int i;

#define REFUSE(field, value, fragment)                                                                          \
    do {                                                                                                        \
        params = session_params();                                                                              \
        params.field = (value);                                                                                 \
        CHECK_FAILS(tgv_session_create(f->model, &params, &session), TGV_ERROR_INVALID_ARGUMENT, fragment);     \
        CHECK(session == SENTINEL(tgv_session));                                                                \
    } while (0)
    REFUSE(when_full, 2, "when_full");
    REFUSE(when_full, -1, "when_full");
    REFUSE(kv_type, 2, "kv_type");
    REFUSE(template_text, "{question}", "{images}");
    REFUSE(template_text, "", "{images}");
    REFUSE(image_text, "{image}", "template text");

    /* A conversation much longer than its context. */
    params = session_params();
    params.context = 160;
    params.when_full = TGV_WHEN_FULL_DROP_OLDEST;
    params.kv_type = TGV_KV_F32;
    CHECK_OK(tgv_session_create(f->model, &params, &session));
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    for (i = 0; i < 20; i++) {
        tgv_statistics s;
        CHECK_ANSWER(session, f->question, f->answer);
        s = statistics_of(session);
        CHECK(s.dropped_images == 0 && s.context_used <= s.context_size);
        dropped += s.dropped_turns;
    }
    CHECK(dropped > 5);
    tgv_session_free(session);

    params = session_params();
    params.template_text = "###Human: {images}{question} ###Assistant:";
    params.image_text = "<Img>{image}</Img> ";
    session = NULL;
    CHECK_OK(tgv_session_create(f->model, &params, &session));
    CHECK_OK(tgv_session_add_embedding(session, f->embedding));
    CHECK_ANSWER(session, f->question, f->answer);
    tgv_session_free(session);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    check_rank(&f);
    check_constraints(&f);
    check_batches(&f);
    check_session_params(&f);
    close_fixture(&f);
    return 0;
}
