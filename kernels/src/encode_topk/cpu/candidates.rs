//! One row's latents that could still be among its best, while approximate scores come in.

/// What an approximate score says of the exact one: it lies between `lower` and `upper`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub latent: u32,
    pub lower: f32,
    pub upper: f32,
}

impl Candidate {
    /// A score known to within `half`; anything if that is not finite.
    pub fn around(latent: u32, approximate: f32, half: f32) -> Self {
        let [lower, upper] = match half.is_finite() {
            true => [approximate - half, approximate + half],
            false => [f32::NEG_INFINITY, f32::INFINITY],
        };
        Self {
            latent,
            lower,
            upper,
        }
    }
}

/// The latents of one row whose upper bound is not below a number that `k` lower bounds reach.
#[derive(Debug)]
pub(super) struct Candidates {
    // As long as there is room, a field each, so that whole vectors can be written at once; used up to `len`.
    latents: Vec<u32>,
    lowers: Vec<f32>,
    uppers: Vec<f32>,
    len: usize,
    /// Length at which the list is next gone through, so that each candidate costs a constant.
    full: usize,
    /// No latent with an upper bound below this is among the `k` best.
    floor: f32,
    /// More than this many candidates, and approximate scores are no help.
    most: usize,
    /// 0: the floor stays as it is.
    k: usize,
    latents_in_all: usize,
}

/// Candidates that a list takes at least before it is gone through.
const ROOM: usize = 512;

/// Candidates that may be written at once, of which only the first count.
pub(super) const SPARE: usize = 16;

/// Lower bounds of which only the largest counts for the floor.
const GROUP: usize = 4;

impl Candidates {
    pub fn new(k: usize, latents: usize) -> Self {
        let mut list = Self {
            latents: vec![],
            lowers: vec![],
            uppers: vec![],
            len: 0,
            full: 0,
            floor: f32::NEG_INFINITY,
            most: (8 * k).max(latents / 8).max(2 * ROOM),
            k,
            latents_in_all: latents,
        };
        list.make_room();
        list
    }

    /// All latents whose upper bound is not below 0, however many.
    pub fn above_zero(latents: usize) -> Self {
        Self {
            floor: 0.0,
            ..Self::new(0, latents)
        }
    }

    /// An empty list of the same kind.
    pub fn afresh(&self) -> Self {
        match self.k {
            0 => Self::above_zero(self.latents_in_all),
            k => Self::new(k, self.latents_in_all),
        }
    }

    /// No latent with an upper bound below this need be offered. Above every bound once [`Self::hopeless`].
    #[inline]
    pub fn floor(&self) -> f32 {
        self.floor
    }

    /// Starts with a floor that is only guessed: exact scores must tell afterwards whether `k` latents reach it.
    pub fn guess(&mut self, floor: f32) {
        self.floor = floor;
    }

    pub fn offer(&mut self, candidate: Candidate) {
        self.latents[self.len] = candidate.latent;
        self.lowers[self.len] = candidate.lower;
        self.uppers[self.len] = candidate.upper;
        self.take_in(1);
    }

    /// Where the next [`SPARE`] candidates may be written: latents, lower and upper bounds.
    #[inline]
    pub fn next(&mut self) -> (&mut [u32; SPARE], &mut [f32; SPARE], &mut [f32; SPARE]) {
        let at = self.len;
        (
            spare(&mut self.latents, at),
            spare(&mut self.lowers, at),
            spare(&mut self.uppers, at),
        )
    }

    /// Takes in the first `count` candidates that were written to [`Self::next`].
    #[inline]
    pub fn take_in(&mut self, count: usize) {
        self.len += count;
        if self.len >= self.full {
            self.cut();
        }
    }

    /// Whether nearly all latents stayed candidates: they tie, or the row holds numbers beyond any bound.
    #[inline]
    pub fn hopeless(&self) -> bool {
        self.floor == f32::INFINITY
    }

    pub fn give_up(&mut self) {
        self.len = 0;
        self.floor = f32::INFINITY;
    }

    /// Takes in what another part of the latents left.
    pub fn take_over(&mut self, other: &Self) {
        if other.hopeless() {
            self.give_up();
        }
        if self.hopeless() {
            return;
        }
        self.floor = self.floor.max(other.floor);
        for candidate in other.all() {
            if self.hopeless() {
                return;
            }
            self.offer(candidate);
        }
    }

    /// Goes through the list a last time, and puts the `k` that seem best first.
    pub fn finish(&mut self) -> Vec<Candidate> {
        self.cut();
        let mut all: Vec<Candidate> = self.all().collect();
        if (1..all.len()).contains(&self.k) {
            all.select_nth_unstable_by(self.k, |a, b| b.lower.total_cmp(&a.lower));
        }
        all
    }

    fn all(&self) -> impl Iterator<Item = Candidate> {
        let bounds = self.lowers.iter().zip(&self.uppers);
        let all = self.latents.iter().zip(bounds).take(self.len);
        all.map(|(&latent, (&lower, &upper))| Candidate {
            latent,
            lower,
            upper,
        })
    }

    fn cut(&mut self) {
        if self.len <= self.k {
            self.make_room();
            return;
        }
        if self.k > 0 {
            self.floor = self.floor.max(reached_by(&self.lowers[..self.len], self.k));
        }
        let mut kept = 0;
        for at in 0..self.len {
            // Written in any case: no branch that cannot be foretold.
            self.latents[kept] = self.latents[at];
            self.lowers[kept] = self.lowers[at];
            self.uppers[kept] = self.uppers[at];
            kept += usize::from(self.uppers[at] >= self.floor);
        }
        self.len = kept;
        if self.len > self.most {
            self.give_up();
        }
        self.make_room();
    }

    fn make_room(&mut self) {
        self.full = (2 * self.len).max(2 * self.k).max(ROOM);
        let size = self.full + SPARE;
        if self.latents.len() < size {
            self.latents.resize(size, 0);
            self.lowers.resize(size, 0.0);
            self.uppers.resize(size, 0.0);
        }
    }
}

fn spare<T>(list: &mut [T], at: usize) -> &mut [T; SPARE] {
    let spare = list[at..].first_chunk_mut();
    spare.expect("a list has that much more room than it is full")
}

/// A number that at least `k` of `numbers` reach, seldom far below the `k`th largest: of the largest in each small group the
/// `k`th largest.
fn reached_by(numbers: &[f32], k: usize) -> f32 {
    let mut some: Vec<f32> = match numbers.len() / GROUP >= 2 * k {
        true => {
            let groups = numbers.chunks_exact(GROUP);
            groups
                .map(|group| group.iter().copied().fold(f32::NEG_INFINITY, f32::max))
                .collect()
        }
        false => numbers.to_vec(),
    };
    let (_, kth, _) = some.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}
