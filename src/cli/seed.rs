//! Seeds as they are written on the command line.

use std::str::FromStr;

use crate::request::parse_whole;

/// A seed, and whether it was left to chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seed {
    /// A number.
    Given(u64),
    /// `random` or `-1`: a number of 32 bits, as many as torch uses.
    Random(u64),
}

impl Seed {
    /// The number.
    pub(super) fn value(self) -> u64 {
        match self {
            Seed::Given(seed) | Seed::Random(seed) => seed,
        }
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "random" | "-1" => match getrandom::u32() {
                Ok(seed) => Ok(Seed::Random(seed.into())),
                Err(e) => Err(format!("this system gives no random numbers ({e}); give a number")),
            },
            text => parse_whole(text).map(Seed::Given).map_err(|e| e.replace(", of", ", or random, of")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds() {
        assert_eq!("18446744073709551615".parse(), Ok(Seed::Given(u64::MAX)));
        for text in ["random", "-1", " random"] {
            let draw = || text.parse().map(Seed::value).unwrap();
            let draws: std::collections::BTreeSet<u64> = (0..8).map(|_| draw()).collect();
            assert!(draws.len() > 1 && draws.iter().all(|seed| *seed <= u32::MAX.into()), "{draws:?}");
        }
        for bad in ["", "-2", "x", "1.5"] {
            assert!(bad.parse::<Seed>().unwrap_err().contains("or random"), "{bad}");
        }
    }
}
