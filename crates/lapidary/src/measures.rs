//! Measures of a dictionary's codes on labelled texts, and the core features of a text.

use burn::tensor::{Int, Tensor, TensorData};
use lapidary_coder::Coder;
use lapidary_evaluation::HostCodes;
use lapidary_evaluation::probing::{Reading, Represented, Rows, represent};
use lapidary_features::SparseRows;
use lapidary_features::measures::{
    CodeChance, CoreConfig, KMeansConfig, LatentInformationConfig, SupportCodes, core_stability,
    gdv, input_cosines, kmeans_accuracy, knn_accuracy, latent_information, overlap_spearman,
    redundancy_ratio, sample_pairs, text_core,
};
use lapidary_kernels::SparseCodes;
use lapidary_model::{HookedRun, Intervention};
use serde::Serialize;

use crate::error::{Result, bail};
use crate::labelled::LabelledTexts;
use crate::opened::Opened;
use crate::progress::{Progress, Stage};

/// Texts of several classes as a model and a dictionary see them.
pub struct LabelledCodes {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Mean activations `[texts, d_in]` and mean codes `[texts, d_sae]` of each passage.
    represented: Represented,
    labels: Vec<u32>,
    d_in: usize,
    d_sae: usize,
}

impl LabelledCodes {
    /// Reads texts with classes, and runs model and dictionary over one passage or more of each.
    ///
    /// # Errors
    /// The texts cannot be read, there are fewer than two classes, or the model fails.
    pub fn read(opened: &Opened, texts: &LabelledTexts, progress: &dyn Progress) -> Result<Self> {
        let hook = opened.only_hook()?;
        let (context, _) = opened.context();
        let passages = texts.read(&opened.model, opened.context(), 0, progress)?;
        let all: Vec<_> = passages.train.into_iter().chain(passages.test).collect();
        let labels = all.iter().map(|(_, class)| *class as u32).collect();
        let tokens: Vec<_> = all
            .into_iter()
            .map(|(tokens, _)| (tokens, Reading::Mean))
            .collect();
        let stage = Stage::new(progress, "represent", tokens.len() as u64);
        let coder = &opened.dictionary.coder;
        let represented = represent(&opened.model, coder, hook, &tokens, context, &mut |n| {
            stage.at(n as u64, format!("{n} passages"));
        })?;
        stage.done(format!("{} passages", tokens.len()));
        Ok(Self {
            classes: passages.classes,
            represented,
            labels,
            d_in: coder.d_in(),
            d_sae: coder.d_sae(),
        })
    }

    /// Number of passages.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// What each latent says about the class of a passage: the `top` latents by information.
    ///
    /// # Errors
    /// A parameter is out of its range.
    pub fn information(&self, config: &LatentInformationConfig, top: usize) -> Result<Information> {
        let rows = Padded::new(&self.represented.latents);
        let table = latent_information(&rows.rows(self.d_sae)?, &self.labels, config)?;
        let mut latents: Vec<LatentBits> = (0..)
            .zip(&table.latents)
            .map(|(feature_id, latent)| LatentBits {
                feature_id,
                information: latent.information,
                by_chance: latent.permuted_information,
                bias: latent.miller_madow_bias,
                passages: latent.firing_count,
            })
            .collect();
        latents.sort_by(|a, b| b.information.total_cmp(&a.information));
        latents.truncate(top);
        Ok(Information {
            classes: self.classes.clone(),
            passages: table.samples,
            label_entropy: table.label_entropy,
            latents,
        })
    }

    /// How well the classes separate in the activations and in the codes.
    ///
    /// # Errors
    /// A class has a single passage.
    pub fn discrimination(&self) -> Result<Discrimination> {
        let of = |rows: &Rows, width: usize| -> Result<DiscriminationValue> {
            let found = gdv(&dense(rows, width), width, &self.labels)?;
            Ok(DiscriminationValue {
                gdv: found.value,
                bound: found.bound,
                ratio: found.ratio,
                constant_dimensions: found.dropped_dimensions,
            })
        };
        Ok(Discrimination {
            classes: self.classes.clone(),
            passages: self.len(),
            activations: of(&self.represented.activations, self.d_in)?,
            codes: of(&self.represented.latents, self.d_sae)?,
        })
    }

    /// The codes as hashes: of each passage the `k` latents with the largest means.
    ///
    /// # Errors
    /// There are fewer passages than neighbours, or a parameter is out of its range.
    pub fn hashes(&self, k: usize, neighbours: usize, pairs: usize, seed: u64) -> Result<Hashes> {
        let rows = Padded::largest(&self.represented.latents, k);
        let codes = SupportCodes::from_rows(&rows.rows(self.d_sae)?);
        let activations = dense(&self.represented.activations, self.d_in);
        let drawn = sample_pairs(self.len(), pairs, seed)?;
        let cosines = input_cosines(&activations, self.d_in, &drawn)?;
        let config = KMeansConfig {
            seed,
            ..KMeansConfig::default()
        };
        let kmeans = kmeans_accuracy(&codes, &self.labels, &config)?;
        Ok(Hashes {
            classes: self.classes.clone(),
            passages: self.len(),
            k,
            redundancy_ratio: redundancy_ratio(&codes)?,
            knn_accuracy: knn_accuracy(&codes, &self.labels, neighbours)?,
            kmeans_train_accuracy: kmeans.train,
            kmeans_test_accuracy: kmeans.test,
            overlap_spearman: overlap_spearman(&codes, &drawn, &cosines)?,
        })
    }
}

/// Sparse rows as a matrix `[rows, width]`.
fn dense(rows: &Rows, width: usize) -> Vec<f32> {
    let mut dense = vec![0.0; rows.len() * width];
    for (row, values) in dense.chunks_exact_mut(width.max(1)).enumerate() {
        for (column, value) in rows.row(row) {
            values[*column as usize] = *value;
        }
    }
    dense
}

/// Sparse rows as codes with the same number of entries each.
struct Padded {
    values: Vec<f32>,
    indices: Vec<i32>,
    k: usize,
}

impl Padded {
    fn new(rows: &Rows) -> Self {
        Self::largest(rows, usize::MAX)
    }

    /// Of each row the `most` largest positive entries.
    fn largest(rows: &Rows, most: usize) -> Self {
        let rows: Vec<Vec<(u32, f32)>> = (0..rows.len())
            .map(|row| {
                let positive = rows
                    .row(row)
                    .iter()
                    .copied()
                    .filter(|(_, value)| *value > 0.0);
                let mut entries: Vec<(u32, f32)> = positive.collect();
                entries.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                entries.truncate(most);
                entries
            })
            .collect();
        let k = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (mut values, mut indices) = (vec![], vec![]);
        for row in rows {
            values.extend(row.iter().map(|entry| entry.1));
            indices.extend(row.iter().map(|entry| entry.0 as i32));
            values.resize(values.len() + k - row.len(), 0.0);
            indices.resize(values.len(), -1);
        }
        Self { values, indices, k }
    }

    fn rows(&self, d_sae: usize) -> Result<SparseRows<'_>> {
        Ok(SparseRows::new(&self.values, &self.indices, self.k, d_sae)?)
    }
}

/// What latents say about classes.
#[derive(Debug, Clone, Serialize)]
pub struct Information {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Number of passages.
    pub passages: usize,
    /// Entropy of the class in bits: no latent says more.
    pub label_entropy: f64,
    /// The latents, the most informative one first.
    pub latents: Vec<LatentBits>,
}

/// What a latent says about classes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LatentBits {
    /// The latent.
    pub feature_id: u32,
    /// Mutual information of its mean activation, in bins, and the class, in bits.
    pub information: f64,
    /// The mean of the same over permuted classes.
    pub by_chance: Option<f64>,
    /// First-order estimate (Miller and Madow) of the part of `information` that is due to few
    /// passages.
    pub bias: f64,
    /// Number of passages in which it fires.
    pub passages: usize,
}

/// Generalized discrimination values.
#[derive(Debug, Clone, Serialize)]
pub struct Discrimination {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Number of passages.
    pub passages: usize,
    /// Of mean activations.
    pub activations: DiscriminationValue,
    /// Of mean codes.
    pub codes: DiscriminationValue,
}

/// A generalized discrimination value.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DiscriminationValue {
    /// The value: 0 if classes do not separate, negative if they do.
    pub gdv: f64,
    /// The least value for so many classes of equal size.
    pub bound: f64,
    /// `gdv` / `bound`.
    pub ratio: f64,
    /// Dimensions that were left out, since they are constant.
    pub constant_dimensions: usize,
}

/// Codes as hashes.
#[derive(Debug, Clone, Serialize)]
pub struct Hashes {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Number of passages.
    pub passages: usize,
    /// Latents per passage.
    pub k: usize,
    /// Share of passages whose code is that of another one too.
    pub redundancy_ratio: f64,
    /// Leave-one-out accuracy of the nearest neighbours by Jaccard similarity.
    pub knn_accuracy: f64,
    /// Accuracy of clusters on the half of the passages that was clustered.
    pub kmeans_train_accuracy: f64,
    /// Accuracy of the same clusters on the other half.
    pub kmeans_test_accuracy: f64,
    /// Spearman correlation of the similarity of codes with the cosine of activations, over pairs
    /// of passages.
    pub overlap_spearman: Option<f64>,
}

/// What overlap of codes is chance.
#[derive(Debug, Clone, Serialize)]
pub struct Overlap {
    /// Number of latents.
    pub d_sae: u64,
    /// Active latents of a code.
    pub k: u64,
    /// Expected number of latents that two random codes share.
    pub expected_overlap: f64,
    /// The probability below.
    pub level: f64,
    /// The smallest overlap that chance reaches with a probability below `level`.
    pub smallest_theta: Option<u64>,
    /// Latents that a member of a union shares with it, `k` if none is given.
    pub theta: u64,
    /// Probability that two random codes share at least `theta` latents.
    pub overlap_at_least_theta: f64,
    /// The largest number of codes whose union has a random code as a false member, by `theta`,
    /// with a probability of at most `level`.
    pub largest_union: u64,
}

/// Chances of overlaps of random codes (Ahmad and Hawkins 2016).
///
/// # Errors
/// A number is out of its range.
pub fn overlap(d_sae: u64, k: u64, theta: Option<u64>, level: f64) -> Result<Overlap> {
    let chance = CodeChance::new(d_sae, k)?;
    let theta = theta.unwrap_or(k);
    Ok(Overlap {
        d_sae,
        k,
        expected_overlap: chance.expected_overlap(),
        level,
        smallest_theta: chance.smallest_theta(level)?,
        theta,
        overlap_at_least_theta: chance.overlap_at_least(theta),
        largest_union: chance.largest_union(theta, level)?,
    })
}

/// The core features of a text.
#[derive(Debug, Clone, Serialize)]
pub struct CoreFeatures {
    /// Number of tokens, special ones left out.
    pub tokens: usize,
    /// Number of latents in the core of at least one token.
    pub in_token_cores: usize,
    /// The core: latents by the number of tokens whose core has them.
    pub core: Vec<CoreFeature>,
    /// Jaccard index of the core of the first half of the text with that of the whole text.
    pub jaccard_of_first_half: f64,
    /// Perplexity of the model on the text.
    pub perplexity: f64,
    /// Perplexity if the reconstruction replaces the activations.
    pub perplexity_reconstructed: f64,
    /// Perplexity if the reconstruction has the latents of the core only.
    pub perplexity_core: f64,
}

/// A latent of a core.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CoreFeature {
    /// The latent.
    pub feature_id: u32,
    /// Number of tokens whose core has it.
    pub tokens: usize,
}

/// The core features of a text of at most one context, and what the model predicts from them alone
/// (after CoreInfer, 2024).
///
/// # Errors
/// The text has fewer than two tokens or is longer than the context, the dictionary is no
/// autoencoder of one hook point, or the model fails.
pub fn core_features(opened: &Opened, text: &str, config: &CoreConfig) -> Result<CoreFeatures> {
    if opened.dictionary.transcodes() {
        bail!(
            "found a transcoder, expected an autoencoder: its reconstruction replaces what it reads"
        );
    }
    let hook = opened.only_hook()?;
    let tokenizer = opened.model.tokenizer()?;
    let (context, bos) = opened.context();
    let bos: Vec<u32> = bos.into_iter().collect();
    let own = tokenizer.encode(text)?;
    let tokens = [&bos[..], &own].concat();
    if own.len() < 2 || tokens.len() > context {
        bail!(
            "the text has {} tokens, expected 2 to {}",
            own.len(),
            context - bos.len()
        );
    }
    let second = opened.second()?;
    let HostCodes { values, indices, k } = opened
        .reader(second.as_ref())?
        .read(&[opened.block_of(&own, 0)])?;
    let first = bos.len() * k;
    let coder = &opened.dictionary.coder;
    let rows = SparseRows::new(&values[first..], &indices[first..], k, coder.d_sae())?;
    let core = text_core(&rows, 0..own.len(), config)?;
    let half = core_stability(&rows, own.len() / 2, own.len(), config)?;
    let in_core = core.latents();

    let ids = opened.model.tokens(&[&tokens])?;
    let clean = opened.model.run(
        ids.clone(),
        &HookedRun {
            capture: &[hook],
            logits: true,
            ..HookedRun::default()
        },
    )?;
    let x = clean.captured[&hook].clone(); // [1, tokens, d]
    let [_, n, d] = x.dims();
    let flat = x.reshape([n, d]);
    // BOS keeps its activation: it is no part of the text.
    let replaced = |kept: &dyn Fn(u32) -> bool| -> Result<f64> {
        let masked: Vec<f32> = values
            .iter()
            .zip(&indices)
            .map(|(value, index)| match u32::try_from(*index) {
                Ok(latent) if kept(latent) => *value,
                _ => 0.0,
            })
            .collect();
        let valid: Vec<i32> = indices.iter().map(|index| (*index).max(0)).collect();
        let device = opened.model.device();
        let codes = SparseCodes {
            values: Tensor::from_data(TensorData::new(masked, [n, k]), device),
            indices: Tensor::<2, Int>::from_data(TensorData::new(valid, [n, k]), device),
        };
        let y = coder.reconstruct(codes, flat.clone());
        let y = match bos.len() {
            0 => y,
            special => Tensor::cat(
                vec![
                    flat.clone().narrow(0, 0, special),
                    y.narrow(0, special, n - special),
                ],
                0,
            ),
        };
        let interventions = [Intervention::set(hook, y.reshape([1, n, d]))];
        let run = HookedRun {
            interventions: &interventions,
            logits: true,
            ..HookedRun::default()
        };
        perplexity(
            opened.model.run(ids.clone(), &run)?.logits,
            &tokens,
            bos.len(),
        )
    };
    Ok(CoreFeatures {
        tokens: own.len(),
        in_token_cores: core.in_token_cores,
        jaccard_of_first_half: half.jaccard,
        perplexity: perplexity(clean.logits, &tokens, bos.len())?,
        perplexity_reconstructed: replaced(&|_| true)?,
        perplexity_core: replaced(&|latent| in_core.binary_search(&latent).is_ok())?,
        core: core
            .ranked
            .iter()
            .map(|latent| CoreFeature {
                feature_id: latent.latent,
                tokens: latent.tokens,
            })
            .collect(),
    })
}

/// exp of the mean cross-entropy of the tokens after the first one of the text.
fn perplexity(logits: Option<Tensor<3>>, tokens: &[u32], special: usize) -> Result<f64> {
    let Some(logits) = logits else {
        bail!("the model gave no logits");
    };
    let [_, n, vocabulary] = logits.dims();
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    // With BOS the first token of the text is predicted too.
    let first = special.saturating_sub(1);
    let losses = (first..n - 1).map(|at| {
        let row = &logits[at * vocabulary..(at + 1) * vocabulary];
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|l| f64::from(l - most).exp()).sum();
        sum.ln() - f64::from(row[tokens[at + 1] as usize] - most)
    });
    let losses: Vec<f64> = losses.collect();
    Ok((losses.iter().sum::<f64>() / losses.len().max(1) as f64).exp())
}
