/// What one call cost in every place, in nanoseconds: a round is one measurement in each, one right after the other,
/// so that whatever disturbs the machine disturbs them alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rounds<const PLACES: usize>(Vec<[f64; PLACES]>);

impl<const PLACES: usize> Rounds<PLACES> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn push(&mut self, round: [f64; PLACES]) {
        self.0.push(round);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What a call costs in one place.
    pub(super) fn nanoseconds(&self, place: usize) -> f64 {
        Spread::of(self.0.iter().map(|round| round[place])).median
    }

    /// How many times as much a call costs in one place as in another, compared within every round.
    pub(super) fn ratio(&self, place: usize, to: usize) -> Spread {
        Spread::of(self.0.iter().map(|round| round[place] / round[to]))
    }
}

/// The middle of a sample, and the middle of its halves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) lower: f64,
    pub(super) median: f64,
    pub(super) upper: f64,
}

impl Spread {
    /// Of an empty sample all are NaN, which meets no target.
    pub(super) fn of(sample: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = sample.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |numerator, denominator| {
            sorted.get(sorted.len() * numerator / denominator).copied().unwrap_or(f64::NAN)
        };
        Self { lower: at(1, 4), median: at(1, 2), upper: at(3, 4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_compared_within_a_round() {
        let mut rounds = Rounds::new();
        // The third round was disturbed, and the machine became slower in the fourth: in both places alike.
        for round in [[100.0, 110.0], [100.0, 110.0], [100.0, 900.0], [200.0, 220.0], [200.0, 220.0]] {
            rounds.push(round);
        }
        assert_eq!(rounds.len(), 5);
        assert!((rounds.ratio(1, 0).median - 1.1).abs() < 1e-9);
        assert!((rounds.nanoseconds(0) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn an_empty_sample_has_no_middle() {
        assert!(Spread::of(std::iter::empty()).median.is_nan());
    }

    #[test]
    fn quartiles_are_of_the_sorted_sample() {
        let spread = Spread::of([5.0, 1.0, 4.0, 2.0, 3.0].into_iter());
        assert_eq!(spread, Spread { lower: 2.0, median: 3.0, upper: 4.0 });
    }
}
