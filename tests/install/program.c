/* A stranger's program in C99: program DECODER VISION PICTURE QUESTION prints the answer. */
#include <stdio.h>
#include <tinygptv.h>

int main(int argc, char **argv)
{
    tgv_model *model = NULL;
    tgv_image *image = NULL;
    tgv_session *session = NULL;
    const char *answer = NULL;
    int ok = argc == 5 && tgv_abi_version() == TGV_ABI_VERSION && tgv_model_load(argv[1], argv[2], NULL, &model) == TGV_OK &&
             tgv_image_from_file(argv[3], &image) == TGV_OK && tgv_session_create(model, NULL, &session) == TGV_OK &&
             tgv_session_add_image(session, image) == TGV_OK &&
             tgv_session_ask(session, argv[4], NULL, NULL, &answer) == TGV_OK;
    puts(ok ? answer : tgv_last_error());
    tgv_session_free(session);
    tgv_image_free(image);
    tgv_model_free(model);
    return ok ? 0 : 1;
}
