//! Labels that say in words or tokens what a latent responds to, and scores that say how well.
//!
//! - [`pmi_labels`] finds the n-gram that best tells a latent's contexts from the rest of a corpus;
//!   [`top_token_label`] is the baseline;
//! - [`Examples`] chooses the windows on which a label is tested, [`detection`] and [`fuzzing`]
//!   test it;
//! - [`label_latents`] does this for all latents of a text;
//! - [`TokenLabel`] predicts from a label made of tokens, [`explanation_prompt`] and its neighbours
//!   ask a language model, which an [`Endpoint`] reaches; [`explain_latents`] is the whole job.

mod chance;
mod endpoint;
mod examples;
mod explanation;
mod job;
mod label_judge;
mod labelling;
mod ngrams;
mod pmi;
mod prompts;
mod replies;
mod scoring;

pub use endpoint::{Endpoint, EndpointConfig, Reply};
pub use examples::{
    ExampleConfig, Examples, ExamplesOrTooFew, Split, TooFewWindows, WINDOW, Window,
};
pub use explanation::LatentTexts;
pub use job::{
    Estimate, Explained, JobConfig, Journal, LabelTask, Prices, RequestKind, Totals, Usage,
    estimate, explain_latents,
};
pub use label_judge::{LabelPlace, TokenLabel};
pub use labelling::{LABEL_WORDS, LabelMethod, LatentLabel, label_latents};
pub use ngrams::{CandidateSet, CorpusCounts, LabelContext, MAX_NGRAM, Ngram};
pub use pmi::{PmiConfig, PmiLabel, pmi_labels, top_token_label};
pub use prompts::{
    Batch, MARK_THRESHOLD, Message, Role, TextContext, WINDOWS_PER_PROMPT, detection_prompts,
    estimated_tokens, explanation_prompt, fuzzing_prompts,
};
pub use replies::{MAX_EXPLANATION, parse_explanation, parse_predictions};
pub use scoring::{
    Confusion, FuzzingItem, LatentScore, Scores, activation_marks, detection, fuzzing,
    fuzzing_items,
};
