//! A task: prompts on which a model shows a behaviour, each with a corrupted one of the same length
//! on which it does not.

use crate::{CircuitError, Metric};
use lapidary_model::{LanguageModel, ModelError, Tokenizer};
use serde::Deserialize;
use std::path::Path;

/// A prompt, its corrupted version, and what should follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids of the prompt that needs the circuit.
    pub clean: Vec<u32>,
    /// As many token ids, of the prompt on which the behaviour is broken.
    pub corrupted: Vec<u32>,
    /// The tokens that are right after `clean`.
    pub answers: Vec<u32>,
    /// The tokens that are wrong after `clean`.
    pub wrong: Vec<u32>,
}

/// Prompts and the number that measures them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What it is called in tables.
    pub name: String,
    /// At least one.
    pub prompts: Vec<Prompt>,
    /// What is measured.
    pub metric: Metric,
}

/// A prompt in words, as tasks are written down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Text {
    /// The prompt that needs the circuit.
    pub clean: String,
    /// The prompt on which the behaviour is broken.
    pub corrupted: String,
    /// What is right after `clean`, with its leading space.
    pub answer: OneOrSeveral,
    /// What is wrong after `clean`.
    pub wrong: OneOrSeveral,
}

/// A text or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "`answer` and `wrong` must each be a text or a list of texts"
)]
pub enum OneOrSeveral {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl OneOrSeveral {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        }
    }
}

impl Prompt {
    /// The token ids of a prompt in words, with BOS before it if the model has one and
    /// `prepend_bos`.
    ///
    /// # Errors
    /// In words: an answer that is not one token, prompts of different lengths, or longer than the
    /// context.
    pub fn of_text(text: &Text, model: &LanguageModel, prepend_bos: bool) -> Result<Self, String> {
        let tokenizer = model.tokenizer().map_err(|e| e.to_string())?;
        let bos = model.config().bos.filter(|_| prepend_bos);
        let prompt = |text: &str| -> Result<Vec<u32>, String> {
            let ids = tokenizer.encode(text).map_err(|e| e.to_string())?;
            let given = bos.is_some() && ids.first().copied() == bos;
            let ids: Vec<u32> = bos.filter(|_| !given).into_iter().chain(ids).collect();
            match (ids.len(), model.config().n_ctx) {
                (0, _) => Err("a prompt without tokens".into()),
                (found, n_ctx) if found > n_ctx => Err(format!(
                    "a prompt of {found} tokens, expected at most the model's context, {n_ctx}"
                )),
                _ => Ok(ids),
            }
        };
        let d_vocab = model.config().d_vocab;
        let tokens = |field: &str, given: &OneOrSeveral| -> Result<Vec<u32>, String> {
            if given.texts().is_empty() {
                return Err(format!("{field}: found an empty list, expected a token"));
            }
            let of_text = |answer: &String| {
                let ids =
                    continuation(tokenizer, &text.clean, answer).map_err(|e| e.to_string())?;
                match ids.as_deref() {
                    Some([id]) if (*id as usize) < d_vocab => Ok(*id),
                    Some([id]) => Err(format!(
                        "{field}: found {answer:?}, which is token {id}, expected one below the \
                         size of the vocabulary, {d_vocab}"
                    )),
                    Some(ids) => Err(format!(
                        "{field}: found {answer:?}, which is {} tokens of this model after the \
                         prompt, expected one token",
                        ids.len()
                    )),
                    None => Err(format!(
                        "{field}: found {answer:?}, which changes the tokens of the prompt that it \
                         follows, expected a text that begins a new token"
                    )),
                }
            };
            given.texts().iter().map(of_text).collect()
        };
        let prompt = Self {
            clean: prompt(&text.clean)?,
            corrupted: prompt(&text.corrupted)?,
            answers: tokens("answer", &text.answer)?,
            wrong: tokens("wrong", &text.wrong)?,
        };
        let mut both = text.wrong.texts().iter().zip(&prompt.wrong);
        if let Some((wrong, _)) = both.find(|(_, id)| prompt.answers.contains(id)) {
            return Err(format!(
                "wrong: found {wrong:?}, which is an answer too, expected another token"
            ));
        }
        match (prompt.clean.len(), prompt.corrupted.len()) {
            (clean, corrupted) if clean == corrupted => Ok(prompt),
            (clean, corrupted) => Err(format!(
                "corrupted: found {corrupted} tokens, expected {clean} as in clean"
            )),
        }
    }
}

/// The token ids of `text` after a prompt; `None` if the prompt's own last tokens are others with
/// it.
pub(crate) fn continuation(
    tokenizer: &Tokenizer,
    prompt: &str,
    text: &str,
) -> Result<Option<Vec<u32>>, ModelError> {
    let before = tokenizer.encode(prompt)?;
    let whole = tokenizer.encode(&format!("{prompt}{text}"))?;
    Ok(whole.strip_prefix(&before[..]).map(<[u32]>::to_vec))
}

impl Task {
    /// A task of a JSON Lines file: an object `{"clean", "corrupted", "answer", "wrong"}` in each
    /// line, in which the last two are a text or a list of texts. The metric is the logit
    /// difference.
    ///
    /// # Errors
    /// The file cannot be read, a line is not such an object, or its prompts do not fit the model.
    pub fn read(
        path: &Path,
        model: &LanguageModel,
        prepend_bos: bool,
    ) -> Result<Self, CircuitError> {
        let text = lapidary_io::read_text(path)?;
        let mut prompts = vec![];
        for (line, text) in text.lines().enumerate() {
            if text.trim().is_empty() {
                continue;
            }
            let wrong = |problem: String| CircuitError::TaskFile {
                path: path.into(),
                line: line + 1,
                problem,
            };
            let text: Text = serde_json::from_str(text).map_err(|e| {
                wrong(format!(
                    "{e}: expected an object with clean, corrupted, answer and wrong"
                ))
            })?;
            prompts.push(Prompt::of_text(&text, model, prepend_bos).map_err(wrong)?);
        }
        if prompts.is_empty() {
            return Err(CircuitError::TaskFile {
                path: path.into(),
                line: 1,
                problem: "found no prompt, expected one in each line".into(),
            });
        }
        let name = path.file_stem().unwrap_or(path.as_os_str());
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            prompts,
            metric: Metric::LogitDifference,
        })
    }

    /// The prompts in groups of one length, at most `tokens` token ids each (but at least one
    /// prompt), the shortest first.
    pub(crate) fn groups(&self, tokens: usize) -> Vec<Vec<&Prompt>> {
        let mut sorted: Vec<&Prompt> = self.prompts.iter().collect();
        sorted.sort_by_key(|prompt| prompt.clean.len());
        let mut groups: Vec<Vec<&Prompt>> = vec![];
        for prompt in sorted {
            let length = prompt.clean.len();
            match groups.last_mut() {
                Some(group)
                    if group[0].clean.len() == length && (group.len() + 1) * length <= tokens =>
                {
                    group.push(prompt);
                }
                _ => groups.push(vec![prompt]),
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// Its tokenizer puts a token of its own before a text that begins with a space, but not
    /// before a word that follows another.
    #[test]
    fn an_answer_is_cut_as_it_is_after_the_prompt() {
        let folder = "/../../tests/fixtures/models/sentencepiece-like";
        let folder = format!("{}{folder}", env!("CARGO_MANIFEST_DIR"));
        let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert!(tokenizer.encode(" the").unwrap().len() > 1);
        let of = |answer: &str| {
            let text = |text: &str| OneOrSeveral::One(text.into());
            let text = Text {
                clean: "the".into(),
                corrupted: "the".into(),
                answer: text(answer),
                wrong: text(" of"),
            };
            Prompt::of_text(&text, &model, false)
        };
        let prompt = of(" the").unwrap();
        assert_eq!(prompt.answers, tokenizer.encode("the").unwrap());
        assert!(of(" the the").unwrap_err().contains("expected one token"));
    }
}
