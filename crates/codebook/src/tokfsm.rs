//! TokFSM: a finite-state machine whose states are written as digits (Tamkin, Taufeeque, Goodman
//! 2023, section 4). A language model of its walks has to know the state, which is known to us.
//!
//! Each state has `edges` successors, drawn at random without repetition and equally likely. State
//! `s` is written as `digits` tokens in base `base`, the highest digit first; the token after the
//! last digit is BOS. A sequence is BOS and then the states of one walk from a random state.

use crate::CodebookError;
use crate::memory::{product, too_large};
use lapidary_model::training::TokenBatch;
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The sizes of a machine. The paper's: 100 states with 10 edges each, written as 2 digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokFsmOptions {
    /// States.
    pub states: usize,
    /// Successors of a state.
    pub edges: usize,
    /// Digits a state is written with.
    pub digits: usize,
    /// Base of the digits.
    pub base: usize,
    /// States of a sequence.
    pub sequence_states: usize,
    /// Seeds the edges.
    pub seed: u64,
}

/// A setting, what was found and what was expected.
pub(crate) type Wrong = (&'static str, usize, String);

impl TokFsmOptions {
    /// Refuses sizes that no machine has.
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        let sizes = [
            ("states", self.states, 1),
            ("edges", self.edges, 1),
            ("digits", self.digits, 1),
            ("base", self.base, 1),
            ("sequence_states", self.sequence_states, 2),
        ];
        for (key, found, least) in sizes {
            if found < least {
                return Err((key, found, format!("at least {least}")));
            }
        }
        // Tokens are numbered by i32, and BOS follows the digits.
        let most = i32::MAX as usize - 1;
        if self.base > most {
            return Err(("base", self.base, format!("at most {most}")));
        }
        if self.edges > self.states {
            let expected = format!("at most the {} states", self.states);
            return Err(("edges", self.edges, expected));
        }
        let written = u32::try_from(self.digits)
            .ok()
            .and_then(|d| self.base.checked_pow(d));
        if written.is_some_and(|written| written < self.states) {
            let expected = format!(
                "enough to write {} states in base {}",
                self.states, self.base
            );
            return Err(("digits", self.digits, expected));
        }
        // A successor is a number of 8 bytes.
        if let Some(expected) = too_large(product(&[self.states, self.edges, 2])) {
            return Err(("states", self.states, expected));
        }
        let length = product(&[self.sequence_states, self.digits]);
        match too_large(length) {
            Some(expected) => Err(("sequence_states", self.sequence_states, expected)),
            None => Ok(()),
        }
    }
}

impl Default for TokFsmOptions {
    fn default() -> Self {
        Self {
            states: 100,
            edges: 10,
            digits: 2,
            base: 10,
            sequence_states: 64,
            seed: 0,
        }
    }
}

/// A machine: its states and their successors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokFsm {
    options: TokFsmOptions,
    successors: Vec<Vec<usize>>,
}

impl TokFsm {
    /// Draws the edges.
    ///
    /// # Errors
    /// When a size is 0 or does not fit into memory, states cannot have that many successors, or
    /// the digits cannot write all states.
    pub fn new(options: TokFsmOptions) -> Result<Self, CodebookError> {
        let wrong = |(key, found, expected)| CodebookError::value(key, found, expected);
        options.check().map_err(wrong)?;
        let o = &options;
        let mut rng = ChaCha8Rng::seed_from_u64(o.seed);
        let mut draw = || {
            let mut next = sample(&mut rng, o.states, o.edges).into_vec();
            next.sort_unstable();
            next
        };
        let successors = (0..o.states).map(|_| draw()).collect();
        Ok(Self {
            options,
            successors,
        })
    }

    /// Sizes.
    pub fn options(&self) -> &TokFsmOptions {
        &self.options
    }

    /// The states that may follow a state, ascending.
    pub fn successors(&self, state: usize) -> &[usize] {
        &self.successors[state]
    }

    /// Beginning-of-sequence token: the one after the digits.
    pub fn bos(&self) -> u32 {
        self.options.base as u32
    }

    /// Number of tokens: the digits and BOS.
    pub fn d_vocab(&self) -> usize {
        self.options.base + 1
    }

    /// Tokens of a sequence without BOS, which is the length of the model's inputs.
    pub fn length(&self) -> usize {
        self.options.sequence_states * self.options.digits
    }

    /// A state as tokens.
    pub fn tokens(&self, state: usize) -> Vec<u32> {
        let (base, digits) = (self.options.base, self.options.digits);
        let mut out = vec![0; digits];
        let mut left = state;
        for digit in out.iter_mut().rev() {
            *digit = (left % base) as u32;
            left /= base;
        }
        out
    }

    /// The state that tokens write, if they write one.
    pub fn state(&self, tokens: &[u32]) -> Option<usize> {
        let base = self.options.base;
        let digit = |all: usize, token: &u32| {
            let token = *token as usize;
            (token < base).then(|| all.saturating_mul(base).saturating_add(token))
        };
        let state = tokens.iter().try_fold(0, digit)?;
        (tokens.len() == self.options.digits && state < self.options.states).then_some(state)
    }

    /// A walk of `n` states from a random one.
    pub fn walk(&self, n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut state = rng.random_range(0..self.options.states);
        let mut walk = Vec::with_capacity(n);
        for _ in 0..n {
            walk.push(state);
            state = self.successors[state][rng.random_range(0..self.options.edges)];
        }
        walk
    }

    /// Walks as a batch for training.
    pub fn batch(&self, sequences: usize, rng: &mut ChaCha8Rng) -> TokenBatch {
        let (mut inputs, mut targets) = (vec![], vec![]);
        for _ in 0..sequences {
            let walk = self.walk(self.options.sequence_states, rng);
            let text: Vec<i32> = walk
                .iter()
                .flat_map(|state| self.tokens(*state))
                .map(|token| token as i32)
                .collect();
            inputs.push(self.bos() as i32);
            inputs.extend(&text[..text.len() - 1]);
            targets.extend(text);
        }
        TokenBatch {
            inputs,
            targets,
            length: self.length(),
        }
    }

    /// Of consecutive states in a text without BOS, those that are legal and all. What writes no
    /// state makes the transitions to and from it illegal.
    pub fn legal_transitions(&self, text: &[u32]) -> (u64, u64) {
        let states = text.chunks_exact(self.options.digits);
        let states: Vec<Option<usize>> = states.map(|tokens| self.state(tokens)).collect();
        let legal = states.windows(2).filter(|pair| match pair {
            [Some(from), Some(to)] => self.successors[*from].binary_search(to).is_ok(),
            _ => false,
        });
        (legal.count() as u64, states.len().saturating_sub(1) as u64)
    }
}
