//! Matryoshka: a BatchTopK coder of which every prefix of the latents reconstructs by itself, so that the first ones stay
//! general (Bussmann, Nabeshima, Karvonen, Nanda 2025, "Learning multi-level features with Matryoshka sparse
//! autoencoders", arXiv 2503.17547). The latents are chosen once, among all; each prefix decodes those of them that it has.
//! Finished, it is a JumpReLU like BatchTopK.

use burn::tensor::Tensor;
use lapidary_kernels::SparseCodes;
use lapidary_model::settings::{Reader, SettingsError};
use serde::{Deserialize, Serialize};

use crate::coder::SparseCoder;
use crate::coders::batchtopk::{BatchTopK, encode_batch};
use crate::coders::{Learned, Method, Now};
use crate::config::RunConfig;
use crate::ends::{Batch, Scaling};
use crate::error::SaeError;
use crate::sparse_step::{Part, sparse_step};

/// `[coder.matryoshka]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatryoshkaConfig {
    /// Latents in each prefix, ascending, below d_sae; absent: a 16th, an 8th, a quarter and a half of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widths: Option<Vec<usize>>,
}

impl MatryoshkaConfig {
    pub(crate) fn read(r: &mut Reader) -> Result<Self, SettingsError> {
        let widths: Option<Vec<usize>> = r.optional("coder.matryoshka.widths")?;
        if let Some(w) = &widths
            && (w.is_empty() || w[0] == 0 || w.windows(2).any(|pair| pair[0] >= pair[1]))
        {
            let found = format!("{w:?}");
            let expected = "numbers of latents from 1 on, ascending";
            return Err(r.wrong("coder.matryoshka.widths", found, expected));
        }
        Ok(Self { widths })
    }
}

pub(crate) struct Matryoshka;

impl Method for Matryoshka {
    fn name(&self) -> &'static str {
        "matryoshka"
    }

    fn contradiction(&self, config: &RunConfig, d_sae: usize) -> Option<String> {
        let given = config.coder.matryoshka.as_ref()?.widths.as_ref()?;
        let widest = *given.last()?;
        (widest >= d_sae).then(|| {
            format!(
                "`coder.matryoshka.widths` goes up to {widest}, but below d_sae = {d_sae} is where prefixes end (all latents together are \
                 counted anyway)"
            )
        })
    }

    fn counts_latents(&self) -> bool {
        true
    }

    fn encode(&self, coder: &SparseCoder, x: Tensor<2>) -> SparseCodes {
        BatchTopK.encode(coder, x)
    }

    fn learn(&self, coder: &SparseCoder, batch: &Batch, now: &Now<'_>) -> Learned {
        let centred = coder.centre(batch.x.clone());
        let found = encode_batch(coder, centred.clone());
        let prefixes = widths(now.config, coder.d_sae())
            .into_iter()
            .map(|width| Part {
                on: Some(found.codes.indices.clone().lower_elem(width as i32).float()),
                weight: 1.0,
            });
        let parts: Vec<Part> = std::iter::once(Part::WHOLE).chain(prefixes).collect();
        let mut learned = sparse_step(coder, batch, centred, found.codes, &parts, now);
        learned.terms.threshold = Some(found.threshold);
        learned
    }

    fn finish(
        &self,
        coder: &SparseCoder,
        threshold: f64,
        scaling: &Scaling,
    ) -> Result<SparseCoder, SaeError> {
        BatchTopK.finish(coder, threshold, scaling)
    }

    fn not_stored(&self) -> Option<&'static str> {
        Some("a Matryoshka coder is stored as the JumpReLU that it becomes when training finishes")
    }
}

/// The prefixes' widths, that of all latents left out.
fn widths(config: &RunConfig, d_sae: usize) -> Vec<usize> {
    let given = config.coder.matryoshka.as_ref();
    match given.and_then(|m| m.widths.clone()) {
        Some(widths) => widths,
        None => {
            let mut widths: Vec<usize> = [16, 8, 4, 2].map(|part| d_sae / part).into();
            widths.dedup();
            widths.retain(|w| (1..d_sae).contains(w));
            widths
        }
    }
}
