//! What a user sees of training: planted features are found, a resumed run is the same run, and the
//! dictionary that comes out does to raw activations what the trained coder did to normalized ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::{
    ActivationMatrix, ActivationsError, BatchSource, Normalization, NormalizationKind,
};
use lapidary_coder::{Architecture, Coder, Dictionary, Penalty};
use lapidary_sae::{Recipe, SaeError, StepReport, TrainingRun};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const D: usize = 24;
const TRUE_FEATURES: usize = 48;

/// Sums of a few of `TRUE_FEATURES` unit directions each; the directions too.
fn planted(rows: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut directions = vec![0.0f32; TRUE_FEATURES * D];
    for row in directions.chunks_mut(D) {
        row.fill_with(|| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    let mut x = vec![0.0f32; rows * D];
    for row in x.chunks_mut(D) {
        for _ in 0..3 {
            let f = rng.random_range(0..TRUE_FEATURES);
            let size = 1.0 + rng.random::<f32>();
            for (v, d) in row.iter_mut().zip(&directions[f * D..]) {
                *v += size * d;
            }
        }
    }
    (x, directions)
}

fn matrix(rows: &[f32]) -> Tensor<2> {
    let n = rows.len() / D;
    Tensor::from_data(TensorData::new(rows.to_vec(), [n, D]), &Device::flex())
}

fn config(text: &str) -> Recipe {
    Recipe::parse("test.toml", text, &[]).unwrap()
}

fn trainer(text: &str, rows: &[f32]) -> TrainingRun {
    let config = config(text);
    let batch = config.training.batch_tokens;
    let source = ActivationMatrix::new(matrix(rows), batch, 5).unwrap();
    TrainingRun::new(&[config], Box::new(source), &Device::flex()).unwrap()
}

fn run(trainer: &mut TrainingRun) -> Vec<StepReport> {
    let mut reports = Vec::new();
    trainer.run(&mut |_, r| reports.push(r.clone())).unwrap();
    reports
}

/// Mean over true directions of the best cosine among decoder rows.
fn mean_max_cosine(dictionary: &Dictionary, directions: &[f32]) -> f64 {
    let rows: Vec<f32> = dictionary.coder.w_dec().try_into_vec_as().unwrap();
    let cosine = |a: &[f32], b: &[f32]| {
        let dot =
            |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-12)
    };
    let best = directions
        .chunks(D)
        .map(|d| rows.chunks(D).map(|r| cosine(d, r)).fold(-1.0, f64::max));
    best.sum::<f64>() / TRUE_FEATURES as f64
}

fn recipe(architecture: &str, extra: &str) -> String {
    format!(
        "activations.buffer_tokens = 4096
         [coder]
         architecture = '{architecture}'
         d_sae = 96
         k = 3
         [training]
         batch_tokens = 256
         tokens = 153_600
         lr = 5e-3
         log_every_steps = 100
         dead_after_tokens = 10_000
         {extra}"
    )
}

#[test]
fn topk_finds_planted_features() {
    let (x, directions) = planted(8192, 1);
    let mut t = trainer(&recipe("topk", ""), &x);
    let reports = run(&mut t);
    let last = reports.last().unwrap();
    assert_eq!((last.step, last.tokens), (600, 153_600));
    assert_eq!(reports.len(), 7, "first step, every 100, last");
    assert!(last.l0 <= 3.0);
    let found = mean_max_cosine(&t.finish(0).unwrap(), &directions);
    println!(
        "topk: mean max cosine {found:.4}, fvu {:.4}, dead {}",
        last.fvu, last.dead
    );
    assert!(found >= 0.9, "mean max cosine {found}");
    assert!(last.fvu < 0.1, "{last:?}");
}

#[test]
fn batchtopk_finds_planted_features_and_ends_as_a_jumprelu() {
    let (x, directions) = planted(8192, 1);
    let mut t = trainer(&recipe("batchtopk", ""), &x);
    let last = run(&mut t).pop().unwrap();
    let dictionary = t.finish(0).unwrap();
    let found = mean_max_cosine(&dictionary, &directions);
    println!(
        "batchtopk: mean max cosine {found:.4}, fvu {:.4}, threshold {:?}",
        last.fvu, last.threshold
    );
    assert!(found >= 0.9, "mean max cosine {found}");
    assert_eq!(dictionary.coder.architecture(), Architecture::JumpRelu);
    assert_eq!(
        dictionary.provenance.training_architecture.as_deref(),
        Some("batchtopk")
    );
    // The constant threshold lets through about as many as training did.
    let codes = dictionary.coder.encode(matrix(&x));
    let l0 = codes
        .values
        .greater_elem(0.0)
        .float()
        .sum()
        .into_scalar::<f32>()
        / 8192.0;
    assert!((l0 - 3.0).abs() < 0.5, "l0 {l0}");
}

#[test]
fn standard_finds_planted_features_and_its_penalty_makes_them_sparse() {
    let (x, directions) = planted(8192, 1);
    let mut t = trainer(&recipe("standard", "l1_coefficient = 0.3"), &x);
    let reports = run(&mut t);
    let dictionary = t.finish(0).unwrap();
    let found = mean_max_cosine(&dictionary, &directions);
    let (first, last) = (&reports[0], reports.last().unwrap());
    println!(
        "standard: mean max cosine {found:.4}, fvu {:.4}, l0 {:.2} (from {:.2})",
        last.fvu, last.l0, first.l0
    );
    assert!(found >= 0.9, "mean max cosine {found}");
    assert!(last.l0 < 0.4 * first.l0, "{} {}", first.l0, last.l0);
    // Norms are folded in: every row has norm 1.
    let norms: Vec<f32> = dictionary
        .coder
        .w_dec()
        .square()
        .sum_dim(1)
        .sqrt()
        .try_into_vec_as()
        .unwrap();
    assert!(norms.iter().all(|n| (n - 1.0).abs() < 1e-5));
}

/// Trains, prints what came of it, and holds it to what the others reach.
fn finds_planted_features(
    architecture: &str,
    tokens: u64,
    extra: &str,
    least: f64,
) -> (Dictionary, StepReport) {
    let (x, directions) = planted(8192, 1);
    let text =
        recipe(architecture, extra).replace("tokens = 153_600", &format!("tokens = {tokens}"));
    let mut t = trainer(&text, &x);
    let last = run(&mut t).pop().unwrap();
    let dictionary = t.finish(0).unwrap();
    let found = mean_max_cosine(&dictionary, &directions);
    println!(
        "{architecture}: mean max cosine {found:.4}, fvu {:.4}, l0 {:.2}",
        last.fvu, last.l0
    );
    assert!(found >= least, "mean max cosine {found}");
    (dictionary, last)
}

#[test]
fn jumprelu_finds_planted_features_with_each_penalty() {
    for penalty in [
        "penalty = 'step'\nl0_coefficient = 0.5\ninitial_threshold = 0.3",
        "penalty = 'quadratic'\ntarget_l0 = 3\nl0_coefficient = 0.1\ninitial_threshold = 0.5",
        "penalty = 'tanh'\nl0_coefficient = 0.5\ntanh_scale = 1\ninitial_threshold = 0.5",
    ] {
        let extra = format!("[coder.jumprelu]\nbandwidth = 1.0\n{penalty}");
        let (dictionary, last) = finds_planted_features("jumprelu", 153_600, &extra, 0.9);
        assert!(last.l0 < 5.0, "{last:?}");
        let thresholds: Vec<f32> = dictionary
            .coder
            .latent_vector("threshold")
            .unwrap()
            .try_into_vec_as()
            .unwrap();
        let moved = thresholds.iter().filter(|t| **t > 0.3).count();
        assert!(moved > 48, "{moved} thresholds rose");
    }
}

#[test]
fn gated_finds_planted_features() {
    let (dictionary, last) = finds_planted_features("gated", 512_000, "l1_coefficient = 1.0", 0.9);
    assert!(last.l0 < 6.0, "{last:?}");
    assert_eq!(dictionary.coder.architecture(), Architecture::Gated);
}

#[test]
fn matching_pursuit_finds_planted_features_of_raw_activations() {
    let (dictionary, last) = finds_planted_features("matching_pursuit", 153_600, "", 0.9);
    assert!(last.fvu < 0.15 && last.l0 <= 3.0, "{last:?}");
    let norms: Vec<f32> = dictionary
        .coder
        .w_dec()
        .square()
        .sum_dim(1)
        .to_data()
        .iter()
        .collect();
    assert!(norms.iter().all(|n| (n - 1.0).abs() < 1e-4));
}

#[test]
fn matryoshka_finds_planted_features_and_ends_as_a_jumprelu() {
    let extra = "[coder.matryoshka]\nwidths = [24, 48]";
    let (dictionary, _) = finds_planted_features("matryoshka", 153_600, extra, 0.85);
    assert_eq!(dictionary.coder.architecture(), Architecture::JumpRelu);
    let trained = dictionary.provenance.training_architecture;
    assert_eq!(trained.as_deref(), Some("matryoshka"));
}

#[test]
fn proximal_finds_planted_features_with_each_penalty_and_is_stored_as_what_it_is() {
    for (penalty, coefficient, stored) in [
        ("l1", 0.1, "standard"),
        ("l0", 0.18, "jumprelu"),
        ("cel0", 0.18, "jumprelu"),
        ("l_half", 0.2, "proximal"),
        ("log_sum", 0.15, "proximal"),
        ("scad", 0.3, "proximal"),
        ("mcp", 0.4, "proximal"),
    ] {
        let extra = format!("[coder.proximal]\nshape = '{penalty}'\nweight = {coefficient}");
        println!("{penalty}:");
        let (dictionary, last) = finds_planted_features("proximal", 256_000, &extra, 0.8);
        assert_eq!(dictionary.coder.architecture().name(), stored);
        assert!(last.fvu < 0.3, "{last:?}");
    }
}

#[test]
fn every_optimizer_finds_planted_features() {
    let (x, directions) = planted(8192, 1);
    for (optimizer, lr) in [("signum", "1e-3"), ("muon", "1e-2")] {
        let extra = format!("optimizer = '{optimizer}'");
        let text = recipe("topk", &extra).replace("lr = 5e-3", &format!("lr = {lr}"));
        let mut t = trainer(&text, &x);
        let last = run(&mut t).pop().unwrap();
        let dictionary = t.finish(0).unwrap();
        let found = mean_max_cosine(&dictionary, &directions);
        println!(
            "{optimizer}: mean max cosine {found:.4}, fvu {:.4}",
            last.fvu
        );
        assert!(found >= 0.9, "{optimizer}: mean max cosine {found}");
        let norms = dictionary.coder.w_dec().square().sum_dim(1).to_data();
        assert!(norms.iter::<f32>().all(|n| (n - 1.0).abs() < 1e-4));
    }
}

#[test]
fn active_latents_fall_from_their_start_to_k() {
    let (x, _) = planted(2048, 1);
    let text = recipe("topk", "k_anneal_steps = 8")
        .replace("k = 3", "k = 3\n         k_start = 11")
        .replace("tokens = 153_600", "tokens = 2816")
        .replace("log_every_steps = 100", "log_every_steps = 1");
    let mut t = trainer(&text, &x);
    let reports = run(&mut t);
    // Initial latents are positive for all but few tokens.
    for (step, report) in reports.iter().enumerate() {
        let k = 11.0 - step.min(8) as f64;
        assert!(
            report.l0 <= k && report.l0 > 0.9 * k,
            "step {step}: {report:?}"
        );
    }
    assert_eq!(t.finish(0).unwrap().coder.architecture().k(), Some(3));
}

#[test]
fn multi_topk_reconstructs_better_with_another_k() {
    let (x, _) = planted(8192, 1);
    let fvu = |multi: bool| {
        let text = recipe("topk", "").replace("k = 3", &format!("k = 3\nmulti_topk = {multi}"));
        let mut t = trainer(&text, &x);
        run(&mut t);
        let coder = t.trainers()[0].coder().with_k(8).unwrap();
        let rows = matrix(&x);
        let hat = coder.decode(coder.encode(rows.clone()));
        let square = |t: Tensor<2>| t.square().sum().into_scalar::<f32>();
        square(hat - rows.clone()) / square(rows)
    };
    let (plain, multi) = (fvu(false), fvu(true));
    println!(
        "topk with k 3, used with k 8: unexplained {plain:.4}, trained as Multi-TopK {multi:.4}"
    );
    assert!(multi < 0.8 * plain, "{multi} {plain}");
}

#[test]
fn the_loss_of_a_run_away_is_an_error_and_not_a_dictionary_of_nans() {
    let (x, _) = planted(1024, 1);
    let x: Vec<f32> = x.iter().map(|v| v * 1e25).collect();
    let mut t = trainer(
        &recipe("standard", "tokens = 2560").replace("tokens = 153_600\n", "\n"),
        &x,
    );
    let error = t.run(&mut |_, _| ()).unwrap_err();
    assert!(
        matches!(error, SaeError::Diverged { step: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_run_that_diverged_between_logged_steps_keeps_its_last_checkpoint() {
    struct Surge(ActivationMatrix, u32);
    impl BatchSource for Surge {
        fn normalizations(&self) -> &[Normalization] {
            self.0.normalizations()
        }
        fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
            self.1 += 1;
            // the first one starts the weights
            let size = if self.1 == 3 { f32::INFINITY } else { 1.0 };
            Ok(vec![self.0.next_batch()?.remove(0) * size])
        }
        fn save(&self, dir: &Path) -> Result<(), ActivationsError> {
            self.0.save(dir)
        }
        fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError> {
            self.0.restore(dir)
        }
    }
    let (x, _) = planted(1024, 1);
    let config = config(&recipe("topk", ""));
    let source = Surge(ActivationMatrix::new(matrix(&x), 256, 5).unwrap(), 0);
    let mut t = TrainingRun::new(&[config], Box::new(source), &Device::flex()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint");
    t.step().unwrap();
    t.save_checkpoint(&checkpoint).unwrap();
    let before = files(&checkpoint);
    assert!(t.step().unwrap()[0].is_none(), "the step is not logged");
    let error = t.save_checkpoint(&checkpoint).unwrap_err();
    assert!(matches!(error, SaeError::NotFinite { .. }), "{error}");
    assert!(t.finish(0).is_err());
    assert_eq!(files(&checkpoint), before);
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            out.extend(files(&entry.path()));
        } else {
            out.push((
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            ));
        }
    }
    out.sort();
    out
}

/// The architectures whose penalty a controller can weigh.
const PENALIZED: [&str; 4] = ["standard", "jumprelu", "gated", "proximal"];

#[test]
fn l0_ends_where_the_recipe_asks_for_it() {
    let (x, _) = planted(8192, 1);
    for architecture in PENALIZED {
        for target in [2.0, 6.0] {
            let coder = format!("k = 3\ntarget_l0 = {target}");
            // The data have 3 active features: more active latents are only kept, not found.
            let extra = match (architecture, target > 3.0) {
                ("jumprelu", true) => "[coder.jumprelu]\ninitial_threshold = 0.05",
                _ => "",
            };
            let coder = match extra {
                "" => coder,
                _ => format!("{coder}\nencoder_init_norm = 1.0"),
            };
            let text = recipe(architecture, extra)
                .replace("k = 3", &coder)
                .replace("log_every_steps = 100", "log_every_steps = 1");
            let mut trained = trainer(&text, &x);
            let reports = run(&mut trained);
            let last = &reports[reports.len() - 50..];
            let l0 = last.iter().map(|r| r.l0).sum::<f64>() / last.len() as f64;
            let factor = last[49].penalty_factor.unwrap();
            // The penalty of a proximal coder is part of its encoder.
            if let Architecture::Proximal(penalty) = trained.finish(0).unwrap().coder.architecture()
            {
                let weight = Penalty::DEFAULT.weight * factor;
                assert!(
                    (penalty.weight / weight - 1.0).abs() < 1e-9,
                    "{penalty:?}, {weight}"
                );
            }
            println!("{architecture}: target {target}, L0 {l0:.3}, factor {factor:.3}");
            assert!(
                (l0 / target - 1.0).abs() < 0.05,
                "{architecture}, target {target}: {l0}"
            );
        }
    }
}

#[test]
fn a_resumed_run_has_the_same_bits_as_one_that_never_stopped() {
    let (x, _) = planted(1000, 2);
    let with_target = PENALIZED.map(|architecture| (architecture, "k = 3\ntarget_l0 = 0.5"));
    let others = [
        "topk",
        "batchtopk",
        "standard",
        "matryoshka",
        "jumprelu",
        "gated",
        "matching_pursuit",
        "proximal",
    ];
    let mut with_aux = BTreeSet::new();
    for (architecture, coder) in others
        .map(|name| (name, "k = 3"))
        .into_iter()
        .chain(with_target)
    {
        // Whoever is silent for one batch counts as dead, so that AuxK takes part.
        let text = recipe(
            architecture,
            "dead_check_every_steps = 2\nclip_grad_norm = 0.05",
        )
        .replace("dead_after_tokens = 10_000", "dead_after_tokens = 200")
        .replace("tokens = 153_600", "tokens = 1536")
        .replace("log_every_steps = 100", "log_every_steps = 1")
        .replace("k = 3", coder);
        let dir = tempfile::tempdir().unwrap();
        let (whole, stopped) = (dir.path().join("whole"), dir.path().join("checkpoint"));

        let mut never_stopped = trainer(&text, &x);
        let all = run(&mut never_stopped);
        assert_eq!(all.len(), 6);
        never_stopped.save_checkpoint(&whole).unwrap();

        let mut first = trainer(&text, &x);
        let mut reports = Vec::new();
        for _ in 0..3 {
            reports.extend(first.step().unwrap().remove(0));
        }
        first.save_checkpoint(&stopped).unwrap();
        drop(first);
        let source = ActivationMatrix::new(matrix(&x), 256, 999).unwrap();
        let mut second = TrainingRun::resume(&stopped, Box::new(source), &Device::flex()).unwrap();
        assert_eq!(second.step_count(), 3);
        reports.extend(run(&mut second));
        second.save_checkpoint(&stopped).unwrap();

        assert_eq!(reports, all, "{architecture}");
        let factors: Vec<f64> = all.iter().filter_map(|r| r.penalty_factor).collect();
        assert_eq!(factors.len(), if coder == "k = 3" { 0 } else { 6 });
        assert!(
            factors.windows(2).all(|pair| pair[0] != pair[1]),
            "{factors:?}"
        );
        // A gated coder has an auxiliary loss of its own, too.
        if all.iter().any(|r| r.aux > 0.0) && architecture != "gated" {
            with_aux.insert(architecture);
        }
        let (a, b) = (files(&whole), files(&stopped));
        assert!(
            a.len() >= 4,
            "manifest, recipe, state and the source's files"
        );
        for ((name, a), (_, b)) in a.iter().zip(&b) {
            assert!(a == b, "{architecture}: {name} differs");
        }
        assert_eq!(a.len(), b.len());
    }
    for architecture in ["topk", "batchtopk", "matryoshka"] {
        assert!(with_aux.contains(architecture), "{architecture}: no AuxK");
    }
    let penalized = PENALIZED.iter().any(|name| with_aux.contains(name));
    assert!(penalized, "no AuxK beside a penalty: {with_aux:?}");
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_noticed() {
    let (x, _) = planted(1000, 2);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("checkpoint");
    let mut t = trainer(&recipe("topk", ""), &x);
    t.step().unwrap();
    t.save_checkpoint(&place).unwrap();
    let resume = || {
        let source = ActivationMatrix::new(matrix(&x), 256, 1).unwrap();
        TrainingRun::resume(&place, Box::new(source), &Device::flex()).map(|_| ())
    };
    resume().unwrap();
    let all = lapidary_io::files_below(&place).unwrap();
    assert!(
        all.len() >= 4,
        "manifest, recipe, state and the source's files"
    );
    for name in &all {
        let path = place.join(name);
        let (name, bytes) = (name.display(), &fs::read(&path).unwrap());
        for flip in 0..200 {
            let mut damaged = bytes.clone();
            let at = bytes.len() * flip / 200;
            damaged[at] ^= 1 << (flip % 8);
            fs::write(&path, &damaged).unwrap();
            assert!(resume().is_err(), "byte {at} of {name}");
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(resume().is_err(), "{name} cut short");
        fs::write(&path, bytes).unwrap();
    }
    resume().unwrap();
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_by_name() {
    let (x, _) = planted(1000, 2);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("checkpoint");
    let mut t = trainer(&recipe("topk", ""), &x);
    t.step().unwrap();
    t.save_checkpoint(&place).unwrap();
    let resume = |width: usize| {
        let rows = Tensor::zeros([300, width], &Device::flex());
        let source = ActivationMatrix::new(rows, 256, 1).unwrap();
        TrainingRun::resume(&place, Box::new(source), &Device::flex())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let error = resume(7);
    assert!(
        error.ends_with("manifest.json: d_in: found 24, expected 7"),
        "{error}"
    );
    let state = place.join("coder-0/state.safetensors");
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    let error = resume(D);
    assert!(
        error.contains("state.safetensors: length: found "),
        "{error}"
    );
    fs::remove_file(place.join("manifest.json")).unwrap();
    let error = resume(D);
    assert!(error.contains("manifest.json: cannot be read"), "{error}");
}

/// Batches of a matrix, under a normalization.
struct Normalized {
    inner: ActivationMatrix,
    normalizations: Vec<Normalization>,
}

impl BatchSource for Normalized {
    fn normalizations(&self) -> &[Normalization] {
        &self.normalizations
    }
    fn next_batch(&mut self) -> Result<Vec<Tensor<2>>, ActivationsError> {
        let parts = self.inner.next_batch()?.into_iter();
        let parts = parts.zip(&self.normalizations);
        Ok(parts.map(|(x, n)| normalized(x, n)).collect())
    }
    fn save(&self, dir: &Path) -> Result<(), ActivationsError> {
        self.inner.save(dir)
    }
    fn restore(&mut self, dir: &Path) -> Result<(), ActivationsError> {
        self.inner.restore(dir)
    }
}

fn normalized(x: Tensor<2>, n: &Normalization) -> Tensor<2> {
    let mean = Tensor::<1>::from_data(TensorData::new(n.mean.clone(), [n.mean.len()]), &x.device());
    (x - mean.unsqueeze()) * n.scale
}

#[test]
fn the_dictionary_does_to_raw_activations_what_the_coder_did_to_normalized_ones() {
    let (x, _) = planted(2048, 3);
    let x: Vec<f32> = x
        .chunks(D)
        .flat_map(|r| r.iter().enumerate().map(|(j, v)| 7.0 * v + j as f32))
        .collect();
    for architecture in [
        "topk",
        "batchtopk",
        "standard",
        "jumprelu",
        "gated",
        "proximal",
    ] {
        for apply in [true, false] {
            let normalization = Normalization {
                kind: NormalizationKind::MeanCentred,
                mean: (0..D).map(|j| j as f32 + 0.5).collect(),
                scale: 0.31,
            };
            let text = recipe(architecture, "l1_coefficient = 0.05")
                .replace("tokens = 153_600", "tokens = 25_600")
                + "\n[coder.x]\n[evaluation]\ntokens = 0\n";
            let text = text
                .replace("[coder.x]\n", "")
                .replace("k = 3", &format!("k = 3\napply_b_dec_to_input = {apply}"));
            let config = config(&text);
            let source = Normalized {
                inner: ActivationMatrix::new(matrix(&x), 256, 5).unwrap(),
                normalizations: vec![normalization.clone()],
            };
            let mut t = TrainingRun::new(&[config], Box::new(source), &Device::flex()).unwrap();
            run(&mut t);
            let (coder, dictionary) = (t.trainers()[0].coder(), t.finish(0).unwrap());
            let raw = matrix(&x);
            let folded = dictionary
                .coder
                .decode(dictionary.coder.encode(raw.clone()));
            // The same with the trained weights, by plain dense arithmetic.
            let x_norm = normalized(raw.clone(), &normalization);
            let centred = if apply {
                x_norm.clone() - coder.b_dec().unsqueeze()
            } else {
                x_norm
            };
            let vector = |name: &str| coder.latent_vector(name).unwrap();
            let products = centred.matmul(coder.w_enc().transpose());
            let mut pre = match architecture {
                "gated" => {
                    let gates = products.clone() + vector("b_gate").unsqueeze();
                    let values =
                        products * vector("r_mag").exp().unsqueeze() + vector("b_mag").unsqueeze();
                    values * gates.greater_elem(0.0).float()
                }
                _ => products + vector("b_enc").unsqueeze(),
            };
            let norms = coder.w_dec().square().sum_dim(1).sqrt().transpose(); // [1, d_sae]
            let least = match architecture {
                // Of each row the third largest value is the smallest that stays.
                "topk" => pre.clone().topk(3, 1).min_dim(1).clamp_min(1e-30),
                "batchtopk" => {
                    let t: Vec<f32> = dictionary
                        .coder
                        .latent_vector("threshold")
                        .unwrap()
                        .try_into_vec_as()
                        .unwrap();
                    Tensor::full(
                        [2048, 1],
                        t[0] * normalization.scale
                            / norms.clone().slice([0..1, 0..1]).into_scalar::<f32>(),
                        &Device::flex(),
                    )
                }
                "proximal" => {
                    // MCP with λ 0.01 and γ 2: nothing up to λ, twice what is above up to 2λ, then
                    // all.
                    pre = pre.clone().min_pair((pre - 0.01) * 2.0);
                    Tensor::full([2048, 1], 1e-30, &Device::flex())
                }
                "jumprelu" => {
                    let silent = pre.clone().lower_equal(vector("threshold").unsqueeze());
                    pre = pre.mask_fill(silent, 0.0);
                    Tensor::full([2048, 1], 1e-30, &Device::flex())
                }
                _ => Tensor::full([2048, 1], 1e-30, &Device::flex()),
            };
            let silent = pre.clone().lower(least.expand([2048, 96]));
            let latents = pre.mask_fill(silent, 0.0);
            let hat = latents.matmul(coder.w_dec()) + coder.b_dec().unsqueeze();
            let mean = Tensor::<1>::from_data(
                TensorData::new(normalization.mean.clone(), [D]),
                &Device::flex(),
            );
            let back = hat / normalization.scale + mean.unsqueeze();
            let wrong: Vec<f32> = (folded - back).abs().max_dim(1).try_into_vec_as().unwrap();
            // Rounding may flip a choice between two nearly equal latents in very few rows.
            let off = wrong.iter().filter(|w| **w > 1e-3).count();
            assert!(
                off <= 4,
                "{architecture}, b_dec at input {apply}: {off} rows differ"
            );
            let typical = wrong.iter().sum::<f32>() / wrong.len() as f32;
            assert!(typical < 1e-3, "{typical}");
        }
    }
}

#[test]
fn every_recipe_in_configs_is_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut read = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let config = Recipe::load(&path, &[]).unwrap();
            config.resolve(576).unwrap();
            read += 1;
        }
    }
    assert!(read >= 4, "{read} recipes");
}

#[test]
fn a_pursuit_of_raw_activations_ends_where_one_of_normalized_ones_did() {
    let (x, _) = planted(2048, 3);
    let normalization = Normalization {
        kind: NormalizationKind::MeanCentred,
        mean: (0..D).map(|j| j as f32 + 0.5).collect(),
        scale: 0.31,
    };
    let text = recipe("matching_pursuit", "decoder_norm = 'unit'")
        .replace("tokens = 153_600", "tokens = 25_600")
        + "\n[coder.matching_pursuit]\nresidual_threshold = 0.4";
    let source = Normalized {
        inner: ActivationMatrix::new(matrix(&x), 256, 5).unwrap(),
        normalizations: vec![normalization.clone()],
    };
    let mut t = TrainingRun::new(&[config(&text)], Box::new(source), &Device::flex()).unwrap();
    run(&mut t);
    let (coder, dictionary) = (t.trainers()[0].coder(), t.finish(0).unwrap());
    let x_norm = normalized(matrix(&x), &normalization);
    let hat = coder.decode(coder.encode(x_norm)) / normalization.scale;
    let mean = Tensor::<1>::from_floats(normalization.mean.as_slice(), &Device::flex());
    let raw = dictionary.coder.encode(matrix(&x));
    let active: f32 = raw
        .values
        .clone()
        .greater_elem(0.0)
        .float()
        .sum()
        .into_scalar();
    assert!(active < 2.9 * 2048.0, "the threshold stops some rows");
    let wrong = dictionary.coder.decode(raw) - (hat + mean.unsqueeze());
    let wrong: Vec<f32> = wrong.abs().max_dim(1).try_into_vec_as().unwrap();
    // Rounding may flip a choice between two nearly equal atoms in very few rows.
    let off = wrong.iter().filter(|w| **w > 1e-3).count();
    assert!(off <= 4, "{off} rows differ");
}
