//! A resumed training has the bits of one that never stopped; damaged and other files are refused.

use burn::tensor::Device;
use lapidary_codebook::{
    CodebookConfig, CodebookStep, CodebookTrainer, Data, DataOptions, TokFsm, load_checkpoint,
    load_codebooks, save_checkpoint, save_codebooks,
};

/// A tiny training in which codes are replaced at every fourth step.
fn start(set: &[&str]) -> CodebookTrainer {
    let text = "
        data.states = 12
        data.edges = 3
        data.sequence_states = 4
        model.d_model = 16
        model.n_layers = 2
        model.n_heads = 2
        model.d_mlp = 16
        codebook.places = ['attn_preproj', 'mlp_out', 'attn_out', 'resid_post']
        codebook.n_codes = 24
        codebook.k = 2
        codebook.init = 'k_means'
        codebook.replace_every = 4
        training.steps = 10
        training.batch = 4";
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let config = CodebookConfig::parse("tiny", text, &set).unwrap();
    let DataOptions::TokFsm(options) = &config.data else {
        panic!("a machine")
    };
    let data = Data::TokFsm(TokFsm::new(options.clone()).unwrap());
    CodebookTrainer::new(&config, data, None, &Device::flex()).unwrap()
}

fn finish(trainer: &mut CodebookTrainer) -> Vec<f64> {
    let mut losses = vec![];
    while trainer.step_count() < trainer.config().steps {
        losses.push(trainer.step().unwrap().loss);
    }
    losses
}

/// The bytes of all weights, codes, moments and counts.
fn state(trainer: &CodebookTrainer) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    trainer.state().write(&path, None).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_resumed_training_has_the_bits_of_one_that_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("checkpoint");
    let mut whole = start(&[]);
    for _ in 0..6 {
        whole.step().unwrap();
    }
    save_checkpoint(&whole, &place).unwrap();
    let expected = finish(&mut whole);
    let mut resumed = start(&[]);
    load_checkpoint(&mut resumed, &place, false).unwrap();
    assert_eq!(resumed.step_count(), 6);
    assert_eq!(finish(&mut resumed), expected);
    assert_eq!(state(&resumed), state(&whole));
}

#[test]
fn a_diverging_run_stops_and_its_log_is_read_back() {
    let mut trainer = start(&["training.lr=1e38"]);
    let mut report = trainer.step().unwrap();
    report.evaluation = Some(trainer.evaluate().unwrap());
    let line = serde_json::to_string(&report).unwrap();
    assert!(line.contains("null"), "{line}");
    let read: CodebookStep = serde_json::from_str(&line).unwrap();
    assert!(read.loss == report.loss && read.evaluation.unwrap().loss.is_nan());
    let error = trainer.step().unwrap_err().to_string();
    assert!(
        error.contains("training of the model stopped at step 2"),
        "{error}"
    );
}

#[test]
fn a_checkpoint_of_another_config_or_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("checkpoint");
    let mut trainer = start(&[]);
    trainer.step().unwrap();
    save_checkpoint(&trainer, &place).unwrap();
    let mut other = start(&["codebook.k=3"]);
    let error = load_checkpoint(&mut other, &place, false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("codebook.k") && error.contains("2 in the run"),
        "{error}"
    );
    let file = place.join("state.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = load_checkpoint(&mut start(&[]), &place, false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the file is damaged"), "{error}");
}

#[test]
fn a_run_is_extended_to_another_number_of_steps() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("checkpoint");
    let mut short = start(&["training.steps=6"]);
    finish(&mut short);
    save_checkpoint(&short, &place).unwrap();
    let mut long = start(&[]);
    let error = load_checkpoint(&mut long, &place, false).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("training.steps: found 6 in the run, 10 in the config")
            && error.contains("--extend"),
        "{error}"
    );
    // With a constant learning rate, the number of steps changes nothing else.
    load_checkpoint(&mut long, &place, true).unwrap();
    finish(&mut long);
    let mut whole = start(&[]);
    finish(&mut whole);
    assert_eq!(state(&long), state(&whole));
    let mut other = start(&["codebook.k=3"]);
    let error = load_checkpoint(&mut other, &place, true).unwrap_err();
    assert!(error.to_string().contains("codebook.k"), "{error}");
    let mut shorter = start(&["training.steps=5"]);
    let error = load_checkpoint(&mut shorter, &place, true).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("training.steps: found 5, expected at least the 6 steps"),
        "{error}"
    );
}

#[test]
fn codebooks_read_back_and_do_not_fit_another_model() {
    let dir = tempfile::tempdir().unwrap();
    let trainer = start(&[]);
    save_codebooks(trainer.codebooks(), dir.path()).unwrap();
    let read = load_codebooks(dir.path(), &Device::flex()).unwrap();
    read.check(&trainer.model()).unwrap();
    let pairs = read.placed().iter().zip(trainer.codebooks().placed());
    for (found, expected) in pairs {
        assert_eq!(found.at, expected.at);
        assert_eq!(found.codebook.options(), expected.codebook.options());
        let [found, expected] = [found, expected].map(|p| p.codebook.codes().to_data());
        assert_eq!(found, expected);
    }
    let wide = start(&["model.d_model=32"]);
    let error = read.check(&wide.model()).unwrap_err().to_string();
    assert!(
        error.contains("blocks.0.attn.hook_z: found width 16, expected 32"),
        "{error}"
    );
}

#[test]
fn more_codes_than_activations_are_refused() {
    let text = "
        data.states = 12
        data.edges = 3
        data.sequence_states = 4
        model.d_model = 16
        model.n_layers = 1
        codebook.n_codes = 1000
        codebook.init = 'data'
        training.batch = 2";
    let config = CodebookConfig::parse("tiny", text, &[]).unwrap();
    let DataOptions::TokFsm(options) = &config.data else {
        panic!("a machine")
    };
    let data = Data::TokFsm(TokFsm::new(options.clone()).unwrap());
    let error = match CodebookTrainer::new(&config, data, None, &Device::flex()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("16 activations cannot start 1000 codes"),
    };
    assert!(
        error.contains("n_codes: found 1000, expected at most 16"),
        "{error}"
    );
}
