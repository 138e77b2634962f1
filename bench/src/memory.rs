//! Memory of a process as Linux counts it.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A number of KiB in the format of `/proc/PID/status` and `smaps_rollup`, as bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number = rest.trim().strip_suffix("kB")?.trim();
    Some(number.parse::<u64>().ok()? * 1024)
}

/// Most bytes that a process (or this one) has had in memory so far, shared pages and mapped files included. None where the
/// system does not tell.
pub fn peak_resident(process: Option<u32>) -> Option<u64> {
    let process = process.map_or("self".to_owned(), |id| id.to_string());
    field(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmHWM")
}

/// Bytes of this process that no file backs: the system cannot drop them.
fn private_now() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "RssAnon")
}

/// Bytes of this process's pages that were written to and belong to nobody else: the exact count, slow to make.
fn private_dirty() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/smaps_rollup").ok()?, "Private_Dirty")
}

/// Looks at this process's private memory again and again, for its peak.
pub struct PrivateWatch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl PrivateWatch {
    /// Looks every 10 ms.
    pub fn start() -> PrivateWatch {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, peak) = (stop.clone(), peak.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(private_now().unwrap_or(0), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        PrivateWatch { stop, peak, thread }
    }

    /// The most private bytes seen, or counted now. None where the system does not tell.
    pub fn finish(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        Some(private_dirty()?.max(self.peak.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "VmHWMs:\t1 kB\nVmHWM:\t  1234 kB\nRssAnon:\t       7 kB\nThreads:\t3\n";
        assert_eq!(field(text, "VmHWM"), Some(1234 * 1024));
        assert_eq!(field(text, "RssAnon"), Some(7 * 1024));
        assert_eq!(field(text, "Threads"), None);
        assert_eq!(field(text, "Rss"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_written_to_is_private() {
        const SIZE: usize = 64 << 20;
        let watch = PrivateWatch::start();
        let held = std::hint::black_box(vec![1u8; SIZE]);
        let most = watch.finish().unwrap();
        assert!(most >= SIZE as u64 && peak_resident(None).unwrap() >= most.min(SIZE as u64));
        assert_eq!(peak_resident(Some(std::process::id())).is_some(), held[SIZE - 1] == 1);
    }
}
