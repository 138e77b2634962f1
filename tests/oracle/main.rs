//! The whole pipeline, from checkpoint files in the official layout to losses of candidates, beside PyTorch and
//! transformers, with small random models of several sizes and layouts (tests/reference/oracle.py).

#[path = "../common/checkpoint_writer.rs"]
mod checkpoint_writer;
#[path = "../common/mod.rs"]
mod common;

mod checkpoint;
mod measure;
mod table;

use measure::{measured, Gap, Measurement};

/// What a choice of types may cost.
struct Limits {
    /// Largest error of any stage, relative to the stage's largest value; the vision half's and the decoder's.
    vision: f64,
    decoder: f64,
    /// Least cosine of any stage.
    cosine: f64,
    /// Relative error of a loss.
    losses: f64,
    /// Greedy tokens that have to be the expected ones.
    greedy: usize,
}

/// About three times what is measured, or less; docs/accuracy.md has the figures. In single precision the project asks for
/// 2e-4 and for 1e-3 in the logits, in half precision for 5e-3.
fn limits(types: &str) -> Limits {
    match types {
        "F32" => Limits { vision: 1e-5, decoder: 1e-5, cosine: 1.0 - 1e-10, losses: 1e-5, greedy: 32 },
        "F16" => Limits { vision: 5e-3, decoder: 5e-3, cosine: 1.0 - 1e-6, losses: 5e-3, greedy: 31 },
        "Q8_0" => Limits { vision: 4e-2, decoder: 4e-2, cosine: 1.0 - 3e-4, losses: 3e-2, greedy: 28 },
        "Q4_K_M" => Limits { vision: 4e-2, decoder: 0.3, cosine: 0.985, losses: 0.12, greedy: 16 },
        other => panic!("no limits for {other}"),
    }
}

fn check(name: &str) {
    for m in measured(name) {
        let Measurement { types, stages, greedy, losses, .. } = m;
        let at = format!("{name}, {}", types.name);
        let limits = limits(types.name);
        assert_eq!(m.find("pixels").expect("pixels").largest, 0.0, "{at}: pixels are the same to the bit");
        for (stage, gap @ Gap { largest, norm, cosine }) in stages {
            println!("{at}, {stage}: largest {largest:.1e}, norm {norm:.1e}, cosine 1 − {:.1e}", 1.0 - cosine);
            let decodes = stage.starts_with("layer") || stage == "logits";
            let limit = if decodes { limits.decoder } else { limits.vision };
            assert!(*largest <= limit && *norm <= limit && *cosine >= limits.cosine, "{at}, {stage}: {gap:?}");
        }
        println!("{at}: {greedy} of 32 greedy tokens, losses within {losses:.1e}");
        assert!(*greedy >= limits.greedy, "{at}: only {greedy} of 32 greedy tokens");
        assert!(*losses <= limits.losses, "{at}: losses are off by {losses:e}");
    }
}

#[test]
fn official_layout_at_224_pixels() {
    check("stage1");
}

#[test]
fn interpolated_positions_at_448_pixels() {
    check("stage4");
}

#[test]
fn separate_projections_in_shards() {
    check("split");
}

#[test]
fn no_lora_and_widths_that_every_type_fits() {
    check("plain");
    // The error grows from type to type, so each was really used.
    let errors: Vec<f64> = measured("plain").iter().map(|m| m.find("logits").expect("logits").norm).collect();
    assert!(errors.windows(2).all(|w| 5.0 * w[0] < w[1]), "{errors:?}");
}

#[test]
fn odd_sizes() {
    check("odd");
}
