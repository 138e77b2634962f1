//! A small thread pool: parked workers, one job at a time, tasks handed out one by one.
//!
//! Written for a library that lives in someone else's process: workers sleep on a condition variable, are joined on drop (so
//! that the library can be unloaded), keep the host's signals off themselves, and a panic in a task reaches the caller as a
//! panic. Waking a thread takes longer than some jobs, so while a caller announces a series of jobs ([`ThreadPool::series`])
//! threads look for the next one a moment before they sleep; never longer, so that a busy machine does not wait for them.

use std::any::Any;
use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::PoisonError;

use crate::panics;
use crate::processors::default_threads;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{look_out, thread_local, Arc, Condvar, Mutex, MutexGuard};

/// More threads than this are never started.
const MAX_THREADS: usize = 256;

thread_local! {
    /// Set while this thread runs a task of any pool, so that a nested job runs inline instead of waiting for itself.
    #[allow(clippy::missing_const_for_thread_local)] // loom's thread-locals cannot be const
    static IN_TASK: Cell<bool> = Cell::new(false);
}

/// Threads that work through numbered tasks together with the calling thread.
pub struct ThreadPool {
    shared: Arc<Shared>,
    /// Held by the caller whose job runs; others wait here.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// `State::number`, to be read without the lock.
    posted: AtomicU64,
    /// `State::inside`, to be read without the lock.
    inside: AtomicUsize,
    /// Series under way.
    series: AtomicUsize,
    /// A job came, or the pool shuts down.
    wake: Condvar,
    /// The last worker left the job.
    left: Condvar,
}

struct State {
    job: Option<JobRef>,
    /// Counts jobs, so that a worker joins each at most once.
    number: u64,
    /// Workers that hold a reference to the job.
    inside: usize,
    /// Workers that may still join the job.
    places: usize,
    /// Workers on the condition variable.
    asleep: usize,
    shutdown: bool,
}

/// One `run` call, on the caller's stack.
struct Job<'a> {
    task: &'a (dyn Fn(usize, usize) + Sync),
    count: usize,
    next: AtomicUsize,
    /// Next worker number; the caller is 0.
    worker: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A job with its lifetime erased. `ThreadPool::run` does not return before every worker has let go of it.
#[derive(Clone, Copy)]
struct JobRef(*const Job<'static>);

// SAFETY: the job behind the pointer is Sync (its task is, the rest are atomics and a mutex), and `ThreadPool::run` keeps it
// alive while any worker can reach it.
unsafe impl Send for JobRef {}

impl ThreadPool {
    /// A pool that works with `threads` threads, the caller's among them; 0 takes [`default_threads`].
    ///
    /// When the system refuses to start a thread the pool goes on with fewer; [`threads`](Self::threads) tells how many.
    pub fn new(threads: usize) -> ThreadPool {
        let wanted = match threads {
            0 => default_threads(),
            n => n,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State { job: None, number: 0, inside: 0, places: 0, asleep: 0, shutdown: false }),
            posted: AtomicU64::new(0),
            inside: AtomicUsize::new(0),
            series: AtomicUsize::new(0),
            wake: Condvar::new(),
            left: Condvar::new(),
        });
        let mut workers = Vec::new();
        let signals = BlockedSignals::new();
        for i in 1..wanted.min(MAX_THREADS) {
            let shared = shared.clone();
            match Builder::new().name(format!("tinygptv-{i}")).spawn(move || work(&shared)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        drop(signals);
        ThreadPool { shared, turn: Mutex::new(()), workers }
    }

    /// Threads that work on a job, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Announces jobs that follow each other closely.
    pub fn series(&self) -> Series<'_> {
        self.shared.series.fetch_add(1, Ordering::Relaxed);
        Series(self)
    }

    /// Calls `task(i)` for every `i` below `count`, on all threads, and returns when all calls have returned.
    ///
    /// See [`run`](Self::run).
    pub fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run(count, &|i, _| task(i));
    }

    /// Calls `task(i, worker)` for every `i` below `count` and returns when all calls have returned. `worker` is below
    /// [`threads`](Self::threads) and differs between calls that run at the same time, so it can pick scratch memory.
    ///
    /// Several threads may call this at once: their jobs run one after another. A task that calls it again gets its tasks
    /// run inline, one by one, as worker 0.
    ///
    /// # Panics
    /// If a task panics, with the first panic's payload, after every thread has stopped working on the job. Tasks not yet
    /// begun are skipped.
    pub fn run(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if count <= 1 || self.workers.is_empty() || IN_TASK.with(Cell::get) {
            (0..count).for_each(|i| task(i, 0));
            return;
        }
        let turn = lock(&self.turn);
        let job = Job { task, count, next: AtomicUsize::new(0), worker: AtomicUsize::new(1), panic: Mutex::new(None) };
        let helpers = self.workers.len().min(count - 1);
        let asleep = {
            let mut state = lock(&self.shared.state);
            state.job = Some(JobRef((&raw const job).cast()));
            state.number += 1;
            state.places = helpers;
            self.shared.posted.store(state.number, Ordering::Release);
            state.asleep
        };
        if asleep > 0 && helpers == self.workers.len() {
            self.shared.wake.notify_all();
        } else {
            // Those awake may be fewer than it takes.
            (0..helpers.min(asleep)).for_each(|_| self.shared.wake.notify_one());
        }
        job.work(0);
        {
            // From here no worker can join; those inside still hold a reference to this stack frame.
            let mut state = lock(&self.shared.state);
            state.job = None;
            if state.inside > 0 && self.shared.series.load(Ordering::Relaxed) > 0 {
                drop(state);
                look_out(|| self.shared.inside.load(Ordering::Acquire) == 0);
                state = lock(&self.shared.state);
            }
            while state.inside > 0 {
                state = self.shared.left.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        drop(turn);
        let panic = lock(&job.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

/// Says that jobs follow each other closely, as long as it lives.
pub struct Series<'a>(&'a ThreadPool);

impl Drop for Series<'_> {
    fn drop(&mut self) {
        self.0.shared.series.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThreadPool({} threads)", self.threads())
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        lock(&self.shared.state).shutdown = true;
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so there is no error to carry on.
            let _ = worker.join();
        }
    }
}

impl Job<'_> {
    /// Takes tasks until there are none left. Never unwinds.
    fn work(&self, worker: usize) {
        IN_TASK.with(|inside| inside.set(true));
        let result = panics::quietly(|| loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.count {
                break;
            }
            (self.task)(i, worker);
        });
        IN_TASK.with(|inside| inside.set(false));
        if let Err(payload) = result {
            self.next.store(self.count, Ordering::Relaxed);
            let mut first = lock(&self.panic);
            if first.is_none() {
                *first = Some(payload);
            }
        }
    }
}

/// Life of a worker.
fn work(shared: &Shared) {
    let mut done = 0;
    let mut state = lock(&shared.state);
    while !state.shutdown {
        let job = match state.job {
            Some(job) if state.number != done && state.places > 0 => job,
            _ => {
                // A job already seen, or whose places are taken, is not what it waits for.
                let seen = state.number;
                if shared.series.load(Ordering::Relaxed) > 0 && !state.shutdown {
                    drop(state);
                    let posted = look_out(|| shared.posted.load(Ordering::Acquire) != seen);
                    state = lock(&shared.state);
                    if posted || state.number != seen {
                        continue;
                    }
                }
                if !state.shutdown {
                    state.asleep += 1;
                    state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.asleep -= 1;
                }
                continue;
            }
        };
        done = state.number;
        state.places -= 1;
        state.inside += 1;
        shared.inside.store(state.inside, Ordering::Release);
        drop(state);
        // SAFETY: `inside` was raised under the lock while the job was posted, and `ThreadPool::run` keeps the job alive
        // until `inside` is back at zero.
        let job = unsafe { &*job.0 };
        job.work(job.worker.fetch_add(1, Ordering::Relaxed));
        state = lock(&shared.state);
        state.inside -= 1;
        shared.inside.store(state.inside, Ordering::Release);
        if state.inside == 0 {
            shared.left.notify_all();
        }
    }
}

/// The lock, whether or not a thread panicked while holding it: no invariant here can be broken by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks asynchronous signals on this thread while it lives. Threads started meanwhile inherit that for good, so that the
/// host's handlers run on the host's threads.
pub(crate) struct BlockedSignals {
    #[cfg(unix)]
    before: Option<libc::sigset_t>,
}

impl BlockedSignals {
    #[cfg(unix)]
    pub(crate) fn new() -> Self {
        use std::mem::MaybeUninit;
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initialises `set` and pthread_sigmask `before`; both pointers are valid for writes.
        // Synchronous signals stay open: blocking those is undefined. So does SIGPROF, for profilers.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            for signal in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGTRAP,
                libc::SIGSYS,
                libc::SIGABRT,
                libc::SIGPROF,
            ] {
                libc::sigdelset(set.as_mut_ptr(), signal);
            }
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) != 0;
            BlockedSignals { before: (!failed).then(|| before.assume_init()) }
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn new() -> Self {
        BlockedSignals {}
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            // SAFETY: `before` is the mask that pthread_sigmask gave for this thread.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 7] {
            let pool = ThreadPool::new(threads);
            assert_eq!(pool.threads(), threads);
            for count in [0, 1, 2, 5, 1000] {
                let hits: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                pool.parallel_for(count, &|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "{threads} threads, {count} tasks");
            }
        }
        assert!(ThreadPool::new(0).threads() >= 1);
    }

    #[test]
    fn workers_share_and_have_distinct_numbers() {
        let pool = ThreadPool::new(4);
        let busy: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
        let seen: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
        pool.run(64, &|_, worker| {
            assert_eq!(busy[worker].fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(Duration::from_millis(1));
            busy[worker].fetch_sub(1, Ordering::SeqCst);
            seen[worker].store(1, Ordering::SeqCst);
        });
        assert!(seen.iter().map(|s| s.load(Ordering::SeqCst)).sum::<u32>() > 1);
    }

    #[test]
    fn concurrent_callers_take_turns() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.parallel_for(9, &|i| {
                            total.fetch_add(i, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 6 * 200 * 36);
    }

    #[test]
    fn nested_jobs_run_inline() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        pool.parallel_for(5, &|_| {
            pool.parallel_for(7, &|_| {
                total.fetch_add(1, Ordering::Relaxed);
            })
        });
        assert_eq!(total.into_inner(), 35);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPool::new(4);
        for round in 0..50 {
            let alive = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.parallel_for(100, &|i| {
                    alive.fetch_add(1, Ordering::SeqCst);
                    if i == round {
                        resume_unwind(Box::new("task failed"));
                    }
                    alive.fetch_sub(1, Ordering::SeqCst);
                });
            }));
            assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), "task failed");
            assert_eq!(alive.load(Ordering::SeqCst), 1, "a task was still running after the call returned");
            let count = AtomicUsize::new(0);
            pool.parallel_for(10, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 10);
        }
    }
}
