//! Walks of TokFSM are those of its edges.

use lapidary_codebook::{TokFsm, TokFsmOptions};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn small() -> TokFsm {
    let options = TokFsmOptions {
        states: 20,
        edges: 4,
        sequence_states: 16,
        ..Default::default()
    };
    TokFsm::new(options).unwrap()
}

#[test]
fn walks_are_legal_and_written_with_two_digits() {
    let fsm = small();
    let batch = fsm.batch(50, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(batch.length, 32);
    for (inputs, targets) in batch.inputs.chunks(32).zip(batch.targets.chunks(32)) {
        assert_eq!(inputs[0], 10);
        assert_eq!(inputs[1..], targets[..31]);
        let text: Vec<u32> = targets.iter().map(|t| *t as u32).collect();
        assert_eq!(fsm.legal_transitions(&text), (15, 15));
    }
}

#[test]
fn an_illegal_transition_and_no_state_are_counted() {
    let fsm = small();
    let next = fsm.successors(3)[0];
    let other = (0..20).find(|s| !fsm.successors(next).contains(s)).unwrap();
    let text: Vec<u32> = [3, next, other]
        .iter()
        .flat_map(|s| fsm.tokens(*s))
        .collect();
    assert_eq!(fsm.legal_transitions(&text), (1, 2));
    let text = [fsm.tokens(3), vec![9, 9], fsm.tokens(3)].concat();
    assert_eq!(fsm.legal_transitions(&text), (0, 2));
}

#[test]
fn a_state_has_the_asked_number_of_different_successors() {
    let fsm = small();
    for state in 0..20 {
        let mut next = fsm.successors(state).to_vec();
        next.dedup();
        assert_eq!(next.len(), 4);
    }
    let error = TokFsm::new(TokFsmOptions {
        digits: 1,
        ..fsm.options().clone()
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("digits: found 1"), "{error}");
}
