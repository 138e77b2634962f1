// tinygptv.hpp without exceptions: every kind of result, and callbacks.
//
//   wrapper_results DECODER VISION PICTURE QUESTION ANSWER
#include "tinygptv.hpp"

#include "check.h"

#ifdef __cpp_exceptions
#error "this is to be built without exceptions"
#endif

template <class T>
static bool fails(const tgv::Result<T> &result, tgv_status status, const char *fragment) {
    return !result && !result.has_value() && result.error().status() == status &&
           std::string_view(result.error().what()).find(fragment) != std::string_view::npos;
}

static tgv::Result<std::string> answer(const char *decoder, const char *vision, const char *picture, const char *question) {
    tgv::Result<tgv::Model> model = tgv::Model::load(decoder, vision);
    if (!model) return model.error();
    const tgv::Result<tgv::Image> image = tgv::Image::from_file(picture);
    if (!image) return image.error();
    tgv::SessionOptions options;
    options.threads = 1;
    tgv::Result<tgv::Session> session = tgv::Session::create(*model, options);
    if (!session) return session.error();
    if (const tgv::Result<void> added = session->add_image(*image); !added) return added.error();
    std::string pieces;
    tgv::Result<std::string> answer = session->ask(question, [&](std::string_view text) {
        CHECK(fails(session->reset(), TGV_ERROR_BUSY, "busy"));
        pieces += text;
        return true;
    });
    CHECK(!answer || *answer == pieces);
    return answer;
}

int main(int argc, char **argv) {
    CHECK(argc == OWN_ARGUMENTS);
    const tgv::Result<std::string> right = answer(argv[1], argv[2], argv[3], argv[4]);
    CHECK(right.has_value() && *right == argv[5]);
    CHECK(fails(answer("no/such/file", argv[2], argv[3], argv[4]), TGV_ERROR_FILE_NOT_FOUND, "no/such/file"));
    CHECK(fails(answer(argv[1], argv[2], argv[1], argv[4]), TGV_ERROR_BAD_IMAGE, "GGUF"));
    CHECK(fails(answer(argv[1], argv[2], argv[3], ""), TGV_ERROR_INVALID_ARGUMENT, "empty"));
    CHECK(fails(tgv::Image::from_file(std::string_view("a\0b", 3)), TGV_ERROR_INVALID_ARGUMENT, "zero byte"));

    tgv::ModelOptions options;
    options.on_progress = [](float) { return false; };
    CHECK(fails(tgv::Model::load(argv[1], argv[2], options), TGV_ERROR_CANCELLED, "cancel"));
    options.on_progress = nullptr;
    tgv::Model model = *tgv::Model::load(argv[1], argv[2], options);
    CHECK(model.info()->embedding_width > 0 && *model.count_tokens("one two three") >= 3);
    const tgv::Result<tgv::Boxes> boxes = tgv::Boxes::create(*tgv::Image::from_file(argv[3]));
    CHECK(boxes.has_value() && boxes->count() == 0);
    CHECK(fails(boxes->at(0), TGV_ERROR_INVALID_ARGUMENT, ""));

    int told = 0;
    CHECK(tgv::set_log_callback([&](std::int32_t, std::string_view) { ++told; }).has_value());
    CHECK(tgv::Model::load(argv[1], argv[2]).has_value() && told > 0);
    CHECK(tgv::set_log_callback({}).has_value());
    return 0;
}
