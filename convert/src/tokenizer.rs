//! The Phi-2 tokenizer (byte-level BPE) as llama.cpp's own converter writes it: tokens, their types, merges.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use serde_json::Value as Json;

use crate::gguf_writer::{Metadata, Value};
use crate::source::read_json;

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// What the tokenizer's files say.
pub struct Tokenizer {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    /// Ids of the special tokens that some file names, by the name in the GGUF key.
    special: Vec<(&'static str, u32)>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// An entry of the vocabulary that is matched before the BPE runs.
struct Added {
    id: usize,
    text: String,
    special: bool,
}

impl Tokenizer {
    /// Reads the tokenizer in a folder for a model whose embedding has `rows` rows. `config` is its config.json.
    pub fn read(dir: &Path, rows: usize, config: &Json) -> Result<Tokenizer> {
        let mut files = Vec::new();
        let mut optional = |name: &str| -> Result<Option<Json>> {
            let path = dir.join(name);
            if !path.is_file() {
                return Ok(None);
            }
            let json = read_json(&path)?;
            files.push(path);
            Ok(Some(json))
        };
        let settings = [optional("tokenizer_config.json")?, optional("special_tokens_map.json")?];
        let generation = optional("generation_config.json")?;
        let parts = match optional("tokenizer.json")? {
            Some(json) => from_tokenizer_json(&json)
                .with_context(|| format!("cannot use '{}'", dir.join("tokenizer.json").display()))?,
            None => {
                let vocabulary = optional("vocab.json")?
                    .with_context(|| format!("'{}' has neither tokenizer.json nor vocab.json", dir.display()))?;
                let extra = optional("added_tokens.json")?;
                let path = dir.join("merges.txt");
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("cannot read '{}'", path.display()))?;
                files.push(path);
                let vocabulary =
                    ids(&vocabulary).with_context(|| format!("cannot use '{}'", dir.join("vocab.json").display()))?;
                let added = added_beside(&vocabulary, extra.as_ref(), &settings)?;
                (vocabulary, merges_of(&text), added)
            }
        };
        let tokenizer = Tokenizer::of_parts(parts, rows, &settings, &[Some(config), generation.as_ref()])
            .with_context(|| format!("cannot use the tokenizer in '{}'", dir.display()))?;
        Ok(Tokenizer { files, ..tokenizer })
    }

    /// The tokenizer that a tokenizer.json describes, for a model whose embedding has `rows` rows.
    pub fn from_json(json: &Json, rows: usize, config: &Json) -> Result<Tokenizer> {
        Tokenizer::of_parts(from_tokenizer_json(json)?, rows, &[None, None], &[Some(config), None])
    }

    /// `settings` name special tokens by their texts, `configs` by their ids.
    fn of_parts(
        (vocabulary, merges, added): Parts,
        rows: usize,
        settings: &[Option<Json>],
        configs: &[Option<&Json>],
    ) -> Result<Tokenizer> {
        let mut tokens: Vec<Option<String>> = vec![None; rows];
        let mut types = vec![UNUSED; rows];
        let mut place = |id: usize, text: &str, ty: i32| -> Result<()> {
            ensure!(
                id < rows,
                "the tokenizer's token '{text}' has the id {id}, but the embedding has only {rows} rows; \
                 tokenizer and weights do not belong together"
            );
            if let Some(other) = tokens[id].as_deref().filter(|t| *t != text) {
                bail!("the tokenizer gives the id {id} to both '{other}' and '{text}'");
            }
            tokens[id] = Some(text.to_owned());
            types[id] = ty;
            Ok(())
        };
        for (text, &id) in &vocabulary {
            place(id, text, NORMAL)?;
        }
        for token in &added {
            let control = token.special || looks_special(&token.text);
            place(token.id, &token.text, if control { CONTROL } else { USER_DEFINED })?;
        }
        for merge in &merges {
            let (left, right) = merge.split_once(' ').filter(|(_, r)| !r.contains(' ')).with_context(|| {
                format!("the tokenizer's merge '{merge}' is not two tokens with a space between them")
            })?;
            ensure!(
                vocabulary.contains_key(&format!("{left}{right}")),
                "the tokenizer's merge '{merge}' makes no token of its vocabulary; vocabulary and merges do not belong together"
            );
        }

        let by_text: HashMap<&str, usize> = vocabulary
            .iter()
            .map(|(t, &id)| (t.as_str(), id))
            .chain(added.iter().map(|a| (a.text.as_str(), a.id)))
            .collect();
        let mut special = Vec::new();
        for (key, json_key) in
            [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
        {
            let numeric = configs.iter().flatten().find_map(|j| {
                let id = j.get(format!("{json_key}_id"))?;
                // Several ends of text: the first is the one that training used.
                id.as_array().map_or(Some(id), |ids| ids.first())?.as_u64()
            });
            let named = settings.iter().flatten().find_map(|j| {
                let token = j.get(json_key)?;
                by_text.get(token.as_str().or_else(|| token.get("content")?.as_str())?).map(|&id| id as u64)
            });
            // Phi-2's text begins and ends with the same token; files that name none mean this one.
            let usual =
                ["bos", "eos"].contains(&key).then(|| by_text.get("<|endoftext|>")).flatten().map(|&id| id as u64);
            if let Some(id) = numeric.or(named).or(usual) {
                ensure!(id < rows as u64, "{json_key}_id is {id}, but the vocabulary has {rows} entries");
                special.push((key, id as u32));
            }
        }
        ensure!(special.iter().any(|s| s.0 == "eos"), "no file says which token ends a text (eos_token)");

        let tokens = tokens.into_iter().enumerate().map(|(i, t)| t.unwrap_or_else(|| format!("[PAD{i}]"))).collect();
        Ok(Tokenizer { tokens, types, merges, special, files: Vec::new() })
    }

    /// Entries that are no padding.
    pub fn used(&self) -> usize {
        self.types.iter().filter(|&&t| t != UNUSED).count()
    }

    /// The `tokenizer.ggml.*` keys.
    pub fn metadata(self) -> Metadata {
        let key = |name: &str, value| (format!("tokenizer.ggml.{name}"), value);
        let mut metadata = vec![
            key("model", "gpt2".into()),
            key("pre", "phi-2".into()),
            key("tokens", Value::StringArray(self.tokens)),
            key("token_type", Value::I32Array(self.types)),
            key("merges", Value::StringArray(self.merges)),
        ];
        metadata.extend(self.special.iter().map(|&(name, id)| key(&format!("{name}_token_id"), Value::U32(id))));
        metadata.push(key("add_bos_token", Value::Bool(false)));
        metadata
    }
}

type Parts = (HashMap<String, usize>, Vec<String>, Vec<Added>);

fn from_tokenizer_json(json: &Json) -> Result<Parts> {
    let model = json.get("model").context("it has no model")?;
    // Older files leave the type out.
    if let Some(kind) = model.get("type").and_then(Json::as_str) {
        ensure!(kind == "BPE", "its model is {kind}, not the BPE of Phi-2");
    }
    let byte_level = json.get("pre_tokenizer").is_some_and(|p| p.to_string().contains("ByteLevel"));
    ensure!(byte_level, "its pre-tokenizer is not the byte-level one of Phi-2");
    let vocabulary = ids(model.get("vocab").context("it has no vocabulary")?)?;
    let merges = model.get("merges").and_then(Json::as_array).context("it has no merges")?;
    let merges = merges
        .iter()
        .map(|m| match (m.as_str(), m.as_array().map(Vec::as_slice)) {
            (Some(text), _) => Ok(text.to_owned()),
            (_, Some([Json::String(left), Json::String(right)])) => Ok(format!("{left} {right}")),
            _ => bail!("its merge {m} is no pair"),
        })
        .collect::<Result<_>>()?;
    let added = json.get("added_tokens").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let added = added.iter().map(|a| added_token(a, a.get("id").and_then(Json::as_u64))).collect::<Result<_>>()?;
    Ok((vocabulary, merges, added))
}

fn added_token(json: &Json, id: Option<u64>) -> Result<Added> {
    let text = json.get("content").and_then(Json::as_str);
    let (Some(text), Some(id)) = (text, id) else { bail!("the added token {json} lacks its text or id") };
    let special = json.get("special").and_then(Json::as_bool).unwrap_or(false);
    Ok(Added { id: id as usize, text: text.to_owned(), special })
}

/// Added tokens when there is no tokenizer.json: the older files say it in three places.
fn added_beside(
    vocabulary: &HashMap<String, usize>,
    extra: Option<&Json>,
    settings: &[Option<Json>; 2],
) -> Result<Vec<Added>> {
    let mut special: BTreeSet<&str> = BTreeSet::new();
    for map in settings.iter().flatten().filter_map(Json::as_object) {
        for (_, token) in map.iter().filter(|(k, _)| k.ends_with("_token")) {
            special.extend(token.as_str().or_else(|| token.get("content")?.as_str()));
        }
    }
    let mut added: Vec<Added> = Vec::new();
    let decoder = settings[0].as_ref().and_then(|s| s.get("added_tokens_decoder")).and_then(Json::as_object);
    for (id, token) in decoder.into_iter().flatten() {
        added.push(added_token(token, id.parse().ok())?);
    }
    let known = |added: &[Added], text: &str| added.iter().any(|a| a.text == text);
    for (text, id) in extra.map(ids).transpose()?.unwrap_or_default() {
        if !known(&added, &text) {
            added.push(Added { id, special: special.contains(text.as_str()), text });
        }
    }
    for text in special {
        if let Some(&id) = vocabulary.get(text).filter(|_| !known(&added, text)) {
            added.push(Added { id, text: text.to_owned(), special: true });
        }
    }
    added.sort_by_key(|a| a.id);
    Ok(added)
}

/// A JSON object of tokens and ids.
fn ids(json: &Json) -> Result<HashMap<String, usize>> {
    let map = json.as_object().context("its vocabulary is no object")?;
    map.iter()
        .map(|(text, id)| {
            let id = id.as_u64().with_context(|| format!("its token '{text}' has no id"))?;
            Ok((text.clone(), id as usize))
        })
        .collect()
}

/// The merges of a merges.txt. Only a version line is no merge: `# #` is one.
fn merges_of(text: &str) -> Vec<String> {
    let merges = text.strip_prefix("#version").map_or(text, |rest| rest.split_once('\n').map_or("", |(_, rest)| rest));
    merges.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Added tokens that are control tokens although their file does not say so, by llama.cpp's rule.
fn looks_special(text: &str) -> bool {
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || (text.starts_with("<|") && text.ends_with("|>"))
        || (text.starts_with("<｜") && text.ends_with("｜>"))
        || (text.starts_with("<unused") && text.ends_with('>'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: &str = r####"{"<|endoftext|>": 0, "#": 1, "##": 2, "###": 3, "a": 4}"####;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn read(files: &[(&str, &str)], rows: usize) -> Result<Tokenizer> {
        Tokenizer::read(folder(files).path(), rows, &serde_json::json!({}))
    }

    #[test]
    fn a_hash_is_no_comment() {
        assert_eq!(merges_of("#version: 0.2\n# #\n## #\n\n"), ["# #", "## #"]);
        assert_eq!(merges_of("# #\n"), ["# #"]);
    }

    #[test]
    fn both_forms_give_the_same() {
        let older = read(
            &[
                ("vocab.json", VOCAB),
                ("merges.txt", "#version: 0.2\n# #\n## #\n"),
                ("added_tokens.json", r#"{"  ": 5}"#),
                ("special_tokens_map.json", r#"{"eos_token": "<|endoftext|>"}"#),
            ],
            8,
        )
        .unwrap();
        let newer = format!(
            r#"{{"model": {{"type": "BPE", "vocab": {VOCAB}, "merges": [["{h}", "{h}"], "{h}{h} {h}"]}},
                "pre_tokenizer": {{"type": "ByteLevel"}}, "added_tokens": [
                {{"id": 0, "content": "<|endoftext|>", "special": true}}, {{"id": 5, "content": "  ", "special": false}}]}}"#,
            h = "#"
        );
        let newer = read(&[("tokenizer.json", &newer)], 8).unwrap();
        for t in [older, newer] {
            assert_eq!(t.tokens, ["<|endoftext|>", "#", "##", "###", "a", "  ", "[PAD6]", "[PAD7]"]);
            assert_eq!(t.types, [CONTROL, NORMAL, NORMAL, NORMAL, NORMAL, USER_DEFINED, UNUSED, UNUSED]);
            assert_eq!(t.merges, ["# #", "## #"]);
            assert_eq!(t.special, [("bos", 0), ("eos", 0)]);
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let problem = |merges: &str, rows| {
            let files = [("vocab.json", VOCAB), ("merges.txt", merges)];
            format!("{:#}", read(&files, rows).err().unwrap())
        };
        assert!(problem("# #", 4).contains("only 4 rows"));
        assert!(problem("a #", 5).contains("makes no token"));
        assert!(problem("###", 5).contains("not two tokens"));
        assert!(format!("{:#}", read(&[], 5).err().unwrap()).contains("neither tokenizer.json nor vocab.json"));
    }
}
