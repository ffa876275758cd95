//! Text from a model, one token after another.

use crate::ModelError;
use crate::hook::HookPoint;
use crate::language_model::LanguageModel;
use crate::run::HookedRun;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is drawn.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// Most tokens to add.
    pub max_tokens: usize,
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest `top_k` tokens may be drawn; 0 means all.
    pub top_k: usize,
    /// Seeds the draw.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_tokens: 60,
            temperature: 0.8,
            top_k: 40,
            seed: 0,
        }
    }
}

/// Continues `prompt` and hands each new token to `on_token`; stops at the end-of-sequence token. Past the model's
/// context, the oldest tokens fall out of sight.
///
/// # Errors
/// When a token of the prompt is outside the vocabulary or the prompt is empty.
pub fn generate(
    model: &LanguageModel,
    prompt: &[u32],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(u32),
) -> Result<Vec<u32>, ModelError> {
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut tokens = prompt.to_vec();
    for _ in 0..sampling.max_tokens {
        let start = tokens.len().saturating_sub(model.config().n_ctx);
        let window = model.tokens(&[&tokens[start..]])?;
        let run = HookedRun {
            capture: &[HookPoint::FinalNorm],
            ..Default::default()
        };
        let mut output = model.run(window, &run)?;
        let normalized = output
            .captured
            .remove(&HookPoint::FinalNorm)
            .expect("it was asked for");
        let [_, pos, d_model] = normalized.dims();
        let last = normalized.narrow(1, pos - 1, 1).reshape([1, d_model]);
        let logits: Vec<f32> = model.unembed(last).into_data().iter::<f32>().collect();
        let next = draw(&logits, sampling, &mut rng);
        if Some(next) == model.config().eos {
            break;
        }
        tokens.push(next);
        on_token(next);
    }
    Ok(tokens.split_off(prompt.len()))
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
    let weights: Vec<f32> = order
        .iter()
        .map(|&t| ((logits[t as usize] - best) / sampling.temperature).exp())
        .collect();
    let mut left = rng.random::<f32>() * weights.iter().sum::<f32>();
    for (token, weight) in order.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return *token;
        }
    }
    order[order.len() - 1]
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
}
