//! Checkpoints for the tests: the demo's own, changed copies of it, and the program itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

#[path = "../../../tests/common/checkpoint_writer.rs"]
mod checkpoint_writer;

pub use checkpoint_writer::{write_safetensors, write_torch, State, Stored, Tensor};

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
