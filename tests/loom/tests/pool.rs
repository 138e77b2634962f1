//! What the pool promises, in every order of events: each task runs once, its writes are seen by the caller, `run` returns only
//! when no worker holds the job, and the pool can always be dropped.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::Arc;
use tinygptv_loom::threads::ThreadPool;

/// Every order with at most so many switches that no thread asked for; prints how many there are.
#[track_caller]
fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let place = std::panic::Location::caller().line();
    let orders = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = orders.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        test();
    });
    println!("line {place}: {} orders with up to {preemptions} preemptions", orders.load(Ordering::Relaxed));
}

/// Numbers that tasks write without any lock: loom fails where two accesses are not ordered.
struct Numbers(Vec<UnsafeCell<usize>>);

// SAFETY: that is what loom checks.
unsafe impl Sync for Numbers {}

impl Numbers {
    fn new(count: usize) -> Numbers {
        Numbers((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn add(&self, i: usize) {
        // SAFETY: as above.
        self.0[i].with_mut(|n| unsafe { *n += 1 });
    }

    fn all_are(&self, expected: usize) {
        // SAFETY: as above.
        self.0.iter().for_each(|n| assert_eq!(n.with(|n| unsafe { *n }), expected));
    }
}

#[test]
fn one_job() {
    model(8, || {
        let pool = ThreadPool::new(2);
        let numbers = Numbers::new(2);
        pool.parallel_for(2, &|i| numbers.add(i));
        numbers.all_are(1);
    });
}

#[test]
fn jobs_one_after_the_other() {
    model(5, || {
        let pool = ThreadPool::new(2);
        let numbers = Numbers::new(2);
        for done in 1..=2 {
            pool.parallel_for(2, &|i| numbers.add(i));
            numbers.all_are(done);
        }
    });
}

#[test]
fn jobs_of_a_series() {
    model(4, || {
        let pool = ThreadPool::new(2);
        let numbers = Numbers::new(2);
        let series = pool.series();
        for done in 1..=2 {
            pool.parallel_for(2, &|i| numbers.add(i));
            numbers.all_are(done);
        }
        drop(series);
        pool.parallel_for(2, &|i| numbers.add(i));
        numbers.all_are(3);
    });
}

#[test]
fn more_workers_than_tasks() {
    model(3, || {
        let pool = ThreadPool::new(3);
        let numbers = Numbers::new(2);
        let series = pool.series();
        pool.parallel_for(2, &|i| numbers.add(i));
        drop(series);
        numbers.all_are(1);
    });
}

#[test]
fn two_callers() {
    model(3, || {
        let pool = Arc::new(ThreadPool::new(2));
        let calls = Arc::new(AtomicUsize::new(0));
        let other = {
            let (pool, calls) = (pool.clone(), calls.clone());
            loom::thread::spawn(move || {
                pool.parallel_for(2, &|_| {
                    calls.fetch_add(1, Ordering::Relaxed);
                });
            })
        };
        let numbers = Numbers::new(2);
        pool.parallel_for(2, &|i| numbers.add(i));
        numbers.all_are(1);
        other.join().unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn jobs_inside_jobs() {
    model(5, || {
        let pool = ThreadPool::new(2);
        let numbers = Numbers::new(4);
        pool.parallel_for(2, &|i| pool.parallel_for(2, &|j| numbers.add(2 * i + j)));
        numbers.all_are(1);
    });
}

#[test]
fn nothing_to_do() {
    model(5, || drop(ThreadPool::new(3)));
}

/// The tests can fail: two threads that write without an order are found.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_sees_races() {
    model(5, || {
        let pool = ThreadPool::new(2);
        let numbers = Numbers::new(1);
        pool.parallel_for(2, &|_| numbers.add(0));
    });
}
