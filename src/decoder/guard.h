// Keeps C++ exceptions and ggml's failed assertions from leaving our C functions.
#pragma once

#include <cstddef>
#include <exception>

namespace tgvi {

void write_error(char * error, size_t size, const char * text);

// While one lives, a failed GGML_ASSERT on this thread throws instead of ending the process.
struct guard_scope {
    guard_scope();
    ~guard_scope();
};

// While one lives, this thread's passes are computed by `with` (tgvi_compute_op), if that is not null.
struct computer_scope {
    explicit computer_scope(void * with);
    ~computer_scope();
};

// Runs f; any exception becomes `fallback` with its text in `error`.
template <typename T, typename F> T guarded(T fallback, char * error, size_t size, F && f) {
    const guard_scope scope;
    try {
        return f();
    } catch (const std::exception & e) {
        write_error(error, size, e.what());
    } catch (...) {
        write_error(error, size, "unknown C++ exception");
    }
    return fallback;
}

}  // namespace tgvi
