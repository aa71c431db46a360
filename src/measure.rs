//! Measures how long kernels, nodes and whole runs take on a device, and compares that with the
//! device's limits.

pub mod memory;
pub mod profile;
pub mod roofline;
pub mod task;
pub mod trace;

use serde::Serialize;

/// Median, quartiles and range of measured values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The median; for an even number of values, the mean of the middle two.
    pub median: f64,
    /// A quarter of the values is below; between two values, interpolated.
    pub lower: f64,
    /// A quarter is above.
    pub upper: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
}

impl Spread {
    /// The spread of at least one value.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let at = |share: f64| {
            let place = share * last as f64;
            let low = place as usize;
            sorted[low] + (place - low as f64) * (sorted[last.min(low + 1)] - sorted[low])
        };
        Self { median: at(0.5), lower: at(0.25), upper: at(0.75), min: sorted[0], max: sorted[last] }
    }
}

/// Formats seconds as s, ms or µs, with at least three significant digits.
pub fn human_seconds(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        let spread = |median, lower, upper, min, max| Spread { median, lower, upper, min, max };
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), spread(2.0, 1.5, 2.5, 1.0, 3.0));
        assert_eq!(Spread::of(&[5.0, 1.0]), spread(3.0, 2.0, 4.0, 1.0, 5.0));
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0, 8.0, 4.0]), spread(4.0, 2.0, 8.0, 1.0, 9.0));
        assert_eq!(Spread::of(&[7.0]), spread(7.0, 7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn seconds() {
        let cases = [(123.4, "123 s"), (1.2345, "1.23 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.50 µs"), (0.0, "0.00 µs")];
        for (value, text) in cases {
            assert_eq!(human_seconds(value), text);
        }
    }
}
