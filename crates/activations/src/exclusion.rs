//! Which tokens' activations are left out, of stores and of streams alike.

use crate::{ActivationsError, BlockStream, TokenBlock};
use serde::{Deserialize, Serialize};

/// Activations are left out by default if their norm is above so many times the median norm. At
/// layer 12 of SmolLM2-135M, attention sinks have 18 times the median norm.
pub const DEFAULT_NORM_MULTIPLE: f32 = 10.0;

/// Which tokens' activations are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// BOS and EOS.
    pub special_tokens: bool,
    /// How many tokens at the start of each sequence, including BOS.
    pub first_positions: usize,
    /// Rows with a norm above so many times the median norm at any of the hook points, such as
    /// attention sinks. The median is that of the first batch, tokens left out for another reason
    /// not counted.
    #[serde(default)]
    pub norm_multiple: Option<f32>,
}

impl Default for Exclusion {
    fn default() -> Self {
        Self {
            special_tokens: true,
            first_positions: 0,
            norm_multiple: Some(DEFAULT_NORM_MULTIPLE),
        }
    }
}

/// How many tokens were left out, each counted under the first reason that applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excluded {
    /// BOS and EOS.
    pub special_tokens: u64,
    /// The first of a sequence.
    pub first_positions: u64,
    /// Too large a norm.
    pub norm: u64,
}

/// A token as the rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub special: bool,
    /// In its sequence.
    pub position: usize,
}

impl Candidate {
    /// The tokens of blocks, in order.
    pub fn all(stream: &BlockStream, blocks: &[TokenBlock]) -> Vec<Self> {
        let of_block = |block: &TokenBlock| {
            let tokens = block.tokens.iter().zip(block.positions());
            let candidate = |(token, position): (&u32, usize)| Self {
                special: stream.is_special(*token),
                position,
            };
            tokens.map(candidate).collect::<Vec<_>>()
        };
        blocks.iter().flat_map(of_block).collect()
    }
}

impl Exclusion {
    /// Refuses what leaves out every token of sequences of `context` tokens.
    ///
    /// # Errors
    /// When `first_positions` is not below `context`.
    pub fn check(&self, context: usize) -> Result<(), ActivationsError> {
        match self.first_positions < context {
            true => Ok(()),
            false => Err(ActivationsError::FirstPositions {
                first_positions: self.first_positions,
                context,
            }),
        }
    }

    /// Whether the token is kept; if not, that is counted. `rows` are its activations at the hook
    /// points with the norm limits `limits`.
    pub(crate) fn keeps(
        &self,
        candidate: Candidate,
        rows: &[&[f32]],
        limits: &[f32],
        excluded: &mut Excluded,
    ) -> bool {
        let counter = if self.special_tokens && candidate.special {
            &mut excluded.special_tokens
        } else if candidate.position < self.first_positions {
            &mut excluded.first_positions
        } else if rows
            .iter()
            .zip(limits)
            .any(|(row, limit)| norm(row) > *limit)
        {
            &mut excluded.norm
        } else {
            return true;
        };
        *counter += 1;
        false
    }

    /// The norm above which rows of width `d` are left out, by the first batch's rows,
    /// `[candidates, d]` flat.
    pub(crate) fn norm_limit(
        &self,
        rows: &[f32],
        d: usize,
        candidates: &[Candidate],
    ) -> Option<f32> {
        let multiple = self.norm_multiple?;
        let unlimited = |(row, candidate): (&[f32], &Candidate)| {
            let kept = self.keeps(*candidate, &[], &[], &mut Excluded::default());
            kept.then(|| norm(row))
        };
        let rows = rows.chunks_exact(d).zip(candidates);
        let mut norms: Vec<f32> = rows.filter_map(unlimited).collect();
        norms.sort_by(f32::total_cmp);
        let median = norms.get(norms.len() / 2);
        Some(median.map_or(f32::MAX, |median| median * multiple))
    }
}

fn norm(row: &[f32]) -> f32 {
    let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
    square.sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_left_out_for_the_first_reason_that_applies() {
        let rule = Exclusion {
            special_tokens: true,
            first_positions: 2,
            norm_multiple: Some(3.0),
        };
        let token = |special, position| Candidate { special, position };
        let batch = [
            token(true, 0),
            token(false, 1),
            token(false, 2),
            token(false, 3),
            token(false, 4),
        ];
        // Norms 100, 90, 1, 2, 4: the median of those that no other rule leaves out is 2.
        let rows = [100.0, 0.0, 0.0, 90.0, 1.0, 0.0, 0.0, -2.0, 4.0, 0.0];
        let limit = rule.norm_limit(&rows, 2, &batch).unwrap();
        assert_eq!(limit, 6.0);
        let mut excluded = Excluded::default();
        let mut keeps =
            |candidate, row: [f32; 2]| rule.keeps(candidate, &[&row], &[limit], &mut excluded);
        assert!(!keeps(token(true, 0), [100.0, 0.0]));
        assert!(!keeps(token(false, 1), [100.0, 0.0]));
        assert!(!keeps(token(false, 9), [0.0, 6.1]));
        assert!(keeps(token(false, 9), [6.0, 0.0]));
        let counts = (
            excluded.special_tokens,
            excluded.first_positions,
            excluded.norm,
        );
        assert_eq!(counts, (1, 1, 1));
        let all = Exclusion {
            norm_multiple: None,
            ..Exclusion::default()
        };
        assert_eq!(all.norm_limit(&rows, 2, &batch), None);
    }
    #[test]
    fn a_rule_that_leaves_nothing_of_a_sequence_is_refused_with_both_numbers() {
        let rule = |first_positions| Exclusion {
            first_positions,
            ..Exclusion::default()
        };
        assert!(rule(31).check(32).is_ok());
        let error = rule(40).check(32).unwrap_err().to_string();
        assert!(error.contains("40") && error.contains("32"), "{error}");
        assert!(rule(32).check(32).is_err());
    }
}
