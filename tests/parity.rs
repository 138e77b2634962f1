//! The demo model computes what the PyTorch reference computes: every stage, the logits, the answers.
//!
//! The limits are the project's (relative errors are of norms); measured figures are printed with `--nocapture`.

mod common;

use std::sync::Arc;

use common::scoring::is_right;
use common::{ask_about, demo, difference, golden, list, open_image, read_f32, read_json, scenes, text, Difference};
use serde_json::Value as Json;
use tinygptv::gguf::Gguf;
use tinygptv::image::preprocess;
use tinygptv::prompt::Segment;
use tinygptv::threads::ThreadPool;
use tinygptv::vision::{Control, VisionEncoder};
use tinygptv::Model;

/// Relative error of F16 weights against the reference, which has the same weights and computes in f32.
const RELATIVE_F16: f64 = 1e-3;
/// Absolute error of a logit; they reach 25.
const LOGIT: f32 = 1e-2;

fn encoder(path: &std::path::Path) -> VisionEncoder {
    let file = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    VisionEncoder::load(&file, Arc::new(ThreadPool::new(0))).unwrap_or_else(|e| panic!("{e}"))
}

/// The two pictures of tests/golden/stages.
fn stage_pictures() -> Vec<Json> {
    let pictures = list(&read_json(&golden("stages/index.json")), "pictures").to_vec();
    assert_eq!(pictures.len(), 2);
    pictures
}

fn stage_golden(part: &Json) -> Vec<f32> {
    let values = read_f32(&golden("stages").join(text(part, "file")));
    let shape: u64 = list(part, "shape").iter().map(|n| n.as_u64().expect("a size")).product();
    assert_eq!(values.len() as u64, shape, "{part}");
    values
}

fn stage_image(picture: &Json) -> tinygptv::Image {
    open_image(&golden("stages").join(text(picture, "image")))
}

#[test]
fn pixels_are_the_reference_s_to_the_bit() {
    let file = Gguf::open(&common::vision_file("f16")).expect("the vision file");
    let three = |key: &str| -> [f32; 3] { file.f32_array(key).expect(key).try_into().expect("three numbers") };
    let (mean, std) = (three("clip.vision.image_mean"), three("clip.vision.image_std"));
    for picture in stage_pictures() {
        let ours = preprocess(&stage_image(&picture), 112, mean, std).expect("pixels");
        let wanted = stage_golden(&picture["vision"]["pixels"]);
        let worst = difference(&ours, &wanted).largest;
        println!("pixels of {}: largest difference {worst:.1e}", text(&picture, "image"));
        assert!(ours == wanted, "{}: pixels differ by up to {worst:e}", text(&picture, "image"));
    }
}

#[test]
fn every_vision_stage_agrees_with_f16_weights() {
    let encoder = encoder(&common::vision_file("f16"));
    for picture in stage_pictures() {
        let stages = encoder.encode_stages(&stage_image(&picture), Control::default()).expect("stages");
        for (name, ours) in [
            ("vit", &stages.vit),
            ("ln_vision", &stages.ln_vision),
            ("qformer", &stages.qformer),
            ("projected", &stages.projected),
        ] {
            let d = difference(ours, &stage_golden(&picture["vision"][name]));
            println!("{} {name}: relative {:.1e}, largest {:.1e}", text(&picture, "image"), d.relative, d.largest);
            assert!(d.relative < RELATIVE_F16, "{} {name}: {d:?}", text(&picture, "image"));
        }
    }
}

#[test]
fn a_larger_picture_gets_an_interpolated_position_embedding() {
    // The demo's vision file with another image size: 12×12 patches on a stored grid of 8×8.
    let json = read_json(&golden("stages/index.json"));
    let large = &json["large_grid"];
    let mut bytes = std::fs::read(common::vision_file("f16")).expect("the vision file");
    let key = b"clip.vision.image_size";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("the key") + key.len();
    assert_eq!(bytes[at..at + 8], [4, 0, 0, 0, 112, 0, 0, 0], "a u32 of 112");
    let size = large["image_size"].as_u64().expect("a size") as u32;
    bytes[at + 4..at + 8].copy_from_slice(&size.to_le_bytes());
    let dir = common::TempDir::new("large-grid");
    let path = dir.join("vision.gguf");
    std::fs::write(&path, bytes).expect("a writable folder");

    let encoder = encoder(&path);
    assert_eq!(encoder.dims().tokens(), 145);
    let ours = encoder.encode(&stage_image(large), Control::default()).expect("an embedding");
    let d = difference(&ours, &stage_golden(&large["projected"]));
    println!("at {size} px: relative {:.1e}, largest {:.1e}", d.relative, d.largest);
    assert!(d.relative < RELATIVE_F16, "{d:?}");
}

/// The worst figures over the eight pictures.
fn embedding_difference(model: &Arc<Model>) -> Difference {
    let mut worst = Difference { relative: 0.0, largest: 0.0, cosine: 1.0 };
    for scene in scenes() {
        let ours = common::encode(model, &scene.image);
        let d = difference(ours.values(), &scene.embedding);
        println!(
            "{}: relative {:.1e}, largest {:.1e}, cosine 1 − {:.1e}",
            scene.name,
            d.relative,
            d.largest,
            1.0 - d.cosine
        );
        worst.relative = worst.relative.max(d.relative);
        worst.largest = worst.largest.max(d.largest);
        worst.cosine = worst.cosine.min(d.cosine);
    }
    worst
}

#[test]
fn image_embeddings_agree_with_f16_weights() {
    let worst = embedding_difference(common::f16());
    assert!(worst.relative < RELATIVE_F16 && worst.cosine > 0.9999, "{worst:?}");
}

#[test]
fn image_embeddings_agree_with_q8_0_weights() {
    let worst = embedding_difference(common::q8_0());
    assert!(worst.cosine > 0.999, "{worst:?}");
}

#[test]
fn the_default_prompt_has_the_reference_s_tokens() {
    let model = common::f16();
    for picture in stage_pictures() {
        let template = model.templates().get(None).expect("a default template");
        let segments = template.render(Some(&template.system), 1, text(&picture, "question"));
        let [Segment::Text(before), Segment::Image(0), Segment::Text(after)] = segments.as_slice() else {
            panic!("not text, image, text: {segments:?}");
        };
        for (part, key) in [(before, "ids_before_image"), (after, "ids_after_image")] {
            assert_eq!(model.tokenizer().encode(part).expect("ids"), common::ids(&picture[key]), "{part:?}");
        }
    }
}

#[test]
fn all_logits_agree_after_a_prompt() {
    let model = common::f16();
    for picture in stage_pictures() {
        let mut session = common::session(model);
        let embedding = model.embedding(stage_golden(&picture["vision"]["projected"])).expect("an embedding");
        session.add_embedding(embedding).expect("of this model");
        session.prefill(text(&picture, "question")).expect("a prompt");
        let d = difference(session.logits(), &stage_golden(&picture["decoder"]["logits"]));
        println!("{}: logits relative {:.1e}, largest {:.1e}", text(&picture, "image"), d.relative, d.largest);
        assert!(d.largest < f64::from(LOGIT), "{}: {d:?}", text(&picture, "image"));
    }
}

/// The largest error of a first token's ten highest logits over all golden questions. With `encode` the image embeddings
/// are our own, otherwise the reference's.
fn top10_error(encode: bool) -> f32 {
    let model = common::f16();
    let mut session = common::session(model);
    let (mut worst, mut count, mut sum) = (0f32, 0, 0f64);
    for scene in scenes() {
        let embedding = match encode {
            true => common::encode(model, &scene.image),
            false => model.embedding(scene.embedding.clone()).expect("an embedding"),
        };
        for question in &scene.questions {
            session.reset();
            session.add_embedding(embedding.clone()).expect("of this model");
            session.prefill(text(question, "question")).expect("a prompt");
            let logits = session.logits();
            for top in list(question, "first_token_top10") {
                let id = top["id"].as_u64().expect("an id") as usize;
                let wanted = top["logit"].as_f64().expect("a logit") as f32;
                let error = (logits[id] - wanted).abs();
                if error >= LOGIT {
                    println!(
                        "{} {:?}: token {id} has {} instead of {wanted}",
                        scene.name,
                        text(question, "question"),
                        logits[id]
                    );
                }
                worst = worst.max(error);
                sum += f64::from(error);
                count += 1;
            }
        }
    }
    println!("{count} logits: mean error {:.1e}, largest {worst:.1e}", sum / f64::from(count));
    assert_eq!(count, 550);
    worst
}

#[test]
fn first_token_logits_agree_from_the_reference_s_embeddings() {
    let worst = top10_error(false);
    assert!(worst < LOGIT, "off by up to {worst}");
}

#[test]
fn first_token_logits_agree_from_our_embeddings() {
    let worst = top10_error(true);
    assert!(worst < LOGIT, "off by up to {worst}");
}

#[test]
fn answers_to_the_golden_questions_are_the_reference_s() {
    let model = common::f16();
    let mut session = common::session(model);
    let mut asked = 0;
    let mut wrong = Vec::new();
    for scene in scenes() {
        let embedding = common::encode(model, &scene.image);
        for question in &scene.questions {
            let answer = ask_about(&mut session, &embedding, text(question, "question"));
            asked += 1;
            if answer != text(question, "answer") {
                wrong.push(format!("{} {}: {answer:?}, not {}", scene.name, question["question"], question["answer"]));
            }
        }
    }
    assert_eq!(asked, 55);
    assert!(wrong.is_empty(), "{} of {asked} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn golden_conversations_go_as_the_reference_s() {
    let model = common::f16();
    for scene in scenes() {
        let mut session = common::session(model);
        session.add_image(&open_image(&scene.image), None).expect("a picture");
        assert!(scene.conversation.len() > 1);
        for (turn, (question, wanted)) in scene.conversation.iter().enumerate() {
            let answer = common::ask(&mut session, question);
            assert_eq!(answer, *wanted, "{}, turn {}: {question:?}", scene.name, turn + 1);
        }
    }
}

#[test]
fn answers_about_the_bundled_pictures_are_the_reference_s() {
    let model = common::f16();
    let mut session = common::session(model);
    let json = read_json(&golden("demo_pictures.json"));
    for question in json.as_array().expect("a list") {
        let embedding = common::encode(model, &demo(text(question, "image")));
        let answer = ask_about(&mut session, &embedding, text(question, "question"));
        assert_eq!(answer, text(question, "answer"), "{question}");
    }
}

/// How many of the 114 questions about fresh scenes a model answers rightly, beside the reference; the reference's answers
/// are in the file.
fn accuracy(name: &str, model: &Arc<Model>) -> (usize, usize) {
    let folder = golden("scenes");
    let lines = common::read_text(&folder.join("questions.jsonl"));
    let questions: Vec<Json> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(questions.len(), 114);
    let mut session = common::session(model);
    let (mut ours, mut reference, mut same) = (0, 0, 0);
    let mut current = None;
    for question in &questions {
        let image = text(question, "image");
        let embedding = match &current {
            Some((name, embedding)) if *name == image => Arc::clone(embedding),
            _ => common::encode(model, &folder.join(image)),
        };
        let answer = ask_about(&mut session, &embedding, text(question, "question"));
        current = Some((image, embedding));
        ours += usize::from(is_right(question, &answer));
        reference += usize::from(is_right(question, text(question, "answer")));
        same += usize::from(answer == text(question, "answer"));
    }
    println!("{name}: {ours} of 114 right, reference {reference}, {same} the same to the letter");
    (ours, reference)
}

#[test]
fn accuracy_on_fresh_scenes_is_the_reference_s_with_f16_weights() {
    let (ours, reference) = accuracy("f16", common::f16());
    assert!(ours + 1 >= reference, "{ours} right, the reference {reference}");
}

#[test]
fn accuracy_on_fresh_scenes_holds_with_q8_0_weights() {
    let (ours, reference) = accuracy("q8_0", common::q8_0());
    assert!(ours + 2 >= reference, "{ours} right, the reference {reference}");
}

#[test]
fn accuracy_on_fresh_scenes_holds_with_a_q4_k_m_decoder() {
    let (ours, reference) = accuracy("q4_k_m", common::q4_k_m());
    assert!(ours + 3 >= reference, "{ours} right, the reference {reference}");
}
