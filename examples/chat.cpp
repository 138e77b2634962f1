// A conversation about a picture: reads a line, answers, remembers.
//
//   chat MODEL.gguf VISION.gguf PICTURE
//
// Lines starting with a slash: /image FILE shows another picture, /reset forgets the conversation, /quit ends. Ctrl-C stops
// the answer that is being given.
#include <csignal>
#include <iostream>
#include <string>

#include "tinygptv.hpp"

// The signal handler only sets this; the callbacks read it. Session::cancel is for other threads.
static volatile std::sig_atomic_t interrupted = 0;

extern "C" void on_interrupt(int) { interrupted = 1; }

static tgv::ProgressCallback progress(std::string what) {
    return [what = std::move(what)](float fraction) {
        std::cerr << '\r' << what << ' ' << static_cast<int>(fraction * 100) << (fraction < 1 ? " %" : " %\n");
        return !interrupted;
    };
}

static bool print(std::string_view text) {
    std::cout << text << std::flush;
    return !interrupted;
}

// False ends the conversation. Errors leave it as it was.
static bool obey(tgv::Session &session, const std::string &line) {
    static const std::string image = "/image ";
    if (line == "/quit") return false;
    if (line == "/reset") {
        session.reset();
    } else if (line.compare(0, image.size(), image) == 0) {
        session.add_image(tgv::Image::from_file(line.substr(image.size())));
    } else if (!line.empty()) {
        session.ask(line, print);
        std::cout << '\n';
    }
    return true;
}

static void talk(tgv::Session &session) {
    for (std::string line; std::cout << "> " << std::flush, std::getline(std::cin, line);) {
        interrupted = 0;
        try {
            if (!obey(session, line)) break;
        } catch (const tgv::Error &error) {
            std::cerr << "chat: " << error.what() << '\n';
        }
    }
    std::cout << '\n';
}

int main(int argc, char **argv) try {
    if (argc != 4) {
        const bool help = argc == 2 && std::string(argv[1]) == "--help";
        (help ? std::cout : std::cerr) << "usage: chat MODEL VISION PICTURE\n";
        return help ? 0 : 2;
    }
    std::signal(SIGINT, on_interrupt);
    tgv::ModelOptions model_options;
    model_options.on_progress = progress("loading");
    tgv::SessionOptions session_options;
    session_options.on_progress = progress("looking");
    const auto model = tgv::Model::load(argv[1], argv[2], model_options);
    auto session = tgv::Session::create(model, session_options);
    session.add_image(tgv::Image::from_file(argv[3]));
    std::cout << model.description() << '\n';
    talk(session);
    return 0;
} catch (const tgv::Error &error) {
    std::cerr << "chat: " << error.what() << '\n';
    return 1;
}
