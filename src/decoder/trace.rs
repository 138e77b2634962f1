//! What the decoder's layers put out, read while llama.cpp computes: for comparisons with a reference.

use std::collections::BTreeMap;
use std::ffi::{c_void, CStr};
use std::sync::{Mutex, PoisonError};

use llama_cpp_sys_2 as llama;

/// The name that the graph gives a layer's output, before the layer's number.
const LAYER_OUTPUT: &str = "l_out-";

/// Collects the layers' outputs of the evaluation that ran last.
#[derive(Default)]
pub struct LayerTrace(Mutex<BTreeMap<usize, Vec<f32>>>);

impl LayerTrace {
    /// The outputs since the last call, by layer: `[positions, width]`, of the last layer `[1, width]`, since it is computed
    /// for the position whose logits are wanted only.
    pub fn take(&self) -> BTreeMap<usize, Vec<f32>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes contexts created from `params` report to `self`, which must outlive them.
    pub(super) fn attach(&self, params: &mut llama::llama_context_params) {
        params.cb_eval = Some(on_tensor);
        params.cb_eval_user_data = std::ptr::from_ref(self).cast_mut().cast();
    }
}

/// llama.cpp's callback, called twice for a tensor: before it is computed, to ask whether it is wanted (`ask`), and after.
unsafe extern "C" fn on_tensor(tensor: *mut llama::ggml_tensor, ask: bool, user_data: *mut c_void) -> bool {
    // SAFETY: llama.cpp passes a tensor that lives during the call; its name is terminated.
    let name = unsafe { CStr::from_ptr((*tensor).name.as_ptr()) };
    let Some(layer) = name.to_str().ok().and_then(|n| n.strip_prefix(LAYER_OUTPUT)?.parse().ok()) else {
        // Not wanted; nothing that is not wanted comes a second time.
        return false;
    };
    if !ask {
        // SAFETY: layer outputs are contiguous F32, and as many bytes as elements times four are read of them.
        let values = unsafe {
            let mut values = vec![0f32; llama::ggml_nelements(tensor) as usize];
            llama::ggml_backend_tensor_get(tensor, values.as_mut_ptr().cast(), 0, 4 * values.len());
            values
        };
        // SAFETY: user_data is the trace that the Decoder keeps alive as long as its context.
        let trace = unsafe { &*user_data.cast::<LayerTrace>() };
        trace.0.lock().unwrap_or_else(PoisonError::into_inner).insert(layer, values);
    }
    // Wanted, or go on.
    true
}
