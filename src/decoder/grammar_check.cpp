#include "grammar_check.h"

#include "llama-grammar.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr size_t max_rules = 4096;

// llama.cpp looks for left recursion by recursion: as deep as rules begin with each other, along every path, however often
// paths meet.
constexpr size_t max_depth = 256;
constexpr size_t max_steps = size_t(1) << 22;

// A rule that another may begin with, and whether more follows it there.
struct beginning {
    size_t rule;
    bool   more;
};

bool ends(const llama_grammar_element & element) {
    return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
}

// Rules with an alternative all of whose elements are in `known`.
std::vector<bool> find_empty(const llama_grammar_rules & rules, const std::vector<bool> & known) {
    std::vector<bool> empty(rules.size());
    for (size_t i = 0; i < rules.size(); ++i) {
        bool all_empty = true;
        for (const auto & element : rules[i]) {
            if (ends(element)) {
                empty[i]  = empty[i] || all_empty;
                all_empty = true;
            } else {
                all_empty = all_empty && element.type == LLAMA_GRETYPE_RULE_REF && known[element.value];
            }
        }
    }
    return empty;
}

// For each rule those that it may begin with, where `empty` tells which may stand for nothing.
std::vector<std::vector<beginning>> find_beginnings(const llama_grammar_rules & rules, const std::vector<bool> & empty) {
    std::vector<std::vector<beginning>> found(rules.size());
    for (size_t i = 0; i < rules.size(); ++i) {
        bool at_start = true;
        for (size_t k = 0; k < rules[i].size(); ++k) {
            const auto & element = rules[i][k];
            if (ends(element)) {
                at_start = true;
            } else if (at_start && element.type == LLAMA_GRETYPE_RULE_REF) {
                found[i].push_back({ element.value, !ends(rules[i][k + 1]) });
                at_start = empty[element.value];
            } else {
                at_start = false;
            }
        }
    }
    return found;
}

[[noreturn]] void refuse_left_recursion() {
    throw std::runtime_error("a rule begins with itself (left recursion)");
}

// What llama.cpp's own search for left recursion does, but with a stack of its own and each rule once.
void check_depth(const llama_grammar_rules & rules, const std::vector<std::vector<beginning>> & beginnings) {
    struct walk {
        size_t depth = 0;  // 0: not known yet
        size_t steps = 0;
        size_t next  = 0;
        bool   open  = false;
    };
    std::vector<walk>   walks(rules.size());
    std::vector<size_t> path;
    for (size_t first = 0; first < rules.size(); ++first) {
        if (walks[first].depth == 0) {
            path.push_back(first);
        }
        while (!path.empty()) {
            const size_t rule = path.back();
            walk &       own  = walks[rule];
            own.open          = true;
            if (own.next == beginnings[rule].size()) {
                own.open = false;
                own.depth += 1;
                own.steps += rules[rule].size();
                path.pop_back();
                continue;
            }
            const size_t below = beginnings[rule][own.next].rule;
            if (walks[below].open) {
                refuse_left_recursion();
            }
            if (walks[below].depth == 0) {
                path.push_back(below);
                continue;
            }
            own.next += 1;
            own.depth = std::max(own.depth, walks[below].depth);
            own.steps += walks[below].steps;
            if (own.depth >= max_depth || own.steps > max_steps) {
                throw std::runtime_error("rules begin with each other more than " + std::to_string(max_depth) +
                                         " deep, or in too many ways");
            }
        }
    }
}

// Rules that lead back to themselves, with more to come each time, would be followed for ever: what leads back is a strongly
// connected component (Tarjan's algorithm).
void check_growth(const llama_grammar_rules & rules, const std::vector<std::vector<beginning>> & beginnings) {
    constexpr size_t    none = SIZE_MAX;
    std::vector<size_t> number(rules.size(), none), low(rules.size(), none), next(rules.size()), component(rules.size(), none);
    std::vector<size_t> path, waiting;
    size_t              count = 0;
    for (size_t first = 0; first < rules.size(); ++first) {
        if (number[first] == none) {
            path.push_back(first);
        }
        while (!path.empty()) {
            const size_t rule = path.back();
            if (number[rule] == none) {
                number[rule] = low[rule] = count++;
                waiting.push_back(rule);
            }
            if (next[rule] < beginnings[rule].size()) {
                const size_t below = beginnings[rule][next[rule]].rule;
                if (number[below] == none) {
                    path.push_back(below);
                    continue;
                }
                if (component[below] == none) {
                    low[rule] = std::min(low[rule], low[below]);
                }
                next[rule] += 1;
                continue;
            }
            path.pop_back();
            while (low[rule] == number[rule] && component[rule] == none) {
                component[waiting.back()] = rule;
                waiting.pop_back();
            }
        }
    }
    for (size_t i = 0; i < rules.size(); ++i) {
        for (const beginning & b : beginnings[i]) {
            if (b.more && component[b.rule] == component[i]) {
                refuse_left_recursion();
            }
        }
    }
}

}  // namespace

namespace tgvi {

void check_rules(const llama_grammar_parser & parser) {
    if (parser.rules.size() > max_rules) {
        throw std::runtime_error("more than " + std::to_string(max_rules) + " rules, those of groups and repetitions included");
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            throw std::runtime_error("rule '" + name + "' is used but not defined");
        }
    }
    const llama_grammar_rules & rules = parser.rules;
    // llama.cpp knows of rules with an alternative of nothing; others may stand for nothing by way of those.
    std::vector<bool> empty = find_empty(rules, std::vector<bool>(rules.size()));
    check_depth(rules, find_beginnings(rules, empty));
    for (auto more = find_empty(rules, empty); more != empty; more = find_empty(rules, empty)) {
        empty = more;
    }
    check_growth(rules, find_beginnings(rules, empty));
}

}  // namespace tgvi
