// Phi-2 with the three norms that TinyGPT-V adds (docs/model.md, section 6): LayerNorm with bias on every head's query and key before
// rotary, RMSNorm on the attention output before it joins the residual stream. llama.cpp has no architecture with all
// three, so its private phi2 class is derived from here; the crate pins llama.cpp exactly for that reason.
#include "tgvi.h"

#include "guard.h"

#include "ggml-backend.h"
#include "llama-impl.h"
#include "models/models.h"

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using tgvi::guarded;

namespace {

struct phi2_extra_norms : public llama_model_phi2 {
    phi2_extra_norms(const llama_model_params & params, float post_norm_eps)
        : llama_model_phi2(params), post_norm_eps(post_norm_eps) {}

    void load_arch_hparams(llama_model_loader & loader) override {
        llama_model_phi2::load_arch_hparams(loader);
        hparams.f_norm_rms_eps = post_norm_eps;
    }

    void load_arch_tensors(llama_model_loader & loader) override {
        llama_model_phi2::load_arch_tensors(loader);
        LLAMA_LOAD_LOCALS;
        for (int i = 0; i < n_layer; ++i) {
            auto & layer         = layers[i];
            layer.attn_q_norm    = create_tensor(tn(LLM_TENSOR_ATTN_Q_NORM, "weight", i), { n_embd_head_k }, 0);
            layer.attn_q_norm_b  = create_tensor(tn(LLM_TENSOR_ATTN_Q_NORM, "bias", i), { n_embd_head_k }, 0);
            layer.attn_k_norm    = create_tensor(tn(LLM_TENSOR_ATTN_K_NORM, "weight", i), { n_embd_head_k }, 0);
            layer.attn_k_norm_b  = create_tensor(tn(LLM_TENSOR_ATTN_K_NORM, "bias", i), { n_embd_head_k }, 0);
            layer.attn_post_norm = create_tensor(tn(LLM_TENSOR_ATTN_POST_NORM, "weight", i), { n_embd }, 0);
        }
    }

    std::unique_ptr<llm_graph_context> build_arch_graph(const llm_graph_params & params) const override {
        return std::make_unique<graph_with_norms>(*this, params);
    }

  private:
    float post_norm_eps;

    struct graph_with_norms : public llm_graph_context {
        graph_with_norms(const llama_model & model, const llm_graph_params & params) : llm_graph_context(params) {
            ggml_tensor * hidden    = build_inp_embd(model.tok_embd);
            ggml_tensor * positions = build_inp_pos();
            auto *        kv        = build_attn_inp_kv();
            ggml_tensor * outputs   = build_inp_out_ids();

            for (int il = 0; il < n_layer; ++il) {
                const auto & layer  = model.layers[il];
                ggml_tensor * normed = build_norm(hidden, layer.attn_norm, layer.attn_norm_b, LLM_NORM, il);

                ggml_tensor * attended = attention(layer, normed, positions, kv, il);
                if (il == n_layer - 1 && outputs != nullptr) {
                    attended = ggml_get_rows(ctx0, attended, outputs);
                    hidden   = ggml_get_rows(ctx0, hidden, outputs);
                    normed   = ggml_get_rows(ctx0, normed, outputs);
                }
                attended = build_norm(attended, layer.attn_post_norm, nullptr, LLM_NORM_RMS, il);

                ggml_tensor * mlp = feed_forward(layer, normed, il);
                hidden = ggml_add(ctx0, ggml_add(ctx0, attended, mlp), hidden);
                hidden = build_cvec(hidden, il);
                cb(hidden, "l_out", il);
            }

            ggml_tensor * cur = build_norm(hidden, model.output_norm, model.output_norm_b, LLM_NORM, -1);
            cb(cur, "result_norm", -1);
            res->t_embd = cur;
            cur         = build_lora_mm(model.output, cur, model.output_s);
            cur         = ggml_add(ctx0, cur, model.output_b);
            cb(cur, "result_output", -1);
            res->t_logits = cur;
            ggml_build_forward_expand(gf, cur);
        }

        ggml_tensor * attention(const llama_layer & layer, ggml_tensor * normed, ggml_tensor * positions,
                                llm_graph_input_attn_kv * kv, int il) {
            const int64_t head_size = hparams.n_embd_head_v();
            auto [q, k, v]          = build_qkv(layer, normed, head_size, n_head, n_head_kv, il);
            q                       = rotate(build_norm(q, layer.attn_q_norm, layer.attn_q_norm_b, LLM_NORM, il), positions);
            k                       = rotate(build_norm(k, layer.attn_k_norm, layer.attn_k_norm_b, LLM_NORM, il), positions);
            return build_attn(kv, layer.wo, layer.wo_b, layer.wo_s, q, k, v, nullptr, nullptr, nullptr,
                              1.0f / std::sqrt(float(head_size)), il);
        }

        ggml_tensor * feed_forward(const llama_layer & layer, ggml_tensor * normed, int il) {
            return build_ffn(normed, layer.ffn_up, layer.ffn_up_b, nullptr, nullptr, nullptr, nullptr, layer.ffn_down,
                             layer.ffn_down_b, nullptr, nullptr, LLM_FFN_GELU, LLM_FFN_SEQ, il);
        }

        ggml_tensor * rotate(ggml_tensor * x, ggml_tensor * positions) {
            return ggml_rope_ext(ctx0, x, positions, nullptr, n_rot, rope_type, n_ctx_orig, freq_base, freq_scale,
                                 ext_factor, attn_factor, beta_fast, beta_slow);
        }
    };
};

// What llama_model_load_from_file() does, with our class in place of the stock one.
llama_model * load_with_norms(const char * path, llama_model_params params, float post_norm_eps, bool * cancelled) {
    std::vector<std::string> splits;
    llama_model_loader loader(nullptr, nullptr, nullptr, path, splits, nullptr, params.load_mode, params.check_tensors,
                              params.no_alloc, params.load_mtp, params.kv_overrides, params.tensor_buft_overrides);
    loader.lazy.mode = params.lazy_mode;
    if (loader.get_arch() != LLM_ARCH_PHI2) {
        throw std::runtime_error("extra norms are known for the phi2 architecture only");
    }
    auto model  = std::make_unique<phi2_extra_norms>(params, post_norm_eps);
    model->arch = loader.get_arch();
    if (params.n_gpu_layers != 0) {
        for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
            ggml_backend_dev_t device = ggml_backend_dev_get(i);
            if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU) {
                model->devices.push_back({ false, device });
            }
        }
    }
    model->hparams.vocab_only = params.vocab_only;
    model->hparams.no_alloc   = params.no_alloc;
    model->load_hparams(loader);
    model->load_vocab(loader);
    model->load_stats(loader);
    if (!model->load_tensors(loader)) {
        *cancelled = true;
        return nullptr;
    }
    return model.release();
}

}  // namespace

llama_model * tgvi_model_load(const char * path, const llama_model_params * params, bool extra_norms,
                              float post_norm_eps, bool * cancelled, char * error, size_t error_size) {
    *cancelled = false;
    return guarded<llama_model *>(nullptr, error, error_size, [&]() {
        return extra_norms ? load_with_norms(path, *params, post_norm_eps, cancelled)
                           : llama_model_load_from_file(path, *params);
    });
}
