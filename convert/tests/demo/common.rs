//! Checkpoints for the tests: the demo's own, changed copies of it, and the program itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::f16;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A tensor in memory. All test checkpoints are F16 unless a test says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tensor {
    pub fn new(shape: &[usize], values: Vec<f32>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        Tensor { shape: shape.to_vec(), values }
    }

    /// Small values that differ everywhere and that F16 holds exactly.
    pub fn pattern(shape: &[usize], seed: usize) -> Tensor {
        let n = shape.iter().product();
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 251) as f32 / 512.0 - 0.25;
        Tensor::new(shape, (0..n).map(value).collect())
    }
}

pub type State = BTreeMap<String, Tensor>;

/// The demo's checkpoint.
pub fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo/checkpoint")
}

/// Reads an F16 safetensors file or PyTorch checkpoint with the converter's own readers.
pub fn read_state(path: &Path) -> State {
    let checkpoint = match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => tinygptv_convert::safetensors_file::open(path),
        _ => tinygptv_convert::torch_file::open(path),
    };
    let tensors = checkpoint.unwrap().tensors;
    tensors.iter().map(|t| (t.key.clone(), Tensor::new(&t.shape, t.read_all().unwrap()))).collect()
}

/// Number types that the writers below know.
#[derive(Clone, Copy, Debug)]
pub enum Stored {
    F32,
    F16,
    BF16,
    F64,
}

fn bytes(tensor: &Tensor, stored: Stored) -> Vec<u8> {
    let values = tensor.values.iter();
    match stored {
        Stored::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
        Stored::F16 => values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Stored::BF16 => values.flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        Stored::F64 => values.flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
    }
}

pub fn write_safetensors(path: &Path, state: &State, stored: Stored) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    let name = match stored {
        Stored::F32 => "F32",
        Stored::F16 => "F16",
        Stored::BF16 => "BF16",
        Stored::F64 => "F64",
    };
    for (key, tensor) in state {
        let start = data.len();
        data.extend(bytes(tensor, stored));
        let entry = serde_json::json!({"dtype": name, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(key.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(path, file).unwrap();
}

/// Writes what `torch.save({"model": state, **extra})` writes; `extra` is pickle code for further items.
pub fn write_torch(path: &Path, state: &State, stored: Stored, extra: &[u8]) {
    let text = |p: &mut Vec<u8>, s: &str| {
        p.push(b'X');
        p.extend((s.len() as u32).to_le_bytes());
        p.extend(s.as_bytes());
    };
    let number = |p: &mut Vec<u8>, n: usize| {
        p.push(b'J');
        p.extend((n as u32).to_le_bytes());
    };
    let class = match stored {
        Stored::F32 => "FloatStorage",
        Stored::F16 => "HalfStorage",
        Stored::BF16 => "BFloat16Storage",
        Stored::F64 => "DoubleStorage",
    };
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(extra);
    text(&mut pickle, "model");
    pickle.extend(b"ccollections\nOrderedDict\n)R(");
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (i, (key, tensor)) in state.iter().enumerate() {
        text(&mut pickle, key);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(format!("ctorch\n{class}\n").bytes());
        text(&mut pickle, &i.to_string());
        text(&mut pickle, "cpu");
        number(&mut pickle, tensor.values.len());
        pickle.extend(b"tQK\0(");
        tensor.shape.iter().for_each(|&d| number(&mut pickle, d));
        pickle.extend(b"t(");
        let mut stride = tensor.values.len();
        for &d in &tensor.shape {
            stride /= d;
            number(&mut pickle, stride);
        }
        pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
        zip.start_file(format!("archive/data/{i}"), options).unwrap();
        zip.write_all(&bytes(tensor, stored)).unwrap();
    }
    pickle.extend(b"uu.");
    zip.start_file("archive/data.pkl", options).unwrap();
    zip.write_all(&pickle).unwrap();
    zip.finish().unwrap();
}

/// The four inputs of a conversion, in a folder of their own.
pub struct Inputs {
    dir: TempDir,
    pub phi2: PathBuf,
    pub vit: PathBuf,
    pub qformer: PathBuf,
    pub stage: PathBuf,
}

impl Inputs {
    /// A copy of the demo's checkpoint.
    pub fn demo() -> Inputs {
        let dir = tempfile::tempdir().unwrap();
        let phi2 = dir.path().join("phi2");
        fs::create_dir(&phi2).unwrap();
        for entry in fs::read_dir(demo().join("phi2")).unwrap() {
            let path = entry.unwrap().path();
            copy(&path, &phi2.join(path.file_name().unwrap()));
        }
        let beside = |name: &str| {
            copy(&demo().join(name), &dir.path().join(name));
            dir.path().join(name)
        };
        let (vit, qformer, stage) =
            (beside("eva_vit_g.pth"), beside("blip2_pretrained.pth"), beside("TinyGPT-V_for_Stage4.pth"));
        Inputs { phi2, vit, qformer, stage, dir }
    }

    /// Where the results go.
    pub fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub fn weights(&self) -> PathBuf {
        self.phi2.join("model.safetensors")
    }

    /// Changes the base decoder's weights.
    pub fn edit_phi2(&self, edit: impl FnOnce(&mut State)) {
        let mut state = read_state(&self.weights());
        edit(&mut state);
        write_safetensors(&self.weights(), &state, Stored::F16);
    }

    /// Changes one of the `.pth` files, whose tensors lie under `model` afterwards.
    pub fn edit_torch(&self, path: &Path, edit: impl FnOnce(&mut State)) {
        let mut state = read_state(path);
        edit(&mut state);
        write_torch(path, &state, Stored::F16, b"");
    }

    /// Changes config.json.
    pub fn edit_config(&self, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
        let path = self.phi2.join("config.json");
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(json.as_object_mut().unwrap());
        fs::write(path, json.to_string()).unwrap();
    }

    /// Runs the converter on them.
    pub fn run(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinygptv-convert"));
        for (flag, path) in [
            ("--phi2", &self.phi2),
            ("--vit", &self.vit),
            ("--qformer", &self.qformer),
            ("--checkpoint", &self.stage),
            ("--out", &self.out()),
        ] {
            command.arg(flag).arg(path);
        }
        command.args(["--stage", "4", "--name", "m"]).args(more).output().unwrap()
    }

    /// Converts to F16 (or as `more` says), which must work, and returns stderr.
    pub fn convert(&self, more: &[&str]) -> String {
        let types = ["--decoder-type", "f16", "--vision-type", "f16", "--force"];
        let types = if more.contains(&"--decoder-type") { &["--force"][..] } else { &types };
        let output = self.run(&[types, more].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        stderr
    }

    /// Converts, which must fail with one line, leaving nothing, and returns that line.
    pub fn fails(&self, more: &[&str]) -> String {
        let output = self.run(&[&["--quiet"], more].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|l| !l.starts_with("warning: ")).collect();
        assert!(matches!(errors.as_slice(), [line] if line.starts_with("error: ")), "{stderr}");
        let left = fs::read_dir(self.out()).map_or(0, |d| d.count());
        assert_eq!(left, 0, "files are left after: {stderr}");
        errors[0].to_owned()
    }

    /// A result of an F16 conversion.
    pub fn decoder(&self) -> PathBuf {
        self.out().join("m-f16.gguf")
    }

    /// A result of an F16 conversion.
    pub fn vision(&self) -> PathBuf {
        self.out().join("m-vision-f16.gguf")
    }
}

/// Copies without the permissions: the original may be read-only.
fn copy(from: &Path, to: &Path) {
    fs::write(to, fs::read(from).unwrap()).unwrap();
}
