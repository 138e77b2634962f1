// A stranger's program in C++17: program DECODER VISION PICTURE QUESTION prints the answer.
#include <iostream>
#include <tinygptv.hpp>

int main(int, char **argv) try {
    auto session = tgv::Session::create(tgv::Model::load(argv[1], argv[2]));
    session.add_image(tgv::Image::from_file(argv[3]));
    std::cout << session.ask(argv[4]) << '\n';
    return 0;
} catch (const std::exception &error) {
    std::cout << error.what() << '\n';
    return 1;
}
