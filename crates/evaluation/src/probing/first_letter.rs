//! The first-letter task of Chanin et al. 2024, made of the model's own vocabulary: after some
//! examples, at which letter does this word begin? The word is one token, and is read there.

use lapidary_model::LanguageModel;
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::texts::Reading;
use crate::error::EvaluationError;

/// Examples before the word.
const EXAMPLES: usize = 10;

/// Share of the words for training.
const TRAIN: f64 = 0.8;

/// Prompts of the first-letter task. Words to train on come first.
#[derive(Clone, Debug)]
pub struct FirstLetter {
    /// The words, with the space before them if their token has one.
    pub words: Vec<String>,
    /// Their first letters, a = 0.
    pub letters: Vec<usize>,
    /// Token ids of each prompt, and the place of the word in it.
    pub prompts: Vec<(Vec<u32>, Reading)>,
    /// How many are to train on.
    pub train: usize,
}

/// The task for at most `most` words, drawn by `seed` of all tokens that are English letters alone.
/// Examples of words to train on are such words too, and so are those of words to test on.
///
/// # Errors
/// The model has no tokenizer, or its vocabulary too few words.
pub fn first_letter_task(
    model: &LanguageModel,
    most: usize,
    seed: u64,
) -> Result<FirstLetter, EvaluationError> {
    let tokenizer = model.tokenizer()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let vocabulary = tokenizer.len().min(model.config().d_vocab) as u32;
    let mut words: Vec<(u32, String)> = (0..vocabulary)
        .map(|token| (token, tokenizer.token_text(token)))
        .filter(|(_, text)| {
            let word = text.strip_prefix(' ').unwrap_or(text);
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic())
        })
        .collect();
    words.shuffle(&mut rng);
    words.truncate(most);
    let train = (words.len() as f64 * TRAIN) as usize;
    if words.len() - train <= EXAMPLES {
        return Err(EvaluationError::input(
            "words in the model's vocabulary",
            words.len(),
            format!("more than {}", 5 * EXAMPLES),
        ));
    }
    let letter = |text: &str| text.trim_start().as_bytes()[0].to_ascii_lowercase() - b'a';
    let newline = tokenizer.encode_continuation("\n")?;
    let question = tokenizer.encode_continuation(" has the first letter:")?;
    let answers: Vec<Vec<u32>> = (b'A'..=b'Z')
        .map(|letter| tokenizer.encode_continuation(&format!(" {}", char::from(letter))))
        .collect::<Result<_, _>>()?;
    let prompt = |word: usize, examples: &[usize]| {
        let mut tokens: Vec<u32> = tokenizer.bos().into_iter().collect();
        for example in examples {
            let (token, text) = &words[*example];
            tokens.extend(&newline);
            tokens.push(*token);
            tokens.extend(&question);
            tokens.extend(&answers[usize::from(letter(text))]);
        }
        tokens.extend(&newline);
        let place = tokens.len();
        tokens.push(words[word].0);
        tokens.extend(&question);
        (tokens, Reading::At(place))
    };
    let mut prompts = Vec::with_capacity(words.len());
    for word in 0..words.len() {
        let of = if word < train {
            0..train
        } else {
            train..words.len()
        };
        let others: Vec<usize> = of.filter(|other| *other != word).collect();
        let examples: Vec<usize> = others
            .choose_multiple(&mut rng, EXAMPLES)
            .copied()
            .collect();
        prompts.push(prompt(word, &examples));
    }
    let letters = words
        .iter()
        .map(|(_, text)| usize::from(letter(text)))
        .collect();
    Ok(FirstLetter {
        letters,
        prompts,
        train,
        words: words.into_iter().map(|(_, text)| text).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn prompts_of_the_first_letter_task_have_no_space_that_nobody_wrote() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/models/sentencepiece-like"
        );
        let model = LanguageModel::load(folder, &Device::flex()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        let task = first_letter_task(&model, 100, 3).unwrap();
        assert!(task.words.iter().any(|word| word.starts_with(' ')));
        for ((prompt, reading), word) in task.prompts.iter().zip(&task.words) {
            let text = tokenizer.decode_plain(prompt);
            let end = format!("\n{word} has the first letter:");
            assert!(text.ends_with(&end), "{text:?}");
            for line in text.lines().filter(|line| !line.is_empty()) {
                let (_, answer) = line.split_once(" has the first letter:").unwrap();
                assert!(
                    answer.is_empty() || (answer.len() == 2 && answer.starts_with(' ')),
                    "{line:?}"
                );
            }
            let Reading::At(place) = reading else {
                panic!("read at the word");
            };
            assert_eq!(&tokenizer.token_text(prompt[*place]), word);
        }
    }
}
