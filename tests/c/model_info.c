/* What a model tells about itself.
 *
 *   model_info DECODER VISION PICTURE QUESTION ANSWER WIDTH TOKENS SIDE VOCABULARY DECODER_BYTES VISION_BYTES
 */
#include "check.h"

static void check_figures(const fixture *f, char **own)
{
    tgv_model_params params = TGV_MODEL_PARAMS_INIT;
    tgv_model_info info = TGV_MODEL_INFO_INIT;
    tgv_model *single = NULL;

    CHECK_OK(tgv_model_get_info(f->model, &info));
    CHECK(info.embedding_width == strtoul(own[0], NULL, 10));
    CHECK(info.image_tokens == strtoul(own[1], NULL, 10));
    CHECK(info.image_size == strtoul(own[2], NULL, 10));
    CHECK(info.vocabulary == strtoul(own[3], NULL, 10));
    CHECK(info.decoder_bytes == strtoul(own[4], NULL, 10));
    CHECK(info.vision_bytes == strtoul(own[5], NULL, 10));
    CHECK(info.context_length >= 128 && info.context_length <= 1u << 20);
    CHECK(info.stage >= 1 && info.stage <= 4);
    CHECK(info.threads >= 1);
    CHECK(info.reserved == 0);
    CHECK(info.decoder_parameters > 100000 && info.decoder_parameters < info.decoder_bytes * 8);

    params.threads = 1;
    params.gpu_layers = 99; /* without effect where there is no GPU */
    CHECK_OK(tgv_model_load(f->decoder, f->vision, &params, &single));
    CHECK_OK(tgv_model_get_info(single, &info));
    CHECK(info.threads == 1);
    tgv_model_free(single);
}

static void check_texts(const tgv_model *model)
{
    const char *description = tgv_model_description(model);
    size_t count = tgv_model_template_count(model), i, k;

    CHECK(strstr(description, "phi2") != NULL && strchr(description, '\n') == NULL);
    CHECK(is_utf8(description, strlen(description)));
    CHECK(description == tgv_model_description(model));
    CHECK(count >= 2);
    for (i = 0; i < count; i++) {
        const char *name = tgv_model_template_name(model, i);
        CHECK(strlen(name) > 0 && is_utf8(name, strlen(name)));
        for (k = 0; k < i; k++)
            CHECK(strcmp(name, tgv_model_template_name(model, k)) != 0);
    }
    CHECK(strcmp(tgv_model_template_name(model, count), "") == 0);
    CHECK(strcmp(tgv_model_template_name(model, SIZE_MAX), "") == 0);
    CHECK(strcmp(tgv_model_template_name(NULL, 0), "") == 0);
    CHECK(strcmp(tgv_model_description(NULL), "") == 0);
    CHECK(tgv_model_template_count(NULL) == 0);
}

static size_t tokens_of(const tgv_model *model, const char *text)
{
    size_t n = 12345;
    CHECK_OK(tgv_model_count_tokens(model, text, &n));
    return n;
}

static void check_token_counts(const tgv_model *model)
{
    static char text[40001];
    size_t i;
    CHECK(tokens_of(model, "") == 0);
    CHECK(tokens_of(model, "###") == 1);
    CHECK(tokens_of(model, " ###") == 1);
    CHECK(tokens_of(model, "7") == 1);
    CHECK(tokens_of(model, "1234567890") == 10); /* this vocabulary has no numbers of several digits */
    CHECK(tokens_of(model, "\xe2\xad\x90") == 3);
    CHECK(tokens_of(model, "\x01\x7f") == 2);
    for (i = 0; i + 1 < sizeof text; i++)
        text[i] = i % 7 == 6 ? ' ' : (char)('0' + i % 10);
    CHECK(tokens_of(model, text) > 30000);
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    CHECK(argc == OWN_ARGUMENTS + 6);
    check_figures(&f, argv + OWN_ARGUMENTS);
    check_texts(f.model);
    check_token_counts(f.model);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
