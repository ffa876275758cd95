//! The batches of a training. A batch depends on the seed and its number alone, so that a resumed
//! run needs no state of its data.

use crate::CodebookError;
use crate::tokfsm::TokFsm;
use lapidary_model::training::TokenBatch;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Separates the generators of one seed.
const STREAMS: u64 = 1 << 32;

/// A generator for one purpose (`stream`) at one place (`number`).
pub(crate) fn generator(seed: u64, stream: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream.wrapping_mul(STREAMS).wrapping_add(number));
    rng
}

/// Streams of [`generator`].
pub(crate) mod stream {
    pub const TRAINING: u64 = 1;
    pub const HELD_OUT: u64 = 2;
    pub const CODES: u64 = 3;
    pub const REPLACEMENT: u64 = 4;
    pub const GENERATION: u64 = 5;
    pub const ORDER: u64 = 6;
}

/// What a model is trained on and measured with.
#[derive(Debug, Clone)]
pub enum Data {
    /// Walks of a machine, new ones at each step.
    TokFsm(TokFsm),
    /// Text.
    Text(Text),
}

/// Training text and held-out text as tokens.
#[derive(Debug, Clone)]
pub struct Text {
    stream: Vec<u32>,
    heldout: Vec<u32>,
    bos: u32,
    length: usize,
}

impl Text {
    /// Documents as token ids without special tokens; each is followed by `bos`. Sequences have
    /// `length` tokens.
    ///
    /// # Errors
    /// When training or held-out documents have fewer tokens than one sequence.
    pub fn new(
        documents: &[Vec<u32>],
        heldout: &[Vec<u32>],
        bos: u32,
        length: usize,
    ) -> Result<Self, CodebookError> {
        let joined = |documents: &[Vec<u32>]| -> Vec<u32> {
            let each = documents.iter();
            each.flat_map(|d| d.iter().copied().chain([bos])).collect()
        };
        let (stream, heldout) = (joined(documents), joined(heldout));
        for (key, tokens) in [("data.corpus", &stream), ("data.heldout", &heldout)] {
            if tokens.len() <= length {
                let found = format!("{} tokens", tokens.len());
                let expected = format!("more than one sequence of {length}");
                return Err(CodebookError::value(key, found, expected));
            }
        }
        Ok(Self {
            stream,
            heldout,
            bos,
            length,
        })
    }

    fn batch(&self, text: &[u32], starts: impl Iterator<Item = usize>) -> TokenBatch {
        TokenBatch::of_text(text, self.bos, starts, self.length)
    }
}

impl Data {
    /// The batch of a step, counted from 1.
    pub fn training(&self, seed: u64, step: u64, sequences: usize) -> TokenBatch {
        match self {
            Self::TokFsm(fsm) => fsm.batch(sequences, &mut generator(seed, stream::TRAINING, step)),
            Self::Text(text) => {
                let n = text.length;
                // Each pass over the text cuts it at other places and in another order.
                let per_pass = (text.stream.len() / n - 1).max(1) as u64;
                let first = (step - 1) * sequences as u64;
                let mut order: (u64, Vec<usize>) = (u64::MAX, vec![]);
                let starts: Vec<usize> = (first..first + sequences as u64)
                    .map(|i| {
                        let pass = i / per_pass;
                        if order.0 != pass {
                            let mut rng = generator(seed, stream::ORDER, pass);
                            let offset = rng.random_range(0..n.min(text.stream.len() - n));
                            let all = (0..per_pass as usize)
                                .map(|i| (offset + i * n).min(text.stream.len() - n));
                            order = (pass, all.collect());
                            order.1.shuffle(&mut rng);
                        }
                        order.1[(i % per_pass) as usize]
                    })
                    .collect();
                text.batch(&text.stream, starts.into_iter())
            }
        }
    }

    /// Sequences that are never trained on: walks of a generator of their own, or held-out text
    /// from its beginning, as many as there are.
    pub fn held_out(&self, seed: u64, sequences: usize) -> TokenBatch {
        match self {
            Self::TokFsm(fsm) => fsm.batch(sequences, &mut generator(seed, stream::HELD_OUT, 0)),
            Self::Text(text) => {
                let n = text.length;
                let starts = (0..=text.heldout.len() - n).step_by(n).take(sequences);
                text.batch(&text.heldout, starts)
            }
        }
    }
}
