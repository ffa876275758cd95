//! The auction algorithm for sparse assignment with an unequal number of bidders and objects
//! (Bertsekas and Castañón 1992, "A forward/reverse auction algorithm for asymmetric assignment
//! problems").
//!
//! Every latent of A bids for its candidates in B. Its outside option, to stay without a match for
//! now, is worth as much as its weakest candidate. No latent of B outside the list is worth more,
//! so prices and profits bound the optimum over all pairs, not only over the candidates.

use std::collections::VecDeque;

use super::similarity::Neighbour;

/// Each scaling phase divides epsilon by this.
const SCALING: f64 = 5.0;

/// The assignment of an auction.
pub(crate) struct Auction {
    /// The latent of B for each latent of A, all distinct; `None` for the outside option.
    pub(crate) assigned: Vec<Option<u32>>, // [d_a]
    /// No one-to-one matching over all pairs has a greater sum.
    pub(crate) upper_bound: f64,
}

/// The state of the auction. Invariant (epsilon complementary slackness): for every latent of A
/// that is settled, `profit >= value - price - epsilon` for all its options, and
/// `profit = value - price` for its own.
struct State<'a> {
    candidates: &'a [Vec<Neighbour>],
    outside: Vec<f64>,                // [d_a]
    bidders_of: Vec<Vec<(u32, f64)>>, // [d_b], (latent of A, value)
    price: Vec<f64>,                  // [d_b], never negative
    owner: Vec<Option<u32>>,          // [d_b]
    assigned: Vec<Option<u32>>,       // [d_a]
    profit: Vec<f64>,                 // [d_a]
}

/// Runs the auction on the most similar latents of B of each latent of A, most similar first, at
/// least one each. `epsilon` is positive; the smaller, the closer to the optimum.
pub(crate) fn auction(d_b: usize, candidates: &[Vec<Neighbour>], epsilon: f64) -> Auction {
    let weakest = |list: &Vec<Neighbour>| list.last().map_or(0.0, |last| last.similarity);
    let mut bidders_of = vec![Vec::new(); d_b];
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (a, list) in candidates.iter().enumerate() {
        for neighbour in list {
            bidders_of[neighbour.latent as usize].push((a as u32, neighbour.similarity));
            low = low.min(neighbour.similarity);
            high = high.max(neighbour.similarity);
        }
    }
    let mut state = State {
        candidates,
        outside: candidates.iter().map(weakest).collect(),
        bidders_of,
        price: vec![0.0; d_b],
        owner: vec![None; d_b],
        assigned: vec![None; candidates.len()],
        profit: vec![0.0; candidates.len()],
    };
    let mut step = ((high - low) / 2.0).max(epsilon);
    loop {
        // Prices stay from the coarser phase; that is all that the coarser phase was for.
        state.owner.fill(None);
        state.assigned.fill(None);
        state.forward(step);
        state.reverse(step);
        if step <= epsilon {
            break;
        }
        step = (step / SCALING).max(epsilon);
    }
    Auction {
        upper_bound: state.upper_bound(),
        assigned: state.assigned,
    }
}

impl State<'_> {
    /// Latents of A without a match bid until all are settled. Prices rise.
    fn forward(&mut self, epsilon: f64) {
        let mut waiting: VecDeque<u32> = (0..self.candidates.len() as u32).collect();
        while let Some(bidder) = waiting.pop_front() {
            let a = bidder as usize;
            let mut best: Option<&Neighbour> = None;
            let (mut first, mut second) = (f64::NEG_INFINITY, self.outside[a]);
            for candidate in &self.candidates[a] {
                let net = candidate.similarity - self.price[candidate.latent as usize];
                if net > first {
                    second = second.max(first);
                    (first, best) = (net, Some(candidate));
                } else {
                    second = second.max(net);
                }
            }
            match best {
                Some(best) if first >= self.outside[a] => {
                    let b = best.latent as usize;
                    self.price[b] = best.similarity - second + epsilon;
                    self.profit[a] = second - epsilon;
                    self.assigned[a] = Some(best.latent);
                    if let Some(former) = self.owner[b].replace(bidder) {
                        self.assigned[former as usize] = None;
                        waiting.push_back(former);
                    }
                }
                _ => self.profit[a] = self.outside[a],
            }
        }
    }

    /// Latents of B that nobody owns lower their price until someone takes them, or it is 0. Only
    /// with price 0 may an object stay unsold. Profits rise.
    fn reverse(&mut self, epsilon: f64) {
        let unsold = |b: &u32| self.owner[*b as usize].is_none() && self.price[*b as usize] > 0.0;
        let mut waiting: VecDeque<u32> = (0..self.price.len() as u32).filter(unsold).collect();
        while let Some(object) = waiting.pop_front() {
            let b = object as usize;
            let mut best: Option<(u32, f64)> = None;
            let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
            for &(a, value) in &self.bidders_of[b] {
                let net = value - self.profit[a as usize];
                if net > first {
                    second = first;
                    (first, best) = (net, Some((a, value)));
                } else {
                    second = second.max(net);
                }
            }
            let Some((taker, value)) = best.filter(|_| first > epsilon) else {
                self.price[b] = 0.0;
                continue;
            };
            self.price[b] = (second - epsilon).max(0.0);
            self.profit[taker as usize] = value - self.price[b];
            self.owner[b] = Some(taker);
            if let Some(former) = self.assigned[taker as usize].replace(object) {
                self.owner[former as usize] = None;
                if self.price[former as usize] > 0.0 {
                    waiting.push_back(former);
                }
            }
        }
    }

    /// The value of a feasible point of the dual problem: minimize Σ profit + Σ price such that
    /// `profit + price >= similarity` for all pairs and prices are not negative.
    fn upper_bound(&self) -> f64 {
        let mut bound = self.price.iter().sum::<f64>();
        for (list, &outside) in self.candidates.iter().zip(&self.outside) {
            let net = |c: &Neighbour| c.similarity - self.price[c.latent as usize];
            bound += list.iter().map(net).fold(outside, f64::max);
        }
        bound
    }
}
