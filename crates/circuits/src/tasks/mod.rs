//! Tasks whose prompts are made from templates and words, for the tokenizer of a model: words that
//! are not one token are left out.

mod colored_objects;
mod docstring;
mod first_letter;
mod greater_than;
mod induction;
mod ioi;
mod subject_verb;
mod words;

use crate::task::Text;
use crate::{CircuitError, Metric, Prompt, Task};
use lapidary_model::LanguageModel;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use words::Words;

/// The tasks by name, with what they are.
pub const TASKS: [(&str, &str); 7] = [
    (
        "ioi",
        "indirect object identification: \"Then, Mary and John went to the store. John gave a ring \
         to\" is followed by \" Mary\" (Wang et al. 2022); corrupted: three other names",
    ),
    (
        "greater-than",
        "\"The war lasted from the year 1732 to the year 17\" is followed by a later year (Hanna et \
         al. 2023); corrupted: the first year ends in 01",
    ),
    (
        "docstring",
        "the arguments of a Python function come again in its docstring, in their order \
         (Heimersheim and Janiak 2023); corrupted: other names in definition and docstring",
    ),
    (
        "colored-objects",
        "\"On the desk, you see a red pen, an orange cup, and a blue ball. What color is the cup?\" \
         is followed by \" Orange\", after one example (Merullo et al. 2023); corrupted: another \
         object is asked for",
    ),
    (
        "first-letter",
        "\"The word war has the first letter:\" is followed by \" W\", after three examples (Chanin \
         et al. 2024); corrupted: another word",
    ),
    (
        "subject-verb",
        "\"The boy near the cars\" is followed by \" is\", \" was\" or \" has\" (Marks et al. 2024); \
         corrupted: the subject in the other number",
    ),
    (
        "induction",
        "a sequence of random tokens whose beginning comes again is followed by what came after it \
         (Olsson et al. 2022); corrupted: another token in place of the first copy of the last one",
    ),
];

/// Draws `n` prompts of a task.
///
/// # Errors
/// There is no task of this name, or the model's tokenizer has too few of its words as single
/// tokens.
pub fn generate(
    name: &str,
    model: &LanguageModel,
    n: usize,
    seed: u64,
    prepend_bos: bool,
) -> Result<Task, CircuitError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let words = Words { model };
    let (texts, metric) = match name {
        "ioi" => (ioi::texts(&words, n, &mut rng)?, Metric::LogitDifference),
        "docstring" => {
            let texts = docstring::texts(&words, n, &mut rng)?;
            (texts, Metric::LogitDifference)
        }
        "colored-objects" => {
            let texts = colored_objects::texts(&words, n, &mut rng)?;
            (texts, Metric::LogitDifference)
        }
        "first-letter" => {
            let texts = first_letter::texts(&words, n, &mut rng)?;
            (texts, Metric::LogitDifference)
        }
        "subject-verb" => {
            let texts = subject_verb::texts(&words, n, &mut rng)?;
            (texts, Metric::LogitDifference)
        }
        "greater-than" => {
            let texts = greater_than::texts(&words, n, &mut rng)?;
            (texts, Metric::ProbabilityDifference)
        }
        "induction" => {
            return Ok(Task {
                name: name.into(),
                prompts: induction::prompts(model, n, &mut rng, prepend_bos)?,
                metric: Metric::LogitDifference,
            });
        }
        _ => {
            let known = TASKS.map(|(name, _)| name).join(", ");
            let found = name.into();
            return Err(CircuitError::UnknownTask { found, known });
        }
    };
    let prompt = |text: &Text| {
        Prompt::of_text(text, model, prepend_bos).map_err(|problem| CircuitError::Task {
            task: name.into(),
            problem,
        })
    };
    Ok(Task {
        name: name.into(),
        prompts: texts.iter().map(prompt).collect::<Result<_, _>>()?,
        metric,
    })
}
