//! Picks the widest instruction set for a loop that is written over [`Simd`](crate::vision::kernels::Simd).

/// `best_simd!(f(arg: Type, …))`, or `best_simd!(f(arg: Type, …), W)` for an `f` with a second type parameter: `f` compiled for
/// the widest instruction set that this processor has, as a function pointer, and the lanes of that set. `f` is an
/// `#[inline(always)] unsafe fn` whose first type parameter is a `Simd`.
macro_rules! best_simd {
    ($f:ident($($arg:ident: $ty:ty),*) $(, $other:ty)?) => {{
        #[allow(unused_imports)] // where the caller has it already
        use crate::vision::kernels::Simd;
        #[cfg(target_arch = "x86_64")]
        {
            use crate::vision::kernels::{avx2::Avx2, avx512::Avx512};
            #[target_feature(enable = "avx512f")]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: the caller's.
                unsafe { $f::<Avx512 $(, $other)?>($($arg),*) }
            }
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: the caller's.
                unsafe { $f::<Avx2 $(, $other)?>($($arg),*) }
            }
            if is_x86_feature_detected!("avx512f") {
                (avx512 as unsafe fn($($ty),*), Avx512::LANES)
            } else {
                // What ggml is compiled for.
                (avx2 as unsafe fn($($ty),*), Avx2::LANES)
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use crate::vision::kernels::neon::Neon;
            ($f::<Neon $(, $other)?> as unsafe fn($($ty),*), Neon::LANES)
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            use crate::vision::kernels::portable::Portable;
            ($f::<Portable $(, $other)?> as unsafe fn($($ty),*), Portable::LANES)
        }
    }};
}
pub(super) use best_simd;
