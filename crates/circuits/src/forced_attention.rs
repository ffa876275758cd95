//! Heads that are made to look at chosen tokens from the last position (Merullo et al. 2023, arXiv
//! 2310.08744): if heads tell later ones what not to name, looking at a word keeps the model from
//! saying it.

use crate::{CircuitError, Graph, Prompt, PromptBatch, Task};
use burn::tensor::{Bool, Tensor, TensorData};
use lapidary_model::{BlockHook, HookPoint, Intervention, LanguageModel};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Which words of a prompt heads are made to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// The answers.
    Answer,
    /// The wrong answers.
    Wrong,
}

/// How well a model does a task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Performance {
    /// Mean of the task's metric.
    pub metric: f64,
    /// Share of prompts after which an answer has a larger logit than every wrong answer.
    pub accuracy: f64,
}

/// What [`force_attention`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forced {
    /// Prompts in which the words are found.
    pub prompts: usize,
    /// Prompts without any of the words, which are left out.
    pub left_out: usize,
    /// Without an intervention.
    pub before: Performance,
    /// With one.
    pub after: Performance,
    /// The mean over draws of as many other heads; `None` if there are no other heads.
    pub random: Option<Performance>,
}

/// Draws of random heads.
const DRAWS: usize = 5;

/// Runs the clean prompts of a task while the last position's attention of `heads` (layer and
/// head) is spread evenly over the words of the prompt that say the answers or the wrong answers.
/// Other rows of their patterns, and all other heads, are left as they are. A word is the same if
/// its text is, without regard to case and to spaces around it.
///
/// # Errors
/// The task does not fit the model, no prompt has one of the words, or a head does not exist.
pub fn force_attention(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    heads: &[(usize, usize)],
    words: Words,
    seed: u64,
) -> Result<Forced, CircuitError> {
    if let Some((layer, head)) = heads.iter().find(|head| !exists(graph, **head)) {
        return Err(CircuitError::Head {
            layer: *layer,
            head: *head,
            problem: format!(
                "expected a layer below {} and a head below {}",
                graph.layers, graph.heads
            ),
        });
    }
    let places = |prompt: &Prompt| positions(model, prompt, words);
    let (found, without): (Vec<_>, Vec<_>) = task
        .prompts
        .iter()
        .map(|prompt| (prompt, places(prompt)))
        .partition(|(_, at)| !at.is_empty());
    if found.is_empty() {
        let what = match words {
            Words::Answer => "the answer",
            Words::Wrong => "a wrong answer",
        };
        return Err(CircuitError::Task {
            task: task.name.clone(),
            problem: format!(
                "no prompt has {what} as one of its tokens, so heads cannot look at it"
            ),
        });
    }
    let with_words = Task {
        prompts: found.iter().map(|(prompt, _)| (*prompt).clone()).collect(),
        ..task.clone()
    };
    let batches = PromptBatch::of_task(&with_words, model)?;
    let keys = with_words.groups(PromptBatch::TOKENS_AT_ONCE);
    let keys: Vec<Vec<Vec<usize>>> = keys
        .iter()
        .map(|group| group.iter().map(|prompt| places(prompt)).collect())
        .collect();
    let measure = |heads: &[(usize, usize)]| -> Result<Performance, CircuitError> {
        let (mut metric, mut right) = (0.0, 0);
        for (batch, keys) in batches.iter().zip(&keys) {
            let pos = batch.clean.dims()[1];
            let patterns: Vec<Pattern> = (0..graph.layers)
                .filter_map(|layer| {
                    let here = heads.iter().filter(|(l, _)| *l == layer);
                    let here: Vec<usize> = here.map(|(_, head)| *head).collect();
                    (!here.is_empty()).then(|| Pattern::new(model, graph, layer, &here, keys, pos))
                })
                .collect();
            let force: Vec<_> = patterns
                .iter()
                .map(|pattern| |value: Tensor<3>| pattern.apply(value))
                .collect();
            let interventions: Vec<Intervention<'_>> = patterns
                .iter()
                .zip(&force)
                .map(|(pattern, force)| Intervention::function(pattern.at, force))
                .collect();
            let logits = batch.logits(model, false, &interventions)?;
            metric += f64::from(batch.metric(logits.clone()).into_scalar::<f32>());
            right += batch.right(logits);
        }
        let n = with_words.prompts.len() as f64;
        Ok(Performance {
            metric: metric / n,
            accuracy: right as f64 / n,
        })
    };
    let mut others: Vec<(usize, usize)> =
        graph.all_heads().filter(|h| !heads.contains(h)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draws = (0..DRAWS).map(|_| {
        let (drawn, _) = others.partial_shuffle(&mut rng, heads.len());
        measure(drawn)
    });
    let random = match graph.layers * graph.heads >= 2 * heads.len() {
        true => {
            let draws: Vec<Performance> = draws.collect::<Result<_, _>>()?;
            let mean =
                |of: fn(&Performance) -> f64| draws.iter().map(of).sum::<f64>() / DRAWS as f64;
            Some(Performance {
                metric: mean(|p| p.metric),
                accuracy: mean(|p| p.accuracy),
            })
        }
        false => None,
    };
    Ok(Forced {
        prompts: with_words.prompts.len(),
        left_out: without.len(),
        before: measure(&[])?,
        after: measure(heads)?,
        random,
    })
}

fn exists(graph: &Graph, (layer, head): (usize, usize)) -> bool {
    layer < graph.layers && head < graph.heads
}

/// The positions of the clean prompt at which one of the words stands.
fn positions(model: &LanguageModel, prompt: &Prompt, words: Words) -> Vec<usize> {
    let said = match words {
        Words::Answer => &prompt.answers,
        Words::Wrong => &prompt.wrong,
    };
    // A model without a tokenizer has tokens alone.
    let here = prompt.clean.iter().enumerate();
    let Ok(tokenizer) = model.tokenizer() else {
        let same = here.filter(|(_, token)| said.contains(token));
        return same.map(|(position, _)| position).collect();
    };
    let text = |token: &u32| tokenizer.decode(&[*token]).trim().to_lowercase();
    let said: Vec<String> = said.iter().map(text).collect();
    here.filter(|(_, token)| {
        let text = text(token);
        !text.is_empty() && said.contains(&text)
    })
    .map(|(position, _)| position)
    .collect()
}

/// The last row of some heads' patterns in one layer, for a batch.
struct Pattern {
    at: HookPoint,
    /// Where the pattern is replaced, `[batch, pos, heads * pos]`.
    mask: Tensor<3, Bool>,
    /// What stands there then.
    weights: Tensor<3>,
}

impl Pattern {
    fn new(
        model: &LanguageModel,
        graph: &Graph,
        layer: usize,
        heads: &[usize],
        keys: &[Vec<usize>],
        pos: usize,
    ) -> Self {
        let shape = [keys.len(), pos, graph.heads * pos];
        let row = shape[2];
        let mut mask = vec![false; shape.iter().product()];
        let mut weights = vec![0.0_f32; mask.len()];
        for (prompt, keys) in keys.iter().enumerate() {
            let last = (prompt * pos + pos - 1) * row;
            for head in heads {
                let first = last + head * pos;
                mask[first..first + pos].fill(true);
                for key in keys {
                    weights[first + key] = 1.0 / keys.len() as f32;
                }
            }
        }
        Self {
            at: HookPoint::Block(layer, BlockHook::Pattern),
            mask: Tensor::from_data(TensorData::new(mask, shape), model.device()),
            weights: Tensor::from_data(TensorData::new(weights, shape), model.device()),
        }
    }

    fn apply(&self, pattern: Tensor<3>) -> Tensor<3> {
        pattern.mask_where(self.mask.clone(), self.weights.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks;
    use burn::tensor::Device;
    use lapidary_model::HookedRun;

    /// The rows of the chosen heads at the last position are what was asked for and add up to 1; no
    /// other entry changes.
    #[test]
    fn only_the_last_row_of_the_chosen_heads_changes() {
        let folder = "/../../tests/fixtures/models/llama-gqa";
        let folder = format!("{}{folder}", env!("CARGO_MANIFEST_DIR"));
        let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
        let graph = Graph::of(&model).unwrap();
        let tokens = model.tokens(&[[5, 3, 7, 3, 9], [1, 2, 3, 4, 6]]).unwrap();
        let keys = [vec![1, 3], vec![4]];
        let pattern = Pattern::new(&model, &graph, 1, &[0, 2], &keys, 5);
        let force = |value: Tensor<3>| pattern.apply(value);
        let run = |interventions: &[Intervention<'_>]| -> Vec<f32> {
            let run = HookedRun {
                capture: &[pattern.at],
                interventions,
                ..Default::default()
            };
            let output = model.run(tokens.clone(), &run).unwrap();
            let value = output.captured[&pattern.at].clone().into_data();
            value.iter::<f32>().collect()
        };
        let plain = run(&[]);
        let forced = run(&[Intervention::function(pattern.at, &force)]);
        let row = graph.heads * 5;
        for (i, (before, after)) in plain.iter().zip(&forced).enumerate() {
            let (prompt, query) = (i / (5 * row), i / row % 5);
            let (head, key) = (i % row / 5, i % 5);
            let expected = match query == 4 && [0, 2].contains(&head) {
                true if keys[prompt].contains(&key) => 1.0 / keys[prompt].len() as f32,
                true => 0.0,
                false => *before,
            };
            assert_eq!(*after, expected, "{prompt} {query} {head} {key}");
        }
        for rows in forced.chunks(5) {
            assert!((rows.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_head_that_does_not_exist_and_words_that_are_nowhere_are_refused() {
        let folder = "/../../tests/fixtures/models/llama-gqa";
        let folder = format!("{}{folder}", env!("CARGO_MANIFEST_DIR"));
        let model = LanguageModel::load(&folder, &Device::flex()).unwrap();
        let graph = Graph::of(&model).unwrap();
        let task = tasks::generate("induction", &model, 2, 1, false).unwrap();
        let force = |task: &Task, head| {
            let forced = force_attention(&model, &graph, task, &[head], Words::Answer, 0);
            forced.map_err(|e| e.to_string())
        };
        let problem = force(&task, (99, 0)).unwrap_err();
        assert!(problem.contains("99.0"), "{problem}");
        let mut without = task.clone();
        for prompt in &mut without.prompts {
            let new = (0..).find(|token| !prompt.clean.contains(token)).unwrap();
            prompt.answers = vec![new];
        }
        let problem = force(&without, (0, 0)).unwrap_err();
        assert!(problem.contains("no prompt has the answer"), "{problem}");
        let found = force(&task, (0, 0)).unwrap();
        assert_eq!((found.prompts, found.left_out), (2, 0));
        assert!(found.before.metric != found.after.metric);
    }
}
