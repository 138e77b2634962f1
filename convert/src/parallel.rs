//! Work on the parts of a slice, on several threads.

use std::thread;

/// Parts below this length are not worth a thread.
const LEAST: usize = 1 << 15;

/// Length of a part of `length` items for each of `threads`, in whole units.
fn part(length: usize, unit: usize, threads: usize) -> usize {
    let share = length.div_ceil(threads.max(1)).max(LEAST);
    share.next_multiple_of(unit).max(1)
}

/// Calls `work` with parts of `items`, of whole units but for the last. The results are in the order of the parts.
pub fn map<T: Sync, R: Send>(items: &[T], unit: usize, threads: usize, work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let part = part(items.len(), unit, threads);
    if items.len() <= part {
        return vec![work(items)];
    }
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = items.chunks(part).map(|part| scope.spawn(move || work(part))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}

/// Calls `work` with parts of `items` and the index of each one's first item.
pub fn fill<T: Send>(items: &mut [T], threads: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let part = part(items.len(), 1, threads);
    if items.len() <= part {
        return work(0, items);
    }
    thread::scope(|scope| {
        let work = &work;
        for (i, items) in items.chunks_mut(part).enumerate() {
            scope.spawn(move || work(i * part, items));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_whole_in_order() {
        for length in [0, 1, LEAST, 3 * LEAST + 5] {
            for threads in [1, 2, 7] {
                let mut items = vec![0; length];
                fill(&mut items, threads, |first, part| part.iter_mut().enumerate().for_each(|(i, x)| *x = first + i));
                assert!(items.iter().enumerate().all(|(i, &x)| i == x));
                let parts = map(&items, 96, threads, <[usize]>::to_vec);
                assert!(parts[..parts.len() - 1].iter().all(|p| p.len() % 96 == 0));
                assert_eq!(parts.concat(), items);
            }
        }
    }
}
