//! What a change inside a model does to the tokens that it would write next: a latent or a neuron
//! is clamped, and the log-probabilities of all tokens are compared with those of the plain run
//! (Davies 2025, "Flash Interpretability", validates labels of neurons in this way).

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use lapidary_activations::ActivationsError;
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, LanguageModel, Start};

use crate::FeaturesError;

/// Windows of text with the model's plain log-probabilities on them.
pub struct ClampedRuns<'a> {
    model: &'a LanguageModel,
    tokens: Tensor<2, Int>, // [windows, pos]
    /// The positions that are changed and counted.
    positions: Vec<usize>,
    /// Where runs start: what comes before the change is computed once.
    start: Option<Start>,
    plain: Vec<f32>, // [d_vocab]
}

impl<'a> ClampedRuns<'a> {
    /// Runs of `model` on windows of one length, for changes at `at` or behind it. The first
    /// `untouched` positions of each window (BOS) are neither changed nor counted.
    ///
    /// # Errors
    /// There is no window or no position that counts, a token is not in the vocabulary, or the
    /// model has no logits.
    pub fn new(
        model: &'a LanguageModel,
        windows: &[Vec<u32>],
        untouched: usize,
        at: HookPoint,
    ) -> Result<Self, FeaturesError> {
        let pos = windows.first().map_or(0, Vec::len);
        if pos <= untouched {
            return Err(FeaturesError::Input {
                field: "windows",
                found: format!("{} of {pos} tokens", windows.len()),
                expected: format!("at least one, with more than {untouched} tokens"),
            });
        }
        let tokens = model.tokens(windows).map_err(ActivationsError::from)?;
        let mut runs = Self {
            model,
            tokens,
            positions: (untouched..pos).collect(),
            start: None,
            plain: vec![],
        };
        if let HookPoint::Block(layer, _) = at {
            let before = HookPoint::Block(layer, BlockHook::ResidPre);
            let run = HookedRun {
                capture: &[before],
                ..Default::default()
            };
            let output = model.run(runs.tokens.clone(), &run);
            let mut output = output.map_err(ActivationsError::from)?;
            let resid_pre = output.captured.remove(&before);
            runs.start = resid_pre.map(|resid_pre| Start { layer, resid_pre });
        }
        runs.plain = runs.log_probabilities(&[])?;
        Ok(runs)
    }

    /// How much a change moves the log-probability of each token, in nats, averaged over windows
    /// and positions, `[d_vocab]`.
    ///
    /// # Errors
    /// When the change does not fit the model.
    pub fn shifts(&self, change: Intervention<'_>) -> Result<Vec<f32>, FeaturesError> {
        let change = change.at_positions(&self.positions);
        let changed = self.log_probabilities(&[change])?;
        let pairs = changed.iter().zip(&self.plain);
        Ok(pairs.map(|(changed, plain)| changed - plain).collect())
    }

    /// The value at a hook point of the model at the positions that count,
    /// `[windows * pos, width]`.
    ///
    /// # Errors
    /// When the model has no such point behind the one that was named.
    pub fn values(&self, at: HookPoint) -> Result<Tensor<2>, FeaturesError> {
        let run = HookedRun {
            capture: &[at],
            start: self.start.clone(),
            ..Default::default()
        };
        let output = self.model.run(self.tokens.clone(), &run);
        let mut output = output.map_err(ActivationsError::from)?;
        let value = output.captured.remove(&at);
        let value = value.ok_or_else(|| FeaturesError::Input {
            field: "hook point",
            found: at.to_string(),
            expected: "one that the model computes".into(),
        })?;
        let counted = self.counted(value);
        let [windows, pos, width] = counted.dims();
        Ok(counted.reshape([windows * pos, width]))
    }

    fn counted(&self, value: Tensor<3>) -> Tensor<3> {
        let first = self.positions.first().copied().unwrap_or_default();
        value.narrow(1, first, self.positions.len())
    }

    /// Mean log-probability of each token over windows and positions.
    fn log_probabilities(&self, changes: &[Intervention<'_>]) -> Result<Vec<f32>, FeaturesError> {
        self.model.check_head().map_err(ActivationsError::from)?;
        let run = HookedRun {
            interventions: changes,
            logits: true,
            start: self.start.clone(),
            ..Default::default()
        };
        let output = self.model.run(self.tokens.clone(), &run);
        let logits = output.map_err(ActivationsError::from)?.logits;
        let logits = logits.ok_or_else(|| FeaturesError::Input {
            field: "model",
            found: "no logits".into(),
            expected: "logits".into(),
        })?;
        let mean = log_softmax(self.counted(logits), 2).mean_dim(1).mean_dim(0);
        Ok(mean.into_data().iter::<f32>().collect())
    }
}

/// Mean shift of some tokens; none if there are no tokens.
fn mean_shift(shifts: &[f32], tokens: &[u32]) -> Option<f64> {
    let sum: f64 = tokens.iter().map(|t| f64::from(shifts[*t as usize])).sum();
    (!tokens.is_empty()).then(|| sum / tokens.len() as f64)
}

/// Labels that a label is compared with.
pub struct OtherLabels {
    /// Whose label it is, and its tokens.
    labels: Vec<(usize, Vec<u32>)>,
    most: usize,
}

impl OtherLabels {
    /// At most `most` of these labels, each with whose it is. One more than `most` may be given,
    /// since a label is not compared with itself.
    pub fn new(labels: Vec<(usize, Vec<u32>)>, most: usize) -> Self {
        Self { labels, most }
    }

    /// The clamping score of the label of `whose`, whose tokens are `own`: the share of the other
    /// labels whose tokens shift less, ties counted half. 0.5 is chance, 1 means that no other
    /// label fits as well. None if it or all others have no tokens.
    pub fn clamping_score(&self, shifts: &[f32], whose: usize, own: &[u32]) -> Option<f64> {
        let own = mean_shift(shifts, own)?;
        let others = self.labels.iter().filter(|(other, _)| *other != whose);
        let others = others.take(self.most);
        let others: Vec<f64> = others
            .filter_map(|(_, tokens)| mean_shift(shifts, tokens))
            .collect();
        let below = others.iter().map(|other| match own.total_cmp(other) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        });
        let below: f64 = below.sum();
        (!others.is_empty()).then(|| below / others.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn windows() -> Vec<Vec<u32>> {
        let window = |seed: u32| (0..12).map(|i| (seed * 97 + i * 31) % 4000).collect();
        (1..4).map(window).collect()
    }

    /// Adds `factor` times what promotes the token.
    fn direction(model: &LanguageModel, token: usize, factor: f32) -> Tensor<1> {
        let row = model.unembedding().transpose().narrow(0, token, 1);
        let row = row / model.final_norm_weight().unsqueeze();
        row.reshape([-1]) * factor
    }

    #[test]
    fn a_planted_direction_moves_its_token_up_and_down() {
        let model = LanguageModel::load("embedded", &Device::flex()).unwrap();
        let at: HookPoint = "blocks.3.hook_resid_post".parse().unwrap();
        let runs = ClampedRuns::new(&model, &windows(), 1, at).unwrap();
        let shift = |factor: f32| {
            let add = Intervention::add(at, direction(&model, 17, factor));
            runs.shifts(add).unwrap()[17]
        };
        let found: Vec<f32> = [-8.0, -2.0, 0.0, 2.0, 8.0].map(shift).to_vec();
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
        assert!(found[2].abs() < 1e-5, "{found:?}");
        let shifts = runs
            .shifts(Intervention::add(at, direction(&model, 17, 8.0)))
            .unwrap();
        let others = (100..200).map(|token| (token as usize, vec![token]));
        let others = OtherLabels::new(others.collect(), 100);
        assert_eq!(others.clamping_score(&shifts, 17, &[17]), Some(1.0));
    }

    #[test]
    fn runs_that_start_late_and_whole_runs_agree() {
        let model = LanguageModel::load("embedded", &Device::flex()).unwrap();
        let (late, early) = ("blocks.2.hook_resid_post", "hook_embed");
        let [late, early] = [late, early].map(|at| at.parse::<HookPoint>().unwrap());
        let [late_runs, early_runs] =
            [late, early].map(|at| ClampedRuns::new(&model, &windows(), 1, at).unwrap());
        let add = || Intervention::add(late, direction(&model, 5, 3.0));
        let [a, b] = [&late_runs, &early_runs].map(|runs| runs.shifts(add()).unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        // By hand: probabilities of one window, at the positions behind the first.
        let one = ClampedRuns::new(&model, &windows()[..1], 1, late).unwrap();
        let run = |interventions: &[Intervention<'_>]| {
            let run = HookedRun {
                interventions,
                logits: true,
                ..Default::default()
            };
            let tokens = model.tokens(&windows()[..1]).unwrap();
            let logits = model.run(tokens, &run).unwrap().logits.unwrap();
            let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
            let rows = logits.chunks_exact(model.config().d_vocab).skip(1);
            let log_p = rows.map(|row| {
                let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
                f64::from(row[9]) - sum.ln()
            });
            log_p.sum::<f64>() / 11.0
        };
        let behind: Vec<usize> = (1..12).collect();
        let expected = run(&[add().at_positions(&behind)]) - run(&[]);
        let found = f64::from(one.shifts(add()).unwrap()[9]);
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }

    #[test]
    fn the_score_counts_labels_that_fit_worse() {
        let shifts = [0.5, -1.0, 2.0, 0.5];
        let others = [vec![0], vec![1], vec![2], vec![3], vec![1, 2], vec![]];
        let others = OtherLabels::new(others.into_iter().enumerate().collect(), 6);
        // Mean shift of the own label 0.5: above -1, equal to 0.5 three times (0, 3, mean of 1 and
        // 2), below 2.
        let expected = (1.0 + 3.0 * 0.5) / 5.0;
        assert_eq!(others.clamping_score(&shifts, 9, &[0]), Some(expected));
        // Without the label itself, and with the first two of the others alone.
        let expected = (1.0 + 2.0 * 0.5) / 4.0;
        assert_eq!(others.clamping_score(&shifts, 0, &[0]), Some(expected));
        let two = OtherLabels::new(vec![(0, vec![0]), (1, vec![1]), (2, vec![2])], 2);
        assert_eq!(two.clamping_score(&shifts, 0, &[0]), Some(0.5));
        assert_eq!(others.clamping_score(&shifts, 9, &[]), None);
        let none = OtherLabels::new(vec![(1, vec![])], 1);
        assert_eq!(none.clamping_score(&shifts, 0, &[0]), None);
        let model = LanguageModel::load("embedded", &Device::flex()).unwrap();
        let error = ClampedRuns::new(&model, &[vec![3]], 1, "hook_embed".parse().unwrap());
        assert!(error.err().unwrap().to_string().contains("windows"));
    }
}
