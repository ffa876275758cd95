//! Crosscoders: features planted at two hook points are found with their parts at both, the
//! dictionary does to raw activations what the coder did to normalized ones, and files and recipes
//! say what they are.

use std::fs;

use crate::normalized::{Normalized, host, matrix};
use burn::tensor::{Device, Tensor};
use lapidary_activations::{ActivationMatrix, Normalization, NormalizationKind};
use lapidary_coder::{Architecture, Coder};
use lapidary_formats::saelens;
use lapidary_sae::{Recipe, TrainingRun};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Widths at the two hook points.
const WIDTHS: [usize; 2] = [20, 14];
const FEATURES: usize = 40;
const ROWS: usize = 8192;

/// Features, of which a third each live at both points, at the first, and at the second; and sums
/// of three of them.
struct Planted {
    /// `[FEATURES, width]` at each point.
    directions: [Vec<f32>; 2],
    rows: [Vec<f32>; 2],
}

fn planted() -> Planted {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut directions = WIDTHS.map(|width| {
        let mut rows: Vec<f32> = (0..FEATURES * width)
            .map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0)
            .collect();
        for row in rows.chunks_mut(width) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        }
        rows
    });
    for (point, directions) in directions.iter_mut().enumerate() {
        for (i, row) in directions.chunks_mut(WIDTHS[point]).enumerate() {
            if i % 3 == point + 1 {
                row.fill(0.0);
            }
        }
    }
    let mut rows = WIDTHS.map(|width| vec![0.0f32; ROWS * width]);
    for n in 0..ROWS {
        for _ in 0..3 {
            let (f, size) = (rng.random_range(0..FEATURES), 1.0 + rng.random::<f32>());
            for (point, width) in WIDTHS.into_iter().enumerate() {
                let row = &mut rows[point][n * width..][..width];
                for (v, d) in row.iter_mut().zip(&directions[point][f * width..]) {
                    *v += size * d;
                }
            }
        }
    }
    Planted { directions, rows }
}

fn config(more: &[&str]) -> Recipe {
    let text = "hook_points = ['blocks.0.hook_resid_post', 'blocks.1.hook_resid_post']
         activations.buffer_tokens = 4096
         [training]
         batch_tokens = 256
         tokens = 256_000
         lr = 5e-3
         log_every_steps = 500
         dead_after_tokens = 10_000
         [coder]
         d_sae = 80
         k = 3";
    let set: Vec<String> = more.iter().map(ToString::to_string).collect();
    Recipe::parse("test.toml", text, &set).unwrap()
}

fn trained(planted: &Planted, config: Recipe, scales: [f32; 2]) -> (TrainingRun, f64) {
    let parts = [0, 1].map(|point| matrix(&planted.rows[point], WIDTHS[point]));
    let normalizations = [0, 1].map(|point| Normalization {
        kind: NormalizationKind::MeanCentred,
        mean: vec![0.1 * (1.0 - scales[point]); WIDTHS[point]],
        scale: scales[point],
    });
    let source = Normalized {
        inner: ActivationMatrix::aligned(parts.into(), 256, 5).unwrap(),
        normalizations: normalizations.into(),
    };
    let mut run = TrainingRun::new(&[config], Box::new(source), &Device::flex()).unwrap();
    let mut fvu = 1.0;
    run.run(&mut |_, report| fvu = report.fvu).unwrap();
    (run, fvu)
}

#[test]
fn crosscoders_find_features_at_both_points_and_which_live_where() {
    let planted = planted();
    let d: usize = WIDTHS.iter().sum();
    // An L1 penalty shrinks the smaller part of a latent away (Minder et al. 2025, arXiv
    // 2504.02922).
    for (more, least) in [
        (&["coder.architecture=topk"][..], 38),
        (&["coder.architecture=batchtopk"], 38),
        (
            &["coder.architecture=standard", "training.l1_coefficient=0.3"],
            28,
        ),
    ] {
        let (run, fvu) = trained(&planted, config(more), [1.0, 1.0]);
        let dictionary = run.finish(0).unwrap();
        let rows = host(dictionary.coder.w_dec());
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let (mut found, mut placed) = (0.0, 0);
        for f in 0..FEATURES {
            let part =
                |point: usize| &planted.directions[point][f * WIDTHS[point]..][..WIDTHS[point]];
            let whole = [part(0), part(1)].concat();
            let cosine = |row: &&[f32]| {
                dot(row, &whole) / (dot(row, row) * dot(&whole, &whole)).sqrt().max(1e-12)
            };
            let best = rows
                .chunks(d)
                .max_by(|a, b| cosine(a).total_cmp(&cosine(b)))
                .unwrap();
            found += cosine(&best) / FEATURES as f64;
            // The share of the row's energy at the first point: a half, all or nothing.
            let share = dot(&best[..WIDTHS[0]], &best[..WIDTHS[0]]) / dot(best, best);
            let expected = [0.5, 0.0, 1.0][f % 3];
            placed += usize::from((share - expected).abs() < 0.1);
        }
        println!(
            "{more:?}: mean max cosine {found:.4}, {placed} of {FEATURES} in their places, fvu {fvu:.4}"
        );
        assert!(
            found > 0.9 && placed >= least,
            "{more:?}: {found}, {placed}"
        );
    }
}

#[test]
fn the_dictionary_does_to_raw_activations_what_the_coder_did_to_normalized_ones() {
    let planted = planted();
    for (architecture, apply) in [
        ("topk", true),
        ("topk", false),
        ("standard", true),
        ("jumprelu", false),
        ("gated", true),
    ] {
        let (architecture, apply) = (
            format!("coder.architecture={architecture}"),
            format!("coder.apply_b_dec_to_input={apply}"),
        );
        let config = config(&[&architecture, &apply, "training.tokens=25_600"]);
        let (run, _) = trained(&planted, config, [0.4, 3.0]);
        let (coder, dictionary) = (run.trainers()[0].coder(), run.finish(0).unwrap());
        let raw = [0, 1].map(|p| matrix(&planted.rows[p], WIDTHS[p]).narrow(0, 0, 512));
        let scale = |p: usize| [0.4f32, 3.0][p];
        let mean = |p: usize| 0.1 * (1.0 - scale(p));
        let seen = [0, 1].map(|p| (raw[p].clone() - mean(p)) * scale(p));
        let seen = Tensor::cat(seen.into(), 1);
        let hat = coder.decode(coder.encode(seen));
        let parts = [(0, 0), (1, WIDTHS[0])];
        let expected =
            parts.map(|(p, start)| hat.clone().narrow(1, start, WIDTHS[p]) / scale(p) + mean(p));
        let expected = host(Tensor::cat(expected.into(), 1));
        let x = Tensor::cat(raw.into(), 1);
        let found = host(dictionary.coder.decode(dictionary.coder.encode(x)));
        let d: usize = WIDTHS.iter().sum();
        let rows = found.chunks(d).zip(expected.chunks(d));
        let differs =
            |(f, e): &(&[f32], &[f32])| f.iter().zip(*e).any(|(f, e)| (f - e).abs() > 2e-4);
        // Rounding may decide otherwise about a latent at its threshold in very few rows.
        let off = rows.filter(differs).count();
        assert!(off <= 2, "{architecture}, {apply}: {off} of 512 rows");
    }
}

#[test]
fn a_crosscoders_file_says_its_hook_points_and_reads_back() {
    let planted = planted();
    let short = ["training.tokens=2560", "coder.architecture=batchtopk"];
    let (run, _) = trained(&planted, config(&short), [0.4, 3.0]);
    let written = run.finish(0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    saelens::save(&written, folder.path()).unwrap();
    let cfg = folder.path().join("cfg.json");
    let text = fs::read_to_string(&cfg).unwrap();
    assert!(text.contains("\"jumprelu_crosscoder\""), "{text}");
    let read = saelens::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!(read.provenance, written.provenance);
    assert_eq!(read.coder.architecture(), Architecture::JumpRelu);
    let hooks = read.sites().written();
    assert_eq!(hooks.len(), 2);
    assert_eq!(hooks[1], "blocks.1.hook_resid_post");
    let x = Tensor::cat(
        [0, 1].map(|p| matrix(&planted.rows[p], WIDTHS[p])).into(),
        1,
    );
    let both = [&written, &read].map(|d| host(d.coder.decode(d.coder.encode(x.clone()))));
    assert!(both[0] == both[1], "other bits");
    fs::write(&cfg, text.replacen("hook_names", "hook_named", 1)).unwrap();
    let error = saelens::load(folder.path(), &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("metadata.hook_names: found nothing"),
        "{error}"
    );
}

#[test]
fn recipes_of_crosscoders_that_cannot_be_are_refused() {
    let two = "hook_points = ['blocks.0.hook_resid_post', 'blocks.1.hook_resid_post']\n";
    let refused = |text: &str| {
        Recipe::parse("run.toml", text, &[])
            .unwrap_err()
            .to_string()
    };
    for (text, expected) in [
        (
            "hook_points = ['blocks.0.hook_resid_post']".to_owned(),
            "expected two hook points or more",
        ),
        (
            "hook_points = ['a', 'b', 'a']".to_owned(),
            "expected two hook points or more, each once",
        ),
        ("hook_points = 'a'".to_owned(), "expected a list of strings"),
        (
            format!("{two}hook_point = 'blocks.3.hook_resid_post'"),
            "leave out `hook_point`",
        ),
        (
            format!("{two}hook_point_out = 'blocks.3.hook_resid_post'"),
            "leave out `hook_point`",
        ),
        (
            format!("{two}coder.architecture = 'matching_pursuit'"),
            "`hook_points` does not go with",
        ),
        (
            format!("{two}coder.skip_connection = true"),
            "needs a `hook_point_out`",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(expected), "{error}");
    }
    let config = Recipe::parse("run.toml", two, &[])
        .unwrap()
        .resolve(64)
        .unwrap();
    assert_eq!(config.coder.d_sae, 1024);
    let again = Recipe::parse("again.toml", &config.recipe().to_toml(), &[]).unwrap();
    assert_eq!(again.values(), config.recipe().values());
    assert_eq!(again.resolve(64).unwrap(), config);
}
