// Asks one or more questions about a picture and streams the answers.
//
//   c++ -std=c++17 ask.cpp -I include -L target/release -ltinygptv -o ask
//   ask MODEL.gguf VISION.gguf PICTURE "question" ["next question" ...]
#include <iostream>
#include <string_view>

#include "tinygptv.hpp"

static bool print(std::string_view text) {
    std::cout << text << std::flush;
    return std::cout.good(); // a closed pipe ends the answer
}

int main(int argc, char **argv) try {
    const bool help = argc == 2 && std::string_view(argv[1]) == "--help";
    if (argc < 5) {
        (help ? std::cout : std::cerr) << "usage: ask MODEL VISION PICTURE QUESTION...\n";
        return help ? 0 : 2;
    }
    const auto model = tgv::Model::load(argv[1], argv[2]);
    const auto picture = tgv::Embedding::encode(model, tgv::Image::from_file(argv[3]));
    auto session = tgv::Session::create(model);
    for (int i = 4; i < argc; ++i) {
        if (argc > 5) std::cout << "> " << argv[i] << '\n';
        session.reset(); // the questions are independent of each other
        session.add_embedding(picture);
        session.ask(argv[i], print);
        std::cout << '\n';
    }
    return 0;
} catch (const tgv::Error &error) {
    std::cerr << "ask: " << error.what() << '\n';
    return 1;
}
