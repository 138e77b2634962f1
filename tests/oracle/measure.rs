//! How far the library is from PyTorch with one small random model and one choice of number types.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use tinygptv::decoder::trace::LayerTrace;
use tinygptv::decoder::{Decoder, DecoderModel, DecoderOptions, Kernels, KvType, LoadOptions, Slot};
use tinygptv::gguf::Gguf;
use tinygptv::image::preprocess;
use tinygptv::session::RankOptions;
use tinygptv::threads::ThreadPool;
use tinygptv::vision::{Control, VisionEncoder};
use tinygptv::{Embedding, Model, ModelOptions, Session, SessionOptions};

use crate::checkpoint::Converted;
use crate::common::{difference, golden, ids, list, open_image, read_f32, read_json, root, text};

/// The models of tests/golden/oracle.
pub const MODELS: [&str; 5] = ["stage1", "stage4", "split", "plain", "odd"];

/// Number types of both files and of the KV cache.
#[derive(Clone, Copy, Debug)]
pub struct Types {
    pub name: &'static str,
    pub decoder: &'static str,
    pub vision: &'static str,
    pub kv: KvType,
}

/// What is measured; `name` is what the table calls it.
pub const TYPES: [Types; 4] = [
    Types { name: "F32", decoder: "f32", vision: "f32", kv: KvType::F32 },
    Types { name: "F16", decoder: "f16", vision: "f16", kv: KvType::F16 },
    Types { name: "Q8_0", decoder: "q8_0", vision: "q8_0", kv: KvType::F16 },
    Types { name: "Q4_K_M", decoder: "q4_k_m", vision: "q8_0", kv: KvType::F16 },
];

/// How far a tensor is from the expected one.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// max |ours − expected| / max |expected|
    pub largest: f64,
    /// ‖ours − expected‖ / ‖expected‖
    pub norm: f64,
    pub cosine: f64,
}

/// One model with one choice of types.
pub struct Measurement {
    pub model: &'static str,
    pub types: Types,
    /// By name, in the order of computation; each from our own results so far, not from the expected ones.
    pub stages: Vec<(String, Gap)>,
    /// Of 32 greedy tokens, those that are the expected ones after the expected beginning.
    pub greedy: usize,
    /// Largest error of a candidate's loss, relative to it.
    pub losses: f64,
}

impl Measurement {
    /// `None` for a layer that the model does not have.
    pub fn find(&self, stage: &str) -> Option<Gap> {
        self.stages.iter().find(|(name, _)| name == stage).map(|s| s.1)
    }
}

/// The numbers of NAME.f32, by tensor.
struct Expected<'a> {
    index: &'a Json,
    numbers: BTreeMap<&'a str, Vec<f32>>,
}

impl<'a> Expected<'a> {
    fn read(name: &str, model: &'a Json) -> Expected<'a> {
        let all = read_f32(&golden("oracle").join(format!("{name}.f32")));
        let index = &model["expected"];
        let mut rest = all.as_slice();
        let mut numbers = BTreeMap::new();
        // The numbers lie in the order of the description, which serde_json may not keep.
        for key in Expected::order(index) {
            let n = elements(&index[key]).div_ceil(step(&index[key]));
            let (head, tail) = rest.split_at(n);
            numbers.insert(key, head.to_vec());
            rest = tail;
        }
        assert!(rest.is_empty(), "{name}.f32 is too long");
        Expected { index, numbers }
    }

    fn order(index: &Json) -> Vec<&str> {
        let rank = |key: &str| match key {
            "pixels" => 0,
            "vit" => 1,
            "ln_vision" => 2,
            "qformer" => 3,
            "projected" => 4,
            "logits" => usize::MAX,
            layer => 5 + layer.strip_prefix("layer").and_then(|n| n.parse::<usize>().ok()).expect("a layer"),
        };
        let mut keys: Vec<&str> = index.as_object().expect("tensors").keys().map(String::as_str).collect();
        keys.sort_by_key(|k| rank(k));
        keys
    }

    /// Compares the whole tensor's norm, too, so that what lies between the samples is not left out.
    fn gap(&self, name: &str, ours: &[f32]) -> Gap {
        let entry = &self.index[name];
        assert_eq!(ours.len(), elements(entry), "numbers of {name}");
        let samples: Vec<f32> = ours.iter().copied().step_by(step(entry)).collect();
        let d = difference(&samples, &self.numbers[name]);
        let value = |key: &str| entry[key].as_f64().expect("a number");
        let norm = ours.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        Gap {
            largest: d.largest / value("largest"),
            norm: d.relative.max((norm - value("norm")).abs() / value("norm")),
            cosine: d.cosine,
        }
    }
}

fn elements(entry: &Json) -> usize {
    list(entry, "shape").iter().map(|n| n.as_u64().expect("a size") as usize).product()
}

fn step(entry: &Json) -> usize {
    entry["step"].as_u64().expect("a step") as usize
}

fn argmax(logits: &[f32]) -> i32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("logits").0 as i32
}

/// All choices of types of one model; measured once, whoever asks first.
pub fn measured(name: &str) -> &'static [Measurement] {
    static ALL: [OnceLock<Vec<Measurement>>; MODELS.len()] = [const { OnceLock::new() }; MODELS.len()];
    let i = MODELS.iter().position(|m| *m == name).expect("a model of the list");
    ALL[i].get_or_init(|| measure_all(MODELS[i]))
}

fn measure_all(name: &'static str) -> Vec<Measurement> {
    let model = read_json(&golden("oracle").join(format!("{name}.json")));
    let converted = Converted::new(name, &model, &TYPES.map(|t| t.decoder), &["f32", "f16", "q8_0"]);
    let measure = |types: Types| {
        let (decoder, vision) = (converted.decoder(name, types.decoder), converted.vision(name, types.vision));
        measure(name, &model, types, &decoder, &vision, &converted.vision(name, "f32"))
    };
    TYPES.map(measure).into()
}

/// Undoes the powers of two by which the converter rescales what a norm makes, given the file where it does not.
fn as_trained(values: &mut [f32], norm: &str, file: &Gguf, plain: &Gguf) {
    let weights = |file: &Gguf| -> Vec<f32> {
        let info = file.find_tensor(norm).expect(norm).clone();
        let tensor = file.tensor(&info.name, &info.shape).expect(norm);
        tensor.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    };
    let factors: Vec<f32> = weights(plain).iter().zip(weights(file)).map(|(plain, here)| plain / here).collect();
    assert!(factors.iter().all(|f| f.log2().fract() == 0.0), "{norm} is rescaled by powers of two: {factors:?}");
    for row in values.chunks_exact_mut(factors.len()) {
        row.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
    }
}

fn measure(name: &'static str, model: &Json, types: Types, decoder: &Path, vision: &Path, plain: &Path) -> Measurement {
    let expected = Expected::read(name, model);
    let mut stages = Vec::new();
    let mut note = |stage: &str, ours: &[f32]| stages.push((stage.to_owned(), expected.gap(stage, ours)));

    let file = Gguf::open(vision).expect("the vision file");
    let encoder = VisionEncoder::load(&file, Arc::new(ThreadPool::new(1))).expect("the vision file");
    let image = open_image(&root().join(text(model, "image")));
    let three = |key: &str| -> [f32; 3] { file.f32_array(key).expect(key).try_into().expect("three numbers") };
    let (mean, std) = (three("clip.vision.image_mean"), three("clip.vision.image_std"));
    note("pixels", &preprocess(&image, encoder.dims().image_size, mean, std).expect("pixels"));
    let mut vision_stages = encoder.encode_stages(&image, Control::default()).expect("stages");
    let plain = Gguf::open(plain).expect("the vision file in F32");
    as_trained(&mut vision_stages.ln_vision, "v.post_ln.weight", &file, &plain);
    note("vit", &vision_stages.vit);
    note("ln_vision", &vision_stages.ln_vision);
    note("qformer", &vision_stages.qformer);
    note("projected", &vision_stages.projected);

    let (rows, width) = (encoder.dims().query_count(), encoder.dims().projection_dim);
    let embedding = Arc::new(Embedding::new(vision_stages.projected, rows, width).expect("an embedding"));
    let tokens = |key: &str| ids(&model[key]).into_iter().map(Slot::Token);
    let prompt: Vec<Slot> = tokens("ids_before_image")
        .chain((0..rows).map(|row| Slot::Image(embedding.clone(), row)))
        .chain(tokens("ids_after_image"))
        .collect();
    let file = Gguf::open(decoder).expect("the decoder file");
    let weights =
        Arc::new(DecoderModel::load(&file, &LoadOptions::default(), &mut |_| true).expect("the decoder file"));
    let trace = Arc::new(LayerTrace::default());
    let options = DecoderOptions { capacity: 512, threads: 1, kv_type: types.kv, kernels: Kernels::default() };
    let mut context = Decoder::traced(weights, &options, trace.clone()).expect("a context");
    context.evaluate(&prompt).expect("logits");
    for (layer, state) in trace.take() {
        note(&format!("layer{layer}"), &state);
    }
    let logits = context.logits().to_vec();
    note("logits", &logits);

    let mut greedy = 0;
    let wanted = ids(&model["greedy"]);
    assert_eq!(wanted.len(), 32);
    for &token in &wanted {
        greedy += usize::from(argmax(context.logits()) == token);
        context.append(token).expect("logits");
    }

    let session = Sessions { model, types, decoder, vision, embedding };
    assert!(session.logits() == logits, "{name}, {}: the session's prompt is another", types.name);
    Measurement { model: name, types, stages, greedy, losses: session.losses() }
}

/// The same through the interface that users have.
struct Sessions<'a> {
    model: &'a Json,
    types: Types,
    decoder: &'a Path,
    vision: &'a Path,
    embedding: Arc<Embedding>,
}

impl Sessions<'_> {
    fn start(&self, template: &str) -> Session {
        let options = ModelOptions { threads: 1, ..ModelOptions::default() };
        let model = Model::load(self.decoder, Some(self.vision), &options).expect("a pair of files");
        let template = Some(template.to_owned());
        let options = SessionOptions { template, kv_type: self.types.kv, ..SessionOptions::default() };
        let mut session = Session::new(model, &options).expect("a session");
        session.add_embedding(self.embedding.clone()).expect("an embedding of this model");
        session
    }

    fn logits(&self) -> Vec<f32> {
        let mut session = self.start(text(self.model, "template"));
        session.prefill(text(self.model, "question")).expect("a prompt");
        session.logits().to_vec()
    }

    fn losses(&self) -> f64 {
        let rank = &self.model["rank"];
        let candidates: Vec<&str> = list(rank, "candidates").iter().map(|c| c.as_str().expect("a text")).collect();
        let mut session = self.start("rank");
        let mut worst = 0f64;
        for (end, wanted) in rank["losses"].as_object().expect("losses") {
            let options = RankOptions { end: end.clone(), ..RankOptions::default() };
            let ours = session.rank(text(rank, "question"), &candidates, &options).expect("losses");
            let wanted = wanted.as_array().expect("losses");
            assert_eq!(ours.len(), wanted.len());
            for (ours, wanted) in ours.into_iter().zip(wanted) {
                let wanted = wanted.as_f64().expect("a loss");
                worst = worst.max((f64::from(ours) - wanted).abs() / wanted);
            }
        }
        worst
    }
}
