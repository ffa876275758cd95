//! Path patching, and the heads that tasks share, in models with known paths.

use crate::{induction, name_mover};
use lapidary_circuits::reuse::{overlap, stages};
use lapidary_circuits::{Graph, Receiver, path_effects, tasks};

/// In a model whose other heads write nothing: the previous-token head has its whole effect through
/// the keys of the induction head, and the induction head has it on the logits.
#[test]
fn a_path_has_the_whole_effect_and_others_have_none() {
    let model = induction::model(0.0);
    let graph = Graph::of(&model).unwrap();
    let task = tasks::generate("induction", &model, 8, 0, false).unwrap();
    let [(_, previous), (layer, head)] = induction::HEADS;
    let (first, second) = (previous, layer * graph.heads + head);
    for (receiver, expected) in [
        (Receiver::Logits, Some(second)),
        (Receiver::Key { layer, head }, Some(first)),
        (Receiver::Query { layer, head }, None),
        (Receiver::Value { layer, head }, None),
        (Receiver::Key { layer, head: 0 }, None),
        (Receiver::Key { layer: 0, head: 0 }, None),
        (Receiver::Mlp(0), None),
    ] {
        let effects = path_effects(&model, &graph, &task, &[receiver]).unwrap();
        for (sender, effect) in effects.iter().enumerate() {
            let gap = match Some(sender) == expected {
                true => (effect - 1.0).abs() - 1e-3,
                false => effect.abs() - 1e-5,
            };
            assert!(gap <= 0.0, "{sender} to {receiver}: {effect}");
        }
    }
    let unknown = Receiver::Key { layer: 2, head: 0 };
    let told = path_effects(&model, &graph, &task, &[unknown]).unwrap_err();
    assert!(told.to_string().contains("the receiver a2.h0<k>"), "{told}");
}

/// Through the queries of the name mover, the values of the S-inhibition head, and the keys of the
/// duplicate-token head, before which there is no head.
#[test]
fn the_stages_of_a_name_mover_are_its_three_heads() {
    let model = name_mover::model();
    let graph = Graph::of(&model).unwrap();
    let found = stages(&model, &graph, &name_mover::task(16), 0.1).unwrap();
    let receivers: Vec<&str> = found.iter().map(|s| s.receivers[0].as_str()).collect();
    assert_eq!(receivers, ["logits", "a2.h2<q>", "a1.h0<v>", "a0.h1<k>"]);
    let [duplicate, inhibition, mover] = name_mover::HEADS;
    let heads: Vec<Vec<(usize, usize)>> = found
        .iter()
        .map(|stage| stage.heads.iter().map(|(l, h, _)| (*l, *h)).collect())
        .collect();
    assert_eq!(
        heads,
        [vec![mover], vec![inhibition], vec![duplicate], vec![]]
    );
    assert!(
        found[..3]
            .iter()
            .all(|stage| (stage.heads[0].2 - 1.0).abs() < 0.1)
    );
    // The task shares all heads with itself.
    let same = overlap(&heads[0], &heads[0]);
    assert_eq!((same.of_first, same.jaccard), (Some(1.0), Some(1.0)));
}
