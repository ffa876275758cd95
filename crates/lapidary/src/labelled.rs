//! Texts with classes, cut into passages of tokens: what probes and class-incremental runs learn
//! from.

use crate::error::{Result, bail};
use crate::progress::Progress;
use lapidary_activations::{Corpus, TokenPieces};
use lapidary_model::LanguageModel;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A passage's tokens, BOS first where there is one, and its class.
pub type Passage = (Vec<u32>, usize);

/// Which texts, and how they are cut and split.
#[derive(Debug, Clone)]
pub struct LabelledTexts {
    /// Texts with labels: a file, a folder or a dataset of the hub, or `embedded`.
    pub source: String,
    /// The field or column that holds the text.
    pub text_field: String,
    /// The field or column that holds the class.
    pub label_field: String,
    /// Number of classes, at least 2; the most frequent ones are read.
    pub classes: usize,
    /// Maximum number of passages of a text.
    pub passages: usize,
    /// Maximum number of passages of a class for training, and for testing.
    pub samples: usize,
    /// Share of each class's texts that are for testing, more than 0 and less than 1.
    pub test_share: f64,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// Passages to train on and to test on. Those of one text are all on one side.
#[derive(Debug, Clone)]
pub struct LabelledPassages {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Passages for training.
    pub train: Vec<Passage>,
    /// Passages for testing.
    pub test: Vec<Passage>,
    /// Passages of texts of other classes; their numbers mean nothing. Read where they are asked
    /// for.
    pub others: Vec<Vec<u32>>,
}

impl LabelledTexts {
    /// Reads the texts and cuts them into passages of at most `context` tokens, which begin with
    /// `bos`. At most `others` passages of texts of other classes are read.
    ///
    /// # Errors
    /// The texts cannot be read, there are fewer than two classes, or a class has too few texts for
    /// both sides.
    pub fn read(
        &self,
        model: &LanguageModel,
        (context, bos): (usize, Option<u32>),
        others: usize,
        progress: &dyn Progress,
    ) -> Result<LabelledPassages> {
        let mut classes = self.by_class(progress)?;
        let rest = classes.split_off(self.classes.max(2).min(classes.len()));
        if classes.len() < 2 {
            bail!(
                "{}: `{}`: found {} classes, expected at least 2",
                self.source,
                self.label_field,
                classes.len()
            );
        }
        let bos: Vec<u32> = bos.into_iter().collect();
        let room = context.saturating_sub(bos.len());
        if room == 0 {
            let tokens = match context {
                1 => "1 token".to_owned(),
                n => format!("{n} tokens"),
            };
            let least = match bos.is_empty() {
                true => "at least 1",
                false => "at least 2 (BOS and one more)",
            };
            bail!(
                "{}: found a context of {tokens}, expected {least}",
                model.name()
            );
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let tokenizer = model.tokenizer()?;
        // A long text is tokenized only as far as it is read.
        let cut = |text: &mut String| -> Result<Vec<Vec<u32>>> {
            let mut pieces = TokenPieces::new(std::mem::take(text));
            let most = room.saturating_mul(self.passages);
            let mut tokens = Vec::new();
            while tokens.len() < most
                && let Some(piece) = pieces.next_piece(tokenizer)?
            {
                tokens.extend(piece);
            }
            let passages = tokens.chunks(room).take(self.passages);
            Ok(passages.map(|passage| [&bos, passage].concat()).collect())
        };
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for (class, (name, texts)) in classes.iter_mut().enumerate() {
            texts.shuffle(&mut rng);
            let tested = ((texts.len() as f64 * self.test_share).round() as usize).max(1);
            if tested >= texts.len() {
                // the wrong field may hold whole texts
                let name: String = name.chars().take(40).collect();
                let count = match texts.len() {
                    1 => "1 text".to_owned(),
                    n => format!("{n} texts"),
                };
                bail!(
                    "{}: class `{name}`: found {count}, expected more than the {tested} to test on, so that at least 1 is left to train on",
                    self.source
                );
            }
            for (text, whole) in texts.iter_mut().enumerate() {
                let part = if text < tested { &mut test } else { &mut train };
                part.extend(cut(whole)?.into_iter().map(|passage| (passage, class)));
            }
        }
        for part in [&mut train, &mut test] {
            part.shuffle(&mut rng);
            let mut taken = vec![0; classes.len()];
            part.retain(|(_, class)| {
                taken[*class] += 1;
                taken[*class] <= self.samples
            });
        }
        let mut rest: Vec<String> = rest.into_iter().flat_map(|(_, texts)| texts).collect();
        rest.shuffle(&mut rng);
        let mut unlabelled = Vec::new();
        for text in &mut rest {
            if unlabelled.len() >= others {
                break;
            }
            unlabelled.extend(cut(text)?);
        }
        unlabelled.truncate(others);
        Ok(LabelledPassages {
            classes: classes.into_iter().map(|(name, _)| name).collect(),
            train,
            test,
            others: unlabelled,
        })
    }

    /// The texts of each class, the most frequent class first, of equal ones by name.
    fn by_class(&self, progress: &dyn Progress) -> Result<Vec<(String, Vec<String>)>> {
        let mut texts = Corpus::open(&self.source, &self.text_field)?.rows();
        let mut labels = Corpus::labels(&self.source, &self.label_field)?.rows();
        let mut of_class: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut skipped = 0;
        loop {
            match (texts.next().transpose()?, labels.next().transpose()?) {
                (Some(Some(text)), Some(Some(label))) => {
                    of_class.entry(label).or_default().push(text);
                }
                (Some(_), Some(_)) => skipped += 1,
                (None, None) => break,
                _ => bail!(
                    "{}: has other rows with `{}` than with `{}`",
                    self.source,
                    self.text_field,
                    self.label_field
                ),
            }
        }
        match skipped {
            0 => {}
            1 => progress.say("note", "1 row without text or class was skipped"),
            n => progress.say(
                "note",
                &format!("{n} rows without text or class were skipped"),
            ),
        }
        let mut classes: Vec<(String, Vec<String>)> = of_class.into_iter().collect();
        classes.sort_by_key(|(_, texts)| std::cmp::Reverse(texts.len()));
        Ok(classes)
    }
}
