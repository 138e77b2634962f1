/* A program with functions of its own that are called like those inside the library, as one with its own llama.cpp has:
 * it links, each side calls its own, and the answer is right. */
#include <stdio.h>
#include <string.h>

int ggml_init(int n);
int llama_backend_init(int n);
int gguf_init_from_file(int n);
int rust_eh_personality(int n);
int demo(int argc, char **argv);

static int calls = 0;

/* What llama.cpp would call if the two were mixed up. */
int ggml_init(int n) { calls++; return n + 1; }
int llama_backend_init(int n) { calls++; return n + 2; }
int gguf_init_from_file(int n) { calls++; return n + 3; }
int rust_eh_personality(int n) { calls++; return n + 4; }

#define main demo
#include "program.c"
#undef main

int main(int argc, char **argv)
{
    const int sum = ggml_init(10) + llama_backend_init(20) + gguf_init_from_file(30) + rust_eh_personality(40);
    const int code = demo(argc, argv);
    if (sum != 110 || calls != 4) {
        printf("the library called a function of the program: %d calls\n", calls);
        return 1;
    }
    return code;
}
