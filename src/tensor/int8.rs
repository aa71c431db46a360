//! Weights of 8 bits: integers with a factor for each row.

/// Integers from −127 to 127, each of which stands for its product with the factor of its row.
#[derive(Debug, Clone, Copy)]
pub struct Int8<'a> {
    /// The integers.
    pub values: &'a [i8],
    /// Factors of all rows of the tensor that this is a range of.
    scales: &'a [f32],
    /// Length of a row.
    row_len: usize,
    /// Where in the tensor the first integer is.
    first: usize,
}

impl<'a> Int8<'a> {
    /// A whole tensor of as many rows as there are factors.
    ///
    /// # Panics
    /// If the integers are not as many whole rows.
    pub fn new(values: &'a [i8], scales: &'a [f32]) -> Self {
        assert!(!scales.is_empty() && values.len().is_multiple_of(scales.len()), "a factor for each row");
        Self { values, scales, row_len: values.len() / scales.len(), first: 0 }
    }

    /// A range of the integers.
    pub(super) fn slice(self, range: std::ops::Range<usize>) -> Self {
        Self { values: &self.values[range.clone()], first: self.first + range.start, ..self }
    }

    /// The number that integer `i` stands for.
    pub(super) fn get(&self, i: usize) -> f32 {
        f32::from(self.values[i]) * self.scales[(self.first + i) / self.row_len]
    }

    /// The integers by rows, of which the first and the last may be incomplete, each with its factor.
    pub fn rows(self) -> impl Iterator<Item = (f32, &'a [i8])> {
        let Self { values, scales, row_len, first } = self;
        let (head, rest) = values.split_at((row_len - first % row_len).min(values.len()));
        let next = first / row_len + 1;
        let rows = scales.get(next..).unwrap_or_default().iter().copied().zip(rest.chunks(row_len));
        (!head.is_empty()).then(|| (scales[first / row_len], head)).into_iter().chain(rows)
    }
}

/// Rounds a row to integers of at most 127 and returns their factor. It is not finite if a value is not, and zero if all
/// values are (nearly) zero.
pub fn quantise(row: &[f32], to: &mut [i8]) -> f32 {
    let factor = factor(largest(row));
    let inverse = inverse(factor);
    to.iter_mut().zip(row).for_each(|(to, &value)| *to = rounded(value, inverse));
    factor
}

/// The bits of the largest magnitude. As integers they are in the order of the numbers, with NaN above infinity.
#[inline(always)]
pub fn largest(values: &[f32]) -> u32 {
    values.iter().fold(0, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff))
}

/// The factor of integers of which 127 stands for the number with these bits.
#[inline(always)]
pub fn factor(largest: u32) -> f32 {
    f32::from_bits(largest) / 127.0
}

/// By what values are multiplied to be [rounded] to integers with this factor.
#[inline(always)]
pub fn inverse(factor: f32) -> f32 {
    if factor > f32::MIN_POSITIVE { 1.0 / factor } else { 0.0 }
}

/// `value·inverse` rounded to the nearest integer, ties to even, for products of at most 127 in magnitude.
#[inline(always)]
pub fn rounded(value: f32, inverse: f32) -> i8 {
    /// From here to twice as much, f32 are whole numbers, and the last bits are those of the integer.
    const WHOLE: f32 = 12_582_912.0;
    (value * inverse + WHOLE).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_to_the_nearest() {
        let row = [-127.0, 127.0, 0.49, 0.51, 1.5, 2.5, -3.5, 0.0].map(|v| v * 0.25);
        let mut to = [1; 8];
        assert_eq!(quantise(&row, &mut to), 0.25);
        assert_eq!(to, [-127, 127, 0, 1, 2, 2, -4, 0]);
        for value in [f32::NAN, f32::INFINITY] {
            assert!(!quantise(&[1.0, value], &mut to[..2]).is_finite());
        }
        assert_eq!((quantise(&[0.0, -0.0, 1e-45], &mut to[..3]), to[0], to[2]), (0.0, 0, 0));
    }

    #[test]
    fn ranges_keep_the_factors_of_their_rows() {
        let values = [1, 2, 3, 4, 5, 6];
        let all = Int8::new(&values, &[1.0, 10.0, 100.0]);
        let some = all.slice(1..6).slice(0..4);
        assert_eq!((0..4).map(|i| some.get(i)).collect::<Vec<_>>(), [2.0, 30.0, 40.0, 500.0]);
        let rows: Vec<_> = some.rows().collect();
        assert_eq!(rows, [(1.0, &[2][..]), (10.0, &[3, 4]), (100.0, &[5])]);
        assert_eq!(all.slice(2..2).rows().count(), 0);
    }
}
