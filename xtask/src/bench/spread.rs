//! Medians and spreads of paired measurements.

/// The middle of some numbers and the quartiles around it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Spread {
    /// First quartile, median and third quartile, each a number that occurs, the quartiles rather too far out than too
    /// near. None of no numbers.
    pub(super) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let (low, median, high) = (last / 4, last.div_ceil(2), (last * 3).div_ceil(4));
        Some(Self { low: *sorted.get(low)?, median: *sorted.get(median)?, high: *sorted.get(high)? })
    }

    /// The spread of `other / base`, pair by pair.
    pub(super) fn of_ratios(base: &[f64], other: &[f64]) -> Option<Self> {
        Self::of(&base.iter().zip(other).map(|(base, other)| other / base).collect::<Vec<_>>())
    }

    /// The spread of `other - base`, pair by pair.
    pub(super) fn of_differences(base: &[f64], other: &[f64]) -> Option<Self> {
        Self::of(&base.iter().zip(other).map(|(base, other)| other - base).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_numbers_that_occur() {
        let spread = Spread::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (2.0, 3.0, 4.0));
        let three = Spread::of(&[1.0, 2.0, 9.0]).unwrap();
        assert_eq!((three.low, three.median, three.high), (1.0, 2.0, 9.0));
        let one = Spread::of(&[7.0]).unwrap();
        assert_eq!((one.low, one.median, one.high), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn pairs_are_compared_with_each_other() {
        // The machine slows down by half; each pair still says the same.
        assert_eq!(Spread::of_ratios(&[10.0, 15.0], &[20.0, 30.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of_differences(&[10.0, 15.0], &[11.0, 16.0]).unwrap().high, 1.0);
    }
}
