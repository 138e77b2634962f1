// Asks where something is and draws the answer's boxes onto the picture.
//
//   ground MODEL.gguf VISION.gguf PICTURE "[refer] where is the star?" OUT.png
#include <cstdio>
#include <iostream>
#include <string_view>

#include "tinygptv.hpp"

int main(int argc, char **argv) try {
    if (argc != 6) {
        const bool help = argc == 2 && std::string_view(argv[1]) == "--help";
        (help ? std::cout : std::cerr) << "usage: ground MODEL VISION PICTURE QUESTION OUT.png\n";
        return help ? 0 : 2;
    }
    const auto model = tgv::Model::load(argv[1], argv[2]);
    const auto image = tgv::Image::from_file(argv[3]);
    auto boxes = tgv::Boxes::create(image);
    auto session = tgv::Session::create(model);
    session.add_image(image);
    session.ask(argv[4], [&](std::string_view text) {
        std::cout << text << std::flush;
        boxes.push(text);
        return true;
    });
    std::cout << std::endl;
    for (std::size_t i = 0; i < boxes.count(); ++i) {
        const tgv::Box box = boxes.at(i);
        std::printf("box %zu: x %.0f to %.0f, y %.0f to %.0f px%s%s\n", i + 1, double(box.x0), double(box.x1),
                    double(box.y0), double(box.y1), box.label.empty() ? "" : ": ", box.label.c_str());
    }
    boxes.draw(image, argv[5]);
    return 0;
} catch (const tgv::Error &error) {
    std::cerr << "ground: " << error.what() << '\n';
    return 1;
}
