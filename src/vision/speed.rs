//! Not tests: `cargo test --release --lib -- --ignored --nocapture speed_of` prints how fast the parts of a full-size ViT-g
//! block are. `KERNELS=AMX` in the environment takes only kernels with that in their name.

use super::kernels::tests::Noise;
use super::kernels::Kernels;
use super::linear::tests::layer;
use super::linear::{Operand, Then};
use super::ops::{attention, attention_flops, Exec, Features, Most, Norm};
use super::panels::{Buffer, PanelShape, Panels};
use crate::gguf::TensorType;
use crate::threads::ThreadPool;

const WIDTH: usize = 1408;
const MLP: usize = 6144;
const HEADS: usize = 16;
const TOKENS: [usize; 2] = [257, 1025];

/// Seconds since some moment: of processor time, where the system tells it, so that other programs count less.
pub(crate) fn now() -> f64 {
    #[cfg(unix)]
    {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is valid for writes.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) }, 0);
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    {
        static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
        START.elapsed().as_secs_f64()
    }
}

/// The least of some measurements, in seconds.
fn best(mut run: impl FnMut()) -> f64 {
    (0..10).fold(f64::MAX, |best, _| {
        let start = now();
        run();
        best.min(now() - start)
    })
}

fn noise(rows: usize, tokens: usize, shape: PanelShape) -> Buffer {
    let mut buffer = Buffer::zeroed(shape.floats(rows, tokens).unwrap()).unwrap();
    buffer.copy_from_slice(&Noise::new(7).vec(shape.floats(rows, tokens).unwrap()));
    buffer
}

/// Seconds of the four layers of a block, then of what is between them.
fn block(kernels: Kernels, tokens: usize) -> ([f64; 4], [f64; 3]) {
    let (shape, pool) = (PanelShape::of(kernels.float), ThreadPool::new(1));
    let exec = Exec::new(&pool, kernels, Most { inputs: MLP, head: WIDTH / HEADS, tokens }, None).unwrap();
    let [qkv, out, up, down] = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (MLP, WIDTH), (WIDTH, MLP)]
        .map(|(outputs, inputs)| layer(TensorType::Q8_0, outputs, inputs).0);
    let mut x = noise(WIDTH, tokens, shape);
    let mut x = Panels::over(&mut x, WIDTH, tokens, shape);
    let mut memory =
        [WIDTH, 3 * WIDTH, WIDTH, WIDTH, MLP].map(|rows| Buffer::zeroed(exec.floats(rows, tokens)).unwrap());
    let [normed, q, a, prepared, middle] = &mut memory;
    let mut normed = exec.operand(normed, WIDTH, tokens);
    let mut q = exec.attended(q, 3 * WIDTH, tokens, WIDTH / HEADS);
    let mut a = exec.attended(a, WIDTH, tokens, WIDTH / HEADS);
    let mut middle = exec.operand(middle, MLP, tokens);
    // Weights are larger than any model's; so are sums without this.
    let norm = Norm { weight: vec![0.05; WIDTH], bias: vec![0.0; WIDTH], epsilon: 1e-6 };

    let norms = best(|| {
        norm.apply_to(&exec, &x, &mut normed).unwrap();
        norm.apply_to(&exec, &x, &mut normed).unwrap();
    });
    let qkv = best(|| qkv.apply_to(&exec, &normed, &mut q).unwrap());
    let attended = best(|| {
        let part = |i: usize| Features { of: &q, row: i * WIDTH };
        attention(&exec, part(0), part(1), part(2), HEADS, &mut a).unwrap();
    });
    let (mut operand, mut preparing) = (a, 0.0);
    if let Operand::Float(a) = &operand {
        preparing = best(|| assert!(exec.prepared(Operand::Borrowed(a), prepared).is_ok()));
        operand = exec.prepared(operand, prepared).unwrap();
    }
    let out = best(|| out.apply(&exec, &operand, &mut x, Then::Add).unwrap());
    let up = best(|| up.apply_gelu(&exec, &normed, &mut middle).unwrap());
    let down = best(|| down.apply(&exec, &middle, &mut x, Then::Add).unwrap());
    ([qkv, out, up, down], [norms, attended, preparing])
}

#[test]
#[ignore = "prints speeds"]
fn speed_of_blocks() {
    let wanted = std::env::var("KERNELS").unwrap_or_default();
    for tokens in TOKENS {
        {
            for kernels in Kernels::all().into_iter().filter(|k| k.name().contains(&wanted)) {
                let (layers, rest) = block(kernels, tokens);
                let flops =
                    [3 * WIDTH * WIDTH, WIDTH * WIDTH, WIDTH * MLP, WIDTH * MLP].map(|n| 2.0 * (n * tokens) as f64);
                let speed: Vec<String> = layers.iter().zip(flops).map(|(t, f)| format!("{:.0}", f / t / 1e9)).collect();
                let (linear, others) = (layers.iter().sum::<f64>(), rest.iter().sum::<f64>());
                println!(
                    "{tokens} tokens, {}: {:.1} ms a block ({:.0} GFLOP/s); layers qkv, out, up+GELU, down: \
                     {} GFLOP/s; attention {:.0} GFLOP/s, {:.1} ms; norms {:.1} ms; rounding {:.2} ms; not layers {:.0} %",
                    kernels.name(),
                    (linear + others) * 1e3,
                    (flops.iter().sum::<f64>() + attention_flops(WIDTH, tokens, tokens)) / (linear + others) / 1e9,
                    speed.join(", "),
                    attention_flops(WIDTH, tokens, tokens) / rest[1] / 1e9,
                    rest[1] * 1e3,
                    rest[0] * 1e3,
                    rest[2] * 1e3,
                    others / (linear + others) * 100.0,
                );
            }
        }
    }
}
