// tinygptv.hpp with exceptions: every class and function, what callbacks throw, moves, and statuses.
//
//   wrapper DECODER VISION PICTURE QUESTION ANSWER SCRATCH
#include <fstream>
#include <iterator>
#include <type_traits>

#include "tinygptv.hpp"

#include "check.h"

// What a callback throws; not derived from anything, as a program's own may be.
struct Thrown {
    int value;
};

template <class Function>
static void check_throws(const char *file, int line, tgv_status status, const char *fragment, Function function) {
    try {
        function();
    } catch (const tgv::Error &error) {
        if (error.status() == status && std::string_view(error.what()).find(fragment) != std::string_view::npos) return;
        fail_at(file, line, (tgv::status_name(error.status()).data() + std::string(": ") + error.what()).c_str());
    }
    fail_at(file, line, "nothing was thrown");
}

#define CHECK_THROWS(status, fragment, ...) check_throws(__FILE__, __LINE__, status, fragment, [&] { __VA_ARGS__; })

template <class Function>
static int thrown_by(Function function) {
    try {
        function();
    } catch (const Thrown &thrown) {
        return thrown.value;
    }
    return 0;
}

template <class T>
constexpr bool is_move_only = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                              !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(is_move_only<tgv::Model> && is_move_only<tgv::Image> && is_move_only<tgv::Embedding>);
static_assert(is_move_only<tgv::Session> && is_move_only<tgv::Boxes>);

struct Fixture {
    std::string decoder, vision, picture, question, answer, scratch;
    tgv::Model model;
    tgv::Image image;
    tgv::Embedding embedding;
};

static tgv::Session create_session(const Fixture &f, tgv::SessionOptions options = {}) {
    options.threads = 1;
    return tgv::Session::create(f.model, options);
}

static void check_versions() {
    CHECK(tgv::version() == TGV_VERSION);
    CHECK(tgv::abi_version() == TGV_ABI_VERSION && tgv::is_compatible());
    CHECK(tgv::status_name(TGV_ERROR_IO) == "TGV_ERROR_IO");
}

static void check_model(const Fixture &f) {
    const tgv::ModelInfo info = f.model.info();
    CHECK(info.embedding_width > 0 && info.image_tokens > 0);
    CHECK(f.model.description().find("phi2") != std::string::npos);
    const std::vector<std::string> names = f.model.template_names();
    CHECK(!names.empty() && !names.front().empty());
    CHECK(f.model.count_tokens("one two three") >= 3);
    CHECK_THROWS(TGV_ERROR_INVALID_UTF8, "UTF-8", f.model.count_tokens("\xff"));
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "zero byte", f.model.count_tokens(std::string_view("a\0b", 3)));
    CHECK_THROWS(TGV_ERROR_FILE_NOT_FOUND, "no/such/file", tgv::Model::load("no/such/file", f.vision));
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "zero byte", tgv::Model::load(f.decoder, std::string("a\0b", 3)));

    tgv::ModelOptions options;
    options.profile = 99;
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "profile", tgv::Model::load(f.decoder, f.vision, options));
    options.profile = TGV_PROFILE_FAST;
    options.processor_mask = ~std::uint64_t(0);
    float last = -1;
    options.on_progress = [&](float fraction) {
        CHECK(fraction >= last);
        last = fraction;
        return true;
    };
    const tgv::Model second = tgv::Model::load(f.decoder, f.vision, options);
    CHECK(last == 1.0f);
    options.on_progress = [](float) { return false; };
    CHECK_THROWS(TGV_ERROR_CANCELLED, "cancel", tgv::Model::load(f.decoder, f.vision, options));
    options.on_progress = [](float) -> bool { throw Thrown{1}; };
    CHECK(thrown_by([&] { (void)tgv::Model::load(f.decoder, f.vision, options); }) == 1);

    CHECK(second.cache_size().count == 0);
    const tgv::MemoryPlan plan = tgv::Model::plan(f.decoder, f.vision);
    CHECK(plan.private_bytes > plan.session_bytes && plan.mapped_bytes > 0);
    const tgv::Embedding embedding = tgv::Embedding::encode(second, f.image);
    CHECK(second.cache_size().count == 1 && second.cache_size().bytes > 0);
}

static void check_images(const Fixture &f) {
    const tgv::Image::Size size = f.image.size();
    CHECK(size.width > 1 && size.height > 1);
    std::ifstream file(f.picture, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    CHECK(tgv::Image::from_memory(bytes.data(), bytes.size()).size().width == size.width);
    const std::vector<unsigned char> pixels(2 * 8, 127);
    CHECK(tgv::Image::from_pixels(pixels.data(), pixels.size(), 2, 2, TGV_PIXELS_RGB, 8).size().height == 2);
    CHECK_THROWS(TGV_ERROR_BAD_IMAGE, "", tgv::Image::from_pixels(pixels.data(), pixels.size(), 0, 2, TGV_PIXELS_RGB));
    CHECK_THROWS(TGV_ERROR_BAD_IMAGE, "", tgv::Image::from_memory("no picture", 10));
    CHECK_THROWS(TGV_ERROR_FILE_NOT_FOUND, "no/such/file", tgv::Image::from_file("no/such/file"));
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "zero byte", tgv::Image::from_file(std::string_view("a\0b", 3)));
}

static void check_embeddings(const Fixture &f) {
    const tgv::Embedding::Size size = f.embedding.size();
    const std::vector<float> values = f.embedding.values();
    CHECK(values.size() == size.rows * size.width && size.width == f.model.info().embedding_width);
    CHECK(tgv::Embedding::from_values(f.model, values).values() == values);
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "", tgv::Embedding::from_values(f.model, {1.0f}));
    f.embedding.save(f.model, f.scratch);
    CHECK(tgv::Embedding::load(f.model, f.scratch).values() == values);
    CHECK_THROWS(TGV_ERROR_FILE_NOT_FOUND, "no/such", f.embedding.save(f.model, "no/such/folder/file"));
    CHECK_THROWS(TGV_ERROR_BAD_EMBEDDING_FILE, "", tgv::Embedding::load(f.model, f.picture));
    CHECK(std::remove(f.scratch.c_str()) == 0);
    CHECK_THROWS(TGV_ERROR_FILE_NOT_FOUND, "", tgv::Embedding::load(f.model, f.scratch));

    CHECK_THROWS(TGV_ERROR_CANCELLED, "", tgv::Embedding::encode(f.model, f.image, [](float) { return false; }));
    const auto throwing = [](float) -> bool { throw Thrown{2}; };
    CHECK(thrown_by([&] { (void)tgv::Embedding::encode(f.model, f.image, throwing); }) == 2);
}

static void check_asking(const Fixture &f) {
    tgv::Session session = create_session(f);
    std::string pieces;
    const auto collect = [&](std::string_view text) {
        pieces += text;
        return true;
    };
    const auto look_again = [&] {
        session.reset();
        session.add_embedding(f.embedding);
    };

    look_again();
    CHECK(session.ask(f.question, collect) == f.answer && pieces == f.answer);
    CHECK(session.statistics().finish == TGV_FINISH_STOP && session.statistics().generated_tokens > 0);
    session.reset();
    session.add_image(f.image);
    CHECK(session.ask(f.question) == f.answer);

    look_again();
    (void)session.ask(f.question, [](std::string_view) { return false; });
    CHECK(session.statistics().finish == TGV_FINISH_CALLBACK);
    look_again();
    CHECK(thrown_by([&] { session.ask(f.question, [](std::string_view) -> bool { throw Thrown{3}; }); }) == 3);
    look_again();
    // Busy inside its own callback: what that throws comes out as it is.
    CHECK_THROWS(TGV_ERROR_BUSY, "busy", session.ask(f.question, [&](std::string_view) {
        session.reset();
        return true;
    }));
    look_again();
    CHECK_THROWS(TGV_ERROR_CANCELLED, "cancel", session.ask("Describe this image.", [&](std::string_view) {
        session.cancel();
        return true;
    }));
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "zero byte", session.ask(std::string_view("a\0b", 3)));
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "empty", session.ask(""));

    look_again();
    CHECK(session.ask(f.question) == f.answer);
}

static void check_choosing(const Fixture &f) {
    tgv::Session session = create_session(f);
    const std::vector<std::string> candidates = {"nothing of the kind", f.answer};
    const auto look_again = [&] {
        session.reset();
        session.add_embedding(f.embedding);
    };

    look_again();
    tgv::RankOptions options;
    const std::vector<float> losses = session.rank(f.question, candidates);
    options.end_text = "###";
    options.no_bos = true;
    const std::vector<float> others = session.rank(f.question, candidates, options);
    CHECK(losses.size() == 2 && losses[1] < losses[0] && others[1] < others[0] && others[1] != losses[1]);
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "candidates", session.rank(f.question, {}));

    session.set_answers({"perhaps"});
    CHECK(session.ask(f.question) == "perhaps");
    look_again();
    session.set_grammar("root ::= [x-z] [x-z]");
    CHECK(session.ask(f.question).size() == 2);
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "grammar", session.set_grammar("root ::= [a-z"));
    session.clear_constraint();
    look_again();
    CHECK(session.ask(f.question) == f.answer);

    session.set_sampling(tgv::Sampling::random(7));
    look_again();
    const std::string first = session.ask(f.question);
    session.set_sampling(tgv::Sampling::random(7));
    look_again();
    CHECK(session.ask(f.question) == first);
    session.set_sampling({});

    look_again();
    std::vector<std::string> told(3);
    session.ask_each({f.question, f.question, f.question},
                     [&](std::size_t index, std::string_view answer, std::int32_t finish) {
                         CHECK(finish == TGV_FINISH_STOP);
                         told.at(index) = answer;
                         return true;
                     });
    CHECK(told == std::vector<std::string>(3, f.answer));
    const auto throwing = [](std::size_t, std::string_view, std::int32_t) -> bool { throw Thrown{4}; };
    CHECK(thrown_by([&] { session.ask_each({f.question}, throwing); }) == 4);
}

static void check_session_options(const Fixture &f) {
    tgv::SessionOptions options;
    options.template_name = "no such template";
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "no such template", create_session(f, options));
    options.template_name = std::string("a\0b", 3);
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "zero byte", create_session(f, options));
    options.template_name.reset();
    options.kv_type = 99;
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "kv_type", create_session(f, options));
    options.kv_type = TGV_KV_F32;
    options.when_full = TGV_WHEN_FULL_DROP_OLDEST;
    options.context = 160;
    options.max_new_tokens = 2;
    options.stop_texts = {"not in any answer"};
    options.template_text = "###Human: {images}{question} ###Assistant:";
    options.image_text = "<Img>{image}</Img> ";
    options.system_text = "";
    int calls = 0;
    bool go_on = true;
    options.on_progress = [&](float) {
        ++calls;
        if (!go_on) throw Thrown{5};
        return true;
    };
    tgv::Session session = create_session(f, options);
    session.add_embedding(f.embedding);
    (void)session.ask("Describe this image.");
    CHECK(session.statistics().context_size == 160 && session.statistics().generated_tokens <= 2);

    // The callback stays where the library finds it, wherever the session moves.
    tgv::Session moved = std::move(session);
    CHECK(session.get() == nullptr && moved.get() != nullptr);
    moved.add_image(f.image);
    CHECK(calls > 0);
    go_on = false;
    CHECK(thrown_by([&] { moved.add_image(f.image); }) == 5);
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "NULL", session.reset());
    moved = create_session(f);
    moved.add_image(f.image);
}

static void check_boxes(const Fixture &f) {
    tgv::Boxes boxes = tgv::Boxes::create(f.image);
    boxes.push("<p>a star</p>{<1><2>");
    CHECK(boxes.count() == 0);
    boxes.push("<50><60>}");
    CHECK(boxes.count() == 1 && boxes.at(0).label == "a star" && boxes.at(0).x0 < boxes.at(0).x1);
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "", boxes.at(1));
    boxes.draw(f.image, f.scratch);
    CHECK(tgv::Image::from_file(f.scratch).size().width == f.image.size().width);
    CHECK(std::remove(f.scratch.c_str()) == 0);
    CHECK_THROWS(TGV_ERROR_FILE_NOT_FOUND, "no/such", boxes.draw(f.image, "no/such/folder/boxes.png"));
}

static void check_log(const Fixture &f) {
    int first = 0, second = 0;
    tgv::set_log_callback([&](std::int32_t level, std::string_view text) {
        CHECK(level >= TGV_LOG_DEBUG && level <= TGV_LOG_ERROR && !text.empty());
        ++first;
        throw Thrown{6}; // dropped
    });
    (void)tgv::Model::load(f.decoder, f.vision);
    const int told = first;
    CHECK(told > 0);
    tgv::set_log_callback([&](std::int32_t, std::string_view) {
        if (second++ == 0) CHECK_THROWS(TGV_ERROR_BUSY, "", tgv::set_log_callback({}));
    });
    (void)tgv::Model::load(f.decoder, f.vision);
    CHECK(first == told && second > 0);
    tgv::set_log_callback({});
    const int last = second;
    (void)tgv::Model::load(f.decoder, f.vision);
    CHECK(second == last);
}

// Two users of the library in one program, who come and go on their own.
static void check_log_listeners(const Fixture &f) {
    int first = 0, second = 0;
    {
        tgv::LogListener one = tgv::LogListener::add([&](std::int32_t, std::string_view) { ++first; });
        std::optional<tgv::LogListener> two = tgv::LogListener::add([&](std::int32_t, std::string_view) { ++second; });
        (void)tgv::Model::load(f.decoder, f.vision);
        CHECK(first > 0 && first == second);
        two.reset();
        tgv::LogListener moved = std::move(one);
        (void)tgv::Model::load(f.decoder, f.vision);
        CHECK(first == 2 * second);
        moved = tgv::LogListener::add([&](std::int32_t, std::string_view) { ++second; });
        (void)tgv::Model::load(f.decoder, f.vision);
        CHECK(first == second);
    }
    (void)tgv::Model::load(f.decoder, f.vision);
    CHECK(first == second);
    CHECK_THROWS(TGV_ERROR_INVALID_ARGUMENT, "callback", tgv::LogListener::add({}));
}

// Objects die in an order in which C++ would not let them go by itself.
static void check_lifetimes(const Fixture &f) {
    std::optional<tgv::Model> model = tgv::Model::load(f.decoder, f.vision);
    std::optional<tgv::Image> image = tgv::Image::from_file(f.picture);
    std::optional<tgv::Embedding> embedding = tgv::Embedding::encode(*model, *image);
    tgv::SessionOptions options;
    options.threads = 1;
    tgv::Session session = tgv::Session::create(*model, options);
    model.reset();
    image.reset();
    session.add_embedding(*embedding);
    embedding.reset();
    CHECK(session.ask(f.question) == f.answer);
}

int main(int argc, char **argv) {
    CHECK(argc == OWN_ARGUMENTS + 1);
    tgv::Model model = tgv::Model::load(argv[1], argv[2]);
    tgv::Image image = tgv::Image::from_file(argv[3]);
    tgv::Embedding embedding = tgv::Embedding::encode(model, image);
    // No cache here: encoding is to be seen.
    tgv::ModelOptions options;
    options.embedding_cache_mb = -1;
    model = tgv::Model::load(argv[1], argv[2], options);
    const Fixture f = {argv[1],          argv[2], argv[3], argv[4], argv[5], argv[OWN_ARGUMENTS], std::move(model),
                       std::move(image), std::move(embedding)};
    check_versions();
    check_model(f);
    check_images(f);
    check_embeddings(f);
    check_asking(f);
    check_choosing(f);
    check_session_options(f);
    check_boxes(f);
    check_log(f);
    check_log_listeners(f);
    check_lifetimes(f);
    return 0;
}
