//! Finds the word that was meant.

/// The known word that `word` is most likely a slip of, if any is close.
pub(super) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = folded(word);
    let tolerance = (plain.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(&plain, &folded(candidate)), candidate))
        .filter(|&(slips, _)| slips <= tolerance)
        .min_by_key(|&(slips, _)| slips)
        .map(|(_, candidate)| candidate)
}

/// The word without case and separators: `service_accounts` is `serviceAccounts` to a reader. Cut, because no word of
/// the format is long and the distance is quadratic.
fn folded(word: &str) -> Vec<char> {
    let letters = word.chars().filter(|letter| !matches!(letter, '_' | '-' | ' '));
    letters.flat_map(char::to_lowercase).take(40).collect()
}

/// How many letters must be added, dropped, changed or swapped with their neighbour to get from one word to the other
/// (the optimal string alignment distance).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before_last: Vec<usize> = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, &letter) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &wanted) in to.iter().enumerate() {
            let changed = last[column] + usize::from(letter != wanted);
            let mut best = changed.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && letter == to[column - 1] && from[row - 1] == wanted;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_word_that_was_meant() {
        let known = ["namespaces", "namespaceLabels", "serviceAccounts", "imds", "until"];
        let cases = [
            ("namespace", Some("namespaces")),
            ("namespcaes", Some("namespaces")),
            ("service_accounts", Some("serviceAccounts")),
            ("namespacelabels", Some("namespaceLabels")),
            ("imsd", Some("imds")),
            ("Until", Some("until")),
            ("podSelector", None),
            ("x", None),
        ];
        for (word, expected) in cases {
            assert_eq!(closest(word, known), expected, "{word}");
        }
    }
}
