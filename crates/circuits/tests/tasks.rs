//! Tasks in words, for a model whose tokenizer has their words.

#![allow(clippy::unwrap_used)]

#[path = "planted/weights.rs"]
#[allow(dead_code)]
mod weights;

use lapidary_circuits::{Prompt, tasks};
use lapidary_model::{LanguageModel, Tokenizer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use weights::{Attention, Shape};

/// A tokenizer that has every word of the tasks' source files as a token, with a space before it.
fn tokenizer() -> Tokenizer {
    let folder = format!("{}/src/tasks", env!("CARGO_MANIFEST_DIR"));
    let mut words = String::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for word in source.split(|c: char| !c.is_ascii_alphabetic()) {
            words += &format!(" {word}");
        }
    }
    for letter in 'A'..='Z' {
        words += &format!(" {letter}");
    }
    Tokenizer::train(&vec![words; 20], 8000).unwrap()
}

fn model() -> LanguageModel {
    let tokenizer = tokenizer();
    let shape = Shape {
        heads: 1,
        d_head: 4,
        vocabulary: tokenizer.len(),
        positions: 160,
    };
    let layers = vec![Attention::noise(
        &shape,
        0.1,
        &mut ChaCha8Rng::seed_from_u64(0),
    )];
    let d = shape.d_model();
    let (embeddings, positions) = (
        vec![0.0; shape.vocabulary * d],
        vec![0.0; shape.positions * d],
    );
    weights::model(&shape, embeddings, positions, layers, Some(&tokenizer))
}

/// The text of a prompt, of its corrupted version, and of its answers and wrong answers.
fn words(model: &LanguageModel, prompt: &Prompt) -> (String, String, Vec<String>, Vec<String>) {
    let text = |ids: &[u32]| model.tokenizer().unwrap().decode_plain(ids);
    let each = |ids: &[u32]| ids.iter().map(|id| text(&[*id])).collect();
    (
        text(&prompt.clean),
        text(&prompt.corrupted),
        each(&prompt.answers),
        each(&prompt.wrong),
    )
}

/// What is right is found again in the text by other means than those that wrote it.
fn answer_of(task: &str, text: &str) -> Vec<String> {
    let last = |text: &str| text.rsplit(' ').next().unwrap().to_owned();
    match task {
        "ioi" => {
            let names = text.split(|c: char| !c.is_alphabetic());
            let names: Vec<&str> = names
                .filter(|w| w.starts_with(char::is_uppercase))
                .filter(|w| !["Then", "When", "After", "While"].contains(w))
                .collect();
            let once = names
                .iter()
                .filter(|name| names.iter().filter(|n| n == name).count() == 1);
            once.map(|name| format!(" {name}")).collect()
        }
        "docstring" => {
            let (definition, docstring) = text.split_once("):").unwrap();
            let arguments: Vec<&str> = definition.split(", ").collect();
            let documented = docstring.split(":param ").nth(2).unwrap();
            let (second, _) = documented.split_once(':').unwrap();
            let place = arguments.iter().position(|a| *a == second);
            place
                .map(|place| format!(" {}", arguments[place + 1]))
                .into_iter()
                .collect()
        }
        "colored-objects" => {
            let question = text.lines().rev().nth(1).unwrap();
            let (scene, asked) = question.split_once(". What color is the ").unwrap();
            let object = asked.trim_end_matches('?');
            let scene = format!("{scene},");
            let (before, _) = scene.split_once(&format!(" {object},")[..]).unwrap();
            let color = last(before);
            vec![format!(" {}{}", color[..1].to_uppercase(), &color[1..])]
        }
        "first-letter" => {
            let word = text.rsplit("The word ").next().unwrap();
            vec![format!(" {}", word[..1].to_uppercase())]
        }
        _ => {
            let verbs = match text.split(' ').nth(1).unwrap().ends_with('s') {
                true => [" are", " were", " have"],
                false => [" is", " was", " has"],
            };
            verbs.map(str::to_owned).to_vec()
        }
    }
}

#[test]
fn prompts_in_words_have_the_answers_that_their_texts_say() {
    let model = model();
    for task in [
        "ioi",
        "docstring",
        "colored-objects",
        "first-letter",
        "subject-verb",
    ] {
        let drawn = tasks::generate(task, &model, 40, 0, false).unwrap();
        let same = tasks::generate(task, &model, 40, 0, false).unwrap();
        assert_eq!(drawn, same);
        for prompt in &drawn.prompts {
            let (clean, corrupted, right, wrong) = words(&model, prompt);
            assert_eq!(
                prompt.clean.len(),
                prompt.corrupted.len(),
                "{clean}\n{corrupted}"
            );
            assert_eq!(right, answer_of(task, &clean), "{clean}");
            assert!(
                !wrong.iter().any(|w| right.contains(w)),
                "{clean}: {wrong:?}"
            );
            let misled = answer_of(task, &corrupted);
            assert!(
                !misled.iter().any(|a| right.contains(a)),
                "{corrupted}: {misled:?}"
            );
        }
        let (clean, corrupted, right, wrong) = words(&model, &drawn.prompts[0]);
        println!("{task}\n{clean}|{right:?}, not {wrong:?}\n{corrupted}\n");
    }
}
