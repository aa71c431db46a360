//! MT19937, the 32-bit Mersenne Twister that torch's CPU generator uses.

const N: usize = 624;
const M: usize = 397;

/// Mersenne Twister with torch's seeding.
///
/// Source: Matsumoto and Nishimura, "Mersenne Twister", 1998; `at::mt19937`.
///
/// ```
/// use cascade_rt::noise::Mt19937;
/// let mut engine = Mt19937::new(42);
/// assert_eq!([engine.next_u32(), engine.next_u32()], [1608637542, 3421126067]);
/// ```
#[derive(Debug, Clone)]
pub struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// An engine seeded with `seed`. The first output triggers the first twist.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for j in 1..N {
            let before = state[j - 1];
            state[j] = 1812433253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(j as u32);
        }
        Self { state, next: N }
    }

    /// The next 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680;
        y ^= (y << 15) & 0xefc60000;
        y ^ (y >> 18)
    }

    /// The next 64 random bits: two outputs, the high half first.
    pub fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    fn twist(&mut self) {
        let s = &mut self.state;
        for k in 0..N - M {
            s[k] = s[k + M] ^ mix(s[k], s[k + 1]);
        }
        for k in N - M..N - 1 {
            s[k] = s[k + M - N] ^ mix(s[k], s[k + 1]);
        }
        s[N - 1] = s[M - 1] ^ mix(s[N - 1], s[0]);
        self.next = 0;
    }
}

/// The twist's linear map of one word and its successor.
#[inline]
fn mix(a: u32, b: u32) -> u32 {
    let y = (a & 0x80000000) | (b & 0x7fffffff);
    (y >> 1) ^ (0x9908b0df & (y & 1).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_outputs() {
        let mut zero = Mt19937::new(0);
        assert_eq!([(); 4].map(|()| zero.next_u32()), [2357136044, 2546248239, 3071714933, 3626093760]);
        let mut answer = Mt19937::new(42);
        assert_eq!([(); 3].map(|()| answer.next_u32()), [1608637542, 3421126067, 4083286876]);
    }

    /// The C++ standard specifies the 10,000th output for seed 5489.
    #[test]
    fn ten_thousandth_output() {
        let mut engine = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| engine.next_u32()).last(), Some(4123659995));
    }
}
