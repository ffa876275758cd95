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

/// The latents of one row whose upper bound is not below the `k`th best lower bound so far.
#[derive(Debug)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// Length at which the list is next gone through, so that each candidate costs a constant.
    full: usize,
    /// No latent with an upper bound below this is among the `k` best.
    floor: f32,
    /// More than this many candidates, and approximate scores are no help.
    most: usize,
    k: usize,
}

/// Candidates that a list takes at least before it is gone through.
const ROOM: usize = 512;

impl Candidates {
    pub fn new(k: usize, latents: usize) -> Self {
        Self {
            list: Vec::with_capacity((2 * k).max(ROOM).min(latents)),
            full: (2 * k).max(ROOM),
            floor: f32::NEG_INFINITY,
            most: (8 * k).max(latents / 8).max(2 * ROOM),
            k,
        }
    }

    /// No latent with an upper bound below this need be offered. Above every bound once [`Self::hopeless`].
    pub fn floor(&self) -> f32 {
        self.floor
    }

    pub fn offer(&mut self, candidate: Candidate) {
        self.list.push(candidate);
        if self.list.len() >= self.full {
            self.cut();
        }
    }

    /// Whether nearly all latents stayed candidates: they tie, or the row holds numbers beyond any bound.
    pub fn hopeless(&self) -> bool {
        self.floor == f32::INFINITY
    }

    pub fn give_up(&mut self) {
        self.list = Vec::new();
        self.floor = f32::INFINITY;
    }

    /// Takes in what another part of the latents left.
    pub fn take_over(&mut self, other: &mut Self) {
        if other.hopeless() {
            self.give_up();
        }
        if self.hopeless() {
            return;
        }
        self.list.append(&mut other.list);
        self.floor = self.floor.max(other.floor);
        self.cut();
    }

    /// Goes through the list a last time and returns the `k` that seem best, or fewer if there are no more.
    pub fn split_at_k(&mut self) -> &[Candidate] {
        self.cut();
        let k = self.k.min(self.list.len());
        if k < self.list.len() {
            self.list
                .select_nth_unstable_by(k, |a, b| b.lower.total_cmp(&a.lower));
        }
        &self.list[..k]
    }

    /// After [`Self::split_at_k`], all others.
    pub fn beyond_k(&self) -> &[Candidate] {
        &self.list[self.k.min(self.list.len())..]
    }

    fn cut(&mut self) {
        if self.list.len() <= self.k {
            return;
        }
        let mut lower: Vec<f32> = self.list.iter().map(|c| c.lower).collect();
        let (_, kth, _) = lower.select_nth_unstable_by(self.k - 1, |a, b| b.total_cmp(a));
        self.floor = self.floor.max(*kth);
        let floor = self.floor;
        self.list.retain(|c| c.upper >= floor);
        self.full = (2 * self.list.len()).max(2 * self.k).max(ROOM);
        if self.list.len() > self.most {
            self.give_up();
        }
    }
}
