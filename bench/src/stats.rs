//! Numbers out of repeated measurements on a machine that is never quite quiet.

/// The middle value; the mean of the two in the middle if their number is even. None of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The least value.
pub fn least(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    values.into_iter().min_by(f64::total_cmp)
}

/// Median of `a[i] / b[i]`: measurements of one round stand beside each other in time, so what slows the machine for a while
/// slows both. Rounds that lack either do not count.
pub fn paired_ratio(a: &[Option<f64>], b: &[Option<f64>]) -> Option<f64> {
    median(a.iter().zip(b).filter_map(|(a, b)| Some((*a)? / (*b)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_least() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([9.0, 1.0, 2.0, 4.0]), Some(3.0));
        assert_eq!((least([2.0, 1.5]), least([])), (Some(1.5), None));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was four times slower in the second round; the last one of the other failed.
        let (a, b) = ([Some(2.0), Some(8.0), Some(2.2), Some(1.0)], [Some(1.0), Some(4.0), Some(1.0), None]);
        assert_eq!(paired_ratio(&a, &b), Some(2.0));
        assert_eq!(paired_ratio(&a, &[None; 4]), None);
    }
}
