//! All checkpoint files of one conversion as one set of tensors: canonical names, which file overrides which, and proof
//! that nothing was dropped silently.
//!
//! Canonical names are those of the whole PyTorch model: `visual_encoder.*`, `ln_vision.*`, `query_tokens`, `Qformer.*`,
//! `llama_proj.*`, `llama_proj2.*`, `llama_model.model.*`, `llama_model.lm_head.*`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use sha2::{Digest, Sha256};

use crate::output::tensors;
use crate::plan::Ingredient;
use crate::stored::{Checkpoint, StoredTensor};
use crate::{safetensors_file, torch_file};

/// Which of the user's four inputs a file belongs to, in the order in which they override each other: the last wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The base decoder.
    Phi2,
    /// The ViT.
    Vit,
    /// BLIP-2's Q-Former.
    Qformer,
    /// What TinyGPT-V trained.
    Stage,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Phi2 => "--phi2",
            Role::Vit => "--vit",
            Role::Qformer => "--qformer",
            Role::Stage => "--checkpoint",
        })
    }
}

struct Candidate {
    role: Role,
    tensor: StoredTensor,
    used: bool,
}

/// The union of all checkpoint files.
pub struct Sources {
    /// By canonical name; of several candidates the one of the highest role counts.
    tensors: BTreeMap<String, Vec<Candidate>>,
    /// Every file that shapes the result, with its role, in the order of reading.
    files: Vec<(Role, PathBuf)>,
    /// `config.model.lora_alpha` of the stage checkpoint.
    pub lora_alpha: Option<f64>,
    /// `config.model.lora_r` of the stage checkpoint.
    pub lora_r: Option<i64>,
    /// What there is to say about the files that were read.
    pub notes: Vec<String>,
}

impl Sources {
    /// Opens the four inputs.
    pub fn open(phi2: &Path, vit: &Path, qformer: &Path, stage: &Path) -> Result<Sources> {
        let mut sources =
            Sources { tensors: BTreeMap::new(), files: Vec::new(), lora_alpha: None, lora_r: None, notes: Vec::new() };
        sources.add_phi2(phi2)?;
        for (role, path) in [(Role::Vit, vit), (Role::Qformer, qformer), (Role::Stage, stage)] {
            let checkpoint = open_weights(path)?;
            if role == Role::Stage {
                sources.lora_alpha = checkpoint.lora_alpha;
                sources.lora_r = checkpoint.lora_r;
            }
            sources.add(role, checkpoint)?;
        }
        sources.note_overrides();
        Ok(sources)
    }

    /// Tensors that are in no file, under their canonical names.
    pub fn of_tensors(tensors: Vec<StoredTensor>) -> Sources {
        let candidate = |tensor: StoredTensor| Candidate { role: Role::Phi2, tensor, used: false };
        Sources {
            tensors: tensors.into_iter().map(|t| (t.key.clone(), vec![candidate(t)])).collect(),
            files: Vec::new(),
            lora_alpha: None,
            lora_r: None,
            notes: Vec::new(),
        }
    }

    fn add_phi2(&mut self, dir: &Path) -> Result<()> {
        ensure!(
            dir.is_dir(),
            "--phi2 '{}' is not a folder; pass the folder with config.json and the weights",
            dir.display()
        );
        let names = ["model.safetensors", "pytorch_model.bin"];
        for name in names {
            let index = dir.join(format!("{name}.index.json"));
            let single = dir.join(name);
            if single.is_file() {
                return self.add(Role::Phi2, open_weights(&single)?);
            } else if index.is_file() {
                return self.add_sharded(dir, &index);
            }
        }
        bail!(
            "'{}' has no weights: one of model.safetensors, model.safetensors.index.json, pytorch_model.bin or \
             pytorch_model.bin.index.json must be there",
            dir.display()
        )
    }

    fn add_sharded(&mut self, dir: &Path, index: &Path) -> Result<()> {
        let json = read_json(index)?;
        let map = json.get("weight_map").and_then(|m| m.as_object());
        let map = map.with_context(|| format!("'{}' has no weight_map", index.display()))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, shard) in map {
            let shard = shard.as_str().with_context(|| format!("'{}' is not a weight index", index.display()))?;
            ensure!(
                !shard.contains(['/', '\\']) && !shard.starts_with('.'),
                "'{}' names the file '{shard}' outside its folder",
                index.display()
            );
            shards.entry(shard).or_default().push(key);
        }
        ensure!(!shards.is_empty(), "'{}' lists no files", index.display());
        for (shard, keys) in shards {
            let checkpoint = open_weights(&dir.join(shard))?;
            let held: std::collections::HashSet<&str> = checkpoint.tensors.iter().map(|t| t.key.as_str()).collect();
            if let Some(missing) = keys.iter().find(|k| !held.contains(*k)) {
                bail!("'{}' lacks '{missing}', which '{}' puts there", dir.join(shard).display(), index.display());
            }
            self.add(Role::Phi2, checkpoint)?;
        }
        Ok(())
    }

    fn add(&mut self, role: Role, checkpoint: Checkpoint) -> Result<()> {
        self.files.push((role, checkpoint.file.path().to_owned()));
        if !checkpoint.other.is_empty() {
            let path = checkpoint.file.path().display();
            self.notes.push(format!("'{path}': not tensors, passed over: {}", some_of(&checkpoint.other)));
        }
        for tensor in checkpoint.tensors {
            let name = canonical(role, &tensor.key);
            let candidates = self.tensors.entry(name).or_default();
            if let Some(twin) = candidates.iter().find(|c| c.role == role) {
                bail!("{} and {} are the same tensor under two names", twin.tensor.place(), tensor.place());
            }
            candidates.push(Candidate { role, tensor, used: false });
        }
        Ok(())
    }

    fn note_overrides(&mut self) {
        let mut counts: BTreeMap<(Role, Role), usize> = BTreeMap::new();
        for candidates in self.tensors.values_mut() {
            candidates.sort_by_key(|c| c.role);
            if let [rest @ .., winner] = candidates.as_slice() {
                for loser in rest {
                    *counts.entry((winner.role, loser.role)).or_default() += 1;
                }
            }
        }
        for ((winner, loser), n) in counts {
            self.notes.push(format!("the {winner} file replaces {} of the {loser} file", tensors(n)));
        }
    }

    /// Names a file that shapes the result without holding tensors: a configuration or a tokenizer.
    pub fn add_plain_file(&mut self, role: Role, path: &Path) {
        self.files.push((role, path.to_owned()));
    }

    /// The files, for the hashes.
    pub fn files(&self) -> &[(Role, PathBuf)] {
        &self.files
    }

    /// Canonical names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether any file has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The role of the file that a tensor would be taken from.
    pub fn role(&self, name: &str) -> Option<Role> {
        self.tensors.get(name)?.last().map(|c| c.role)
    }

    /// The shape of a tensor, for dimensions that only shapes tell.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.last()?.tensor.shape)
    }

    /// The shape of a tensor that must be there and have `rank` dimensions.
    pub fn shape_of(&self, name: &str, rank: usize) -> Result<Vec<usize>> {
        let tensor = &self.tensors.get(name).and_then(|c| c.last()).with_context(|| missing(name, ""))?.tensor;
        ensure!(
            tensor.shape.len() == rank && tensor.elements() > 0,
            "{} has shape {:?}, where {rank} dimensions are needed",
            tensor.place(),
            tensor.shape
        );
        Ok(tensor.shape.clone())
    }

    /// Takes a tensor if any file has it. Its shape must be `shape`.
    pub fn find(&mut self, name: &str, shape: &[usize]) -> Result<Option<StoredTensor>> {
        let Some(candidates) = self.tensors.get_mut(name) else { return Ok(None) };
        candidates.iter_mut().for_each(|c| c.used = true);
        let Some(Candidate { tensor, .. }) = candidates.last() else { return Ok(None) };
        ensure!(
            tensor.shape == shape,
            "{} has shape {:?}, where the model needs {shape:?}",
            tensor.place(),
            tensor.shape
        );
        ensure!(
            tensor.dtype.is_float(),
            "{} holds integers ({}), where weights are needed",
            tensor.place(),
            tensor.dtype
        );
        Ok(Some(tensor.clone()))
    }

    /// Takes a tensor that must be there.
    pub fn require(&mut self, name: &str, shape: &[usize]) -> Result<StoredTensor> {
        self.find(name, shape)?.with_context(|| missing(name, &format!(" {shape:?}")))
    }

    /// Says what becomes of every tensor that nothing took: passed over for a documented reason, or an error (a warning
    /// with `allow`) that names it.
    pub fn account_for_rest(&self, vit_blocks: usize, allow: bool) -> Result<(Vec<String>, Vec<String>)> {
        let mut ignored: BTreeMap<&str, usize> = BTreeMap::new();
        let mut unknown = Vec::new();
        for (name, candidate) in self.tensors.iter().flat_map(|(n, c)| c.iter().map(move |c| (n, c))) {
            if candidate.used {
                continue;
            }
            match reason_to_ignore(name, &candidate.tensor, vit_blocks) {
                Some(reason) => *ignored.entry(reason).or_default() += 1,
                None => unknown.push(candidate.tensor.place()),
            }
        }
        let notes = ignored.into_iter().map(|(reason, n)| format!("{} passed over: {reason}", tensors(n))).collect();
        if unknown.is_empty() {
            return Ok((notes, Vec::new()));
        }
        let list = some_of(&unknown);
        let n = tensors(unknown.len());
        ensure!(allow, "no place in the model for {n}: {list}; pass --allow-unknown to leave them out");
        Ok((notes, vec![format!("{n} left out, as --allow-unknown says: {list}")]))
    }

    /// Hashes every file. `progress` hears of every chunk's bytes.
    pub fn hash(&self, mut progress: impl FnMut(u64)) -> Result<Vec<Ingredient>> {
        let ingredient = |(role, path): &(Role, PathBuf)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Ingredient { role: role.to_string(), name, hash: hash_file(path, &mut progress)? })
        };
        self.files.iter().map(ingredient).collect()
    }
}

/// SHA-256 of a file, in hexadecimal. `progress` hears of every chunk's bytes.
pub fn hash_file(path: &Path, progress: &mut impl FnMut(u64)) -> Result<String> {
    let failed = || format!("cannot read '{}'", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).with_context(failed)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        progress(n as u64);
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("'{}' is not valid JSON", path.display()))
}

fn open_weights(path: &Path) -> Result<Checkpoint> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => safetensors_file::open(path),
        _ => torch_file::open(path),
    }
}

/// The first few of a list, and how many more.
fn some_of(items: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text += &format!(" and {} more", items.len() - SHOWN);
    }
    text
}

fn missing(name: &str, shape: &str) -> String {
    let looked = match name {
        n if n.starts_with("llama_model.") => format!("'{}'{shape} in the --phi2 folder", &n["llama_model.".len()..]),
        n if n.starts_with("visual_encoder.") => {
            format!("'{}'{shape} in the --vit file", &n["visual_encoder.".len()..])
        }
        n if n.starts_with("llama_proj") => format!("'{n}'{shape} in the --checkpoint file"),
        n => format!("'{n}'{shape} in the --qformer file"),
    };
    format!("a tensor is missing: {looked}, or its counterpart in the --checkpoint file")
}

/// The name in the whole model of a key in a file.
fn canonical(role: Role, key: &str) -> String {
    let prefix = match role {
        Role::Phi2 if !key.starts_with("llama_model.") => "llama_model.",
        Role::Vit if !key.starts_with("visual_encoder.") => "visual_encoder.",
        _ => "",
    };
    let key = format!("{prefix}{key}");
    let Some(decoder) = key.strip_prefix("llama_model.") else { return key };
    // PEFT wraps the whole model, and newer versions the layers that have LoRA too.
    let decoder = decoder.strip_prefix("base_model.model.").unwrap_or(decoder);
    format!("llama_model.{}", decoder.replace(".base_layer.", "."))
}

/// Why a tensor that the model does not use may be passed over.
fn reason_to_ignore(name: &str, tensor: &StoredTensor, vit_blocks: usize) -> Option<&'static str> {
    if !tensor.dtype.is_float() {
        return Some("integer buffers such as position_ids");
    }
    if let Some(rest) = name.strip_prefix("Qformer.bert.") {
        let text_embedding =
            rest.starts_with("embeddings.word_embeddings") || rest.starts_with("embeddings.position_embed");
        let text_path = rest.starts_with("pooler.")
            || rest
                .strip_prefix("encoder.layer.")
                .and_then(|l| l.split_once('.'))
                .is_some_and(|(_, part)| part.starts_with("intermediate.") || part.starts_with("output."));
        return (text_embedding || text_path).then_some("the Q-Former's text path");
    }
    if let Some(rest) = name.strip_prefix("visual_encoder.") {
        if ["head.", "norm.", "fc_norm.", "lm_head."].iter().any(|p| rest.starts_with(p)) || rest == "mask_token" {
            return Some("the ViT's classification head and final norm");
        }
        let block = rest.strip_prefix("blocks.").and_then(|r| r.split_once('.')).and_then(|(n, _)| n.parse().ok());
        return block.filter(|&n: &usize| n >= vit_blocks).map(|_| "blocks of the ViT past the last one that is used");
    }
    let other_heads = ["t5_proj.", "opt_proj.", "Qformer.cls.", "vision_proj.", "text_proj.", "itm_head."];
    if other_heads.iter().any(|p| name.starts_with(p)) || name == "temp" {
        return Some("BLIP-2's heads for other language models and losses");
    }
    if name.starts_with("llama_model.") && name.ends_with("rotary_emb.inv_freq") {
        return Some("rotary frequencies, which follow from the configuration");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_canonical() {
        let stage = |key| canonical(Role::Stage, key);
        let layer = "llama_model.model.layers.3.self_attn.dense";
        assert_eq!(
            stage("llama_model.base_model.model.model.layers.3.self_attn.dense.lora_A.weight"),
            format!("{layer}.lora_A.weight")
        );
        assert_eq!(
            stage("llama_model.base_model.model.model.layers.3.self_attn.dense.base_layer.weight"),
            format!("{layer}.weight")
        );
        assert_eq!(stage("llama_model.model.layers.3.self_attn.dense.weight"), format!("{layer}.weight"));
        assert_eq!(stage("llama_model.base_model.model.lm_head.bias"), "llama_model.lm_head.bias");
        assert_eq!(stage("llama_proj.weight"), "llama_proj.weight");
        assert_eq!(canonical(Role::Phi2, "model.layers.3.self_attn.dense.weight"), format!("{layer}.weight"));
        assert_eq!(canonical(Role::Vit, "blocks.0.norm1.bias"), "visual_encoder.blocks.0.norm1.bias");
    }
}
