//! Many threads at once on what they share. ThreadSanitizer ends the process with status 66 when two accesses are not ordered.

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use tinygptv_tsan::cache::{key, EmbeddingCache};
use tinygptv_tsan::embedding::Embedding;
use tinygptv_tsan::log::{add_sink, remove_sink, set_sink};
use tinygptv_tsan::log_message;
use tinygptv_tsan::threads::ThreadPool;

const THREADS: usize = 4;

/// Numbers that are written without a lock.
struct Numbers(Vec<UnsafeCell<usize>>);

// SAFETY: that is what the sanitizer checks.
unsafe impl Sync for Numbers {}

impl Numbers {
    fn new(count: usize) -> Numbers {
        Numbers((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, i: usize) {
        // SAFETY: as above.
        unsafe { *self.0[i].get() += 1 };
    }

    fn get(&self, i: usize) -> usize {
        // SAFETY: as above.
        unsafe { *self.0[i].get() }
    }
}

/// Proves that the sanitizer is on: run by scripts/tsan.sh, which wants it to fail.
#[test]
#[ignore = "fails on purpose"]
fn canary() {
    let numbers = Numbers::new(1);
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        (0..THREADS).for_each(|_| {
            scope.spawn(|| {
                start.wait();
                (0..10_000).for_each(|i| numbers.add(black_box(i) / 10_000));
            });
        });
    });
    assert!(numbers.get(0) > 0);
}

#[test]
fn jobs_of_several_callers() {
    let pool = ThreadPool::new(3);
    thread::scope(|scope| {
        for caller in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..400 {
                    // Some wait for the next job awake, some asleep.
                    let series = (round % 3 == caller % 3).then(|| pool.series());
                    let numbers = Numbers::new(5);
                    pool.parallel_for(5, &|i| numbers.add(i));
                    pool.parallel_for(5, &|i| numbers.add(4 - i));
                    (0..5).for_each(|i| assert_eq!(numbers.get(i), 2));
                    drop(series);
                }
            });
        }
    });
}

#[test]
fn pools_come_and_go() {
    for _ in 0..100 {
        let numbers = Numbers::new(3);
        let pool = ThreadPool::new(3);
        pool.parallel_for(3, &|i| numbers.add(i));
        drop(pool);
        assert_eq!((0..3).map(|i| numbers.get(i)).sum::<usize>(), 3);
    }
}

#[test]
fn listeners_come_and_go() {
    let heard = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..2000).for_each(|i| log_message(&format!("line {i}"))));
            scope.spawn(|| {
                for i in 0..300 {
                    // What a sink works with goes right after its removal.
                    let lines = Arc::new(Numbers::new(1));
                    let (mine, heard) = (lines.clone(), heard.clone());
                    let guard = Arc::new(std::sync::Mutex::new(()));
                    let sink = Arc::new(move |_, _: &str| {
                        let _one_at_a_time = guard.lock();
                        mine.add(0);
                        heard.fetch_add(1, Ordering::Relaxed);
                    });
                    let id = add_sink(sink).unwrap();
                    if i % 10 == 0 {
                        set_sink(Some(Arc::new(|_, _: &str| ()))).unwrap();
                        set_sink(None).unwrap();
                    }
                    remove_sink(id).unwrap();
                    let _ = lines.get(0);
                }
            });
        }
    });
    assert!(heard.load(Ordering::Relaxed) > 0);
}

#[test]
fn one_cache() {
    let cache = EmbeddingCache::new(20 * 4 * 8);
    thread::scope(|scope| {
        for caller in 0..THREADS {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..500 {
                    let pixels = [((caller + round) % 30) as f32];
                    let key = key(&pixels);
                    match cache.get(&key) {
                        Some(known) => assert_eq!(known.values()[0], pixels[0]),
                        None => cache.put(key, &Arc::new(Embedding::new(vec![pixels[0]; 8], 2, 4).unwrap())),
                    }
                    assert!(cache.size().1 <= 20 * 4 * 8);
                }
            });
        }
    });
}
