//! Text from a model, one token after another.

use crate::ModelError;
use crate::attention::Cache;
use crate::hook::HookPoint;
use crate::language_model::LanguageModel;
use crate::run::{HookedRun, Intervention};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is drawn.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Maximum number of tokens to add.
    pub max_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest `top_k` tokens may be drawn; 0 means all.
    pub top_k: usize,
    /// Only the fewest likeliest tokens whose probabilities, at this temperature and among the
    /// `top_k`, come to `top_p` may be drawn (nucleus sampling, Holtzman et al. 2020); 1 means all.
    pub top_p: f32,
    /// Seeds the draw.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_tokens: 60,
            temperature: 0.8,
            top_k: 40,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Refuses numbers that mean nothing.
    ///
    /// # Errors
    /// When there is one, which is named.
    pub fn check(&self) -> Result<(), ModelError> {
        let wrong = |what, found: String, expected| {
            Err(ModelError::Sampling {
                what,
                found,
                expected,
            })
        };
        if self.max_tokens == 0 {
            return wrong("tokens", "0".into(), "at least 1");
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let found = self.temperature.to_string();
            return wrong("temperature", found, "0 or more, and finite");
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return wrong("top-p", self.top_p.to_string(), "a number from 0 to 1");
        }
        Ok(())
    }
}

/// Continues `prompt` and hands each new token to `on_token`. Stops after the first of the model's
/// [stop tokens](LanguageModel::stop_tokens), which is the last token handed over, as in
/// transformers. Keys and values of earlier tokens are kept, so that a token costs a pass over one
/// position. Past the model's context the oldest tokens fall out of sight; positions shift then,
/// and every token costs a whole pass.
///
/// `interventions` act on every pass: a direction added at a hook point steers the text. Their
/// positions count from the first token in sight.
///
/// # Errors
/// When a number of `sampling` means nothing, a token of the prompt is outside the vocabulary, the
/// prompt is empty, or an intervention does not fit.
pub fn generate(
    model: &LanguageModel,
    prompt: &[u32],
    sampling: &Sampling,
    interventions: &[Intervention<'_>],
    on_token: &mut dyn FnMut(u32),
) -> Result<Vec<u32>, ModelError> {
    let on_tokens = &mut |new: &[u32]| on_token(new[0]);
    let mut texts = go_on(model, &[prompt], sampling, interventions, on_tokens)?;
    Ok(texts.pop().expect("one prompt"))
}

/// Continues prompts of one length side by side, each as [`generate`] does. One generator draws
/// for all of them, in their order.
///
/// # Errors
/// As [`generate`]; also when there is no prompt.
///
/// # Panics
/// When the prompts differ in length.
pub fn generate_batch(
    model: &LanguageModel,
    prompts: &[&[u32]],
    sampling: &Sampling,
    interventions: &[Intervention<'_>],
) -> Result<Vec<Vec<u32>>, ModelError> {
    go_on(model, prompts, sampling, interventions, &mut |_| ())
}

/// Hands the new tokens of all prompts to `on_tokens` at each step, until each has stopped.
fn go_on(
    model: &LanguageModel,
    prompts: &[&[u32]],
    sampling: &Sampling,
    interventions: &[Intervention<'_>],
    on_tokens: &mut dyn FnMut(&[u32]),
) -> Result<Vec<Vec<u32>>, ModelError> {
    sampling.check()?;
    model.check_head()?;
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut texts: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    let mut stopped = vec![None; texts.len()];
    let mut cache = Cache::default();
    let run = HookedRun {
        capture: &[HookPoint::FinalNorm],
        interventions,
        ..Default::default()
    };
    let n_ctx = model.config().n_ctx;
    let n_prompt = prompts.first().map_or(0, |prompt| prompt.len());
    for length in (n_prompt..).take(sampling.max_tokens) {
        if length > n_ctx {
            cache = Cache::default();
        }
        let start = length.saturating_sub(n_ctx) + cache.len;
        let rows: Vec<&[u32]> = texts
            .iter()
            .map(|text| text.get(start..).unwrap_or_default())
            .collect();
        let mut output = model.run_on(model.tokens(&rows)?, &run, &mut cache)?;
        let normalized = output
            .captured
            .remove(&HookPoint::FinalNorm)
            .expect("it was asked for");
        let [batch, pos, d_model] = normalized.dims();
        let last = normalized.narrow(1, pos - 1, 1).reshape([batch, d_model]);
        let logits: Vec<f32> = model.unembed(last).into_data().iter::<f32>().collect();
        let each = logits.chunks(logits.len() / batch);
        let new: Vec<u32> = each.map(|of| draw(of, sampling, &mut rng)).collect();
        for ((text, stopped), token) in texts.iter_mut().zip(&mut stopped).zip(&new) {
            text.push(*token);
            if stopped.is_none() && model.stop_tokens().contains(token) {
                *stopped = Some(text.len());
            }
        }
        on_tokens(&new);
        if stopped.iter().all(Option::is_some) {
            break;
        }
    }
    let ends = texts.into_iter().zip(stopped);
    Ok(ends
        .map(|(mut text, stopped)| {
            text.truncate(stopped.unwrap_or(text.len()));
            text.split_off(n_prompt)
        })
        .collect())
}

fn draw(logits: &[f32], sampling: &Sampling, rng: &mut ChaCha8Rng) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    });
    if sampling.temperature <= 0.0 {
        return order[0];
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let best = logits[order[0] as usize];
    let mut weights: Vec<f32> = order
        .iter()
        .map(|&t| ((logits[t as usize] - best) / sampling.temperature).exp())
        .collect();
    if sampling.top_p < 1.0 {
        let enough = weights.iter().sum::<f32>() * sampling.top_p;
        let mut sum = 0.0;
        let inside = weights
            .iter()
            .take_while(|weight| {
                let inside = sum < enough;
                sum += **weight;
                inside
            })
            .count();
        weights.truncate(inside.max(1));
    }
    let mut left = rng.random::<f32>() * weights.iter().sum::<f32>();
    for (token, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return *token;
        }
    }
    order[weights.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_temperature_takes_the_likeliest_and_the_lower_id_of_two() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let greedy = Sampling {
            temperature: 0.0,
            ..Default::default()
        };
        assert_eq!(draw(&[0.0, 2.0, 2.0, 1.0], &greedy, &mut rng), 1);
    }

    #[test]
    fn draws_follow_the_softmax_of_the_top_k() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let sampling = Sampling {
            temperature: 1.0,
            top_k: 2,
            ..Default::default()
        };
        let logits = [0.0, 3.0_f32.ln(), -1.0];
        let n = 20_000;
        let ones = (0..n)
            .filter(|_| draw(&logits, &sampling, &mut rng) == 1)
            .count();
        assert!(
            (ones as f64 / n as f64 - 0.75).abs() < 0.01,
            "{ones} of {n}"
        );
    }

    #[test]
    fn top_p_leaves_the_fewest_tokens_that_reach_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
        for (top_p, allowed) in [(0.49, 1), (0.51, 2), (0.81, 3), (0.96, 4)] {
            let sampling = Sampling {
                temperature: 1.0,
                top_k: 0,
                top_p,
                ..Default::default()
            };
            let drawn: std::collections::BTreeSet<u32> = (0..2000)
                .map(|_| draw(&logits, &sampling, &mut rng))
                .collect();
            assert_eq!(drawn, (0..allowed).collect(), "top_p {top_p}");
        }
    }
}
