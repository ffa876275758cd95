//! How strongly a model behaves as a task wants it, from its logits after the prompt.

use burn::tensor::{Device, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

/// A number for each prompt, from the logits at its last position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean logit of the answers less that of the wrong answers.
    LogitDifference,
    /// Probability of all answers less that of all wrong answers.
    ProbabilityDifference,
}

impl Metric {
    /// The sum over prompts. `logits`: at the last positions, `[n, d_vocab]`; `signs`, of the same
    /// shape, from [`Self::signs`].
    pub(crate) fn sum(self, logits: Tensor<2>, signs: Tensor<2>) -> Tensor<1> {
        let values = match self {
            Self::LogitDifference => logits,
            Self::ProbabilityDifference => activation::softmax(logits, 1),
        };
        (values * signs).sum()
    }

    /// What each token counts for each prompt, `[n, d_vocab]`.
    pub(crate) fn signs<'a>(
        self,
        prompts: impl ExactSizeIterator<Item = (&'a [u32], &'a [u32])>,
        d_vocab: usize,
        device: &Device,
    ) -> Tensor<2> {
        let n = prompts.len();
        let mut signs = vec![0.0_f32; n * d_vocab];
        for ((answers, wrong), row) in prompts.zip(signs.chunks_mut(d_vocab)) {
            for (tokens, sign) in [(answers, 1.0), (wrong, -1.0)] {
                let each = match self {
                    Self::LogitDifference => sign / tokens.len() as f32,
                    Self::ProbabilityDifference => sign,
                };
                for token in tokens {
                    row[*token as usize] += each;
                }
            }
        }
        Tensor::from_data(TensorData::new(signs, [n, d_vocab]), device)
    }
}
