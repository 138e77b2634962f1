/* Flips single bits in a model file's header and in its weights: each load, and each question to what still loads, ends in
 * success or in a status, never in a crash.
 *
 *   flipped_bits DECODER VISION PICTURE QUESTION ANSWER decoder|vision SCRATCH HEADER_BYTES FLIPS
 *
 * SCRATCH is a writable copy of the file in question. The position is told in front of every load, so that the last line of
 * the output names the one that crashed.
 */
#include "check.h"

static void write_byte(FILE *file, long position, int byte)
{
    CHECK(fseek(file, position, SEEK_SET) == 0);
    CHECK(fputc(byte, file) == byte);
    CHECK(fflush(file) == 0);
}

/* Either a documented error with a text, or a model that can be used without harm. */
static int try_model(const fixture *f, const char *decoder, const char *vision)
{
    tgv_session_params params = session_params();
    tgv_model *model = SENTINEL(tgv_model);
    tgv_session *session = NULL;
    tgv_status status = tgv_model_load(decoder, vision, NULL, &model);
    if (status != TGV_OK) {
        CHECK(model == SENTINEL(tgv_model));
        CHECK(status > 7000 && status < TGV_ERROR_INTERNAL);
        CHECK(strlen(tgv_last_error()) > 10);
        return 0;
    }
    params.max_new_tokens = 4;
    params.context = 128;
    if (tgv_session_create(model, &params, &session) == TGV_OK) {
        status = tgv_session_add_image(session, f->image);
        CHECK(status == TGV_OK || (status > 7000 && status < TGV_ERROR_INTERNAL));
        status = tgv_session_ask(session, f->question, NULL, NULL, NULL);
        CHECK(status == TGV_OK || (status > 7000 && status < TGV_ERROR_INTERNAL));
        CHECK(statistics_of(session).context_size == 128);
    }
    tgv_session_free(session);
    tgv_model_free(model);
    return 1;
}

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    const char *scratch;
    unsigned char *bytes;
    uint64_t state = 88172645463325252u; /* of a xorshift generator: the same positions in every run */
    size_t size, header;
    int is_decoder, flips, i, loaded = 0;
    FILE *file;

    CHECK(argc == OWN_ARGUMENTS + 4);
    is_decoder = strcmp(argv[OWN_ARGUMENTS], "decoder") == 0;
    scratch = argv[OWN_ARGUMENTS + 1];
    header = strtoul(argv[OWN_ARGUMENTS + 2], NULL, 10);
    flips = rounds(atoi(argv[OWN_ARGUMENTS + 3]));
    bytes = read_file(scratch, &size);
    CHECK(header > 100 && header < size);
    file = fopen(scratch, "r+b");
    CHECK(file != NULL);

    for (i = 0; i < flips; i++) {
        size_t position;
        int bit;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        /* The fixed fields in front, one after another; then anywhere in the header; every tenth time in the weights. */
        position = i < 24 ? (size_t)i : i % 10 == 9 ? header + state % (size - header) : state % header;
        bit = (int)(state >> 40) & 7;
        printf("byte %lu, bit %d\n", (unsigned long)position, bit);
        fflush(stdout);
        write_byte(file, (long)position, bytes[position] ^ 1 << bit);
        loaded += try_model(&f, is_decoder ? scratch : f.decoder, is_decoder ? f.vision : scratch);
        write_byte(file, (long)position, bytes[position]);
    }
    printf("%d of %d files loaded\n", loaded, flips);
    CHECK(try_model(&f, is_decoder ? scratch : f.decoder, is_decoder ? f.vision : scratch));
    fclose(file);
    free(bytes);
    CHECK_WORKS(&f);
    close_fixture(&f);
    return 0;
}
