//! Scores of edges against plain runs and plain loops, on small random models.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor};
use lapidary_circuits::{
    Ablation, Components, Graph, PromptBatch, Receiver, Sender, Task, edge_effects,
    edge_faithfulness, faithfulness, information_flow, patched, tasks,
};
use lapidary_model::{HookPoint, HookedRun, Intervention, LanguageModel};
use std::collections::BTreeMap;

fn model(name: &str) -> LanguageModel {
    let folder = format!(
        "{}/../../tests/fixtures/models/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    LanguageModel::load(&folder, &Device::flex()).unwrap()
}

fn task(model: &LanguageModel) -> Task {
    tasks::generate("induction", model, 3, 1, false).unwrap()
}

fn captured(model: &LanguageModel, batch: &PromptBatch, at: &str, corrupted: bool) -> Tensor<3> {
    let at: HookPoint = at.parse().unwrap();
    let run = HookedRun {
        capture: &[at],
        ..Default::default()
    };
    let tokens = match corrupted {
        true => &batch.corrupted,
        false => &batch.clean,
    };
    model.run(tokens.clone(), &run).unwrap().captured[&at].clone()
}

/// Edges from MLPs into the logits: what the MLP writes on the corrupted prompt, less what it
/// writes on the clean one, added to the last stream of a clean run.
#[test]
fn the_exact_effect_of_an_edge_into_the_logits_is_a_change_of_the_last_stream() {
    for name in ["gpt2", "llama-gqa", "neox"] {
        let model = model(name);
        let graph = Graph::of(&model).unwrap();
        let task = task(&model);
        let effects = edge_effects(&model, &graph, &task).unwrap();
        for layer in 0..graph.layers {
            let last = format!("blocks.{}.hook_resid_post", graph.layers - 1);
            let out = format!("blocks.{layer}.hook_mlp_out");
            let mut lost = 0.0;
            for batch in PromptBatch::of_task(&task, &model).unwrap() {
                let written = |corrupted| captured(&model, &batch, &out, corrupted);
                let stream = captured(&model, &batch, &last, false);
                let changed = stream + written(true) - written(false);
                let set = Intervention::set(last.parse().unwrap(), changed);
                lost += batch.measure(&model, false, &[]).unwrap();
                lost -= batch.measure(&model, false, &[set]).unwrap();
            }
            let edge = graph.edge_number(Sender::Mlp(layer), Receiver::Logits);
            let found = effects[edge.unwrap()];
            let expected = lost / task.prompts.len() as f64;
            assert!(
                (found - expected).abs() < 1e-5,
                "{name} {layer}: {found}, {expected}"
            );
        }
    }
}

/// A run from the layer of the receiver on is the whole run with that edge cut.
#[test]
fn the_exact_effect_of_every_edge_is_that_of_cutting_it() {
    let model = model("llama-gqa");
    let graph = Graph::of(&model).unwrap();
    let task = task(&model);
    let effects = edge_effects(&model, &graph, &task).unwrap();
    let mut largest = 0.0_f64;
    for (edge, effect) in effects.iter().enumerate() {
        let mut lost = 0.0;
        for batch in PromptBatch::of_task(&task, &model).unwrap() {
            let corrupted = Components::of(&model, &graph, &batch.corrupted).unwrap();
            let cut = patched(&model, &graph, &batch, &corrupted, &|e| e == edge).unwrap();
            lost += batch.measure(&model, false, &[]).unwrap() - cut;
        }
        let expected = lost / task.prompts.len() as f64;
        largest = largest.max(expected.abs());
        assert!(
            (effect - expected).abs() < 1e-5,
            "{:?}: {effect}, {expected}",
            graph.edge(edge)
        );
    }
    assert!(largest > 1e-3, "{largest}");
}

/// By hand: the mean output of each head at each position of the corrupted prompts of one length.
/// Edges out of a head carry the same when the head is ablated, so both kinds of circuits lose as
/// much.
#[test]
fn mean_ablation_puts_the_mean_over_corrupted_prompts_in_place() {
    let model = model("llama-gqa");
    let graph = Graph::of(&model).unwrap();
    // More prompts than one batch has, of a few lengths.
    let task = tasks::generate("induction", &model, 60, 1, false).unwrap();
    let batches = PromptBatch::of_task(&task, &model).unwrap();
    let mut corrupted: BTreeMap<usize, Vec<&[u32]>> = BTreeMap::new();
    for prompt in &task.prompts {
        let of_length = corrupted.entry(prompt.corrupted.len()).or_default();
        of_length.push(&prompt.corrupted);
    }
    assert!(corrupted.len() > 1 && batches.len() > corrupted.len());
    let at: Vec<HookPoint> = (0..graph.layers)
        .map(|layer| format!("blocks.{layer}.attn.hook_z").parse().unwrap())
        .collect();
    let means: BTreeMap<usize, Vec<Intervention<'_>>> = corrupted
        .into_iter()
        .map(|(pos, rows)| {
            let run = HookedRun {
                capture: &at,
                ..Default::default()
            };
            let output = model.run(model.tokens(&rows).unwrap(), &run).unwrap();
            let mean =
                |at: &HookPoint| Intervention::set(*at, output.captured[at].clone().mean_dim(0));
            (pos, at.iter().map(mean).collect())
        })
        .collect();
    let metric = |of_length: &dyn Fn(usize) -> Vec<Intervention<'static>>| -> f64 {
        let of_batch = |batch: &PromptBatch| {
            let interventions = of_length(batch.clean.dims()[1]);
            batch.measure(&model, false, &interventions).unwrap()
        };
        batches.iter().map(of_batch).sum()
    };
    let all = metric(&|_| vec![]);
    let none = metric(&|pos| means[&pos].clone());
    let heads: Vec<(usize, usize)> = graph.all_heads().collect();
    let without: Vec<Vec<(usize, usize)>> = heads
        .iter()
        .map(|head| heads.iter().copied().filter(|h| h != head).collect())
        .collect();
    let mean = Ablation::Mean;
    let kept = faithfulness(&model, &graph, &task, &without, mean).unwrap();
    let mut lost = vec![];
    for (kept, (layer, head)) in kept.iter().zip(&heads) {
        let ablated = metric(&|pos| vec![means[&pos][*layer].clone().in_heads(&[*head])]);
        let expected = (ablated - none) / (all - none);
        assert!(
            (kept.faithfulness - expected).abs() < 1e-4,
            "{kept:?}, {expected}"
        );
        lost.push(all - ablated);
    }
    let circuits: Vec<Vec<bool>> = heads
        .iter()
        .map(|(layer, head)| {
            let (layer, head) = (*layer, *head);
            let out_of_head = |edge| graph.edge(edge).0 == Sender::Head { layer, head };
            (0..graph.edges()).map(|edge| !out_of_head(edge)).collect()
        })
        .collect();
    let kept = edge_faithfulness(&model, &graph, &task, &circuits, mean).unwrap();
    // Edges have another empty circuit, so only ratios compare.
    let strongest = (0..lost.len()).max_by(|a, b| lost[*a].abs().total_cmp(&lost[*b].abs()));
    let strongest = strongest.unwrap();
    for (kept_here, lost_here) in kept.iter().zip(&lost) {
        let found = (1.0 - kept_here.faithfulness) / (1.0 - kept[strongest].faithfulness);
        let expected = lost_here / lost[strongest];
        assert!((found - expected).abs() < 1e-3, "{found}, {expected}");
    }
    let kept = faithfulness(&model, &graph, &task, &without[..1], Ablation::Zero).unwrap();
    let zero = |at: &HookPoint| Intervention::zero(*at);
    let one = metric(&|_| vec![zero(&at[0]).in_heads(&[0])]);
    let none = metric(&|_| at.iter().map(zero).collect());
    assert!((kept[0].faithfulness - (one - none) / (all - none)).abs() < 1e-4);
    assert!((kept[0].metric - one / task.prompts.len() as f64).abs() < 1e-4);
}

/// By plain loops over what is captured.
#[test]
fn information_flow_is_the_share_of_nearness() {
    for name in ["gpt2", "llama-gqa", "neox"] {
        let model = model(name);
        let graph = Graph::of(&model).unwrap();
        let task = task(&model);
        let found = information_flow(&model, &graph, &task).unwrap();
        let d = model.config().d_model;
        let floats = |x: Tensor<3>| -> Vec<f32> { x.into_data().iter::<f32>().collect() };
        let mut expected = vec![0.0; graph.edges()];
        for batch in PromptBatch::of_task(&task, &model).unwrap() {
            let at = |name: String| floats(captured(&model, &batch, &name, false));
            let [n, pos] = batch.clean.dims();
            let written: Vec<Vec<f32>> = (0..graph.senders())
                .map(|sender| match graph.sender(sender) {
                    Sender::Input => at("blocks.0.hook_resid_pre".into()),
                    Sender::Mlp(layer) => at(format!("blocks.{layer}.hook_mlp_out")),
                    Sender::Head { layer, head } => {
                        let all = at(format!("blocks.{layer}.attn.hook_result"));
                        let rows = all.chunks(graph.heads * d);
                        rows.flat_map(|row| row[head * d..(head + 1) * d].to_vec())
                            .collect()
                    }
                })
                .collect();
            for receiver in 0..graph.receivers() {
                let stream = at(match graph.receiver(receiver) {
                    Receiver::Query { layer, .. }
                    | Receiver::Key { layer, .. }
                    | Receiver::Value { layer, .. } => format!("blocks.{layer}.hook_resid_pre"),
                    Receiver::Mlp(layer) => format!("blocks.{layer}.hook_mlp_in"),
                    Receiver::Logits => format!("blocks.{}.hook_resid_post", graph.layers - 1),
                });
                let edges = graph.edges_into(receiver);
                for token in 0..n * pos {
                    let stream = &stream[token * d..(token + 1) * d];
                    let norm: f64 = stream.iter().map(|x| f64::from(x.abs())).sum();
                    let near: Vec<f64> = written[..edges.len()]
                        .iter()
                        .map(|out| {
                            let pairs = stream.iter().zip(&out[token * d..(token + 1) * d]);
                            let rest: f64 = pairs.map(|(x, o)| f64::from((x - o).abs())).sum();
                            (norm - rest).max(0.0)
                        })
                        .collect();
                    let sum: f64 = near.iter().sum();
                    let share = near.iter().map(|near| near / sum / pos as f64);
                    for (score, share) in expected[edges.clone()].iter_mut().zip(share) {
                        *score += share;
                    }
                }
            }
        }
        for (edge, (found, sum)) in found.iter().zip(&expected).enumerate() {
            let mean = sum / task.prompts.len() as f64;
            assert!((found - mean).abs() < 1e-4, "{name} {:?}", graph.edge(edge));
        }
    }
}
