//! Codebooks at the hook points of a model, and a model that runs with them.

use crate::{Codebook, CodebookError};
use burn::tensor::{Int, Tensor, TensorData};
use lapidary_io::settings::Named;
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel, ModelConfig};
use std::cell::RefCell;

/// Where in a layer a codebook is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The outputs of the heads before `W_O`, a group of codes for each head: `attn.hook_z`.
    AttnPreproj,
    /// What attention adds to the residual stream: `hook_attn_out`.
    AttnOut,
    /// What the MLP adds to the residual stream: `hook_mlp_out`.
    MlpOut,
    /// The residual stream leaving the layer: `hook_resid_post`.
    ResidPost,
}

impl Named for Place {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::AttnPreproj, "attn_preproj"),
        (Self::AttnOut, "attn_out"),
        (Self::MlpOut, "mlp_out"),
        (Self::ResidPost, "resid_post"),
    ];
}

impl Place {
    /// The hook point in a layer.
    pub fn hook_point(self, layer: usize) -> HookPoint {
        let hook = match self {
            Self::AttnPreproj => BlockHook::Z,
            Self::AttnOut => BlockHook::AttnOut,
            Self::MlpOut => BlockHook::MlpOut,
            Self::ResidPost => BlockHook::ResidPost,
        };
        HookPoint::Block(layer, hook)
    }

    /// Groups of codes side by side, and the width of a code.
    pub fn shape(self, model: &ModelConfig) -> (usize, usize) {
        match self {
            Self::AttnPreproj => (model.n_heads, model.d_head),
            _ => (1, model.d_model),
        }
    }
}

/// A codebook at a hook point.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Where.
    pub at: HookPoint,
    /// The codebook.
    pub codebook: Codebook,
}

/// Another code in place of a chosen one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeEdit {
    /// Which of the placed codebooks.
    pub codebook: usize,
    /// Which group (head).
    pub group: usize,
    /// Which of the `k` chosen codes, the nearest is 0; `None`: all of them, the new code once.
    pub slot: Option<usize>,
    /// The new code; −1 takes the old one away and puts nothing in its place.
    pub code: i32,
    /// The position in the pass; `None`: all.
    pub position: Option<usize>,
}

/// Codebooks in a model, in the order of computation.
#[derive(Debug, Clone)]
pub struct Codebooks {
    placed: Vec<Placed>,
}

/// The codes that one pass chose: for each codebook and group `[batch * pos, k]`, row-major.
pub type ChosenCodes = Vec<Vec<Vec<i32>>>;

/// A function at a hook point.
pub type HookFunction<'a> = (HookPoint, Box<dyn Fn(Tensor<3>) -> Tensor<3> + 'a>);

impl Codebooks {
    /// Puts codebooks into the order of computation.
    ///
    /// # Errors
    /// When two are at one hook point.
    pub fn new(mut placed: Vec<Placed>) -> Result<Self, CodebookError> {
        placed.sort_by_key(|p| p.at);
        match placed.windows(2).find(|pair| pair[0].at == pair[1].at) {
            None => Ok(Self { placed }),
            Some(pair) => {
                let found = format!("two at {}", pair[0].at);
                Err(CodebookError::value(
                    "codebooks",
                    found,
                    "one at a hook point",
                ))
            }
        }
    }

    /// The codebooks.
    pub fn placed(&self) -> &[Placed] {
        &self.placed
    }

    pub(crate) fn placed_mut(&mut self) -> &mut [Placed] {
        &mut self.placed
    }

    /// Refuses a model that the codebooks do not fit.
    ///
    /// # Errors
    /// When a hook point is absent or of another width.
    pub fn check(&self, model: &LanguageModel) -> Result<(), CodebookError> {
        for Placed { at, codebook } in &self.placed {
            let (width, own) = (model.width(*at)?, codebook.groups() * codebook.d());
            if width != own {
                let what = format!("the codebook at {at}");
                let expected = format!("{width}, the model's width there");
                return Err(CodebookError::value(what, format!("width {own}"), expected));
            }
        }
        Ok(())
    }

    /// What happens at each hook point: the nearest codes are chosen, `edits` change them, and what
    /// they become takes the value's place. The codes, after the edits, go to `seen`.
    pub fn functions<'a>(
        &'a self,
        edits: &'a [CodeEdit],
        seen: Option<&'a RefCell<ChosenCodes>>,
    ) -> Vec<HookFunction<'a>> {
        let of = |number: usize| -> HookFunction<'a> {
            let Placed { at, codebook } = &self.placed[number];
            let function = move |value: Tensor<3>| {
                let [batch, pos, width] = value.dims();
                let a = value.reshape([batch * pos, width]);
                let (mut parts, mut all) = (vec![], vec![]);
                for (group, chosen) in codebook.nearest(&a).into_iter().enumerate() {
                    let here = |e: &&CodeEdit| e.codebook == number && e.group == group;
                    let edits: Vec<&CodeEdit> = edits.iter().filter(here).collect();
                    let chosen = match edits.is_empty() && seen.is_none() {
                        true => chosen,
                        false => {
                            let codes = edited(&chosen, &edits, pos);
                            let data = TensorData::new(codes.clone(), chosen.dims());
                            all.push(codes);
                            Tensor::from_data(data, &chosen.device())
                        }
                    };
                    parts.push(codebook.combine(group, chosen));
                }
                if let Some(seen) = seen {
                    seen.borrow_mut().push(all);
                }
                Tensor::cat(parts, 1).reshape([batch, pos, width])
            };
            (*at, Box::new(function))
        };
        (0..self.placed.len()).map(of).collect()
    }

    /// Logits `[batch, pos, d_vocab]` of a model with these codebooks, and the codes that were
    /// chosen, after `edits`.
    ///
    /// # Errors
    /// When the tokens or the codebooks do not fit the model.
    pub fn run(
        &self,
        model: &LanguageModel,
        tokens: Tensor<2, Int>,
        edits: &[CodeEdit],
    ) -> Result<(Tensor<3>, ChosenCodes), CodebookError> {
        let seen = RefCell::new(vec![]);
        let functions = self.functions(edits, Some(&seen));
        let interventions = interventions(&functions);
        let run = HookedRun {
            interventions: &interventions,
            logits: true,
            ..Default::default()
        };
        let logits = model.run(tokens, &run)?.logits.expect("asked for");
        drop(functions);
        Ok((logits, seen.into_inner()))
    }
}

/// Functions as interventions of a run.
pub fn interventions<'a>(functions: &'a [HookFunction<'_>]) -> Vec<Intervention<'a>> {
    let of = |(at, function): &'a HookFunction<'_>| Intervention::function(*at, function.as_ref());
    functions.iter().map(of).collect()
}

/// Chosen codes `[batch * pos, k]` after edits.
fn edited(chosen: &Tensor<2, Int>, edits: &[&CodeEdit], pos: usize) -> Vec<i32> {
    let k = chosen.dims()[1];
    let mut codes: Vec<i32> = chosen.to_data().iter::<i32>().collect();
    for edit in edits {
        for (row, codes) in codes.chunks_mut(k).enumerate() {
            if edit.position.is_some_and(|position| position != row % pos) {
                continue;
            }
            match edit.slot {
                Some(slot) => codes[slot.min(k - 1)] = edit.code,
                None => {
                    codes.fill(-1);
                    codes[0] = edit.code;
                }
            }
        }
    }
    codes
}
