//! What a labelling job uses, and what it will use, in requests, tokens and money.

use super::super::endpoint::Reply;
use super::super::prompts::{
    Batch, detection_prompts, estimated_tokens, explanation_prompt, fuzzing_prompts,
};
use super::super::replies::MAX_EXPLANATION;
use super::LabelTask;
use crate::FeaturesError;

/// Requests and their tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests; one that was tried several times counts once.
    pub requests: u64,
    /// Tokens read by the model.
    pub prompt_tokens: u64,
    /// Tokens written by it.
    pub completion_tokens: u64,
}

impl Usage {
    /// Adds the counts of another.
    pub fn add(&mut self, other: &Usage) {
        self.requests += other.requests;
        // What a server says it counted may be anything.
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self
            .completion_tokens
            .saturating_add(other.completion_tokens);
    }

    pub(super) fn add_reply(&mut self, reply: &Reply) {
        self.add(&Usage {
            requests: 1,
            prompt_tokens: reply.prompt_tokens,
            completion_tokens: reply.completion_tokens,
        });
    }

    /// What the tokens cost, in the currency of the prices.
    pub fn cost(&self, prices: &Prices) -> f64 {
        let cost = self.prompt_tokens as f64 * prices.prompt
            + self.completion_tokens as f64 * prices.completion;
        cost / 1e6
    }
}

/// Prices per million tokens, in any currency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Of tokens read.
    pub prompt: f64,
    /// Of tokens written.
    pub completion: f64,
}

/// What a job will use if every request succeeds at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Requests, exactly if every latent gets a label; tokens, roughly.
    pub usage: Usage,
    /// What they cost, if prices are given.
    pub cost: Option<f64>,
}

/// Estimates a job before anything is sent. What a journal already holds is not taken off.
///
/// A token is taken for 4 characters of a prompt ([`estimated_tokens`]). Explanations are taken for
/// as long as they can be, [`MAX_EXPLANATION`] characters, and a list of predictions for 3 tokens
/// per window; no reply is longer than `max_tokens`. A model that thinks before it replies writes
/// more.
///
/// # Errors
/// As [`explain_latents`](super::explain_latents) for its tasks, or when a price is not a number of
/// 0 or more.
pub fn estimate(
    tasks: &[LabelTask<'_>],
    max_tokens: u32,
    prices: Option<&Prices>,
) -> Result<Estimate, FeaturesError> {
    for price in prices.iter().flat_map(|p| [p.prompt, p.completion]) {
        if !(price.is_finite() && price >= 0.0) {
            return Err(FeaturesError::Input {
                field: "prices",
                found: price.to_string(),
                expected: "a number, 0 or more".into(),
            });
        }
    }
    let explanation = "x".repeat(MAX_EXPLANATION);
    let mut usage = Usage::default();
    let mut add = |prompt: usize, reply: usize| {
        usage.add(&Usage {
            requests: 1,
            prompt_tokens: prompt as u64,
            completion_tokens: (reply as u64).min(u64::from(max_tokens)),
        });
    };
    for task in tasks {
        task.check()?;
        let prompt = explanation_prompt(&task.contexts)?;
        add(estimated_tokens(&prompt), MAX_EXPLANATION.div_ceil(4));
        // The order of the windows makes no difference here, so any seed will do.
        let detection = detection_prompts(&explanation, &task.windows, 0);
        let fuzzing = fuzzing_prompts(&explanation, &task.windows, &task.marks, 0)?;
        for Batch { messages, windows } in detection.iter().chain(&fuzzing) {
            add(estimated_tokens(messages), 3 * windows.len());
        }
    }
    Ok(Estimate {
        usage,
        cost: prices.map(|prices| usage.cost(prices)),
    })
}
