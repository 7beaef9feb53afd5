//! "Did you mean …": the nearest of a few known words by edit distance.

/// Longest text that is compared; anything longer is no typo of a key or name of ours.
const TEXT_LEN_MAX: usize = 256;

/// The candidate that is nearest to `text`, if one is near enough to be what was meant: at most a
/// third of its letters differ (and one always may). The first wins among equals.
pub fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let text: Vec<char> = text.chars().take(TEXT_LEN_MAX).collect();
    candidates
        .into_iter()
        .map(|candidate| {
            let letters: Vec<char> = candidate.chars().take(TEXT_LEN_MAX).collect();
            let allowed = (letters.len().max(text.len()) / 3).max(1);
            (distance(&text, &letters), allowed, candidate)
        })
        .filter(|(distance, allowed, _)| distance <= allowed)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours, compared without regard to case.
fn distance(a: &[char], b: &[char]) -> usize {
    let same = |x: char, y: char| x.to_lowercase().eq(y.to_lowercase());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, &y) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(!same(x, y)))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            let swapped = i > 0 && j > 0 && same(x, b[j - 1]) && same(a[i - 1], y);
            if swapped {
                cost = cost.min(before_last[j - 1] + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["header_digest", "data_digest", "portal_groups", "name"];

    #[test]
    fn typos_find_their_word() {
        assert_eq!(nearest("header_digset", KEYS), Some("header_digest"));
        assert_eq!(nearest("heaser-digest", KEYS), Some("header_digest"));
        assert_eq!(nearest("portal_group", KEYS), Some("portal_groups"));
        assert_eq!(nearest("NAME", KEYS), Some("name"));
        assert_eq!(nearest("nmae", KEYS), Some("name"));
    }

    #[test]
    fn unlike_words_find_nothing() {
        assert_eq!(nearest("colour", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
        assert_eq!(nearest("name", []), None);
    }

    #[test]
    fn a_swap_costs_one() {
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&letters("ab"), &letters("ba")), 1);
        assert_eq!(distance(&letters("kitten"), &letters("sitting")), 3);
        assert_eq!(distance(&letters(""), &letters("abc")), 3);
        assert_eq!(distance(&letters("abc"), &letters("")), 3);
    }
}
