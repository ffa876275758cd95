//! Codes for a behaviour: how well each code, as a classifier of positions, agrees with a predicate
//! over the text (Tamkin, Taufeeque, Goodman 2023, section 5).

use crate::{CodebookError, Codebooks, Observed};
use serde::Serialize;
use std::collections::HashMap;

/// A code as a classifier of positions: it is chosen where the predicate holds, and nowhere else.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FoundCode {
    /// The hook point of the codebook.
    pub hook_point: String,
    /// The layer of the codebook.
    pub layer: usize,
    /// The head; 0 where the codebook is not divided into heads.
    pub head: usize,
    /// The code.
    pub code: i32,
    /// Share of the positions with the code at which the predicate holds.
    pub precision: f64,
    /// Share of the positions at which the predicate holds that have the code.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Positions with the code.
    pub count: u64,
}

/// Counts of codes where a predicate holds and where it does not.
#[derive(Debug, Clone, Default)]
pub struct CodeSearch {
    positions: u64,
    positives: u64,
    /// Codebook, group, code to all positions with the code, and those where the predicate holds.
    counts: HashMap<(usize, usize, i32), [u64; 2]>,
}

impl CodeSearch {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the codes of a pass. `holds` has for each position `[batch * pos]` whether the
    /// predicate holds, and `None` where a position does not count.
    ///
    /// # Panics
    /// When there is not one entry for each position.
    pub fn add(&mut self, observed: &[Observed], holds: &[Option<bool>]) {
        for holds in holds.iter().flatten() {
            self.positions += 1;
            self.positives += u64::from(*holds);
        }
        for group in observed {
            assert_eq!(group.codes.len(), holds.len() * group.k, "one per position");
            for (codes, holds) in group.codes.chunks(group.k).zip(holds) {
                let Some(holds) = holds else { continue };
                for code in codes {
                    let key = (group.codebook, group.group, *code);
                    let counts = self.counts.entry(key).or_default();
                    counts[0] += 1;
                    counts[1] += u64::from(*holds);
                }
            }
        }
    }

    /// Positions that counted, and those of them at which the predicate holds.
    pub fn positions(&self) -> [u64; 2] {
        [self.positions, self.positives]
    }

    /// All codes that were chosen where the predicate holds and have at least `least_recall`, those
    /// of highest precision first, then of highest recall, then in the order of codebooks, heads
    /// and codes.
    ///
    /// # Errors
    /// When the predicate holds nowhere.
    pub fn found(
        &self,
        codebooks: &Codebooks,
        least_recall: f64,
    ) -> Result<Vec<FoundCode>, CodebookError> {
        if self.positives == 0 {
            let found = format!("no match at any of {} positions", self.positions);
            let expected = "a predicate that holds at some position of the text";
            return Err(CodebookError::value("the predicate", found, expected));
        }
        let mut all: Vec<_> = self.counts.iter().filter(|(_, c)| c[1] > 0).collect();
        all.sort_by_key(|(key, _)| **key);
        let of = |((codebook, group, code), [count, right]): (&(usize, usize, i32), &[u64; 2])| {
            let at = codebooks.placed()[*codebook].at;
            let precision = *right as f64 / *count as f64;
            let recall = *right as f64 / self.positives as f64;
            FoundCode {
                hook_point: at.to_string(),
                layer: at.layer().unwrap_or(0),
                head: *group,
                code: *code,
                precision,
                recall,
                f1: 2.0 * precision * recall / (precision + recall),
                count: *count,
            }
        };
        let mut found: Vec<FoundCode> = all.into_iter().map(of).collect();
        found.retain(|code| code.recall >= least_recall);
        // Stable: equal ones stay in order.
        found.sort_by(|a, b| {
            let order = b.precision.total_cmp(&a.precision);
            order.then(b.recall.total_cmp(&a.recall))
        });
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Codebook, CodebookOptions, Place, Placed};
    use burn::tensor::{Device, Tensor};

    fn codebooks() -> Codebooks {
        let codes = Tensor::<2>::ones([8, 2], &Device::flex());
        let options = CodebookOptions {
            n_codes: 4,
            k: 2,
            ..Default::default()
        };
        let codebook = Codebook::new(options, 2, codes).unwrap();
        let at = Place::AttnPreproj.hook_point(3);
        Codebooks::new(vec![Placed { at, codebook }]).unwrap()
    }

    /// Six positions, of which the last does not count. Codes of head 0 and 1 by hand.
    #[test]
    fn precision_and_recall_are_those_of_a_count_by_hand() {
        let heads = [
            vec![0, 1, 0, 2, 3, 2, 0, 3, 1, 2, 0, 1],
            vec![1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2],
        ];
        let observed: Vec<Observed> = heads
            .into_iter()
            .enumerate()
            .map(|(group, codes)| Observed {
                codebook: 0,
                group,
                cosines: vec![1.0; codes.len()],
                codes,
                k: 2,
            })
            .collect();
        let yes = Some(true);
        let no = Some(false);
        let mut search = CodeSearch::new();
        search.add(&observed, &[yes, yes, no, yes, no, None]);
        assert_eq!(search.positions(), [5, 3]);
        let found = search.found(&codebooks(), 0.0).unwrap();
        // Head 0: code 0 at positions 0, 1, 3, all right; code 1 at 0, 4; code 2 at 1, 2, 4; code 3
        // at 2, 3. Head 1: codes 1 and 2 everywhere.
        let short = |c: &FoundCode| (c.head, c.code, c.count, c.precision, c.recall);
        let expected = [
            (0, 0, 3, 1.0, 1.0),
            (1, 1, 5, 0.6, 1.0),
            (1, 2, 5, 0.6, 1.0),
            (0, 1, 2, 0.5, 1.0 / 3.0),
            (0, 3, 2, 0.5, 1.0 / 3.0),
            (0, 2, 3, 1.0 / 3.0, 1.0 / 3.0),
        ];
        assert_eq!(found.iter().map(short).collect::<Vec<_>>(), expected);
        assert_eq!((found[0].layer, found[0].f1), (3, 1.0));
        assert_eq!(search.found(&codebooks(), 0.5).unwrap().len(), 3);
    }

    #[test]
    fn a_predicate_that_never_holds_is_an_error() {
        let mut search = CodeSearch::new();
        search.add(&[], &[Some(false), None, Some(false)]);
        let error = search.found(&codebooks(), 0.0).unwrap_err().to_string();
        assert!(error.contains("no match at any of 2 positions"), "{error}");
    }
}
