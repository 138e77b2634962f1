//! PyTorch checkpoints: a zip archive with a pickle and one uncompressed entry for each tensor's memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use zip::{CompressionMethod, ZipArchive};

use crate::pickle::{Object, Pickle, Value};
use crate::stored::{Checkpoint, DataFile, StoredTensor};

/// What PyTorch's format before version 1.6 starts with: a pickled magic number.
const LEGACY_MAGIC: &[u8] = &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9];

/// Where an entry of the archive lies in the file.
struct Entry {
    offset: u64,
    length: u64,
}

/// Reads the directory of a `.pth` or `.bin` file. The tensors' numbers are not looked at.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let file = Arc::new(DataFile::open(path)?);
    read(&file).with_context(|| format!("cannot use '{}'", path.display()))
}

fn read(file: &Arc<DataFile>) -> Result<Checkpoint> {
    let head = file.read(0, file.length().min(64) as usize)?;
    if head.starts_with(LEGACY_MAGIC) {
        bail!(
            "it is in PyTorch's format from before version 1.6; convert it once with Python: \
             import torch; torch.save(torch.load(f, map_location='cpu'), f)"
        );
    }
    ensure!(!head.starts_with(b"version https://git-lfs"), "it is a Git LFS pointer; fetch the real file with git lfs pull");
    ensure!(!head.starts_with(b"<"), "it is a web page; the download went wrong");
    ensure!(head.starts_with(b"PK"), "it is not a PyTorch checkpoint (no zip archive)");
    let mut archive = ZipArchive::new(file.file())
        .context("its zip directory cannot be read: the file is truncated or corrupt, download it again")?;

    let mut entries = HashMap::new();
    let mut pickle_name = None;
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).context("its zip directory is corrupt")?;
        let name = entry.name().to_owned();
        ensure!(
            entry.compression() == CompressionMethod::Stored && !entry.encrypted(),
            "its entry '{name}' is compressed; PyTorch never does that, so the archive was packed again by something else"
        );
        let offset = entry.data_start().context("its zip directory is corrupt")?;
        let length = entry.size();
        let ends = offset.checked_add(length);
        ensure!(ends.is_some_and(|e| e <= file.length()), "its entry '{name}' reaches past the end: truncated or corrupt");
        if name == "data.pkl" || (name.ends_with("/data.pkl") && name.matches('/').count() == 1) {
            ensure!(pickle_name.is_none(), "it has two pickles: corrupt");
            pickle_name = Some(name.clone());
        }
        entries.insert(name, Entry { offset, length });
    }
    let pickle_name = pickle_name.context("it is a zip archive without a data.pkl, so not a PyTorch checkpoint")?;
    let root = pickle_name.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(&format!("{root}byteorder")) {
        ensure!(file.read(order.offset, order.length.min(16) as usize)? == b"little", "it is big-endian, which is not read");
    }
    let entry = &entries[&pickle_name];
    // Not through the archive: its sums are left out by some versions of PyTorch.
    let length = usize::try_from(entry.length).context("its pickle is too long")?;
    let pickle = Pickle::load(&file.read(entry.offset, length)?)?;
    collect(file, &pickle, |entry| entries.get(&format!("{root}data/{entry}")))
}

/// Finds the state dictionary in the pickle and the tensors in it.
fn collect<'a>(
    file: &Arc<DataFile>,
    pickle: &Pickle,
    find: impl Fn(&str) -> Option<&'a Entry>,
) -> Result<Checkpoint> {
    let root = pickle.root;
    pickle.dict(root).context("it holds something else than a dictionary of tensors")?;
    let inner = ["model", "state_dict"].into_iter().find_map(|k| pickle.get(root, k).filter(|&v| pickle.dict(v).is_some()));
    let mut other = Vec::new();
    if inner.is_some() {
        let names = pickle.dict(root).unwrap_or_default().iter().filter(|(_, v)| Some(*v) != inner);
        other.extend(names.map(|(k, _)| pickle.str(*k).unwrap_or("?").to_owned()));
    }

    let mut tensors: Vec<StoredTensor> = Vec::new();
    let mut index = HashMap::new();
    for &(key, value) in pickle.dict(inner.unwrap_or(root)).unwrap_or_default() {
        let Some(key) = pickle.str(key) else { bail!("its dictionary of tensors has a key that is no text") };
        let Some(Object::Tensor { storage, offset, shape, strides }) = pickle.object(value) else {
            other.push(key.to_owned());
            continue;
        };
        let Some(Object::Storage { dtype, entry, length }) = pickle.object(Value::Object(*storage)) else {
            bail!("'{key}' has no storage: corrupt");
        };
        let place = find(entry).with_context(|| format!("its entry 'data/{entry}', the data of '{key}', is missing"))?;
        let size = dtype.size() as u64;
        let available = length.checked_mul(size).map(|bytes| bytes.min(place.length));
        let skip = offset.checked_mul(size);
        let (Some(available), Some(skip)) = (available, skip) else { bail!("'{key}' has an impossible size: corrupt") };
        let tensor = StoredTensor::new(
            file.clone(),
            key.to_owned(),
            *dtype,
            shape.clone(),
            strides.clone(),
            place.offset.saturating_add(skip),
            available.saturating_sub(skip),
        )?;
        // As in Python, the last assignment to a key counts.
        match index.get(key) {
            Some(&i) => tensors[i] = tensor,
            None => {
                index.insert(key, tensors.len());
                tensors.push(tensor);
            }
        }
    }
    ensure!(!tensors.is_empty(), "it holds no tensors");

    let setting = |name| pickle.get(pickle.get(pickle.get(root, "config")?, "model")?, name);
    Ok(Checkpoint {
        file: file.clone(),
        tensors,
        lora_alpha: setting("lora_alpha").and_then(|v| match v {
            Value::Int(n) => Some(n as f64),
            Value::Float(x) => Some(x),
            _ => None,
        }),
        lora_r: setting("lora_r").and_then(|v| match v {
            Value::Int(n) => Some(n),
            _ => None,
        }),
        other,
    })
}
