//! Cross-layer transcoders: features planted in several layers are found with what they write at
//! each later one, the dictionary does to raw activations what the coder did to normalized ones,
//! runs resume, and files and recipes say what they are.

use std::fs;

use crate::normalized::{Normalized, host, matrix};
use burn::tensor::{Device, Tensor};
use lapidary_activations::{ActivationMatrix, Normalization, NormalizationKind};
use lapidary_coder::{Coder, Sites};
use lapidary_formats::saelens;
use lapidary_sae::{Recipe, TrainingRun};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LAYERS: usize = 3;
/// Widths of what is read and written at each layer.
const D_IN: usize = 18;
const D_OUT: usize = 14;
/// Features of each layer.
const FEATURES: usize = 12;
const ROWS: usize = 8192;
const SCALES: [f32; 2 * LAYERS] = [0.4, 3.0, 1.5, 2.0, 0.7, 1.2];

struct Planted {
    /// What the features of a layer write, `[FEATURES, (LAYERS - l) D_OUT]`: a third at their own
    /// layer only, a third at all, a third at all but their own (of the last layer, which has no
    /// other, at their own).
    written: Vec<Vec<f32>>,
    /// `[ROWS, D_IN]` at each layer, then `[ROWS, D_OUT]` at each.
    rows: Vec<Vec<f32>>,
}

fn planted() -> Planted {
    let mut rng = ChaCha8Rng::seed_from_u64(31);
    let mut unit = |n: usize, width: usize| -> Vec<f32> {
        let mut rows: Vec<f32> = (0..n * width)
            .map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0)
            .collect();
        for row in rows.chunks_mut(width) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        }
        rows
    };
    let read: Vec<Vec<f32>> = (0..LAYERS).map(|_| unit(FEATURES, D_IN)).collect();
    let mut written: Vec<Vec<f32>> = (0..LAYERS)
        .map(|l| unit(FEATURES * (LAYERS - l), D_OUT))
        .collect();
    for (l, rows) in written.iter_mut().enumerate() {
        for (f, row) in rows.chunks_mut((LAYERS - l) * D_OUT).enumerate() {
            match f % 3 {
                0 => row[D_OUT..].fill(0.0),
                2 if l + 1 < LAYERS => row[..D_OUT].fill(0.0),
                _ => {}
            }
        }
    }
    let mut rows: Vec<Vec<f32>> = (0..2 * LAYERS)
        .map(|at| vec![0.0; ROWS * if at < LAYERS { D_IN } else { D_OUT }])
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(32);
    for n in 0..ROWS {
        for l in 0..LAYERS {
            for _ in 0..2 {
                let (f, size) = (rng.random_range(0..FEATURES), 1.0 + rng.random::<f32>());
                let mut add = |at: usize, width: usize, direction: &[f32]| {
                    let row = &mut rows[at][n * width..][..width];
                    row.iter_mut()
                        .zip(direction)
                        .for_each(|(v, d)| *v += size * d);
                };
                add(l, D_IN, &read[l][f * D_IN..][..D_IN]);
                for to in l..LAYERS {
                    let start = (f * (LAYERS - l) + to - l) * D_OUT;
                    add(LAYERS + to, D_OUT, &written[l][start..][..D_OUT]);
                }
            }
        }
    }
    Planted { written, rows }
}

const HOOKS: &str = "hook_points = ['blocks.0.hook_resid_mid', 'blocks.1.hook_resid_mid', 'blocks.2.hook_resid_mid']
hook_points_out = ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out', 'blocks.2.hook_mlp_out']
";

fn config(more: &[&str]) -> Recipe {
    let text = format!(
        "{HOOKS}
         activations.buffer_tokens = 4096
         [training]
         batch_tokens = 256
         tokens = 384_000
         lr = 3e-3
         log_every_steps = 500
         dead_after_tokens = 10_000
         [coder]
         d_sae = 24
         k = 2"
    );
    let set: Vec<String> = more.iter().map(ToString::to_string).collect();
    Recipe::parse("test.toml", &text, &set).unwrap()
}

fn width(at: usize) -> usize {
    if at < LAYERS { D_IN } else { D_OUT }
}

fn source(planted: &Planted, scales: [f32; 2 * LAYERS]) -> Box<Normalized> {
    let rows = planted.rows.iter().enumerate();
    let parts = rows.map(|(at, rows)| matrix(rows, width(at))).collect();
    let normalizations = scales.iter().enumerate().map(|(at, scale)| Normalization {
        kind: NormalizationKind::MeanCentred,
        mean: vec![0.1 * (1.0 - scale); width(at)],
        scale: *scale,
    });
    Box::new(Normalized {
        inner: ActivationMatrix::aligned(parts, 256, 5).unwrap(),
        normalizations: normalizations.collect(),
    })
}

fn trained(planted: &Planted, config: Recipe, scales: [f32; 2 * LAYERS]) -> (TrainingRun, f64) {
    let source = source(planted, scales);
    let mut run = TrainingRun::new(&[config], source, &Device::flex()).unwrap();
    let mut fvu = 1.0;
    run.run(&mut |_, report| fvu = report.fvu).unwrap();
    (run, fvu)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

#[test]
fn features_are_found_in_their_layer_with_what_they_write_at_each_later_one() {
    let planted = planted();
    for (more, least) in [
        (&["coder.architecture=topk"][..], 0.97),
        (
            &["coder.architecture=standard", "training.l1_coefficient=0.3"],
            0.95,
        ),
        (
            &[
                "coder.architecture=standard",
                "training.l1_coefficient=0.2",
                "training.sparsity_penalty=tanh",
            ],
            0.97,
        ),
        (
            &[
                "coder.architecture=jumprelu",
                "coder.jumprelu.l0_coefficient=0.3",
                "coder.jumprelu.penalty=tanh",
            ],
            0.93,
        ),
    ] {
        let (run, fvu) = trained(&planted, config(more), [1.0; 2 * LAYERS]);
        if more[0].ends_with("jumprelu") {
            // The only ones whose decoder rows keep norm 1: what a latent writes anywhere,
            // together.
            for l in 0..LAYERS {
                let rows = host(run.trainers()[0].coder().layers()[l].w_dec());
                for row in rows.chunks((LAYERS - l) * D_OUT) {
                    assert!(
                        (dot(row, row).sqrt() - 1.0).abs() < 1e-4,
                        "{}",
                        dot(row, row)
                    );
                }
            }
        }
        let coder = run.finish(0).unwrap().coder;
        assert!(coder.as_cross_layer().is_some());
        assert_eq!((coder.layers().len(), coder.d_sae()), (LAYERS, 24 * LAYERS));
        let (mut found, mut misplaced) = (0.0, 0.0f64);
        for (l, written) in planted.written.iter().enumerate() {
            let wide = (LAYERS - l) * D_OUT;
            let rows = host(coder.layers()[l].w_dec());
            for feature in written.chunks(wide) {
                let cosine = |row: &&[f32]| {
                    dot(row, feature) / (dot(row, row) * dot(feature, feature)).sqrt().max(1e-12)
                };
                let best = rows
                    .chunks(wide)
                    .max_by(|a, b| cosine(a).total_cmp(&cosine(b)))
                    .unwrap();
                found += cosine(&best) / (FEATURES * LAYERS) as f64;
                // The share of its energy where the feature writes nothing.
                let places = best.chunks(D_OUT).zip(feature.chunks(D_OUT));
                let wrong = places
                    .filter(|(_, f)| dot(f, f) == 0.0)
                    .map(|(b, _)| dot(b, b));
                misplaced = misplaced.max(wrong.sum::<f64>() / dot(best, best));
            }
        }
        println!(
            "{more:?}: mean max cosine {found:.4}, at most {misplaced:.4} misplaced, fvu {fvu:.4}"
        );
        assert!(found > least, "{more:?}: {found}");
    }
}

#[test]
fn the_dictionary_does_to_raw_activations_what_the_coder_did_to_normalized_ones() {
    let planted = planted();
    for architecture in ["topk", "standard", "jumprelu"] {
        let architecture = format!("coder.architecture={architecture}");
        let config = config(&[&architecture, "training.tokens=25_600"]);
        let (run, _) = trained(&planted, config, SCALES);
        let (coder, dictionary) = (run.trainers()[0].coder(), run.finish(0).unwrap());
        let raw: Vec<Tensor<2>> = (0..LAYERS)
            .map(|l| matrix(&planted.rows[l], D_IN).narrow(0, 0, 512))
            .collect();
        let mean = |at: usize| 0.1 * (1.0 - SCALES[at]);
        let seen = raw.iter().enumerate();
        let seen = seen.map(|(l, x)| (x.clone() - mean(l)) * SCALES[l]);
        let seen = Tensor::cat(seen.collect(), 1);
        let hat = coder.decode(coder.encode(seen));
        let expected = (0..LAYERS).map(|l| {
            let at = LAYERS + l;
            hat.clone().narrow(1, l * D_OUT, D_OUT) / SCALES[at] + mean(at)
        });
        let expected = host(Tensor::cat(expected.collect(), 1));
        let x = Tensor::cat(raw, 1);
        let found = host(
            dictionary
                .coder
                .reconstruct(dictionary.coder.encode(x.clone()), x),
        );
        let rows = found
            .chunks(LAYERS * D_OUT)
            .zip(expected.chunks(LAYERS * D_OUT));
        let differs =
            |(f, e): &(&[f32], &[f32])| f.iter().zip(*e).any(|(f, e)| (f - e).abs() > 2e-4);
        // Rounding may decide otherwise about a latent at its threshold in very few rows.
        let off = rows.filter(differs).count();
        assert!(off <= 2, "{architecture}: {off} of 512 rows");
    }
}

/// Codes in any order stand for what the dense decoder makes of them.
#[test]
fn decoding_goes_by_latents_not_by_places() {
    let planted = planted();
    let (run, _) = trained(&planted, config(&["training.tokens=2560"]), SCALES);
    let coder = run.finish(0).unwrap().coder;
    let x: Vec<Tensor<2>> = (0..LAYERS)
        .map(|l| matrix(&planted.rows[l], D_IN).narrow(0, 0, 32))
        .collect();
    let codes = coder.encode(Tensor::cat(x, 1));
    assert_eq!(codes.indices.dims(), [32, 2 * LAYERS]);
    let mut dense = vec![0.0f32; 32 * coder.d_sae()];
    let indices: Vec<i64> = codes.indices.to_data().iter().collect();
    let values: Vec<f32> = codes.values.to_data().iter().collect();
    for (at, (i, v)) in indices.iter().zip(&values).enumerate() {
        dense[at / (2 * LAYERS) * coder.d_sae() + *i as usize] += v;
    }
    let dense = matrix(&dense, coder.d_sae()).matmul(coder.w_dec()) + coder.b_dec().unsqueeze();
    let mut turned = codes;
    turned.values = turned.values.flip([1]);
    turned.indices = turned.indices.flip([1]);
    for (a, b) in host(coder.decode(turned)).iter().zip(host(dense)) {
        assert!((a - b).abs() < 1e-5, "{a}, {b}");
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let planted = planted();
    for architecture in ["topk", "jumprelu"] {
        let architecture = format!("coder.architecture={architecture}");
        let config = config(&[
            &architecture,
            "training.tokens=20_480",
            "training.dead_after_tokens=1024",
        ]);
        let (whole, _) = trained(&planted, config.clone(), SCALES);
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("checkpoint");
        let device = Device::flex();
        let mut half = TrainingRun::new(&[config], source(&planted, SCALES), &device).unwrap();
        while half.step_count() < 33 {
            half.step().unwrap();
        }
        half.save_checkpoint(&dir).unwrap();
        drop(half);
        let mut rest = TrainingRun::resume(&dir, source(&planted, SCALES), &device).unwrap();
        rest.run(&mut |_, _| {}).unwrap();
        let both = [whole, rest].map(|run| {
            let coder = run.trainers()[0].coder();
            (host(coder.w_enc()), host(coder.w_dec()))
        });
        assert!(both[0] == both[1], "{architecture}: other bits");
    }
}

#[test]
fn a_file_says_its_layers_and_reads_back() {
    let planted = planted();
    for (architecture, stored) in [
        ("topk", "\"topk_cross_layer_transcoder\""),
        ("standard", "\"cross_layer_transcoder\""),
        ("jumprelu", "\"jumprelu_cross_layer_transcoder\""),
    ] {
        let architecture = format!("coder.architecture={architecture}");
        let short = ["training.tokens=2560", &architecture];
        let (run, _) = trained(&planted, config(&short), SCALES);
        let written = run.finish(0).unwrap();
        let folder = tempfile::tempdir().unwrap();
        saelens::save(&written, folder.path()).unwrap();
        let cfg = folder.path().join("cfg.json");
        let text = fs::read_to_string(&cfg).unwrap();
        assert!(text.contains(stored), "{text}");
        let read = saelens::load(folder.path(), &Device::flex()).unwrap();
        assert_eq!(read.provenance, written.provenance);
        assert!(read.transcodes() && read.coder.as_cross_layer().is_some());
        assert_eq!(read.coder.layers().len(), LAYERS);
        let hooks = read.sites().written();
        assert_eq!(hooks[2], "blocks.2.hook_mlp_out");
        let x = (0..LAYERS).map(|l| matrix(&planted.rows[l], D_IN));
        let x = Tensor::cat(x.collect(), 1);
        let both = [&written, &read].map(|d| host(d.coder.decode(d.coder.encode(x.clone()))));
        assert!(both[0] == both[1], "other bits");
        for (from, to, expected) in [
            (
                "hook_names_out",
                "hook_named",
                "metadata.hook_names_out: found nothing",
            ),
            ("\"layers\": 3", "\"layers\": 4", "multiple of the 4 layers"),
            (
                "\"layers\": 3",
                "\"layers\": 2",
                "expected the hook points of 2 layers",
            ),
            ("\"layers\": 3", "\"layers\": 999", "at most layers = 256"),
            ("\"d_sae\": 72", "\"d_sae\": 73", "d_sae: found 73"),
        ] {
            fs::write(&cfg, text.replacen(from, to, 1)).unwrap();
            let error = saelens::load(folder.path(), &Device::flex())
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}

#[test]
fn recipes_of_cross_layer_transcoders_that_cannot_be_are_refused() {
    let refused = |text: &str| {
        let error = Recipe::parse("run.toml", text, &[]).unwrap_err();
        error.to_string()
    };
    let (read, written) = HOOKS.trim().split_once('\n').unwrap();
    for (text, expected) in [
        (
            "hook_points_out = ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out']".to_owned(),
            "found 0 and 2 hook points, expected as many in both, and at least 2",
        ),
        (
            format!("{read}\nhook_points_out = ['blocks.0.hook_mlp_out']"),
            "found 3 and 1 hook points, expected as many in both, and at least 2",
        ),
        (
            "hook_points = ['blocks.1.hook_mlp_in', 'blocks.2.hook_mlp_in']\nhook_points_out = ['blocks.0.hook_mlp_out', 'blocks.2.hook_mlp_out']".to_owned(),
            "found blocks.0.hook_mlp_out for what is read at blocks.1.hook_mlp_in, expected a hook point of that layer or a later one",
        ),
        (
            format!("{HOOKS}hook_point_out = 'blocks.2.hook_mlp_out'"),
            "leave out `hook_point`",
        ),
        (
            format!(
                "{written}\nhook_points = ['blocks.0.hook_resid_mid', 'blocks.2.hook_resid_mid', 'blocks.1.hook_resid_mid']"
            ),
            "found blocks.1.hook_resid_mid where layers should ascend",
        ),
        (
            format!(
                "{written}\nhook_points = ['blocks.0.hook_resid_mid', 'blocks.1.hook_residue', 'blocks.2.hook_resid_mid']"
            ),
            "blocks.1.hook_residue",
        ),
        (
            format!("{HOOKS}coder.architecture = 'gated'"),
            "does not go with `coder.architecture` = \"gated\"",
        ),
        (
            format!("{HOOKS}coder.skip_connection = true"),
            "`coder.skip_connection` does not go with `hook_points_out`",
        ),
        (
            format!("{HOOKS}coder.multi_topk = true"),
            "`coder.multi_topk` does not go with `hook_points_out`",
        ),
        (
            format!("{HOOKS}coder.apply_b_dec_to_input = true"),
            "`coder.apply_b_dec_to_input` = true does not go with",
        ),
        (
            "training.sparsity_penalty = 'tanh'".to_owned(),
            "is an option of \"standard\"",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(expected), "{error}");
    }
    let config = Recipe::parse("run.toml", HOOKS, &[])
        .unwrap()
        .resolve(64)
        .unwrap();
    assert!(matches!(config.sites(), Sites::CrossLayer { .. }));
    assert_eq!((config.coder.d_sae, config.sites().layers()), (1024, 3));
    let again = Recipe::parse("again.toml", &config.recipe().to_toml(), &[]).unwrap();
    assert_eq!(again.values(), config.recipe().values());
    assert_eq!(again.resolve(64).unwrap(), config);
}
