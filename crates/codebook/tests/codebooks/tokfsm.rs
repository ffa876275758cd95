//! A small TokFSM: the model learns it with and without codebooks, single codes stand for states,
//! and patching them moves the prediction.

use burn::tensor::Device;
use lapidary_codebook::{
    CodebookConfig, CodebookTrainer, Codebooks, Data, DataOptions, Metrics, StateCode, TokFsm,
    evaluate, neuron_precisions, patch_state, state_codes,
};
use lapidary_model::LanguageModel;

/// The small machine of the acceptance test, with settings of its own.
fn config(set: &[&str]) -> CodebookConfig {
    let text = include_str!("../../../../configs/codebook/tokfsm-small.toml");
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    CodebookConfig::parse("tokfsm-small.toml", text, &set).unwrap()
}

fn machine(config: &CodebookConfig) -> TokFsm {
    match &config.data {
        DataOptions::TokFsm(options) => TokFsm::new(options.clone()).unwrap(),
        DataOptions::Text { .. } => panic!("the config is of a machine"),
    }
}

fn trained(config: &CodebookConfig) -> (CodebookTrainer, Metrics) {
    let data = Data::TokFsm(machine(config));
    let mut trainer = CodebookTrainer::new(config, data, None, &Device::flex()).unwrap();
    while trainer.step_count() < config.steps {
        let step = trainer.step().unwrap();
        if step.step.is_multiple_of(100) {
            println!(
                "step {}: loss {:.4}, codes {:.4}, unused {:?}",
                step.step, step.loss, step.code_loss, step.frac_unused_codes
            );
        }
    }
    let data = trainer.data().clone();
    let found = evaluate(
        &trainer.model(),
        trainer.codebooks(),
        &data,
        config.seed,
        64,
    );
    (trainer, found.unwrap())
}

#[test]
fn a_machine_is_learned_with_and_without_codebooks_and_codes_stand_for_states() {
    // Batches are too small for several threads, so the two trainings have one each.
    let config = config(&[]);
    let without = CodebookConfig {
        places: vec![],
        ..config.clone()
    };
    let ((dense, without), (trainer, with)) = std::thread::scope(|threads| {
        let dense = threads.spawn(|| trained(&without));
        let coded = trained(&config);
        (dense.join().unwrap(), coded)
    });
    println!("dense: {without:?}");
    println!("codebooks: {with:?}");
    let (model, codebooks, fsm) = (trainer.model(), trainer.codebooks(), machine(&config));
    let codes = state_codes(&model, codebooks, &fsm, config.seed, 64, 0.8).unwrap();
    let beside = |model: &LanguageModel, codebooks: &Codebooks| {
        neuron_precisions(model, codebooks, &fsm, config.seed, 64, &codes).unwrap()
    };
    let neurons = beside(&model, codebooks);
    let of_dense = beside(&dense.model(), dense.codebooks());
    for ((code, own), dense) in codes.iter().zip(&neurons).zip(&of_dense) {
        println!("{code:?}, neurons {own:.3}, of the dense model {dense:.3}");
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    println!(
        "mean precision of neurons: {}, {}",
        mean(&neurons),
        mean(&of_dense)
    );
    let good = codes
        .iter()
        .filter(|c| c.precision >= 0.9 && c.recall >= 0.8)
        .count();
    println!("{good} of {} states", codes.len());
    let patched = patch_state(&model, codebooks, &fsm, config.seed, 32, 20).unwrap();
    println!("{patched:?}");
    let legal = |metrics: Metrics| metrics.transition_accuracy.unwrap();
    let (without, with) = (legal(without), legal(with));
    assert!(without >= 0.98, "dense: {without}");
    assert!(
        with >= without - 0.05,
        "codebooks: {with}, dense: {without}"
    );
    assert!(good >= 1, "{good} of {} states", codes.len());
    assert!(patched.mass >= 0.8, "{patched:?}");
}

#[test]
fn state_codes_are_those_of_brute_force() {
    let config = config(&[
        "training.batch=2",
        "codebook.n_codes=16",
        "data.sequence_states=12",
    ]);
    let fsm = machine(&config);
    let data = Data::TokFsm(fsm.clone());
    let trainer = CodebookTrainer::new(&config, data.clone(), None, &Device::flex()).unwrap();
    let (model, codebooks) = (trainer.model(), trainer.codebooks());
    // 20 sequences are two passes of the function.
    let found = state_codes(&model, codebooks, &fsm, config.seed, 20, 0.5).unwrap();
    let batch = data.held_out(config.seed, 20);
    let ids: Vec<u32> = batch.inputs.iter().map(|t| *t as u32).collect();
    let rows: Vec<&[u32]> = ids.chunks(batch.length).collect();
    let (_, chosen) = codebooks
        .run(&model, model.tokens(&rows).unwrap(), &[])
        .unwrap();
    // The state that is complete at a position, for positions with so many digits after it.
    let state = |row: usize, digits_after: usize| {
        let (sequence, position) = (row / batch.length, row % batch.length);
        let last = position
            .checked_sub(digits_after)
            .filter(|p| *p >= 2 && p % 2 == 0)?;
        let digits = &rows[sequence][last - 1..=last];
        Some((digits[0] * 10 + digits[1]) as usize)
    };
    for s in 0..20 {
        let mut best: Option<(bool, f64)> = None;
        for (codebook, groups) in chosen.iter().enumerate() {
            for (group, codes) in groups.iter().enumerate() {
                for code in 0..16 {
                    for digits_after in 0..2 {
                        let all =
                            || (0..codes.len()).filter_map(|r| Some((r, state(r, digits_after)?)));
                        let count = |fires: bool, is: bool| {
                            let both = |(r, t): &(usize, usize)| {
                                (!fires || codes[*r] == code) && (!is || *t == s)
                            };
                            all().filter(both).count() as f64
                        };
                        let right = count(true, true);
                        if right == 0.0 {
                            continue;
                        }
                        let (precision, recall) =
                            (right / count(true, false), right / count(false, true));
                        let rank = match recall >= 0.5 {
                            true => (true, precision),
                            false => (false, 2.0 * precision * recall / (precision + recall)),
                        };
                        if best.is_none_or(|best| rank > best) {
                            best = Some(rank);
                        }
                        let is_found = |c: &&StateCode| {
                            let at = codebooks.placed()[codebook].at.to_string();
                            (c.state, c.group, c.code, c.digits_after)
                                == (s, group, code, digits_after)
                                && c.hook_point == at
                        };
                        if let Some(found) = found.iter().find(is_found) {
                            assert_eq!((found.precision, found.recall), (precision, recall));
                        }
                    }
                }
            }
        }
        let of_state = found.iter().find(|c| c.state == s).map(|c| {
            let f1 = 2.0 * c.precision * c.recall / (c.precision + c.recall);
            match c.recall >= 0.5 {
                true => (true, c.precision),
                false => (false, f1),
            }
        });
        assert_eq!(of_state, best, "state {s}");
    }
}

#[test]
fn codes_move_by_their_own_learning_rate() {
    // How far each number of the codes moves in the first step.
    let moved = |factor: &str| -> Vec<f32> {
        let config = config(&[
            "training.batch=2",
            "codebook.n_codes=16",
            "codebook.weight_decay=0",
            "training.lr=1e-3",
            "training.warmup_steps=0",
            factor,
        ]);
        let data = Data::TokFsm(machine(&config));
        let mut trainer = CodebookTrainer::new(&config, data, None, &Device::flex()).unwrap();
        let codes = |trainer: &CodebookTrainer| {
            let placed = trainer.codebooks().placed();
            let all = placed.iter().map(|p| p.codebook.codes().to_data());
            all.flat_map(|data| data.iter::<f32>().collect::<Vec<_>>())
                .collect::<Vec<f32>>()
        };
        let before = codes(&trainer);
        trainer.step().unwrap();
        let after = codes(&trainer);
        after.iter().zip(before).map(|(a, b)| a - b).collect()
    };
    let (own, tenfold) = (
        moved("codebook.lr_factor=1"),
        moved("codebook.lr_factor=10"),
    );
    // Adam's first step has the size of the learning rate, whatever the gradient.
    assert!(own.iter().filter(|d| (d.abs() - 1e-3).abs() < 1e-5).count() > own.len() / 10);
    for (own, tenfold) in own.iter().zip(&tenfold) {
        assert!((10.0 * own - tenfold).abs() < 1e-5, "{own}, {tenfold}");
    }
    assert!(moved("codebook.lr_factor=0").iter().all(|d| *d == 0.0));
}
