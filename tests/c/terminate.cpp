/* The library leaves the handlers of a process alone: std::terminate's and the signals', before it is opened, while it is
 * used, and after it is closed.
 *
 *   terminate DECODER VISION PICTURE QUESTION ANSWER LIBRARY
 *
 * The program is not linked with the library's functions; ggml, which is inside it, would set a handler of its own, to which
 * std::terminate would jump after the library is gone.
 */
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <exception>
#include <new>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "tinygptv.h"

static void need(bool condition, const char *what) {
    if (condition) return;
    const char *reason = dlerror();
    std::fprintf(stderr, "terminate: %s (%s)\n", what, reason != nullptr ? reason : "");
    std::exit(1);
}

[[noreturn]] static void own_terminate() { std::_Exit(42); }
static void own_signal(int) {}
static void own_new() { throw std::bad_alloc(); }

static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGPIPE, SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGXFSZ};

static void set_handlers() {
    std::set_terminate(own_terminate);
    std::set_new_handler(own_new);
    for (int number : SIGNALS) std::signal(number, own_signal);
}

static void check_handlers() {
    need(std::get_terminate() == own_terminate, "std::terminate has another handler");
    need(std::get_new_handler() == own_new, "operator new has another handler");
    for (int number : SIGNALS) {
        struct sigaction now;
        need(sigaction(number, nullptr, &now) == 0 && now.sa_handler == own_signal, strsignal(number));
    }
    sigset_t blocked;
    need(pthread_sigmask(SIG_SETMASK, nullptr, &blocked) == 0, "no signal mask");
    for (int number : SIGNALS) need(sigismember(&blocked, number) == 0, "a signal is blocked");
}

template <typename F> static F find(void *library, F, const char *name) {
    void *address = dlsym(library, name);
    need(address != nullptr, name);
    F function;
    std::memcpy(&function, &address, sizeof function);
    return function;
}
#define FIND(function) find(library, &function, #function)

static void use(void *library, char **argv) {
    tgv_model *model = nullptr;
    tgv_image *image = nullptr;
    tgv_session *session = nullptr;
    const char *answer = nullptr;
    need(FIND(tgv_model_load)(argv[1], argv[2], nullptr, &model) == TGV_OK, "no model");
    need(FIND(tgv_image_from_file)(argv[3], &image) == TGV_OK, "no picture");
    need(FIND(tgv_session_create)(model, nullptr, &session) == TGV_OK, "no session");
    need(FIND(tgv_session_add_image)(session, image) == TGV_OK, "no embedding");
    check_handlers();
    need(FIND(tgv_session_ask)(session, argv[4], nullptr, nullptr, &answer) == TGV_OK, "no answer");
    need(std::strcmp(answer, argv[5]) == 0, "another answer");
    check_handlers();
    FIND(tgv_session_free)(session);
    FIND(tgv_image_free)(image);
    FIND(tgv_model_free)(model);
}

int main(int argc, char **argv) {
    need(argc == 7, "wrong arguments");
    set_handlers();
    for (int i = 0; i < 3; ++i) {
        void *library = dlopen(argv[6], RTLD_NOW | RTLD_LOCAL);
        need(library != nullptr, "no library");
        check_handlers();
        // On a thread that ends, or its thread-locals would keep the library.
        std::thread(use, library, argv).join();
        check_handlers();
        need(dlclose(library) == 0, "it does not close");
        check_handlers();
    }
    const pid_t child = fork();
    if (child == 0) std::terminate();
    int status = 0;
    need(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42, "std::terminate goes astray");
    return 0;
}
