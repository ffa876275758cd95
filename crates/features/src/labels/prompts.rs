//! Prompts that ask a language model to explain a latent, or to judge an explanation by detection
//! or fuzzing (Paulo et al. 2024).
//!
//! Tokens come as pieces of text whose concatenation is the window's text. A window is shown on one
//! line: line breaks and other control characters are escaped.

use super::chance::{shuffled, stream};
use super::replies::parse_predictions;
use super::scoring::STRONG;
use crate::FeaturesError;

mod few_shot;

use few_shot::{DETECTION, FUZZING, Shot};

/// Most windows in one prompt.
pub const WINDOWS_PER_PROMPT: usize = 5;

/// Tokens above this fraction of their context's maximum are marked in an explanation prompt.
pub const MARK_THRESHOLD: f32 = STRONG;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name in chat interfaces: `system`, `user`, `assistant`.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What they say.
    pub content: String,
}

impl Message {
    fn new(role: Role, content: impl Into<String>) -> Self {
        Message {
            role,
            content: content.into(),
        }
    }
}

/// A context of a latent as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextContext<'a> {
    /// The text of each token.
    pub pieces: &'a [String], // [window]
    /// The latent's activation on each token.
    pub activations: &'a [f32], // [window]
}

const EXPLAIN: &str = "You study one latent of a sparse autoencoder, a feature that a language \
model computes on every token. You see excerpts of text in which the latent fires. Tokens on which \
it fires strongly are between << and >>. After each excerpt these tokens are listed with their \
activation, from 0 to 10.\n\
Describe what the marked tokens, or the text right before them, have in common. Be specific and \
brief: one sentence, without marks and without a list of examples. If there is no common pattern, \
say so.\n\
End your reply with a line of the form\n[EXPLANATION]: your description";

const DETECT: &str = "You judge whether a description fits pieces of text. You get a description \
of what a latent of a language model responds to, and numbered examples of text. For each example \
decide whether it contains what is described.\n\
Reply with a list of 1 (yes) and 0 (no), one per example and in their order, and nothing else.";

const FUZZ: &str = "You judge whether a description fits marked tokens. You get a description of \
what a latent of a language model responds to, and numbered examples of text in which some tokens \
are between << and >>. For each example decide whether the marked tokens are those that are \
described. The described pattern elsewhere in the text does not count.\n\
Reply with a list of 1 (yes) and 0 (no), one per example and in their order, and nothing else.";

/// The prompt that asks for an explanation of a latent from its strongest contexts.
///
/// Tokens above [`MARK_THRESHOLD`] of their context's maximum are between << and >>; neighbours
/// share a pair. They are also listed as (token: 0–10), where 10 is the highest activation of all
/// the contexts, rounded.
///
/// # Errors
/// When there are no contexts, or a context does not have one finite activation per piece and one
/// above 0.
pub fn explanation_prompt(contexts: &[TextContext<'_>]) -> Result<Vec<Message>, FeaturesError> {
    let mut highest = 0.0_f32;
    for context in contexts {
        same_length(
            context.pieces.len(),
            context.activations.len(),
            "activations",
        )?;
        if context.activations.iter().any(|value| !value.is_finite()) {
            return Err(FeaturesError::Input {
                field: "contexts",
                found: "an activation that is no number".into(),
                expected: "finite activations".into(),
            });
        }
        let max = max(context.activations);
        if max == 0.0 {
            return Err(FeaturesError::Input {
                field: "contexts",
                found: "one in which the latent does not fire".into(),
                expected: "an activation above 0 in each".into(),
            });
        }
        highest = highest.max(max);
    }
    if contexts.is_empty() {
        return Err(FeaturesError::Input {
            field: "contexts",
            found: "none".into(),
            expected: "at least one".into(),
        });
    }
    let mut content = String::new();
    for (number, context) in contexts.iter().enumerate() {
        let threshold = MARK_THRESHOLD * max(context.activations);
        let marks: Vec<bool> = context
            .activations
            .iter()
            .map(|&value| value > threshold)
            .collect();
        let listed: Vec<String> = context
            .pieces
            .iter()
            .zip(context.activations)
            .zip(&marks)
            .filter(|(_, mark)| **mark)
            .map(|((piece, &value), _)| {
                let level = 10.0 * f64::from(value) / f64::from(highest);
                format!("(\"{}\": {})", one_line(piece), level.round())
            })
            .collect();
        content += &format!(
            "Example {}: {}\nActivations: {}\n",
            number + 1,
            marked(context.pieces, &marks),
            listed.join(", ")
        );
    }
    Ok(vec![
        Message::new(Role::System, EXPLAIN),
        Message::new(Role::User, content),
    ])
}

/// One prompt that asks about a few windows, and which windows those are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The prompt.
    pub messages: Vec<Message>,
    /// The windows in the order in which the prompt shows them, as places in the caller's list.
    pub windows: Vec<usize>,
}

impl Batch {
    /// The reply's predictions, one per window of [`Batch::windows`]. All are `None` if the reply
    /// is malformed.
    pub fn predictions(&self, reply: &str) -> Vec<Option<bool>> {
        match parse_predictions(reply, self.windows.len()) {
            Some(predictions) => predictions.into_iter().map(Some).collect(),
            None => vec![None; self.windows.len()],
        }
    }
}

/// Prompts that ask for each window whether it contains what the explanation describes.
///
/// The windows (their pieces of text) are shuffled by the seed, so that their order says nothing,
/// and asked about in groups of [`WINDOWS_PER_PROMPT`]; the last group may be smaller.
pub fn detection_prompts(explanation: &str, windows: &[Vec<String>], seed: u64) -> Vec<Batch> {
    let texts: Vec<String> = windows
        .iter()
        .map(|pieces| one_line(&pieces.concat()))
        .collect();
    batches(DETECT, &DETECTION, explanation, &texts, seed)
}

/// Prompts that ask for each window whether its marked tokens are those that the explanation
/// describes; otherwise as [`detection_prompts`].
///
/// # Errors
/// When there are not as many lists of marks as windows, or a list is not one mark per piece.
pub fn fuzzing_prompts(
    explanation: &str,
    windows: &[Vec<String>],
    marks: &[Vec<bool>],
    seed: u64,
) -> Result<Vec<Batch>, FeaturesError> {
    same_length(windows.len(), marks.len(), "lists of marks")?;
    let mut texts = Vec::with_capacity(windows.len());
    for (pieces, marks) in windows.iter().zip(marks) {
        same_length(pieces.len(), marks.len(), "marks")?;
        texts.push(marked(pieces, marks));
    }
    Ok(batches(FUZZ, &FUZZING, explanation, &texts, seed))
}

/// Estimated number of tokens of a prompt: its characters divided by 4, rounded up.
pub fn estimated_tokens(messages: &[Message]) -> usize {
    let characters = messages
        .iter()
        .map(|message| message.content.chars().count());
    characters.sum::<usize>().div_ceil(4)
}

fn batches(
    instructions: &str,
    shots: &[Shot],
    explanation: &str,
    texts: &[String],
    seed: u64,
) -> Vec<Batch> {
    const ORDER: u64 = 0x6f72_6465;
    let mut opening = vec![Message::new(Role::System, instructions)];
    for shot in shots {
        opening.push(question(shot.explanation, shot.windows.iter().copied()));
        opening.push(Message::new(Role::Assistant, shot.reply));
    }
    shuffled(texts.len(), stream(&[seed, ORDER]))
        .chunks(WINDOWS_PER_PROMPT)
        .map(|windows| {
            let mut messages = opening.clone();
            let shown = windows.iter().map(|&window| texts[window].as_str());
            messages.push(question(explanation, shown));
            Batch {
                messages,
                windows: windows.to_vec(),
            }
        })
        .collect()
}

fn question<'a>(explanation: &str, texts: impl ExactSizeIterator<Item = &'a str>) -> Message {
    let mut content = format!(
        "Description: {}\nReply with a list of exactly {}.\n",
        one_line(explanation),
        texts.len()
    );
    for (number, text) in texts.enumerate() {
        content += &format!("Example {}: {text}\n", number + 1);
    }
    Message::new(Role::User, content)
}

/// The text with marked pieces between << and >>; marked neighbours share a pair.
fn marked(pieces: &[String], marks: &[bool]) -> String {
    let mut text = String::new();
    let mut inside = false;
    for (piece, &mark) in pieces.iter().zip(marks) {
        if mark != inside {
            text += if mark { "<<" } else { ">>" };
            inside = mark;
        }
        text += &one_line(piece);
    }
    if inside {
        text += ">>";
    }
    text
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

fn max(activations: &[f32]) -> f32 {
    activations.iter().copied().fold(0.0, f32::max)
}

fn same_length(windows: usize, found: usize, field: &'static str) -> Result<(), FeaturesError> {
    if windows == found {
        return Ok(());
    }
    Err(FeaturesError::Input {
        field,
        found: found.to_string(),
        expected: windows.to_string(),
    })
}

#[cfg(test)]
mod tests;
