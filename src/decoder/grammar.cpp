// Grammars: llama.cpp's parser and automaton behind C functions. Its own entry points print errors to stderr, hence the
// parser's parts are called one by one here.
#include "grammar_check.h"
#include "guard.h"
#include "tgvi.h"

#include "llama-grammar.h"
#include "llama-vocab.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using tgvi::guarded;

namespace {

struct grammar_deleter {
    void operator()(llama_grammar * grammar) const { llama_grammar_free_impl(grammar); }
};

}  // namespace

struct tgvi_grammar {
    std::unique_ptr<llama_grammar, grammar_deleter> grammar;
    const llama_vocab *                             vocab;
};

tgvi_grammar * tgvi_grammar_new(const llama_model * model, const char * text, const char * root, char * error,
                                size_t error_size) {
    return guarded<tgvi_grammar *>(nullptr, error, error_size, [&]() {
        const llama_vocab *  vocab = llama_model_get_vocab(model);
        llama_grammar_parser parser(vocab);
        for (const char * at = text; *at != '\0';) {
            at = parser.parse_rule(at);
        }
        tgvi::check_rules(parser);
        const auto start = parser.symbol_ids.find(root);
        if (start == parser.symbol_ids.end()) {
            throw std::runtime_error("there is no rule 'root'");
        }
        auto rules   = parser.c_rules();
        auto result  = std::make_unique<tgvi_grammar>();
        result->vocab = vocab;
        result->grammar.reset(llama_grammar_init_impl(vocab, rules.data(), rules.size(), start->second));
        if (result->grammar == nullptr) {
            throw std::runtime_error("llama.cpp refuses it");
        }
        return result.release();
    });
}

void tgvi_grammar_free(tgvi_grammar * grammar) {
    delete grammar;
}

bool tgvi_grammar_filter(const tgvi_grammar * grammar, llama_token_data * candidates, size_t count, char * error,
                         size_t error_size) {
    return guarded<bool>(false, error, error_size, [&]() {
        llama_token_data_array all = { candidates, count, -1, false };
        llama_grammar_apply_impl(*grammar->grammar, &all);
        return true;
    });
}

bool tgvi_grammar_accept(tgvi_grammar * grammar, int32_t token, char * error, size_t error_size) {
    return guarded<bool>(false, error, error_size, [&]() {
        llama_grammar_accept_token(*grammar->grammar, token, grammar->vocab->token_to_piece(token));
        return true;
    });
}

bool tgvi_grammar_complete(const tgvi_grammar * grammar) {
    for (const auto & stack : llama_grammar_get_stacks(grammar->grammar.get())) {
        if (stack.empty()) {
            return true;
        }
    }
    return false;
}
