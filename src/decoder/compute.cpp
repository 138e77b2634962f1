// Takes the operations of llama.cpp's graphs that are worth it away from ggml's own loops, for passes that ask for it.
#include "guard.h"
#include "tgvi.h"

#include "ggml-cpu/binary-ops.h"
#include "ggml-cpu/ops.h"
#include "ggml-cpu/traits.h"

#include <new>
#include <stdexcept>

using tgvi::guarded;

namespace {

tgvi_compute_op compute_op = nullptr;

// Who computes this thread's pass.
thread_local void * computer = nullptr;

struct traits : public ggml::cpu::tensor_traits {
    // Memory comes from elsewhere.
    bool work_size(int, const ggml_tensor *, size_t &) override {
        return false;
    }

    bool compute_forward(ggml_compute_params *, ggml_tensor * op) override {
        const int32_t done = compute_op(computer, op);
        if (done == -1) {
            throw std::bad_alloc();
        }
        if (done < 0) {
            throw std::runtime_error("an operation failed");
        }
        return done > 0;
    }
};

// ggml asks the "extra buffer types" of its CPU backend whether they know better how to compute a node. This one has no
// buffers, only that answer.
struct hook : public ggml::cpu::extra_buffer_type {
    traits own;

    bool supports_op(ggml_backend_dev_t, const ggml_tensor *) override {
        return false;
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor *) override {
        return computer != nullptr ? &own : nullptr;
    }
};

hook                     the_hook;
ggml_backend_buffer_type hook_type = {
    /* .iface   = */ {},
    /* .device  = */ nullptr,
    /* .context = */ &the_hook,
};

}  // namespace

bool tgvi_compute_init(tgvi_compute_op op) {
    return guarded<bool>(false, nullptr, 0, [op]() {
        compute_op = op;
        // The device's own list is made from this one and has buffers: it must not have ours.
        ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        ggml_backend_reg_t reg = dev != nullptr ? ggml_backend_dev_backend_reg(dev) : nullptr;
        void *             get =
            reg != nullptr ? ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts") : nullptr;
        if (get != nullptr) {
            reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(get)(dev);
        }
        ggml_backend_cpu_get_extra_buffer_types().push_back(&hook_type);
        return true;
    });
}

bool tgvi_compute_part(const ggml_tensor * op, int32_t part, int32_t parts, void * memory, size_t size) {
    return guarded<bool>(false, nullptr, 0, [&]() {
        ggml_compute_params params = {};
        params.ith                 = part;
        params.nth                 = parts;
        params.wsize               = size;
        params.wdata               = memory;
        ggml_tensor * dst          = const_cast<ggml_tensor *>(op);
        switch (op->op) {
            case GGML_OP_ADD:
                ggml_compute_forward_add(&params, dst);
                return true;
            case GGML_OP_MUL:
                ggml_compute_forward_mul(&params, dst);
                return true;
            case GGML_OP_NORM:
                ggml_compute_forward_norm(&params, dst);
                return true;
            case GGML_OP_RMS_NORM:
                ggml_compute_forward_rms_norm(&params, dst);
                return true;
            case GGML_OP_UNARY:
                ggml_compute_forward_unary(&params, dst);
                return true;
            case GGML_OP_ROPE:
                ggml_compute_forward_rope(&params, dst);
                return true;
            case GGML_OP_SET_ROWS:
                ggml_compute_forward_set_rows(&params, dst);
                return true;
            case GGML_OP_SOFT_MAX:
                ggml_compute_forward_soft_max(&params, dst);
                return true;
            default:
                return false;
        }
    });
}

tgvi::computer_scope::computer_scope(void * with) {
    computer = with;
}

tgvi::computer_scope::~computer_scope() {
    computer = nullptr;
}
