//! The codes that a model with codebooks chooses on a text, and how near each is to the activation
//! that it stands for.

use crate::codebook::Assignment;
use crate::{CodebookError, Codebooks, HookFunction, Placed, interventions};
use burn::tensor::{Int, Tensor};
use lapidary_model::{HookedRun, LanguageModel};
use std::cell::RefCell;

/// Below this norm an activation has no direction: its cosine to every code is 0.
const SMALLEST_NORM: f32 = 1e-20;

/// What one group of a codebook (a head) chose.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Which of the placed codebooks.
    pub codebook: usize,
    /// Which group.
    pub group: usize,
    /// The codes, nearest first, `[batch * pos, k]`.
    pub codes: Vec<i32>,
    /// The cosine of each to the activation, `[batch * pos, k]`.
    pub cosines: Vec<f32>,
    /// Codes for each activation.
    pub k: usize,
}

impl Codebooks {
    /// The codes that a pass over `tokens` `[batch, pos]` chooses, in the order of codebooks and
    /// groups. Each codebook sees what the codebooks before it let through. `segments` are those of
    /// [`HookedRun::segments`].
    ///
    /// # Errors
    /// When the tokens or the codebooks do not fit the model.
    pub fn observe(
        &self,
        model: &LanguageModel,
        tokens: Tensor<2, Int>,
        segments: Option<Tensor<2, Int>>,
    ) -> Result<Vec<Observed>, CodebookError> {
        self.check(model)?;
        let seen = RefCell::new(vec![]);
        let functions: Vec<HookFunction<'_>> = self
            .placed()
            .iter()
            .enumerate()
            .map(|(number, placed)| observing(number, placed, &seen))
            .collect();
        let last: Vec<_> = self.placed().last().map(|p| p.at).into_iter().collect();
        if !last.is_empty() {
            let run = HookedRun {
                capture: &last,
                interventions: &interventions(&functions),
                segments,
                ..Default::default()
            };
            model.run(tokens, &run)?;
        }
        drop(functions);
        Ok(seen.into_inner())
    }
}

/// Puts what the codes become in place of the value, and notes the codes.
fn observing<'a>(
    number: usize,
    placed: &'a Placed,
    seen: &'a RefCell<Vec<Observed>>,
) -> HookFunction<'a> {
    let codebook = &placed.codebook;
    let function = move |value: Tensor<3>| {
        let [batch, pos, width] = value.dims();
        let a = codebook.input(value.reshape([batch * pos, width]));
        let mut parts = vec![];
        for group in 0..codebook.groups() {
            let chosen = codebook.nearest_with_scores(group, &a);
            let cosines = cosines(placed, group, &a, &chosen.indices, &chosen.values);
            seen.borrow_mut().push(Observed {
                codebook: number,
                group,
                codes: chosen.indices.to_data().iter::<i32>().collect(),
                cosines,
                k: codebook.options().k,
            });
            parts.push(codebook.combine(group, chosen.indices));
        }
        Tensor::cat(parts, 1).reshape([batch, pos, width])
    };
    (placed.at, Box::new(function))
}

/// Scores of chosen codes `[n, k]` as cosines.
fn cosines(
    placed: &Placed,
    group: usize,
    a: &Tensor<2>,
    chosen: &Tensor<2, Int>,
    scores: &Tensor<2>,
) -> Vec<f32> {
    let codebook = &placed.codebook;
    let (n, d, k) = (a.dims()[0], codebook.d(), codebook.options().k);
    let norm = |t: Tensor<2>| t.square().sum_dim(1).sqrt(); // [rows, 1]
    let inputs = norm(a.clone().narrow(1, group * d, d)).clamp_min(SMALLEST_NORM);
    let values = match codebook.options().assignment {
        Assignment::Cosine => scores.clone(),
        Assignment::Euclidean => {
            let n_codes = codebook.options().n_codes;
            let codes = codebook.codes().clone().narrow(0, group * n_codes, n_codes);
            let norms = norm(codes)
                .select(0, chosen.clone().reshape([n * k]))
                .reshape([n, k]);
            let products = scores.clone() + norms.clone().square() * 0.5;
            products / norms.clamp_min(SMALLEST_NORM)
        }
    };
    (values / inputs).into_data().iter::<f32>().collect()
}
