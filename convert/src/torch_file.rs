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
    ensure!(
        !head.starts_with(b"version https://git-lfs"),
        "it is a Git LFS pointer; fetch the real file with git lfs pull"
    );
    ensure!(!head.starts_with(b"<"), "it is a web page; the download went wrong");
    ensure!(head.starts_with(b"PK"), "it is not a PyTorch checkpoint (no zip archive)");
    let mut archive = ZipArchive::new(file.file())
        .context("its zip directory cannot be read: the file is truncated or corrupt, download it again")?;

    let mut entries = HashMap::new();
    let mut pickle_name = None;
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).context("its zip directory is corrupt")?;
        let name = entry.name().context("its zip directory is corrupt")?.into_owned();
        ensure!(
            entry.compression() == CompressionMethod::Stored && !entry.encrypted(),
            "its entry '{name}' is compressed; PyTorch never does that, so the archive was packed again by something else"
        );
        let offset = entry.data_start().context("its zip directory is corrupt")?;
        let length = entry.size();
        let ends = offset.checked_add(length);
        ensure!(
            ends.is_some_and(|e| e <= file.length()),
            "its entry '{name}' reaches past the end: truncated or corrupt"
        );
        if name == "data.pkl" || (name.ends_with("/data.pkl") && name.matches('/').count() == 1) {
            ensure!(pickle_name.is_none(), "it has two pickles: corrupt");
            pickle_name = Some(name.clone());
        }
        entries.insert(name, Entry { offset, length });
    }
    let pickle_name = pickle_name.context("it is a zip archive without a data.pkl, so not a PyTorch checkpoint")?;
    let root = pickle_name.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(&format!("{root}byteorder")) {
        ensure!(
            file.read(order.offset, order.length.min(16) as usize)? == b"little",
            "it is big-endian, which is not read"
        );
    }
    let entry = &entries[&pickle_name];
    // Not through the archive: its sums are left out by some versions of PyTorch.
    let length = usize::try_from(entry.length).context("its pickle is too long")?;
    let pickle = Pickle::load(&file.read(entry.offset, length)?)?;
    collect(file, &pickle, |entry| entries.get(&format!("{root}data/{entry}")))
}

/// Finds the state dictionary in the pickle and the tensors in it.
fn collect<'a>(file: &Arc<DataFile>, pickle: &Pickle, find: impl Fn(&str) -> Option<&'a Entry>) -> Result<Checkpoint> {
    let root = pickle.root;
    pickle.dict(root).context("it holds something else than a dictionary of tensors")?;
    let inner =
        ["model", "state_dict"].into_iter().find_map(|k| pickle.get(root, k).filter(|&v| pickle.dict(v).is_some()));
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
        let place =
            find(entry).with_context(|| format!("its entry 'data/{entry}', the data of '{key}', is missing"))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::write::SimpleFileOptions;
    use zip::ZipWriter;

    /// A state dictionary with one tensor `w` of two rows of three, as torch.save writes it.
    const PICKLE: &[u8] =
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
        X\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\0K\x02K\x03\x86K\x03K\x01\x86\x89}tRs.";

    fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn open_bytes(bytes: &[u8]) -> Result<Checkpoint> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        open(file.path())
    }

    fn fails(bytes: &[u8]) -> String {
        format!("{:#}", open_bytes(bytes).unwrap_err())
    }

    #[test]
    fn reads_ranges_of_tensors() {
        let data = floats(&[1., 2., 3., 4., 5., 6.]);
        let bytes = archive(&[("x/data.pkl", PICKLE), ("x/data/0", &data)], CompressionMethod::Stored);
        let checkpoint = open_bytes(&bytes).unwrap();
        let w = &checkpoint.tensors[0];
        assert_eq!((w.key.as_str(), w.shape.as_slice()), ("w", &[2, 3][..]));
        let mut out = Vec::new();
        w.read(2, 3, &mut out).unwrap();
        assert_eq!(out, [3., 4., 5.]);
    }

    #[test]
    fn reads_transposed_tensors() {
        // Shape (3, 2) with strides (1, 3): the transpose of what is stored.
        let pickle = String::from_utf8_lossy(PICKLE).into_owned();
        assert!(pickle.contains("K\x02K\x03"));
        let mut pickle = PICKLE.to_vec();
        let at = PICKLE.windows(4).position(|w| w == b"K\x02K\x03").unwrap();
        pickle[at..at + 10].copy_from_slice(b"K\x03K\x02\x86K\x01K\x03\x86");
        let data = floats(&[1., 2., 3., 4., 5., 6.]);
        let bytes = archive(&[("x/data.pkl", &pickle), ("x/data/0", &data)], CompressionMethod::Stored);
        let w = &open_bytes(&bytes).unwrap().tensors[0];
        assert_eq!(w.shape, [3, 2]);
        assert_eq!(w.read_all().unwrap(), [1., 4., 2., 5., 3., 6.]);
        let mut out = Vec::new();
        w.read(3, 2, &mut out).unwrap();
        assert_eq!(out, [5., 3.]);
    }

    #[test]
    fn says_what_is_wrong() {
        let stored = CompressionMethod::Stored;
        let data = floats(&[0.; 6]);
        assert!(fails(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("before version 1.6"));
        assert!(fails(b"").contains("is empty"));
        assert!(fails(b"<!DOCTYPE html>").contains("web page"));
        assert!(fails(b"\x93NUMPY").contains("not a PyTorch checkpoint"));
        assert!(fails(&archive(&[("x/other", b"")], stored)).contains("without a data.pkl"));
        assert!(fails(&archive(&[("x/data.pkl", PICKLE)], stored)).contains("'data/0', the data of 'w', is missing"));
        let short = archive(&[("x/data.pkl", PICKLE), ("x/data/0", &data[..20])], stored);
        assert!(fails(&short).contains("more bytes than the file holds"));
        let big_endian = [("x/data.pkl", PICKLE), ("x/byteorder", b"big".as_slice()), ("x/data/0", &data)];
        assert!(fails(&archive(&big_endian, stored)).contains("big-endian"));
        assert!(fails(&archive(&[("x/data.pkl", b"\x80\x02cos\nsystem\n.")], stored)).contains("'os.system'"));
        assert!(fails(&archive(&[("x/data.pkl", b"\x80\x02].")], stored)).contains("dictionary of tensors"));
        assert!(fails(&archive(&[("x/data.pkl", b"\x80\x02}.")], stored)).contains("no tensors"));
    }

    #[test]
    fn damage_never_panics() {
        let data = floats(&[1., 2., 3., 4., 5., 6.]);
        let whole = archive(&[("x/data.pkl", PICKLE), ("x/data/0", &data)], CompressionMethod::Stored);
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            let checkpoint = open(file.path())?;
            checkpoint.tensors.iter().try_for_each(|t| t.read_all().map(drop))
        };
        for n in 0..whole.len() {
            assert!(read(&whole[..n]).is_err(), "cut at {n}");
        }
        let mut bytes = whole.clone();
        for i in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                bytes[i] ^= flip;
                // Either is right; only a panic or an endless loop is not.
                drop(read(&bytes));
                bytes[i] ^= flip;
            }
        }
    }
}
