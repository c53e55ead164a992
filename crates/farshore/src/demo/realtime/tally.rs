//! What one client's application was given, by the numbers in the messages.

/// Messages by number.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// A bit for each number.
    seen: Vec<u64>,
    duplicates: u64,
    messages: usize,
}

impl Tally {
    /// The application was given this message.
    pub(super) fn note(&mut self, number: usize) {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicates += 1;
        } else {
            self.messages += 1;
        }
        self.seen[word] |= bit;
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.seen.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Messages that were given again.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Different messages.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_again_is_counted_and_what_did_not_come_is_known() {
        let mut tally = Tally::default();
        for number in [1, 2, 63, 64, 200, 64, 64, 1] {
            tally.note(number);
        }
        assert_eq!((tally.messages(), tally.duplicates()), (5, 3));
        let missing: Vec<usize> = (1..=66).filter(|number| !tally.has(*number)).collect();
        assert_eq!(missing.len(), 66 - 4);
        assert!(tally.has(200) && !tally.has(201) && !tally.has(100_000));
    }
}
