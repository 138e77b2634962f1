// Answers an app can rely on: ranking, a list of allowed answers, a grammar, and a batch of questions.
//
//   choose MODEL.gguf VISION.gguf PICTURE QUESTION ANSWER ANSWER...
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

#include "tinygptv.hpp"

// root ::= "{\"answer\": \"" ("one" | "other") "\"}"
static std::string json_grammar(const std::vector<std::string> &answers) {
    std::string grammar = R"(root ::= "{\"answer\": \"" ()";
    for (const std::string &answer : answers) grammar += (&answer == &answers.front() ? "\"" : " | \"") + answer + '"';
    return grammar + R"() "\"}")";
}

int main(int argc, char **argv) try {
    if (argc < 7) {
        const bool help = argc == 2 && std::string(argv[1]) == "--help";
        (help ? std::cout : std::cerr) << "usage: choose MODEL VISION PICTURE QUESTION ANSWER ANSWER...\n";
        return help ? 0 : 2;
    }
    const std::string question = argv[4];
    const std::vector<std::string> answers(argv + 5, argv + argc);
    const auto model = tgv::Model::load(argv[1], argv[2]);
    const auto picture = tgv::Embedding::encode(model, tgv::Image::from_file(argv[3]));
    auto session = tgv::Session::create(model);
    const auto look_again = [&] {
        session.reset();
        session.add_embedding(picture);
    };

    // How likely each answer is; nothing is generated.
    look_again();
    const std::vector<float> losses = session.rank(question, answers);
    std::cout << std::fixed << std::setprecision(3);
    for (std::size_t i = 0; i < answers.size(); ++i) std::cout << "loss " << losses[i] << "  " << answers[i] << '\n';

    // The model's own words, but nothing else than one of the answers.
    session.set_answers(answers);
    std::cout << "chosen      " << session.ask(question) << '\n';

    // The same as JSON.
    look_again();
    session.set_grammar(json_grammar(answers));
    std::cout << "JSON        " << session.ask(question) << '\n';

    // "Is there ...?" for every answer, side by side: the picture is evaluated once.
    look_again();
    session.clear_constraint();
    std::vector<std::string> questions;
    for (const std::string &answer : answers) questions.push_back("Is there a " + answer + "?");
    session.ask_each(questions, [&](std::size_t index, std::string_view answer, std::int32_t) {
        std::cout << questions[index] << "\n    " << answer << '\n';
        return true;
    });
    return 0;
} catch (const tgv::Error &error) {
    std::cerr << "choose: " << error.what() << '\n';
    return 1;
}
