// A chain of llama.cpp's samplers behind C functions: adding to one and drawing from one take memory, for whose lack
// llama.cpp throws.
#include "guard.h"
#include "tgvi.h"

#include <memory>
#include <new>

using tgvi::guarded;

namespace {

struct sampler_deleter {
    void operator()(llama_sampler * sampler) const { llama_sampler_free(sampler); }
};

using owned_sampler = std::unique_ptr<llama_sampler, sampler_deleter>;

void add(llama_sampler * chain, llama_sampler * step) {
    owned_sampler owned(step);
    if (step == nullptr) {
        throw std::bad_alloc();
    }
    llama_sampler_chain_add(chain, step);
    // It is the chain's now.
    owned.release();
}

}  // namespace

llama_sampler * tgvi_sampler_new(const tgvi_sampling * with, int32_t vocabulary, char * error, size_t error_size) {
    return guarded<llama_sampler *>(nullptr, error, error_size, [&]() {
        owned_sampler chain(llama_sampler_chain_init({ /* .no_perf = */ true }));
        if (with->penalty != 1.0f) {
            add(chain.get(), llama_sampler_init_penalties(vocabulary, with->penalty_window, with->penalty, 0.0f, 0.0f));
        }
        if (with->greedy) {
            add(chain.get(), llama_sampler_init_greedy());
            return chain.release();
        }
        add(chain.get(), llama_sampler_init_temp(with->temperature));
        if (with->top_k > 0) {
            add(chain.get(), llama_sampler_init_top_k(with->top_k));
        }
        if (with->top_p < 1.0f) {
            add(chain.get(), llama_sampler_init_top_p(with->top_p, 1));
        }
        if (with->min_p > 0.0f) {
            add(chain.get(), llama_sampler_init_min_p(with->min_p, 1));
        }
        add(chain.get(), llama_sampler_init_dist(with->seed));
        return chain.release();
    });
}

void tgvi_sampler_free(llama_sampler * sampler) {
    llama_sampler_free(sampler);
}

int32_t tgvi_sampler_choose(llama_sampler * sampler, llama_token_data * candidates, size_t count, char * error,
                            size_t error_size) {
    return guarded<int32_t>(LLAMA_TOKEN_NULL, error, error_size, [&]() {
        llama_token_data_array all = { candidates, count, -1, false };
        llama_sampler_apply(sampler, &all);
        const bool chosen = all.selected >= 0 && size_t(all.selected) < all.size;
        return chosen ? all.data[all.selected].id : LLAMA_TOKEN_NULL;
    });
}

bool tgvi_sampler_accept(llama_sampler * sampler, int32_t token, char * error, size_t error_size) {
    return guarded<bool>(false, error, error_size, [&]() {
        llama_sampler_accept(sampler, token);
        return true;
    });
}
