//! The codes of a text: model and dictionary over token blocks.

use burn::tensor::Tensor;
use lapidary_activations::{ActivationsError, OtherModel, TokenBlock, harvest_all};
use lapidary_coder::Coder;
use lapidary_evaluation::{BATCH_BLOCKS, HostCodes};
use lapidary_model::{HookPoint, LanguageModel};

use crate::FeaturesError;
use crate::hook_names::names;

/// Runs a model, and a dictionary on its activations.
#[derive(Clone)]
pub struct CodeReader<'a> {
    model: &'a LanguageModel,
    coder: &'a dyn Coder,
    hooks: Vec<HookPoint>,
    other: Option<&'a OtherModel>,
}

impl<'a> CodeReader<'a> {
    /// The dictionary reads `hooks` of `model`, side by side with the hook points of `other`, if
    /// there is a second model.
    ///
    /// # Errors
    /// When the dictionary does not fit the hook points.
    pub fn new(
        model: &'a LanguageModel,
        coder: &'a dyn Coder,
        hooks: Vec<HookPoint>,
        other: Option<&'a OtherModel>,
    ) -> Result<Self, FeaturesError> {
        let widths = hooks.iter().map(|hook| model.width(*hook));
        let mut widths: Vec<usize> = widths
            .collect::<Result<_, _>>()
            .map_err(ActivationsError::from)?;
        if let Some(other) = other {
            other.check_tokens(model)?;
            for hook in &other.hook_points {
                let width = other.model.width(*hook);
                widths.push(width.map_err(ActivationsError::from)?);
            }
        }
        let width = widths.iter().sum::<usize>();
        if width != coder.d_in() {
            return Err(FeaturesError::Input {
                field: "dictionary",
                found: format!("latents on activations of width {}", coder.d_in()),
                expected: format!(
                    "{width}, the width of {} in model `{}`",
                    names(&hooks),
                    model.name()
                ),
            });
        }
        Ok(Self {
            model,
            coder,
            hooks,
            other,
        })
    }

    /// The model whose tokens the text has.
    pub fn model(&self) -> &'a LanguageModel {
        self.model
    }

    /// Number of latents.
    pub fn d_sae(&self) -> usize {
        self.coder.d_sae()
    }

    /// Codes of all tokens of some blocks, which have the same length.
    ///
    /// # Errors
    /// When the model fails.
    pub fn read(&self, blocks: &[TokenBlock]) -> Result<HostCodes, FeaturesError> {
        let mut rows = harvest_all(self.model, &self.hooks, blocks)?;
        if let Some(other) = self.other {
            rows.extend(harvest_all(&other.model, &other.hook_points, blocks)?);
        }
        Ok(HostCodes::read(self.coder.encode(Tensor::cat(rows, 1))))
    }

    /// Codes of all blocks, a batch at a time: `each` gets the number of the first block of a
    /// batch, its blocks and their codes.
    ///
    /// # Errors
    /// When the model or `each` fails.
    pub fn for_each<E: From<FeaturesError>>(
        &self,
        blocks: &[TokenBlock],
        mut each: impl FnMut(usize, &[TokenBlock], &HostCodes) -> Result<(), E>,
    ) -> Result<(), E> {
        for (number, batch) in blocks.chunks(BATCH_BLOCKS).enumerate() {
            each(number * BATCH_BLOCKS, batch, &self.read(batch)?)?;
        }
        Ok(())
    }
}
