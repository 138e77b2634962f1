//! What the machine can do at most, measured: reading memory, and multiplying in registers.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::seconds;
use crate::protocol::Figures;

/// Multiplies in registers for so many rounds; returns how many operations (a multiplication and an addition are two) that was.
type Multiply = fn(rounds: u64) -> f64;

/// Bytes a second, and operations a second by kind of multiplication.
pub fn measure(threads: usize) -> Figures {
    let mut all = Figures::from([("read".to_owned(), read_bandwidth(threads))]);
    for (name, multiply) in multiplications() {
        all.insert(name.to_owned(), rate(threads, multiply));
    }
    all
}

/// What all threads do together in a second.
fn rate(threads: usize, multiply: Multiply) -> f64 {
    const LEAST: Duration = Duration::from_millis(150);
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let run = || {
            multiply(1 << 10);
            let (start, mut operations) = (Instant::now(), 0.0);
            while start.elapsed() < LEAST {
                operations += multiply(1 << 16);
            }
            operations / seconds(start)
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|r| r.join().unwrap_or(0.0)).collect()
    });
    rates.iter().sum()
}

/// Bytes a second that all threads together read from memory far larger than a core's own caches.
fn read_bandwidth(threads: usize) -> f64 {
    const BYTES: usize = 1 << 30;
    let share = BYTES / 8 / threads;
    let memory: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let filling: Vec<_> = (0..threads).map(|i| scope.spawn(move || vec![i as u64 + 1; share])).collect();
        filling.into_iter().filter_map(|f| f.join().ok()).collect()
    });
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in &memory {
            scope.spawn(|| {
                // Several sums at a time, or one would wait for the other.
                let mut sums = [0u64; 64];
                for chunk in part.chunks_exact(64) {
                    for (sum, value) in sums.iter_mut().zip(chunk) {
                        *sum = sum.wrapping_add(*value);
                    }
                }
                black_box(sums);
            });
        }
    });
    (memory.len() * share * 8) as f64 / seconds(start)
}

/// The best of this processor for each kind of number; none where this program has no code for them.
#[cfg(target_arch = "x86_64")]
fn multiplications() -> Vec<(&'static str, Multiply)> {
    let wide = is_x86_feature_detected!("avx512f");
    let mut all: Vec<(&'static str, Multiply)> = Vec::new();
    if wide {
        // SAFETY: the processor has the instructions.
        all.push(("f32", |rounds| unsafe { x86::f32_avx512(rounds) }));
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: as above.
        all.push(("f32", |rounds| unsafe { x86::f32_avx2(rounds) }));
    }
    if wide && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: as above.
        all.push(("int8", |rounds| unsafe { x86::int8_avx512(rounds) }));
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        all.push(("int8", |rounds| unsafe { x86::int8_avx2(rounds) }));
    }
    #[cfg(target_os = "linux")]
    if x86::tiles_permitted() {
        // SAFETY: the processor has the instructions and the system lets this process use them.
        all.push(("bf16_tiles", |rounds| unsafe { x86::bf16_tiles(rounds) }));
    }
    all
}

#[cfg(not(target_arch = "x86_64"))]
fn multiplications() -> Vec<(&'static str, Multiply)> {
    Vec::new()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Independent sums: enough to hide a multiplication's latency on two ports.
    const SUMS: usize = 12;

    /// A loop of `SUMS` multiplications a round, kept from being optimised away by a store at the end.
    macro_rules! loop_of {
        ($name:ident, $features:literal, $start:expr, $step:expr, $operations:expr) => {
            #[target_feature(enable = $features)]
            pub unsafe fn $name(rounds: u64) -> f64 {
                let mut sums = [$start; SUMS];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $step(*sum);
                    }
                }
                black_box(sums);
                rounds as f64 * SUMS as f64 * $operations
            }
        };
    }

    loop_of!(f32_avx512, "avx512f", _mm512_set1_ps(1.0), |s| _mm512_fmadd_ps(s, _mm512_set1_ps(0.5), s), 32.0);
    loop_of!(f32_avx2, "avx2,fma", _mm256_set1_ps(1.0), |s| _mm256_fmadd_ps(s, _mm256_set1_ps(0.5), s), 16.0);
    loop_of!(
        int8_avx512,
        "avx512f,avx512vnni",
        _mm512_set1_epi32(1),
        |s| _mm512_dpbusd_epi32(s, s, _mm512_set1_epi8(3)),
        128.0
    );
    loop_of!(
        int8_avx2,
        "avx2",
        _mm256_set1_epi32(1),
        |s| _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(s, _mm256_set1_epi8(3)), _mm256_set1_epi16(1))),
        64.0
    );

    /// Whether the processor has tile registers for bfloat16, and Linux lets this process use them once it has asked.
    #[cfg(target_os = "linux")]
    pub fn tiles_permitted() -> bool {
        const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & TILES_AND_BF16 != TILES_AND_BF16 {
            return false;
        }
        // SAFETY: takes two numbers and touches no memory of ours. It fails where the system does not save such registers.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
    }

    /// # Safety
    /// `tiles_permitted` must have said so.
    #[cfg(target_os = "linux")]
    pub unsafe fn bf16_tiles(rounds: u64) -> f64 {
        // Palette 1; eight tiles of 16 rows of 64 bytes.
        #[repr(align(64))]
        struct Shapes([u8; 64]);
        let mut shapes = Shapes([0; 64]);
        shapes.0[0] = 1;
        for tile in 0..8 {
            shapes.0[16 + 2 * tile] = 64;
            shapes.0[48 + tile] = 16;
        }
        // SAFETY: the processor has the instructions; tiles are no registers that the compiler uses.
        unsafe {
            std::arch::asm!(
                "ldtilecfg [{shapes}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                shapes = in(reg) &shapes,
                rounds = inout(reg) rounds.max(1) => _,
                options(nostack),
            );
        }
        rounds.max(1) as f64 * 4.0 * (2 * 16 * 16 * 32) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_a_processor() {
        for (name, multiply) in multiplications() {
            assert!(multiply(100) >= 100.0 * 2.0 * 8.0, "{name} counts whole registers");
            let rate = rate(1, multiply);
            assert!(rate.is_finite() && rate > 0.0, "{name}: {rate}");
        }
    }
}
