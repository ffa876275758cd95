//! numpy's legacy generator, `numpy.random.RandomState`: MT19937 (Matsumoto, Nishimura 1998) and
//! what numpy draws with it.

/// Words of the state.
const WORDS: usize = 624;

/// How far apart the two words are that make a new one.
const MIDDLE: usize = 397;

/// The generator that `numpy.random.RandomState(seed)` makes. numpy promises never to change its
/// sequence.
#[derive(Clone, Debug)]
pub(crate) struct NumpyRandom {
    words: [u32; WORDS],
    next: usize,
}

impl NumpyRandom {
    pub(crate) fn new(seed: u32) -> Self {
        let mut words = [seed; WORDS];
        for i in 1..WORDS {
            let last = words[i - 1];
            words[i] = 1_812_433_253u32
                .wrapping_mul(last ^ (last >> 30))
                .wrapping_add(i as u32);
        }
        Self { words, next: WORDS }
    }

    fn refill(&mut self) {
        for i in 0..WORDS {
            let joined =
                (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + MIDDLE) % WORDS] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number in `0..=most`: words masked to as many bits are thrown away until one fits.
    fn up_to(&mut self, most: u32) -> u32 {
        if most == 0 {
            return 0; // numpy draws nothing here
        }
        let mask = u32::MAX >> most.leading_zeros();
        loop {
            let word = self.next_u32() & mask;
            if word <= most {
                return word;
            }
        }
    }

    /// `randint(low, high)`: a number in `low..high`.
    pub(crate) fn integer(&mut self, low: u32, high: u32) -> u32 {
        low + self.up_to(high - 1 - low)
    }

    /// `shuffle(values)`.
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let j = self.up_to(i as u32) as usize;
            values.swap(i, j);
        }
    }

    /// `permutation(values)`.
    pub(crate) fn permutation(&mut self, mut values: Vec<usize>) -> Vec<usize> {
        self.shuffle(&mut values);
        values
    }

    /// `choice(values, count, replace=False)`. `count` is at most the number of values.
    pub(crate) fn choice(&mut self, values: &[usize], count: usize) -> Vec<usize> {
        let places = self.permutation((0..values.len()).collect());
        places[..count].iter().map(|i| values[*i]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expected numbers are printed by numpy 2.4.6.

    #[test]
    fn words_are_those_of_numpy() {
        let mut random = NumpyRandom::new(42);
        let words: Vec<u32> = (0..3).map(|_| random.next_u32()).collect();
        assert_eq!(words, [1_608_637_542, 3_421_126_067, 4_083_286_876]);
        for _ in 3..2000 {
            random.next_u32();
        }
        assert_eq!(random.next_u32(), 795_139_886);
        assert_eq!(NumpyRandom::new(u32::MAX).next_u32(), 419_326_371);
    }

    #[test]
    fn integers_are_those_of_numpy() {
        let mut random = NumpyRandom::new(42);
        assert_eq!(random.integer(1, i32::MAX as u32), 1_608_637_543);
        assert_eq!(random.integer(1, i32::MAX as u32), 1_273_642_420);
    }

    #[test]
    fn permutations_and_choices_are_those_of_numpy() {
        let mut random = NumpyRandom::new(7);
        assert_eq!(
            random.permutation((0..12).collect()),
            [7, 10, 2, 5, 0, 1, 11, 8, 3, 6, 9, 4]
        );
        assert_eq!(
            random.choice(&[10, 20, 30, 40, 50, 60, 70], 4),
            [20, 70, 40, 60]
        );
        assert_eq!(random.choice(&[5], 1), [5]);
        assert_eq!(random.next_u32(), 283_194_443);
    }
}
