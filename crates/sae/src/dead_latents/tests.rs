//! Latents that were made dead come back by each means, ghost gradients are those of their loss,
//! and what is resampled is what the paper says.

use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_activations::ActivationMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::architectures::StepContext;
use crate::parameters::AnyParameter;
use crate::parameters::Gradient;
use crate::recipe::DeadLatents;
use crate::recipe::Recipe;
use crate::run::TrainingRun;
use crate::step::{StepOutput, loss_and_gradients};
use crate::trainer::Trainer;
use lapidary_coder::{AnyCoder, Weight};

const D: usize = 12;
const F: usize = 48;
const ROWS: usize = 2048;
/// Latents that can fire at the start.
const LIVING: usize = 6;

/// Sums of three of 32 directions.
fn rows() -> Tensor<2> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut normal = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    let directions: Vec<f32> = (0..32 * D).map(|_| normal() / (D as f32).sqrt()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut all = vec![0.0f32; ROWS * D];
    for row in all.chunks_mut(D) {
        for _ in 0..3 {
            let (f, size) = (rng.random_range(0..32), 0.5 + rng.random::<f32>());
            let direction = &directions[f * D..][..D];
            row.iter_mut()
                .zip(direction)
                .for_each(|(v, d)| *v += size * d);
        }
    }
    Tensor::from_data(TensorData::new(all, [ROWS, D]), &Device::flex())
}

fn recipe(settings: &str) -> Recipe {
    let text = format!(
        "activations.buffer_tokens = 512
         activations.normalization = 'none'
         [coder]
         d_sae = {F}
         k = 3
         [training]
         batch_tokens = 128
         tokens = 64_000
         lr = 5e-3
         l1_coefficient = 0.1
         aux_k = 8
         dead_after_tokens = 1024
         log_every_steps = 1"
    );
    let set: Vec<String> = settings.split_whitespace().map(str::to_owned).collect();
    Recipe::parse("test", &text, &set).unwrap()
}

/// The coder of one layer.
fn sparse(trainer: &Trainer) -> SparseCoder {
    let coder = trainer.coder();
    coder.as_sparse().expect("of one layer").clone()
}

/// A run whose latents from the seventh on start far from ever firing.
fn run(settings: &str) -> TrainingRun {
    let source = ActivationMatrix::new(rows(), 128, 1).unwrap();
    let device = Device::flex();
    let mut run = TrainingRun::new(&[recipe(settings)], Box::new(source), &device).unwrap();
    let lowest = match settings.contains("topk") {
        true => -3.0,
        false => -1.5, // their rows start short, and gradients alone bring them back
    };
    let low = (0..F).map(|i| if i < LIVING { 0.0 } else { lowest });
    let low: Vec<f32> = low.collect();
    let low = Tensor::<1>::from_data(TensorData::new(low, [F]), &device);
    run.trainers[0]
        .parameters
        .map_vectors("b_enc", |b| b + low.clone());
    run
}

#[test]
fn dead_latents_come_back_by_each_means_and_by_none_do_not() {
    let mut wrong = vec![];
    for (coder, revival, most) in [
        ("topk", "none", None),
        ("topk", "aux_k", Some(12)),
        ("standard", "none", None),
        ("standard", "aux_k", Some(12)),
        ("standard", "ghost_gradients", Some(12)),
        ("standard", "resampling", Some(12)),
        ("jumprelu", "none", None),
        ("jumprelu", "aux_k", Some(12)),
        ("jumprelu", "ghost_gradients", Some(28)),
        ("jumprelu", "resampling", Some(12)),
    ] {
        let settings = format!("coder.architecture={coder} training.revival={revival}");
        let mut run = run(&settings);
        let (mut dead, mut fvu) = (0, 1.0);
        run.run(&mut |_, report| (dead, fvu) = (report.dead, report.fvu))
            .unwrap();
        println!("{coder}, {revival}: {dead} of {F} dead, fvu {fvu:.4}");
        wrong.extend(match most {
            None => (dead < 40).then_some(settings),
            Some(most) => (dead > most).then_some(settings),
        });
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn what_is_resampled_is_an_input_with_a_fifth_of_the_livings_norm_and_fresh_moments() {
    let mut run = run("coder.architecture=jumprelu training.revival=resampling");
    for _ in 0..20 {
        run.step().unwrap();
    }
    let trainer = &mut run.trainers[0];
    let (coder, recipe) = (sparse(trainer), trainer.recipe.clone());
    let batch = Batch::of(rows().narrow(0, 0, 128));
    let dead: Vec<u32> = (LIVING as u32..F as u32).collect();
    let centred = host(&coder.centre(batch.x.clone())).unwrap();
    let before = host(&coder.w_enc()).unwrap();
    let alive: Vec<f64> = before.chunks(D).take(LIVING).map(norm).collect();
    let expected = 0.2 * alive.iter().sum::<f64>() / LIVING as f64;
    let given = resample(&mut trainer.parameters, &coder, &batch, &dead, &recipe, 20).unwrap();
    assert_eq!(given, dead);
    let after = sparse(trainer);
    let (w_enc, w_dec) = (host(&after.w_enc()).unwrap(), host(&after.w_dec()).unwrap());
    assert_eq!(w_enc[..LIVING * D], before[..LIVING * D]);
    let mut drawn = vec![];
    for latent in LIVING..F {
        let (encoder, decoder) = (&w_enc[latent * D..][..D], &w_dec[latent * D..][..D]);
        assert!((norm(encoder) - expected).abs() < 1e-5);
        assert!((norm(decoder) - 1.0).abs() < 1e-5);
        let is_input = |row: &[f32]| {
            let cosine: f64 = row.iter().zip(decoder).map(|(a, b)| f64::from(a * b)).sum();
            cosine / norm(row) > 1.0 - 1e-5
        };
        let found = centred.chunks(D).position(is_input);
        drawn.push(found.expect("a direction of an input"));
        let along: f64 = encoder
            .iter()
            .zip(decoder)
            .map(|(a, b)| f64::from(a * b))
            .sum();
        assert!((along - expected).abs() < 1e-5);
    }
    let distinct: std::collections::HashSet<usize> = drawn.iter().copied().collect();
    assert_eq!(distinct.len(), drawn.len(), "an input was drawn twice");
    // Those with large losses more often: the mean loss of what was drawn is above that of all.
    let y_hat = coder.reconstruct(coder.encode(batch.x.clone()), batch.x.clone());
    let losses: Tensor<2> = (batch.y.clone() - y_hat).square().sum_dim(1);
    let losses = host(&losses).unwrap();
    let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len() as f32;
    let chosen: Vec<f32> = drawn.iter().map(|i| losses[*i]).collect();
    assert!(mean(&chosen) > 1.3 * mean(&losses));
    for (name, parameter) in trainer.parameters.iter() {
        let of = |latent: usize| -> Vec<f32> {
            match parameter {
                AnyParameter::Matrix(p) => {
                    let (_, moments) = p.parts();
                    let rows = [&moments.m, &moments.v].map(|t| t.clone().narrow(0, latent, 1));
                    rows.iter().flat_map(|t| host(t).unwrap()).collect()
                }
                AnyParameter::Vector(p) => {
                    let (_, moments) = p.parts();
                    let entries = [&moments.m, &moments.v].map(|t| t.clone().narrow(0, latent, 1));
                    entries.iter().flat_map(|t| host(t).unwrap()).collect()
                }
            }
        };
        if name.name != "b_dec" {
            assert!(of(3).iter().any(|m| *m != 0.0), "{name}");
            assert!(of(20).iter().all(|m| *m == 0.0), "{name}");
        }
    }
    assert!(
        host(&after.b_enc()).unwrap()[LIVING..]
            .iter()
            .all(|b| *b == 0.0)
    );
    assert!(
        host(&after.threshold().unwrap()).unwrap()[LIVING..]
            .iter()
            .all(|t| *t == 0.01)
    );
    // Of five inputs each is given once.
    let few = Batch::of(batch.x.narrow(0, 0, 5));
    let given = resample(&mut trainer.parameters, &after, &few, &dead, &recipe, 40).unwrap();
    assert_eq!(given, dead[..5]);
}

/// Atoms that point away from every row are never taken; resampled, most are, and less is left.
#[test]
fn atoms_that_no_pursuit_takes_come_back() {
    let settings = |revival: &str| {
        format!(
            "coder.architecture=matching_pursuit training.revival={revival} training.tokens=38_400 \
             training.dead_after_tokens=1024"
        )
    };
    let trained = |revival: &str| {
        let config = recipe(&settings(revival));
        let x = rows();
        let source = ActivationMatrix::new(x.clone(), 128, 1).unwrap();
        let mut run = TrainingRun::new(&[config], Box::new(source), &Device::flex()).unwrap();
        // So short that there is always a better one.
        let dead: Vec<u32> = (LIVING as u32..F as u32).collect();
        let short: Vec<f32> = (0..dead.len() * D)
            .map(|at| [1e-6, -1e-6][at % 2])
            .collect();
        let parameters = &mut run.trainers[0].parameters;
        parameters.replace_rows("w_dec", &dead, &short).unwrap();
        run.run(&mut |_, _| {}).unwrap();
        let coder = run.trainers()[0].coder();
        let codes = coder.encode(x.clone());
        let (values, atoms) = (host(&codes.values).unwrap(), codes.indices.to_data());
        let taken = atoms.iter::<i32>().zip(values).filter(|(_, v)| *v != 0.0);
        let taken: std::collections::HashSet<i32> = taken.map(|(atom, _)| atom).collect();
        let missed: Tensor<2> = (x.clone() - coder.reconstruct(codes, x)).square();
        (taken.len(), missed.sum().into_scalar::<f32>())
    };
    let (few, left) = trained("none");
    let (many, less) = trained("resampling");
    assert!(
        few <= LIVING + 2 && many > 3 * F / 4,
        "{few} and {many} atoms"
    );
    assert!(less < 0.5 * left, "{less} and {left} are left");
}

#[test]
fn a_run_with_resampling_resumes_to_the_same_bits() {
    let settings = "coder.architecture=standard training.revival=resampling training.tokens=12_800 training.resample_every_steps=20 training.dead_after_tokens=256";
    let bits = |run: &TrainingRun| {
        let weights = run.trainers()[0].coder().weights();
        let values = weights.iter().flat_map(|(_, w)| match w {
            Weight::Matrix(t) => host(t).unwrap(),
            Weight::Vector(t) => host(t).unwrap(),
        });
        values.collect::<Vec<f32>>()
    };
    let mut whole = run(settings);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    // The first resampling, after 20 steps, is still to come, and there is something for it to do.
    while whole.step_count() < 10 {
        whole.step().unwrap();
    }
    assert!(whole.trainers[0].firing.dead.len() > F / 2);
    whole.save_checkpoint(&dir).unwrap();
    whole.run(&mut |_, _| {}).unwrap();
    let source = ActivationMatrix::new(rows(), 128, 1).unwrap();
    let mut rest = TrainingRun::resume(&dir, Box::new(source), &Device::flex()).unwrap();
    rest.run(&mut |_, _| {}).unwrap();
    assert!(bits(&whole) == bits(&rest), "other bits");
}

/// Against differences in f64 with the two scales, which are constants, as they are at the start.
#[test]
fn ghost_gradients_are_those_of_their_loss() {
    const N: usize = 6;
    let config = recipe(
        "coder.architecture=standard training.revival=ghost_gradients training.l1_coefficient=0",
    );
    let config = config.resolve(D).unwrap();
    let run = run("coder.architecture=standard");
    let mut coder = sparse(&run.trainers()[0]);
    coder.weights = coder.weights.clone().with("w_dec", coder.w_dec() * 6.0);
    let x = rows().narrow(0, 0, N);
    let dead: Vec<i32> = (40..F as i32).collect();
    let dead =
        Tensor::<1, Int>::from_data(TensorData::new(dead.clone(), [dead.len()]), &Device::flex());
    let dead = [Some(dead)];
    let context = config.context(1 << 40, &dead, 1.0);
    let (any, batch) = (AnyCoder::from(coder.clone()), Batch::of(x.clone()));
    let learned = loss_and_gradients(&any, &batch, &context);
    let without = StepContext {
        dead: &[],
        ..context
    };
    let plain = loss_and_gradients(&any, &batch, &without);
    let doubles = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
    let weights =
        ["w_enc", "w_dec"].map(|n| doubles(host(coder.weights.matrix(n).unwrap()).unwrap()));
    let biases = [coder.b_enc(), coder.b_dec()].map(|t| doubles(host(&t).unwrap()));
    let x = doubles(host(&x).unwrap());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    type All = [Vec<f64>; 4];
    let start: All = [
        weights[0].clone(),
        biases[0].clone(),
        weights[1].clone(),
        biases[1].clone(),
    ];
    let pre = |w: &All, n: usize, i: usize| -> f64 {
        let centred: Vec<f64> = x[n * D..][..D]
            .iter()
            .zip(&w[3])
            .map(|(x, b)| x - b)
            .collect();
        dot(&centred, &w[0][i * D..][..D]) + w[1][i]
    };
    let residuals: Vec<Vec<f64>> = (0..N)
        .map(|n| {
            (0..D)
                .map(|j| {
                    let decoded: f64 = (0..F)
                        .map(|i| pre(&start, n, i).max(0.0) * start[2][i * D + j])
                        .sum();
                    x[n * D + j] - decoded - start[3][j]
                })
                .collect()
        })
        .collect();
    let ghost = |w: &All, n: usize| -> Vec<f64> {
        (0..D)
            .map(|j| (40..F).map(|i| pre(w, n, i).exp() * w[2][i * D + j]).sum())
            .collect()
    };
    let scales: Vec<f64> = (0..N)
        .map(|n| {
            let (r, g) = (&residuals[n], ghost(&start, n));
            dot(r, r).sqrt() / (2.0 * dot(&g, &g).sqrt() + 1e-6)
        })
        .collect();
    let miss = |w: &All| -> f64 {
        let of = |n: usize| -> f64 {
            let ghost = ghost(w, n);
            ghost
                .iter()
                .zip(&residuals[n])
                .map(|(g, r)| (g * scales[n] - r).powi(2))
                .sum()
        };
        (0..N).map(of).sum::<f64>() / N as f64
    };
    let mse = residuals.iter().map(|r| dot(r, r)).sum::<f64>() / N as f64;
    let factor = mse / miss(&start);
    let value = |t: &Tensor<1>| f64::from(t.clone().inner().into_scalar::<f32>());
    assert!((value(&learned.terms.aux.clone().unwrap()) - mse).abs() < 1e-4 * mse);
    assert!((value(&learned.terms.total) - 2.0 * mse).abs() < 1e-3 * mse);
    let entries = |learned: &StepOutput, name: &str| -> Vec<f64> {
        let found = learned.gradients.iter().find(|(n, _)| n.name == name);
        match &found.unwrap().1 {
            Gradient::Vector(t) => doubles(host(t).unwrap()),
            Gradient::Matrix(t) => doubles(host(t).unwrap()),
            Gradient::Rows(_) => panic!("{name} is sparse"),
        }
    };
    for (place, name) in ["w_enc", "b_enc", "w_dec", "b_dec"].into_iter().enumerate() {
        let (all, own) = (entries(&learned, name), entries(&plain, name));
        let mut moved = start.clone();
        let differences: Vec<f64> = (0..moved[place].len())
            .map(|i| {
                let mut at = |step: f64| {
                    moved[place][i] = start[place][i] + step;
                    let loss = factor * miss(&moved);
                    moved[place][i] = start[place][i];
                    loss
                };
                (at(1e-5) - at(-1e-5)) / 2e-5
            })
            .collect();
        let largest = differences.iter().fold(0.0f64, |m, d| m.max(d.abs()));
        assert!(largest > 1e-4, "{name}: nothing to compare");
        for (i, d) in differences.iter().enumerate() {
            let found = all[i] - own[i];
            assert!(
                (found - d).abs() < 2e-3 * largest,
                "{name}[{i}]: {found}, differences {d}"
            );
        }
    }
}

#[test]
fn recipes_whose_coders_have_no_such_revival_are_refused() {
    for (settings, expected) in [
        (
            "coder.architecture=matching_pursuit training.revival=aux_k",
            "a matching_pursuit one: it is for \"standard\", \"topk\"",
        ),
        (
            "training.revival=ghost_gradients",
            "it is for \"standard\" and \"jumprelu\"",
        ),
        (
            "coder.architecture=gated training.revival=resampling",
            "a gated one: it is for \"standard\", \"jumprelu\" and \"matching_pursuit\"",
        ),
        ("training.revival=ghosts", "training.revival"),
        (
            "training.resample_every_steps=5",
            "`training.resample_every_steps` needs",
        ),
    ] {
        let set: Vec<String> = settings.split_whitespace().map(str::to_owned).collect();
        let error = Recipe::parse("test", "", &set).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let usual = |settings: &str| recipe(settings).training.revival;
    assert_eq!(usual("coder.architecture=matryoshka"), DeadLatents::AuxK);
    assert_eq!(usual("coder.architecture=standard"), DeadLatents::AuxK);
    assert_eq!(
        usual("coder.architecture=matching_pursuit"),
        DeadLatents::None
    );
    let layers = "hook_points = ['blocks.0.hook_mlp_in', 'blocks.1.hook_mlp_in']\nhook_points_out = ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out']";
    let set = ["training.revival=resampling", "coder.architecture=standard"].map(str::to_owned);
    let error = Recipe::parse("test", layers, &set).unwrap_err().to_string();
    assert!(
        error.contains("a standard one of several layers"),
        "{error}"
    );
    assert_eq!(
        recipe("coder.architecture=standard training.revival=resampling")
            .resolve(D)
            .unwrap()
            .training
            .resample_every_steps,
        100
    );
}
