/* Files that are no model, or no pair: each is refused with its status and a message that helps, and the process goes on.
 *
 *   bad_models DECODER VISION PICTURE QUESTION ANSWER (DECODER VISION STATUS FRAGMENT)...
 *
 * VISION may be "-" for none.
 */
#include "check.h"

int main(int argc, char **argv)
{
    fixture f = open_fixture(argc, argv);
    int i;
    CHECK(argc > OWN_ARGUMENTS && (argc - OWN_ARGUMENTS) % 4 == 0);
    for (i = OWN_ARGUMENTS; i < argc; i += 4) {
        const char *vision = strcmp(argv[i + 1], "-") == 0 ? NULL : argv[i + 1];
        tgv_status expected = (tgv_status)atoi(argv[i + 2]), status;
        tgv_model *model = SENTINEL(tgv_model);
        status = tgv_model_load(argv[i], vision, NULL, &model);
        if (status != expected || strstr(tgv_last_error(), argv[i + 3]) == NULL || model != SENTINEL(tgv_model)) {
            fprintf(stderr, "%s, %s:\n    gave %s, not %s with \"%s\"\n    last error: %s\n", argv[i], argv[i + 1],
                    tgv_status_name(status), tgv_status_name(expected), argv[i + 3], tgv_last_error());
            return 1;
        }
        CHECK_WORKS(&f);
    }
    close_fixture(&f);
    return 0;
}
