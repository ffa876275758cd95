//! Circuits that consist of edges, chosen and measured as in the MIB benchmark (Mueller et al.
//! 2025, arXiv 2504.13151), and the exact effect of every edge.

use crate::ablation::AblatedSenders;
use crate::circuit_metric::circuit_metrics;
use crate::components::receivers_by_point;
use crate::components::{Streams, sender_value};
use crate::patching::patched;
use crate::{Ablation, CircuitError, CircuitMetric, Components, Graph, PromptBatch, Sender, Task};
use burn::tensor::{Tensor, TensorData};
use lapidary_model::{HookPoint, Intervention, LanguageModel};
use std::collections::BTreeSet;

/// Of each edge, how far the mean metric falls if the receiver alone reads what the sender writes
/// on the corrupted prompt. One run for each edge and batch of prompts, from the layer of the
/// receiver on.
///
/// # Errors
/// The task does not fit the model.
pub fn edge_effects(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
) -> Result<Vec<f64>, CircuitError> {
    let mut effects = vec![0.0; graph.edges()];
    for batch in PromptBatch::of_task(task, model)? {
        let clean = batch.measure(model, false, &[])?;
        let streams = Streams::of(model, graph, &batch.clean)?;
        // No sender changes when a receiver after it reads something else.
        let [on_clean, on_corrupted] = [
            Components::of(model, graph, &batch.clean)?,
            Components::of(model, graph, &batch.corrupted)?,
        ];
        let changes = on_corrupted.written - on_clean.written;
        for (point, receivers) in receivers_by_point(graph) {
            let HookPoint::Block(layer, _) = point else {
                continue;
            };
            for receiver in receivers.clone() {
                for (sender, edge) in graph.edges_into(receiver).enumerate() {
                    let mut rows = vec![0.0; receivers.len()];
                    rows[receiver - receivers.start] = 1.0;
                    let rows = TensorData::new(rows, [receivers.len(), 1]);
                    let rows = Tensor::<2>::from_data(rows, model.device());
                    let change = rows.matmul(changes.clone().narrow(0, sender, 1));
                    let change = sender_value(change, on_clean.shape);
                    let add = |value: Tensor<3>| value + change.clone();
                    let patch = [Intervention::function(point, &add)];
                    let patched = batch.measure_from(model, streams.at(layer), &patch)?;
                    effects[edge] += clean - patched;
                }
            }
        }
    }
    let n = task.prompts.len() as f64;
    effects.iter_mut().for_each(|effect| *effect /= n);
    Ok(effects)
}

/// Removes the edges of senders that nothing in the circuit reaches, and of those from which
/// nothing in the circuit reaches the logits, until none is left. `kept`: by number of the edge.
///
/// # Panics
/// If `kept` does not have a value for each edge.
pub fn prune(graph: &Graph, kept: &mut [bool]) {
    assert_eq!(kept.len(), graph.edges(), "a value for each edge");
    loop {
        let mut reached = vec![false; graph.senders()];
        let mut read = vec![false; graph.senders()];
        reached[0] = true;
        for receiver in 0..graph.receivers() {
            for (sender, edge) in graph.edges_into(receiver).enumerate() {
                if kept[edge] {
                    read[sender] = true;
                    reached[graph.fed_by(receiver)].fill(true);
                }
            }
        }
        let mut removed = false;
        for receiver in 0..graph.receivers() {
            let fed = graph.fed_by(receiver);
            let is_read = fed.is_empty() || fed.clone().any(|sender| read[sender]);
            for (sender, edge) in graph.edges_into(receiver).enumerate() {
                if kept[edge] && !(reached[sender] && is_read) {
                    kept[edge] = false;
                    removed = true;
                }
            }
        }
        if !removed {
            return;
        }
    }
}

/// Edges from the highest score to the lowest.
pub(crate) fn by_score(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// Edges in the order in which they join a circuit that grows from the logits: the next one is that
/// of the highest score among those whose receiver belongs to it.
pub(crate) fn greedy(graph: &Graph, scores: &[f64]) -> Vec<usize> {
    // Of equal scores, the edge with the lower number comes first, as in `by_score`.
    let mut rank = vec![0; scores.len()];
    for (place, edge) in by_score(scores).into_iter().enumerate() {
        rank[edge] = place;
    }
    let mut joined = vec![false; graph.receivers()];
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut join = |receiver: usize, open: &mut BTreeSet<(usize, usize)>| {
        if !std::mem::replace(&mut joined[receiver], true) {
            open.extend(graph.edges_into(receiver).map(|edge| (rank[edge], edge)));
        }
    };
    join(graph.receivers() - 1, &mut open);
    let mut order = vec![];
    while let Some((_, edge)) = open.pop_first() {
        order.push(edge);
        let sender = graph.number_of(graph.edge(edge).0);
        for receiver in (0..graph.receivers()).filter(|r| graph.fed_by(*r).contains(&sender)) {
            join(receiver, &mut open);
        }
    }
    order
}

/// The heads that a circuit of edges uses.
pub(crate) fn heads_of(graph: &Graph, kept: &[bool]) -> usize {
    let edges = (0..kept.len()).filter(|edge| kept[*edge]);
    let heads = edges.filter_map(|edge| match graph.edge(edge).0 {
        head @ Sender::Head { .. } => Some(head),
        _ => None,
    });
    heads.collect::<BTreeSet<Sender>>().len()
}

/// What circuits of edges keep of a task's metric on the clean prompts, if receivers read over all
/// edges outside of the circuit what ablated senders write.
/// `circuits`: whether an edge belongs to the circuit, by its number.
///
/// # Errors
/// The task does not fit the model, or its metric is the same with and without all edges.
pub fn edge_faithfulness(
    model: &LanguageModel,
    graph: &Graph,
    task: &Task,
    circuits: &[Vec<bool>],
    ablation: Ablation,
) -> Result<Vec<CircuitMetric>, CircuitError> {
    let (mut none, mut all) = (0.0, 0.0);
    let mut sums = vec![0.0; circuits.len()];
    let batches = PromptBatch::of_task(task, model)?;
    let ablated = AblatedSenders::of(model, graph, &batches, ablation)?;
    for batch in &batches {
        let ablated = ablated.on(model, graph, batch)?;
        let of_nothing = match ablation {
            Ablation::Corrupted => batch.measure(model, true, &[])?,
            _ => patched(model, graph, batch, &ablated, &|_| true)?,
        };
        none += of_nothing;
        all += batch.measure(model, false, &[])?;
        for (i, kept) in circuits.iter().enumerate() {
            sums[i] += match kept.iter().any(|kept| *kept) {
                true => patched(model, graph, batch, &ablated, &|edge| !kept[edge])?,
                false => of_nothing,
            };
        }
    }
    circuit_metrics(task, sums, [none, all], "edges")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(graph: &Graph, names: &[&str]) -> Vec<usize> {
        let number = |name: &&str| {
            let (sender, receiver) = name.split_once("->").unwrap();
            let ends = (sender.parse().unwrap(), receiver.parse().unwrap());
            graph.edge_number(ends.0, ends.1).unwrap()
        };
        names.iter().map(number).collect()
    }

    /// A chain from the input to the logits stays. An MLP that nothing reads, the head that only it
    /// reads, and a head that reads nothing go.
    #[test]
    fn what_does_not_lie_between_input_and_logits_is_pruned() {
        let graph = Graph::new(2, 4, 2, false);
        let chain = [
            "input->a0.h1<q>",
            "a0.h1->m1",
            "m1->logits",
            "input->a0.h0<v>",
        ];
        let shared = ["a0.h1->a1.h0<k>", "a1.h1->logits"]; // heads 0 and 1 share that key
        let loose = ["a0.h2->logits", "input->m0", "a0.h3->a1.h3<q>", "a1.h3->m1"];
        let mut kept = vec![false; graph.edges()];
        for edge in [&chain[..], &shared, &loose, &["m0->a1.h2<q>"]].concat() {
            kept[numbers(&graph, &[edge])[0]] = true;
        }
        prune(&graph, &mut kept);
        let left: Vec<usize> = (0..graph.edges()).filter(|edge| kept[*edge]).collect();
        let mut expected = numbers(&graph, &[&chain[..], &shared].concat());
        // Heads 0 and 1 of layer 0 share a value as well.
        expected.sort_unstable();
        assert_eq!(left, expected);
        assert_eq!(heads_of(&graph, &kept), 2);
    }

    #[test]
    fn a_greedy_circuit_grows_from_the_logits() {
        let graph = Graph::new(1, 2, 2, false);
        let score = |edge: usize| {
            let (sender, receiver) = graph.edge(edge);
            match format!("{sender}->{receiver}").as_str() {
                "input->m0" => 9.0,
                "a0.h0->m0" => 5.0,
                "m0->logits" => 1.0,
                "a0.h1->logits" => 2.0,
                "input->a0.h1<v>" => 1.5,
                _ => 0.0,
            }
        };
        let scores: Vec<f64> = (0..graph.edges()).map(score).collect();
        let order = greedy(&graph, &scores);
        let first = [
            "a0.h1->logits",
            "input->a0.h1<v>",
            "m0->logits",
            "input->m0",
        ];
        assert_eq!(order[..4], numbers(&graph, &first));
        assert_eq!(order.len(), graph.edges());
        assert_eq!(by_score(&scores)[0], numbers(&graph, &["input->m0"])[0]);
    }
}
