//! Saved embeddings: a picture encoded in one run of a program need not be encoded in the next.
//!
//! A file is `TGVEMB01`, the 32-byte identity of the vision encoder, rows and width as `u32`, the values as `f32`, and the
//! SHA-256 of all that; numbers little-endian.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::{memory, whole_file};

const MAGIC: &[u8; 8] = b"TGVEMB01";
const ID_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + ID_BYTES + 8;
const HASH_BYTES: usize = 32;
/// Far beyond any embedding: a larger file is something else.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Identity of a vision encoder: the hash of its file's header, which names the conversion, its sources and every tensor.
#[derive(Clone, PartialEq, Eq)]
pub struct VisionId([u8; ID_BYTES]);

impl VisionId {
    pub(crate) fn of(file: &Gguf) -> VisionId {
        VisionId(Sha256::digest(file.header()).into())
    }
}

/// Writes an embedding. The file appears under its name when it is complete.
pub(crate) fn save(embedding: &Embedding, id: &VisionId, path: &Path) -> Result<()> {
    let values = embedding.values();
    memory::check(4 * values.len() + memory::HEADROOM)?;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + 4 * values.len() + HASH_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&id.0);
    for n in [embedding.rows(), embedding.width()] {
        let n = u32::try_from(n).map_err(|_| Error::InvalidArgument("the embedding is too large to save".into()))?;
        bytes.extend_from_slice(&n.to_le_bytes());
    }
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let hash = Sha256::digest(&bytes);
    bytes.extend_from_slice(&hash);

    whole_file::write(path, &bytes)
}

/// Reads an embedding that `save` wrote for the same vision encoder.
pub(crate) fn load(id: &VisionId, path: &Path) -> Result<Embedding> {
    let bad = |problem: &str| Error::BadEmbeddingFile { path: path.to_owned(), problem: problem.into() };
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() < HEAD_BYTES + HASH_BYTES || !bytes.starts_with(MAGIC) || bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(bad("it is something else, or cut short"));
    }
    let (content, hash) = bytes.split_at(bytes.len() - HASH_BYTES);
    if Sha256::digest(content).as_slice() != hash {
        return Err(bad("it is damaged"));
    }
    let (head, values) = content.split_at(HEAD_BYTES);
    let (saved_id, shape) = head[MAGIC.len()..].split_at(ID_BYTES);
    if saved_id != id.0 {
        return Err(Error::ModelMismatch(format!(
            "'{}' was saved with another vision file; encode the picture again",
            path.display()
        )));
    }
    let numbers = |bytes: &[u8]| bytes.as_chunks::<4>().0.to_vec();
    let shape: Vec<usize> = numbers(shape).into_iter().map(|b| u32::from_le_bytes(b) as usize).collect();
    if values.len() % 4 != 0 {
        return Err(bad("its size is no number of values"));
    }
    let values = numbers(values).into_iter().map(f32::from_le_bytes).collect();
    Embedding::new(values, shape[0], shape[1]).map_err(|e| bad(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("tinygptv-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_saved_comes_back() {
        let folder = Folder::new("saved");
        let path = folder.0.join("picture.tgvemb");
        let embedding = Embedding::new((0..12).map(|i| i as f32 * 0.1 - 0.5).collect(), 3, 4).unwrap();
        let id = VisionId([7; 32]);
        save(&embedding, &id, &path).unwrap();
        let again = load(&id, &path).unwrap();
        assert_eq!((again.values(), again.rows(), again.width()), (embedding.values(), 3, 4));
        save(&embedding, &id, &path).unwrap();
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing but the file is left");
        assert!(matches!(load(&VisionId([8; 32]), &path), Err(Error::ModelMismatch(_))));
        assert!(matches!(load(&id, &folder.0.join("none")), Err(Error::Io { .. })));
        assert!(matches!(save(&embedding, &id, &folder.0.join("no/such/folder")), Err(Error::Io { .. })));
        assert!(matches!(load(&id, &folder.0), Err(Error::Io { .. })), "a folder");
    }

    #[test]
    fn every_damage_is_noticed() {
        let folder = Folder::new("damaged");
        let path = folder.0.join("picture.tgvemb");
        let id = VisionId([7; 32]);
        save(&Embedding::new(vec![1.5; 6], 2, 3).unwrap(), &id, &path).unwrap();
        let good = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            matches!(load(&id, &path), Err(Error::BadEmbeddingFile { .. }))
        };
        for i in 0..good.len() {
            let mut bytes = good.clone();
            bytes[i] ^= 1;
            assert!(refused(&bytes), "byte {i}");
            assert!(refused(&good[..i]), "the first {i} bytes");
        }
        // With a right hash, but a shape that does not fit, and a value that is not finite.
        let with_hash = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good[..good.len() - HASH_BYTES].to_vec();
            change(&mut bytes);
            let hash = Sha256::digest(&bytes);
            bytes.extend_from_slice(&hash);
            bytes
        };
        assert!(refused(&with_hash(&|b| b[HEAD_BYTES - 4] = 200)));
        assert!(refused(&with_hash(&|b| b[HEAD_BYTES - 8..HEAD_BYTES].fill(255))));
        assert!(refused(&with_hash(&|b| b.push(0))));
        assert!(refused(&with_hash(&|b| b[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&f32::NAN.to_le_bytes()))));
        assert!(!refused(&with_hash(&|_| ())));
    }
}
