//! Attributions against runs of the model in which edges are patched, on small random models with
//! and without shared keys, with attention and MLP one after the other and side by side.

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use lapidary_circuits::{
    Ablation, Attribution, Components, Graph, Method, PromptBatch, Sender, Task, attribute,
    faithfulness, head_effects, patched, tasks,
};
use lapidary_model::LanguageModel;

const MODELS: [&str; 4] = ["gpt2", "llama-gqa", "neox", "opt"];

fn model(name: &str) -> LanguageModel {
    let folder = format!(
        "{}/../../tests/fixtures/models/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    LanguageModel::load(&folder, &Device::flex()).unwrap()
}

/// A few prompts, of several lengths.
fn task(model: &LanguageModel) -> Task {
    tasks::generate("induction", model, 5, 1, false).unwrap()
}

struct Batch {
    batch: PromptBatch,
    clean: Components,
    corrupted: Components,
}

fn batches(model: &LanguageModel, graph: &Graph, task: &Task) -> Vec<Batch> {
    let batches = PromptBatch::of_task(task, model).unwrap();
    let with_components = |batch: PromptBatch| Batch {
        clean: Components::of(model, graph, &batch.clean).unwrap(),
        corrupted: Components::of(model, graph, &batch.corrupted).unwrap(),
        batch,
    };
    batches.into_iter().map(with_components).collect()
}

#[test]
fn without_cuts_a_run_is_the_clean_one_and_with_all_of_them_the_corrupted_one() {
    for name in MODELS {
        let model = model(name);
        let graph = Graph::of(&model).unwrap();
        for b in batches(&model, &graph, &task(&model)) {
            let run = |cut| patched(&model, &graph, &b.batch, &b.corrupted, &|_| cut).unwrap();
            let measured = |corrupted| b.batch.measure(&model, corrupted, &[]).unwrap();
            assert!((run(false) - measured(false)).abs() < 1e-4, "{name}");
            assert!((run(true) - measured(true)).abs() < 1e-4, "{name}");
            assert!((run(true) - run(false)).abs() > 1e-3, "{name}");
        }
    }
}

/// The gradient of an edge is the slope of the patched run, for every edge.
#[test]
fn eap_is_the_slope_of_patching_each_edge() {
    // OPT's ReLUs have kinks within the step.
    for name in MODELS.into_iter().filter(|name| *name != "opt") {
        let model = model(name);
        let graph = Graph::of(&model).unwrap();
        let task = task(&model);
        let found = attribute(&model, &graph, &task, Method::Eap).unwrap();
        let all = batches(&model, &graph, &task);
        let n = task.prompts.len() as f64;
        // A small part of the way to the corrupted prompt, and as far in the other direction.
        let part = 0.02;
        let value = |edge: usize, towards: f64| -> f64 {
            let of_batch = |b: &Batch| {
                let way = b.corrupted.written.clone() - b.clean.written.clone();
                let replacement = Components {
                    written: b.clean.written.clone() + way * towards,
                    shape: b.clean.shape,
                };
                patched(&model, &graph, &b.batch, &replacement, &|e| e == edge).unwrap()
            };
            all.iter().map(of_batch).sum()
        };
        let largest = found.edges.iter().fold(0.0_f64, |m, s| m.max(s.abs()));
        for (edge, score) in found.edges.iter().enumerate() {
            let slope = (value(edge, -part) - value(edge, part)) / (2.0 * part) / n;
            assert!(
                (slope - score).abs() < 2e-2 * score.abs() + 2e-3 * largest,
                "{name}: {:?}: score {score}, slope {slope}",
                graph.edge(edge)
            );
        }
    }
}

/// The stream is a sum: the gradient where a sender writes is that of all that read it.
#[test]
fn the_score_of_a_sender_is_the_sum_over_its_edges_by_every_method() {
    for name in MODELS {
        let model = model(name);
        let graph = Graph::of(&model).unwrap();
        let task = task(&model);
        for method in [
            Method::Eap,
            Method::RelP,
            Method::EapIgInputs { steps: 2 },
            Method::EapIgActivations { steps: 2 },
        ] {
            let found = attribute(&model, &graph, &task, method).unwrap();
            let largest = found.senders.iter().fold(0.0_f64, |m, s| m.max(s.abs()));
            for (sender, score) in found.senders.iter().enumerate() {
                let readers = (0..graph.receivers()).filter(|r| sender < graph.senders_before(*r));
                let edges = readers.map(|r| graph.edges_into(r).start + sender);
                let sum: f64 = edges.map(|edge| found.edges[edge]).sum();
                assert!(
                    (sum - score).abs() < 1e-4 * largest,
                    "{name}, {method:?}, {}: {score}, edges {sum}",
                    graph.sender(sender)
                );
                assert!(found.importance[sender] >= score.abs() - 1e-6, "{name}");
            }
        }
    }
}

/// Integrated gradients: what the inputs lose is what the metric loses.
#[test]
fn the_scores_of_the_input_add_up_to_what_the_metric_loses() {
    for name in MODELS {
        let model = model(name);
        let graph = Graph::of(&model).unwrap();
        let task = task(&model);
        let effects = head_effects(&model, &graph, &task).unwrap();
        let lost = effects.clean - effects.corrupted;
        let method = Method::EapIgInputs { steps: 400 };
        let found = attribute(&model, &graph, &task, method).unwrap().senders[0];
        assert!(
            (found - lost).abs() < 0.02 * lost.abs(),
            "{name}: {found}, lost {lost}"
        );
    }
}

#[test]
fn the_effect_of_a_head_is_that_of_its_edges() {
    for name in MODELS {
        let model = model(name);
        let graph = Graph::of(&model).unwrap();
        let task = task(&model);
        let effects = head_effects(&model, &graph, &task).unwrap();
        let all = batches(&model, &graph, &task);
        for (number, (layer, head)) in graph.all_heads().enumerate() {
            let sender = Sender::Head { layer, head };
            let run = |b: &Batch| {
                let is_cut = |edge: usize| graph.edge(edge).0 == sender;
                patched(&model, &graph, &b.batch, &b.corrupted, &is_cut).unwrap()
            };
            let mean = all.iter().map(run).sum::<f64>() / task.prompts.len() as f64;
            let effect = effects.clean - mean;
            assert!(
                (effect - effects.effects[number]).abs() < 1e-4,
                "{name}: {sender}"
            );
        }
    }
}

#[test]
fn circuits_of_all_heads_are_faithful_and_those_of_none_are_not() {
    let model = model("gpt2");
    let graph = Graph::of(&model).unwrap();
    let task = task(&model);
    let all: Vec<_> = graph.all_heads().collect();
    let without_one = all[1..].to_vec();
    let circuits = [all.clone(), vec![], without_one];
    let found = faithfulness(&model, &graph, &task, &circuits, Ablation::Corrupted).unwrap();
    assert_eq!([0, 1].map(|i| found[i].faithfulness), [1.0, 0.0]);
    let effects = head_effects(&model, &graph, &task).unwrap();
    let none = faithfulness(&model, &graph, &task, &[vec![]], Ablation::Corrupted).unwrap();
    assert_eq!(none[0], found[1]);
    // Without head 0 of layer 0, the metric falls by that head's effect.
    let without_heads = |b: &Batch| {
        let is_cut = |edge: usize| matches!(graph.edge(edge).0, Sender::Head { .. });
        patched(&model, &graph, &b.batch, &b.corrupted, &is_cut).unwrap()
    };
    let all = batches(&model, &graph, &task);
    let nothing = all.iter().map(without_heads).sum::<f64>() / task.prompts.len() as f64;
    for (kept, expected) in found.iter().zip([effects.clean, nothing]) {
        assert!(
            (kept.metric - expected).abs() < 1e-5,
            "{kept:?}, {expected}"
        );
    }
    let lost = (1.0 - found[2].faithfulness) * (effects.clean - nothing);
    assert!((lost - effects.effects[0]).abs() < 1e-4);
}

#[test]
fn attributions_are_the_same_in_every_run() {
    let model = model("llama-gqa");
    let graph = Graph::of(&model).unwrap();
    let found =
        || -> Attribution { attribute(&model, &graph, &task(&model), Method::RelP).unwrap() };
    assert_eq!(found(), found());
}
