//! Held-out sequences of a machine, and how often each code is chosen in each of their contexts.

use crate::data::Data;
use crate::inputs::tokens;
use crate::{CodebookError, Codebooks, TokFsm};
use lapidary_model::LanguageModel;
use lapidary_model::training::TokenBatch;
use std::collections::BTreeMap;

/// Sequences of one pass.
const SEQUENCES_AT_ONCE: usize = 16;

/// Where a sequence is: the state that is complete, and the digits of the next one so far.
pub(crate) type Context = (usize, Vec<u32>);

/// Held-out sequences, a few at a time, and the context of each position. A position before the end
/// of the first state has none.
pub(crate) fn held_out(
    fsm: &TokFsm,
    seed: u64,
    sequences: usize,
) -> impl Iterator<Item = (TokenBatch, Vec<Option<Context>>)> {
    let all = Data::TokFsm(fsm.clone()).held_out(seed, sequences);
    let (fsm, rows) = (fsm.clone(), SEQUENCES_AT_ONCE * all.length);
    let starts = (0..all.inputs.len()).step_by(rows);
    starts.map(move |start| {
        let end = (start + rows).min(all.inputs.len());
        let batch = TokenBatch {
            inputs: all.inputs[start..end].to_vec(),
            targets: vec![],
            length: all.length,
        };
        let ids: Vec<u32> = batch.inputs.iter().map(|t| *t as u32).collect();
        let contexts = ids.chunks(all.length).flat_map(|text| contexts(&fsm, text));
        let contexts = contexts.collect();
        (batch, contexts)
    })
}

/// The context of each position of a text that starts with BOS.
fn contexts(fsm: &TokFsm, text: &[u32]) -> Vec<Option<Context>> {
    let digits = fsm.options().digits;
    let of = |position: usize| {
        let last = position - position % digits;
        let state = text.get((last + 1).checked_sub(digits)?..=last)?;
        let begun = text[last + 1..=position].to_vec();
        Some((fsm.state(state)?, begun))
    };
    // Position 0 is BOS.
    let of = |position| {
        if position < digits {
            None
        } else {
            of(position)
        }
    };
    (0..text.len()).map(of).collect()
}

/// How often each code was chosen in each context.
pub(crate) struct Counts {
    /// Codebook, group, code to context to count.
    pub codes: BTreeMap<(usize, usize, i32), BTreeMap<Context, u64>>,
    /// All positions in each context.
    pub contexts: BTreeMap<Context, u64>,
}

impl Counts {
    pub fn of(
        model: &LanguageModel,
        codebooks: &Codebooks,
        fsm: &TokFsm,
        seed: u64,
        sequences: usize,
    ) -> Result<Self, CodebookError> {
        codebooks.check(model)?;
        let mut codes: BTreeMap<_, BTreeMap<Context, u64>> = BTreeMap::new();
        let mut all: BTreeMap<Context, u64> = BTreeMap::new();
        for (batch, contexts) in held_out(fsm, seed, sequences) {
            let (_, chosen) = codebooks.run(model, tokens(model, &batch)?, &[])?;
            for (row, context) in contexts.into_iter().enumerate() {
                let Some(context) = context else { continue };
                for (codebook, groups) in chosen.iter().enumerate() {
                    let k = codebooks.placed()[codebook].codebook.options().k;
                    for (group, chosen) in groups.iter().enumerate() {
                        for code in &chosen[row * k..][..k] {
                            let of_code = codes.entry((codebook, group, *code)).or_default();
                            *of_code.entry(context.clone()).or_default() += 1;
                        }
                    }
                }
                *all.entry(context).or_default() += 1;
            }
        }
        Ok(Self {
            codes,
            contexts: all,
        })
    }

    /// The code that is chosen most often in a context; none if the context never occurs.
    pub fn usual(&self, codebook: usize, group: usize, context: &Context) -> Option<i32> {
        let all = self
            .codes
            .range((codebook, group, 0)..=(codebook, group, i32::MAX));
        let counted = all.filter_map(|((_, _, code), by)| Some((by.get(context)?, *code)));
        counted
            .max_by_key(|(count, code)| (**count, std::cmp::Reverse(*code)))
            .map(|(_, code)| code)
    }
}
