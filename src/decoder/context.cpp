// A llama.cpp context with a thread pool of its own and one batch; and llama.cpp's tokenizer.
#include "guard.h"
#include "tgvi.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "llama-context.h"
#include "llama-model.h"

#include <cstring>
#include <memory>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

using tgvi::guarded;

namespace {

// Set while this thread creates a context.
thread_local bool creating = false;

using alloc_buffer = ggml_backend_buffer_t (*)(ggml_backend_buffer_type_t type, size_t size);

alloc_buffer ggml_alloc_buffer = nullptr;

#if defined(__linux__)
// llama.cpp clears a KV cache by writing to all of it, which takes long and makes all of it resident. Pages that are given back
// are zero, too, and take memory only when positions are evaluated.
void clear_pages(ggml_backend_buffer_t buffer, uint8_t value) {
    void *       base = ggml_backend_buffer_get_base(buffer);
    const size_t size = ggml_backend_buffer_get_size(buffer);
    if (value != 0 || madvise(base, size, MADV_DONTNEED) != 0) {
        memset(base, value, size);
    }
}

void unmap(ggml_backend_buffer_t buffer) {
    munmap(buffer->context, ggml_backend_buffer_get_size(buffer));
}

// Pages of its own: those of an allocator may be shared with others, and then they keep what they hold when they are given back.
ggml_backend_buffer_t map_buffer(ggml_backend_buffer_type_t type, size_t size) {
    void * base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return nullptr;
    }
    try {
        ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(base, size);
        buffer->buft                 = type;
        buffer->iface.free_buffer    = unmap;
        buffer->iface.clear          = clear_pages;
        return buffer;
    } catch (...) {
        munmap(base, size);
        throw;
    }
}
#endif

ggml_backend_buffer_t alloc_clearing_pages(ggml_backend_buffer_type_t type, size_t size) {
#if defined(__linux__)
    if (creating && size > 0) {
        return map_buffer(type, size);
    }
#endif
    return ggml_alloc_buffer(type, size);
}

}  // namespace

bool tgvi_context_init() {
    return guarded<bool>(false, nullptr, 0, []() {
        ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
        if (type->iface.alloc_buffer != alloc_clearing_pages) {
            ggml_alloc_buffer        = type->iface.alloc_buffer;
            type->iface.alloc_buffer = alloc_clearing_pages;
        }
        return true;
    });
}

int32_t tgvi_tokenize(const llama_model * model, const char * text, size_t length, int32_t * tokens, size_t capacity,
                      char * error, size_t error_size) {
    return guarded<int32_t>(INT32_MIN, error, error_size, [&]() {
        return llama_tokenize(llama_model_get_vocab(model), text, int32_t(length), tokens, int32_t(capacity), false, true);
    });
}

struct tgvi_context {
    ggml_threadpool_t pool  = nullptr;
    llama_context *   llama = nullptr;
    llama_batch_ext * batch = nullptr;

    void open(llama_model * model, const llama_context_params & params) {
        {
            const struct creation {
                creation() { creating = true; }
                ~creation() { creating = false; }
            } scope;
            llama = llama_init_from_model(model, params);
        }
        if (llama == nullptr) {
            throw std::runtime_error("the context could not be created");
        }
        // A pool of its own: its workers sleep between graphs instead of polling, so that a busy host keeps its cores.
        ggml_threadpool_params pool_params = ggml_threadpool_params_default(params.n_threads);
        pool_params.poll                   = 0;
        pool                               = ggml_threadpool_new(&pool_params);
        if (pool == nullptr) {
            throw std::runtime_error("the worker threads could not be started");
        }
        llama_attach_threadpool(llama, pool, nullptr);
        batch = llama_batch_ext_init(llama);
        if (batch == nullptr) {
            throw std::runtime_error("the batch could not be created");
        }
    }

    void close() {
        if (batch != nullptr) {
            llama_batch_ext_free(batch);
        }
        if (llama != nullptr) {
            llama_free(llama);
        }
        if (pool != nullptr) {
            ggml_threadpool_free(pool);
        }
        batch = nullptr;
        llama = nullptr;
        pool  = nullptr;
    }

    ~tgvi_context() { close(); }
};

tgvi_context * tgvi_context_new(tgvi_context * old, llama_model * model, const llama_context_params * params,
                                char * error, size_t error_size) {
    return guarded<tgvi_context *>(nullptr, error, error_size, [&]() {
        if (old != nullptr) {
            old->close();
            old->open(model, *params);
            return old;
        }
        auto context = std::make_unique<tgvi_context>();
        context->open(model, *params);
        return context.release();
    });
}

void tgvi_context_free(tgvi_context * context) {
    delete context;
}

llama_context * tgvi_context_llama(tgvi_context * context) {
    return context->llama;
}

uint32_t tgvi_context_nodes(tgvi_context * context) {
    return guarded<uint32_t>(0, nullptr, 0, [&]() {
        const llm_graph_result * reserved = context->llama->get_gf_res_reserve();
        ggml_cgraph *            graph    = reserved != nullptr ? reserved->get_gf() : nullptr;
        uint32_t                 nodes    = 0;
        for (int i = 0; graph != nullptr && i < ggml_graph_n_nodes(graph); ++i) {
            switch (ggml_graph_node(graph, i)->op) {
                // Nothing to compute.
                case GGML_OP_NONE:
                case GGML_OP_RESHAPE:
                case GGML_OP_VIEW:
                case GGML_OP_PERMUTE:
                case GGML_OP_TRANSPOSE:
                    break;
                default:
                    ++nodes;
            }
        }
        return nodes;
    });
}

int32_t tgvi_memory_remove(tgvi_context * context, int32_t sequence, int32_t from) {
    return guarded<int32_t>(-1, nullptr, 0, [&]() {
        return int32_t(llama_memory_seq_rm(llama_get_memory(context->llama), sequence, from, -1));
    });
}

bool tgvi_memory_copy(tgvi_context * context, int32_t from, int32_t to) {
    return guarded<bool>(false, nullptr, 0, [&]() {
        llama_memory_seq_cp(llama_get_memory(context->llama), from, to, -1, -1);
        return true;
    });
}

bool tgvi_memory_clear(tgvi_context * context) {
    return guarded<bool>(false, nullptr, 0, [&]() {
        llama_memory_clear(llama_get_memory(context->llama), true);
        return true;
    });
}

void tgvi_batch_clear(tgvi_context * context) {
    llama_batch_ext_clear(context->batch);
}

static bool finish_entry(tgvi_context * context, int32_t index, int32_t position, bool wants_logits) {
    const llama_pos at = position;
    return index >= 0 && llama_batch_ext_set_pos(context->batch, index, &at) &&
           llama_batch_ext_set_output_logits(context->batch, index, wants_logits);
}

bool tgvi_batch_add_token(tgvi_context * context, int32_t sequence, int32_t token, int32_t position,
                          bool wants_logits) {
    return guarded<bool>(false, nullptr, 0, [&]() {
        return finish_entry(context, llama_batch_ext_add_token(context->batch, sequence, token), position, wants_logits);
    });
}

bool tgvi_batch_add_embedding(tgvi_context * context, int32_t sequence, const float * values, size_t width,
                              int32_t position, bool wants_logits) {
    return guarded<bool>(false, nullptr, 0, [&]() {
        const llama_embd row = { values, 1, width };
        return finish_entry(context, llama_batch_ext_add_embd(context->batch, sequence, row), position, wants_logits);
    });
}

int32_t tgvi_batch_process(tgvi_context * context, void * computer, char * error, size_t error_size) {
    return guarded<int32_t>(-100, error, error_size, [&]() {
        const tgvi::computer_scope scope(computer);
        return llama_process(context->llama, LLAMA_PROCESS_TYPE_DECODE, context->batch);
    });
}
