#include "guard.h"
#include "tgvi.h"

#include "ggml.h"

#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace {

void (*log_abort)(const char * message) = nullptr;

// Set while this thread runs inside `guarded`.
thread_local int guard_depth = 0;

// "/where/it/was/built/ggml.c:7: text" without the folders.
const char * without_folders(const char * message) {
    const char * end = std::strstr(message, ": ");
    for (const char * at = message; end != nullptr && *at != '\0' && at < end; ++at) {
        if (*at == '/' || *at == '\\') {
            message = at + 1;
        }
    }
    return message;
}

// ggml calls this before it ends the process. Our own checks come first; what they let through becomes an exception that
// `guarded` catches, as long as it happens on the calling thread. ggml is C, but its frames have unwind tables on every
// platform we build for.
void throw_instead_of_abort(const char * message) {
    message = without_folders(message);
    log_abort(message);
    if (guard_depth > 0) {
        throw std::runtime_error(message);
    }
}

}  // namespace

namespace tgvi {

guard_scope::guard_scope() {
    ++guard_depth;
}

guard_scope::~guard_scope() {
    --guard_depth;
}

void write_error(char * error, size_t size, const char * text) {
    if (error != nullptr && size > 0) {
        std::snprintf(error, size, "%s", text);
    }
}

}  // namespace tgvi

bool tgvi_init(void (*log)(const char * message)) {
    log_abort = log;
    ggml_set_abort_callback(throw_instead_of_abort);
    return tgvi::guarded<bool>(false, nullptr, 0, []() {
        llama_backend_init();
        return true;
    });
}
