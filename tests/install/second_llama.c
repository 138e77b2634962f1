/* A program that carries its own llama.cpp: both copies work, in turns. */
#include <ggml.h>
#include <ggml-cpu.h>
#include <llama.h>

int demo(int argc, char **argv);

#define main demo
#include "program.c"
#undef main

/* 3 + 4 by the program's own ggml. */
static float sum(void)
{
    struct ggml_init_params params = { 1 << 20, NULL, false };
    struct ggml_context *context = ggml_init(params);
    struct ggml_tensor *a = ggml_new_f32(context, 3), *b = ggml_new_f32(context, 4), *c = ggml_add(context, a, b);
    struct ggml_cgraph *graph = ggml_new_graph(context);
    float result = 0;
    ggml_build_forward_expand(graph, c);
    if (ggml_graph_compute_with_ctx(context, graph, 1) == GGML_STATUS_SUCCESS)
        result = ggml_get_f32_1d(c, 0);
    ggml_free(context);
    return result;
}

int main(int argc, char **argv)
{
    int code, good;
    llama_backend_init();
    good = sum() == 7;
    code = demo(argc, argv);
    good = good && sum() == 7 && llama_max_devices() > 0;
    llama_backend_free();
    if (!good)
        puts("the program's own llama.cpp is wrong");
    return good ? code : 1;
}
