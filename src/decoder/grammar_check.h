// Refuses grammars on which llama.cpp would spend endless time, memory or stack.
#pragma once

struct llama_grammar_parser;

namespace tgvi {

// Throws std::runtime_error with the reason.
void check_rules(const llama_grammar_parser & parser);

}  // namespace tgvi
