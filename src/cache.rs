//! A bounded cache of image embeddings, by what the vision encoder sees of a picture: the same picture in another session, or
//! sent again, costs no second encoding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

use crate::embedding::Embedding;

/// SHA-256 of normalised pixels.
pub type Key = [u8; 32];

/// Least recently used embeddings make room for new ones.
pub struct EmbeddingCache {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    bytes: usize,
    /// Counts uses: the smallest `used` is the least recent.
    clock: u64,
}

struct Entry {
    embedding: Arc<Embedding>,
    used: u64,
}

/// The key of normalised pixels.
pub fn key(pixels: &[f32]) -> Key {
    let mut hash = Sha256::new();
    for pixel in pixels {
        hash.update(pixel.to_le_bytes());
    }
    hash.finalize().into()
}

impl EmbeddingCache {
    /// For embeddings of `capacity` bytes together; 0 keeps none.
    pub fn new(capacity: usize) -> EmbeddingCache {
        EmbeddingCache { capacity, state: Mutex::default() }
    }

    /// Whether it can keep anything.
    pub fn is_on(&self) -> bool {
        self.capacity > 0
    }

    /// Number of embeddings and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.entries.len(), state.bytes)
    }

    /// The embedding of these pixels, if it is still there.
    pub fn get(&self, key: &Key) -> Option<Arc<Embedding>> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let entry = state.entries.get_mut(key)?;
        entry.used = now;
        Some(entry.embedding.clone())
    }

    /// Keeps an embedding. One larger than the cache is not kept.
    pub fn put(&self, key: Key, embedding: &Arc<Embedding>) {
        let size = bytes(embedding);
        if size > self.capacity {
            return;
        }
        let mut state = self.lock();
        state.clock += 1;
        let entry = Entry { embedding: embedding.clone(), used: state.clock };
        state.bytes += size;
        if let Some(old) = state.entries.insert(key, entry) {
            state.bytes -= bytes(&old.embedding);
        }
        while state.bytes > self.capacity {
            let Some(oldest) = state.entries.iter().min_by_key(|(_, e)| e.used).map(|(k, _)| *k) else { break };
            if let Some(entry) = state.entries.remove(&oldest) {
                state.bytes -= bytes(&entry.embedding);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing inside can panic half-way.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn bytes(embedding: &Embedding) -> usize {
    size_of_val(embedding.values())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(value: f32) -> Arc<Embedding> {
        Arc::new(Embedding::new(vec![value; 8], 2, 4).unwrap())
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = EmbeddingCache::new(3 * 32);
        let keys: Vec<Key> = (0..4).map(|i| key(&[i as f32])).collect();
        for (i, key) in keys[..3].iter().enumerate() {
            cache.put(*key, &embedding(i as f32));
        }
        assert_eq!(cache.size(), (3, 96));
        assert!(cache.get(&keys[0]).is_some());
        cache.put(keys[3], &embedding(3.0));
        assert_eq!(cache.size(), (3, 96));
        assert!(cache.get(&keys[1]).is_none(), "it was used longest ago");
        for i in [0, 2, 3] {
            assert_eq!(cache.get(&keys[i]).unwrap().values()[0], i as f32);
        }
        cache.put(keys[3], &embedding(9.0));
        assert_eq!((cache.size(), cache.get(&keys[3]).unwrap().values()[0]), ((3, 96), 9.0));
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let cache = EmbeddingCache::new(31);
        cache.put(key(&[1.0]), &embedding(1.0));
        assert_eq!(cache.size(), (0, 0));
        assert!(cache.is_on() && !EmbeddingCache::new(0).is_on());
    }

    #[test]
    fn keys_tell_pixels_apart() {
        assert_eq!(key(&[1.0, 2.0]), key(&[1.0, 2.0]));
        assert_ne!(key(&[1.0, 2.0]), key(&[2.0, 1.0]));
        assert_ne!(key(&[0.0]), key(&[-0.0]));
    }
}
