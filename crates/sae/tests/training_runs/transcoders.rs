//! Transcoders: a planted layer is found again, the dictionary does to raw activations what the
//! coder did to normalized ones, files say what they are, and recipes that cannot be are refused.

use std::fs;

use crate::normalized::{Normalized, host, matrix, normalized};
use burn::tensor::{Device, Tensor};
use lapidary_activations::{ActivationMatrix, Normalization, NormalizationKind};
use lapidary_coder::{Architecture, Coder, Dictionary, Sites};
use lapidary_formats::saelens;
use lapidary_sae::{Recipe, TrainingRun};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const D_IN: usize = 16;
const D_OUT: usize = 12;
/// Hidden units of the planted layer.
const UNITS: usize = 8;
const ROWS: usize = 8192;

/// y = W₂ᵀ relu(W₁ x − ½) + A x, of normal x: rows of `first` and `second` belong to a unit.
struct Layer {
    first: Vec<f32>,
    second: Vec<f32>,
    straight: Vec<f32>,
    x: Vec<f32>,
    y: Vec<f32>,
}

fn layer(straight: f32) -> Layer {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut normal = |n: usize| -> Vec<f32> {
        (0..n)
            .map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0)
            .collect()
    };
    let mut unit = |n: usize, width: usize| {
        let mut rows = normal(n * width);
        for row in rows.chunks_mut(width) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        }
        rows
    };
    let (first, second) = (unit(UNITS, D_IN), unit(UNITS, D_OUT));
    let map: Vec<f32> = unit(D_OUT, D_IN).iter().map(|v| v * straight).collect();
    let x = normal(ROWS * D_IN);
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut y = vec![];
    for x in x.chunks(D_IN) {
        let mut row: Vec<f32> = map.chunks(D_IN).map(|a| product(a, x)).collect();
        for (read, written) in first.chunks(D_IN).zip(second.chunks(D_OUT)) {
            let active = (product(read, x) - 0.5).max(0.0);
            row.iter_mut()
                .zip(written)
                .for_each(|(y, w)| *y += active * w);
        }
        y.extend(row);
    }
    Layer {
        first,
        second,
        straight: map,
        x,
        y,
    }
}

/// `more`: settings, one a line.
fn config(more: &str) -> Recipe {
    let text = "hook_point = 'blocks.0.ln2.hook_normalized'
         hook_point_out = 'blocks.0.hook_mlp_out'
         activations.buffer_tokens = 4096
         [training]
         batch_tokens = 256
         tokens = 512_000
         lr = 3e-3
         log_every_steps = 500
         dead_after_tokens = 10_000
         [coder]
         d_sae = 32
         k = 6";
    let set: Vec<String> = more.lines().map(str::to_owned).collect();
    Recipe::parse("test.toml", text, &set).unwrap()
}

fn trained(layer: &Layer, more: &str) -> (Dictionary, f64) {
    let parts = vec![matrix(&layer.x, D_IN), matrix(&layer.y, D_OUT)];
    let source = ActivationMatrix::aligned(parts, 256, 5).unwrap();
    let mut run = TrainingRun::new(&[config(more)], Box::new(source), &Device::flex()).unwrap();
    let mut fvu = 1.0;
    run.run(&mut |_, report| fvu = report.fvu).unwrap();
    (run.finish(0).unwrap(), fvu)
}

/// Over units, the mean of the best latent's cosines with what the unit reads and writes,
/// multiplied.
fn recovery(dictionary: &Dictionary, layer: &Layer) -> f64 {
    let (read, written) = (
        host(dictionary.coder.w_enc()),
        host(dictionary.coder.w_dec()),
    );
    let cosine = |a: &[f32], b: &[f32]| {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-12)
    };
    let units = layer.first.chunks(D_IN).zip(layer.second.chunks(D_OUT));
    let best = units.map(|(first, second)| {
        let latents = read.chunks(D_IN).zip(written.chunks(D_OUT));
        let both = latents.map(|(r, w)| cosine(r, first).max(0.0) * cosine(w, second).max(0.0));
        both.fold(0.0, f64::max)
    });
    best.sum::<f64>() / UNITS as f64
}

#[test]
fn transcoders_find_a_planted_layer() {
    let layer = layer(0.0);
    for more in [
        "",
        "coder.architecture=batchtopk",
        "coder.architecture=standard\ntraining.l1_coefficient=0.01",
        "coder.architecture=jumprelu\ncoder.jumprelu.l0_coefficient=1e-2\ncoder.jumprelu.bandwidth=0.3\ncoder.jumprelu.initial_threshold=0.05",
        "coder.architecture=gated\ntraining.l1_coefficient=0.03",
        "training.decoder_norm=unit",
    ] {
        let (dictionary, fvu) = trained(&layer, more);
        let found = recovery(&dictionary, &layer);
        println!("{more:?}: fvu {fvu:.4}, recovery {found:.3}");
        assert!(fvu < 0.02, "{more}: fvu {fvu}");
        assert!(found > 0.9, "{more}: recovery {found}");
    }
}

#[test]
fn a_skip_transcoder_leaves_the_linear_part_to_its_skip_connection() {
    let layer = layer(1.0);
    let (plain, unexplained) = trained(&layer, "");
    let (dictionary, fvu) = trained(&layer, "coder.skip_connection=true");
    let found = recovery(&dictionary, &layer);
    println!("without skip: fvu {unexplained:.4}; with: {fvu:.4}, recovery {found:.3}");
    assert!(plain.coder.as_sparse().unwrap().w_skip().is_none() && unexplained > 10.0 * fvu);
    assert!(fvu < 0.02 && found > 0.9, "fvu {fvu}, recovery {found}");
    let skip = host(dictionary.coder.as_sparse().unwrap().w_skip().unwrap());
    let off = skip
        .iter()
        .zip(&layer.straight)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f32>();
    assert!(
        off < 0.05 * D_OUT as f32,
        "squared distance from the true map {off}"
    );
}

#[test]
fn the_dictionary_does_to_raw_activations_what_the_coder_did_to_normalized_ones() {
    let layer = layer(0.5);
    let normalization = |width: usize, scale: f32| Normalization {
        kind: NormalizationKind::MeanCentred,
        mean: (0..width).map(|j| 0.3 * j as f32 - 1.0).collect(),
        scale,
    };
    let normalizations = vec![normalization(D_IN, 0.31), normalization(D_OUT, 2.7)];
    for architecture in ["topk", "standard", "jumprelu", "gated", "batchtopk"] {
        for skip in [false, true] {
            let more = format!("coder.architecture={architecture}\ncoder.skip_connection={skip}");
            let mut config = config(&more);
            config.training.tokens = 25_600;
            let parts = vec![matrix(&layer.x, D_IN), matrix(&layer.y, D_OUT)];
            let source = Normalized {
                inner: ActivationMatrix::aligned(parts, 256, 5).unwrap(),
                normalizations: normalizations.clone(),
            };
            let mut run = TrainingRun::new(&[config], Box::new(source), &Device::flex()).unwrap();
            run.run(&mut |_, _| ()).unwrap();
            let (coder, dictionary) = (run.trainers()[0].coder(), run.finish(0).unwrap());
            let mut coder = coder.as_sparse().unwrap().clone();
            let x = matrix(&layer.x, D_IN).narrow(0, 0, 512);
            if architecture == "batchtopk" {
                // The batch's choice becomes a threshold; only the affine parts can be compared.
                coder.architecture = Architecture::TopK { k: 32 };
            }
            let seen = normalized(x.clone(), &normalizations[0]);
            let expected =
                coder.reconstruct(coder.encode(seen.clone()), seen) / normalizations[1].scale;
            let mean = Tensor::<1>::from_floats(normalizations[1].mean.as_slice(), &x.device());
            let mut folded = dictionary.coder.as_sparse().unwrap().clone();
            if architecture == "batchtopk" {
                folded.architecture = Architecture::TopK { k: 32 };
            }
            let found = folded.reconstruct(folded.encode(x.clone()), x);
            let (found, expected) = (host(found), host(expected + mean.unsqueeze()));
            let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // Rounding may decide otherwise about a latent at its threshold in very few rows.
            let rows = found.chunks(D_OUT).zip(expected.chunks(D_OUT));
            let off = rows.filter(|(f, e)| {
                f.iter()
                    .zip(*e)
                    .any(|(f, e)| (f - e).abs() > 1e-4 * largest)
            });
            let off = off.count();
            assert!(off <= 2, "{architecture}, skip {skip}: {off} of 512 rows");
            assert!(dictionary.transcodes());
            assert_eq!(dictionary.sites().written(), ["blocks.0.hook_mlp_out"]);
        }
    }
}

#[test]
fn a_transcoders_file_says_what_it_is_and_reads_back() {
    let layer = layer(0.5);
    let folder = tempfile::tempdir().unwrap();
    for (more, stored) in [
        ("coder.architecture=standard", "transcoder"),
        (
            "coder.architecture=standard\ncoder.skip_connection=true",
            "skip_transcoder",
        ),
        ("coder.architecture=jumprelu", "jumprelu_transcoder"),
        (
            "coder.architecture=batchtopk\ncoder.skip_connection=true",
            "jumprelu_skip_transcoder",
        ),
        ("coder.architecture=topk", "topk_transcoder"),
        (
            "coder.architecture=gated\ncoder.skip_connection=true",
            "gated_skip_transcoder",
        ),
    ] {
        let mut short = config(more);
        short.training.tokens = 2560;
        let parts = vec![matrix(&layer.x, D_IN), matrix(&layer.y, D_OUT)];
        let source = ActivationMatrix::aligned(parts, 256, 5).unwrap();
        let mut run = TrainingRun::new(&[short], Box::new(source), &Device::flex()).unwrap();
        run.run(&mut |_, _| ()).unwrap();
        let written = run.finish(0).unwrap();
        let place = folder.path().join(stored);
        saelens::save(&written, &place).unwrap();
        let cfg = place.join("cfg.json");
        let text = fs::read_to_string(&cfg).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["architecture"], stored);
        assert_eq!(
            (&value["d_in"], &value["d_out"]),
            (&D_IN.into(), &D_OUT.into())
        );
        assert_eq!(value["apply_b_dec_to_input"], false);
        assert_eq!(value["metadata"]["hook_name_out"], "blocks.0.hook_mlp_out");
        let read = saelens::load(&place, &Device::flex()).unwrap();
        assert_eq!(read.provenance, written.provenance, "{stored}");
        let x = matrix(&layer.x, D_IN);
        let both = [&written, &read]
            .map(|d| host(d.coder.reconstruct(d.coder.encode(x.clone()), x.clone())));
        assert!(both[0] == both[1], "{stored}: other bits");

        let refused = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            fs::write(&cfg, text.replace(from, to)).unwrap();
            saelens::load(&place, &Device::flex())
                .unwrap_err()
                .to_string()
        };
        let error = refused(
            "\"apply_b_dec_to_input\": false",
            "\"apply_b_dec_to_input\": true",
        );
        assert!(
            error.contains("apply_b_dec_to_input: found true, expected false"),
            "{error}"
        );
        let error = refused("\"d_out\": 12", "\"d_out\": 13");
        assert!(error.contains("W_dec") && error.contains("13"), "{error}");
        let error = refused("\"d_out\": 12,", "");
        assert!(error.contains("d_out: found nothing"), "{error}");
        let error = refused(stored, &format!("matching_pursuit_{stored}"));
        assert!(error.contains("architecture: found"), "{error}");
        // A transcoder that does not say where it writes is still none that writes where it reads.
        fs::write(
            &cfg,
            text.replace(
                "\"hook_name_out\": \"blocks.0.hook_mlp_out\"",
                "\"hook_name_out\": null",
            ),
        )
        .unwrap();
        let read = saelens::load(&place, &Device::flex()).unwrap();
        let from = Some("blocks.0.ln2.hook_normalized".to_owned());
        assert!(read.transcodes());
        assert_eq!(*read.sites(), Sites::Transcoder { from, to: None });
    }
}

#[test]
fn recipes_of_transcoders_that_cannot_be_are_refused() {
    let out = "hook_point_out = 'blocks.2.hook_mlp_out'\n";
    let refused = |text: &str| {
        Recipe::parse("run.toml", text, &[])
            .unwrap_err()
            .to_string()
    };
    for (more, expected) in [
        (
            "coder.apply_b_dec_to_input = true",
            "`coder.apply_b_dec_to_input` = true does not go with `hook_point_out`",
        ),
        (
            "coder.architecture = 'matching_pursuit'",
            "`hook_point_out` does not go with `coder.architecture` = \"matching_pursuit\"",
        ),
        (
            "coder.architecture = 'proximal'",
            "`hook_point_out` does not go with",
        ),
        (
            "coder.architecture = 'jumprelu'\ntraining.decoder_norm = 'free'",
            "`training.decoder_norm` = \"free\" does not go",
        ),
        (
            "coder.decoder_init_norm = 0\ntraining.decoder_norm = 'unit'",
            "`coder.decoder_init_norm`: found 0, expected more than 0",
        ),
    ] {
        let error = refused(&format!("{out}{more}"));
        assert!(error.contains(expected), "{error}");
    }
    let error = refused("coder.skip_connection = true");
    assert!(error.contains("needs a `hook_point_out`"), "{error}");
    // The same point twice is an autoencoder.
    let same = "hook_point_out = 'blocks.2.hook_resid_post'";
    let config = Recipe::parse("run.toml", same, &[]).unwrap();
    assert!(!config.sites.transcodes() && config.coder.apply_b_dec_to_input);
}
