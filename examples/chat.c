/* A conversation about a picture: reads a line, answers, remembers.
 *
 *   chat MODEL.gguf VISION.gguf PICTURE
 *
 * Lines starting with a slash: /image FILE shows another picture, /reset forgets the conversation, /quit ends. Ctrl-C stops
 * the answer that is being given.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tinygptv.h"

/* The signal handler only sets this; the text callback reads it. tgv_session_cancel is for other threads. */
static volatile sig_atomic_t interrupted = 0;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static int print_text(const char *text, size_t length, void *user_data)
{
    (void)user_data;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return interrupted;
}

static int print_progress(float fraction, void *user_data)
{
    const char *what = user_data;
    fprintf(stderr, "\r%s %3.0f %%", what, (double)fraction * 100);
    if (fraction >= 1)
        fprintf(stderr, "\n");
    return interrupted;
}

/* Shows the picture to the session; a failure is told and leaves the conversation as it was. */
static int show_picture(tgv_session *session, const char *path)
{
    tgv_image *image = NULL;
    tgv_status status = tgv_image_from_file(path, &image);
    if (status == TGV_OK)
        status = tgv_session_add_image(session, image);
    if (status != TGV_OK)
        fprintf(stderr, "chat: %s\n", tgv_last_error());
    tgv_image_free(image);
    return status == TGV_OK ? 0 : 1;
}

static void talk(tgv_session *session)
{
    char line[4096];
    for (;;) {
        printf("> ");
        fflush(stdout);
        if (fgets(line, sizeof line, stdin) == NULL)
            break;
        line[strcspn(line, "\r\n")] = '\0';
        interrupted = 0;
        if (strcmp(line, "/quit") == 0) {
            break;
        } else if (strcmp(line, "/reset") == 0) {
            tgv_session_reset(session);
        } else if (strncmp(line, "/image ", 7) == 0) {
            show_picture(session, line + 7);
        } else if (line[0] != '\0') {
            if (tgv_session_ask(session, line, print_text, NULL, NULL) != TGV_OK)
                fprintf(stderr, "chat: %s", tgv_last_error());
            printf("\n");
        }
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    tgv_model_params model_params = TGV_MODEL_PARAMS_INIT;
    tgv_session_params session_params = TGV_SESSION_PARAMS_INIT;
    tgv_model *model = NULL;
    tgv_session *session = NULL;
    char loading[] = "loading", looking[] = "looking";
    int result = 1;

    if (argc != 4) {
        fprintf(argc == 2 && strcmp(argv[1], "--help") == 0 ? stdout : stderr, "usage: chat MODEL VISION PICTURE\n");
        return argc == 2 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
    }
    signal(SIGINT, on_interrupt);
    model_params.on_progress = print_progress;
    model_params.user_data = loading;
    session_params.on_progress = print_progress;
    session_params.user_data = looking;
    if (tgv_model_load(argv[1], argv[2], &model_params, &model) != TGV_OK ||
        tgv_session_create(model, &session_params, &session) != TGV_OK) {
        fprintf(stderr, "chat: %s\n", tgv_last_error());
    } else if (show_picture(session, argv[3]) == 0) {
        printf("%s\n", tgv_model_description(model));
        talk(session);
        result = 0;
    }
    tgv_session_free(session);
    tgv_model_free(model);
    return result;
}
