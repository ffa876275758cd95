//! Gradients of losses through a small model, against differences of the same loss made by running
//! the model with the reconstruction in place and adding up its predictions in f64.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_activations::{
    BatchSource, BlockConfig, BlockStream, Exclusion, NormalizationKind, SequenceStream, Sequences,
    StreamConfig, TokenBlock,
};
use lapidary_model::{HookPoint, HookedRun, Intervention, LanguageModel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use lapidary_coder::{AnyCoder, Coder, Scaling, Weight, WeightKey, host};

use crate::batch::{Batch, SiteIndices};
use crate::losses;
use crate::model_loss::model_loss;
use crate::parameters::Gradient;
use crate::recipe::{Loss, Recipe, ResolvedRecipe};
use crate::run::hook_points;
use crate::step::loss_and_gradients;
use crate::trainer::Trainer;

const CONTEXT: usize = 12;
const LOCAL: f64 = 0.3;

/// Directions whose slope is taken, of each weight.
const DIRECTIONS: usize = 4;

fn model() -> Arc<LanguageModel> {
    Arc::new(LanguageModel::load("embedded", &Device::flex()).unwrap())
}

/// Loss of the model with `y_hat` in place, over the sequences, a token at a time.
fn through(loss: Loss, world: &World, y_hat: &Tensor<2>) -> f64 {
    let (model, sequences) = (&world.sequences.model, &world.sequences);
    let mut edits = vec![];
    let mut start = 0;
    let hat = host(y_hat).unwrap();
    let d_out = y_hat.dims()[1];
    for (end, how) in world.sites.written().iter().zip(&world.scaling.written) {
        let (hook, original) = &sequences.activations[*end];
        let width = how.mean.len();
        let mut values = host(original).unwrap();
        let mut row = 0;
        for (token, kept) in sequences.kept.iter().enumerate() {
            if *kept {
                for j in 0..width {
                    let normalized = hat[row * d_out + start + j];
                    values[token * width + j] = normalized / how.scale + how.mean[j];
                }
                row += 1;
            }
        }
        start += width;
        let shape = [sequences.blocks.len(), CONTEXT, width];
        let value = Tensor::<3>::from_data(TensorData::new(values, shape), &Device::flex());
        edits.push(Intervention::set(*hook, value));
    }
    let run = HookedRun {
        interventions: &edits,
        logits: true,
        segments: TokenBlock::attention(&sequences.blocks, model.device()),
        ..Default::default()
    };
    let logits = model
        .run(sequences.tokens().unwrap(), &run)
        .unwrap()
        .logits
        .unwrap();
    let d_vocab = logits.dims()[2];
    let log_p = |logits: &Tensor<3>| -> Vec<Vec<f64>> {
        let all: Vec<f32> = logits.to_data().iter().collect();
        let row = |row: &[f32]| {
            let z = row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
            row.iter().map(|v| f64::from(*v) - z).collect()
        };
        all.chunks(d_vocab).map(row).collect()
    };
    let (p, q) = (log_p(&sequences.logits), log_p(&logits));
    let special = model.special_tokens();
    let tokens: Vec<u32> = sequences
        .blocks
        .iter()
        .flat_map(|b| b.tokens.clone())
        .collect();
    let documents: Vec<i32> = sequences
        .blocks
        .iter()
        .flat_map(TokenBlock::sequences)
        .collect();
    let (mut sum, mut count) = (0.0, 0.0);
    for (i, token) in tokens.iter().enumerate() {
        if special.contains(token) {
            continue;
        }
        match loss {
            Loss::Kl | Loss::Local => {
                sum += p[i]
                    .iter()
                    .zip(&q[i])
                    .map(|(p, q)| p.exp() * (p - q))
                    .sum::<f64>();
                count += 1.0;
            }
            Loss::Ce if i % CONTEXT + 1 < CONTEXT => {
                let next = tokens[i + 1];
                if documents[i] == documents[i + 1] || special.contains(&next) {
                    sum -= q[i][next as usize];
                    count += 1.0;
                }
            }
            Loss::Ce => {}
        }
    }
    sum / count
}

struct World {
    recipe: ResolvedRecipe,
    sites: SiteIndices,
    scaling: Scaling,
    sequences: Sequences,
    batch: Batch,
    coder: AnyCoder,
}

fn world(text: &str) -> World {
    let model = model();
    let text = format!(
        "{text}
         training.batch_tokens = {}
         training.local_coefficient = {LOCAL}
         training.l1_coefficient = 0
         activations.buffer_tokens = 96
         activations.normalization = 'mean_centred'
         corpus.context = {CONTEXT}
         coder.jumprelu.l0_coefficient = 0
         coder.d_sae = 24
         coder.k = 3",
        4 * CONTEXT
    );
    let recipe = Recipe::parse("test", &text, &[]).unwrap();
    let hooks = hook_points(std::slice::from_ref(&recipe));
    let parsed: Vec<HookPoint> = hooks.iter().map(|h| h.parse().unwrap()).collect();
    let blocks = BlockConfig {
        corpus: "embedded".into(),
        text_field: "text".into(),
        context: CONTEXT,
        prepend_bos: true,
        attend_across_documents: false,
    };
    let blocks = BlockStream::new(model.clone(), &blocks).unwrap();
    let stream = StreamConfig {
        hook_points: parsed,
        batch_tokens: 4 * CONTEXT,
        buffer_tokens: 96,
        harvest_blocks: 4,
        exclude: Exclusion::default(),
        normalization: NormalizationKind::MeanCentred,
        seed: 3,
        other: None,
    };
    let mut source = SequenceStream::new(blocks, stream).unwrap();
    let sites = SiteIndices::of(&recipe.sites, &hooks);
    let first = sites.batch(&source.next_batch().unwrap());
    let trainer = Trainer::new(&recipe, &first, &Device::flex()).unwrap();
    World {
        coder: trainer.coder(),
        scaling: sites.scaling(source.normalizations()),
        sequences: source.sequences().unwrap().clone(),
        batch: first,
        recipe: trainer.recipe().clone(),
        sites,
    }
}

/// A gradient, entry by entry.
fn dense(gradient: &Gradient, size: usize) -> Vec<f64> {
    match gradient {
        Gradient::Vector(t) => t.to_data().iter().collect(),
        Gradient::Matrix(t) => t.to_data().iter().collect(),
        Gradient::Rows(rows) => {
            let values: Vec<f64> = rows.codes.values.to_data().iter().collect();
            let indices: Vec<i64> = rows.codes.indices.to_data().iter().collect();
            let vectors: Vec<f64> = rows.rows.to_data().iter().collect();
            let (k, d) = (rows.codes.values.dims()[1], rows.rows.dims()[1]);
            let mut out = vec![0.0; size];
            for (at, (value, latent)) in values.iter().zip(indices).enumerate() {
                for j in 0..d {
                    out[latent as usize * d + j] += value * vectors[at / k * d + j];
                }
            }
            out
        }
    }
}

fn moved(coder: &AnyCoder, key: WeightKey, along: &[f64], step: f64) -> AnyCoder {
    let step: Vec<f32> = along.iter().map(|v| (v * step) as f32).collect();
    let weights = coder.weights().into_iter().map(|(found, weight)| {
        if found != key {
            return (found, weight);
        }
        let weight: Weight = match weight {
            Weight::Matrix(t) => {
                let data = TensorData::new(step.clone(), t.dims());
                (t + Tensor::<2>::from_data(data, &Device::flex())).into()
            }
            Weight::Vector(t) => {
                let data = TensorData::new(step.clone(), t.dims());
                (t + Tensor::<1>::from_data(data, &Device::flex())).into()
            }
        };
        (found, weight)
    });
    let centred = coder.layers()[0].apply_b_dec_to_input;
    AnyCoder::of_weights(coder.architecture(), centred, weights)
}

/// 1 where a latent is active, `[n, d_sae]`.
fn active(coder: &AnyCoder, x: &Tensor<2>) -> Tensor<2> {
    let codes = coder.encode(x.clone());
    let [n, k] = codes.values.dims();
    let mut dense = vec![0.0f32; n * coder.d_sae()];
    let indices: Vec<i64> = codes.indices.to_data().iter().collect();
    for (at, (i, v)) in indices
        .into_iter()
        .zip(host(&codes.values).unwrap())
        .enumerate()
    {
        if v > 0.0 {
            dense[at / k * coder.d_sae() + i as usize] = 1.0;
        }
    }
    let data = TensorData::new(dense, [n, coder.d_sae()]);
    Tensor::from_data(data, &Device::flex())
}

/// The reconstruction by the latents that are `active`, so that a step does not change which these
/// are.
fn reconstruction(coder: &AnyCoder, active: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
    let (mut read, mut latent) = (0, 0);
    let mut all = coder.b_dec().unsqueeze::<2>().repeat(&[x.dims()[0], 1]);
    for layer in coder.layers() {
        let own = layer.centre(x.clone().narrow(1, read, layer.d_in()));
        let pre = own.matmul(layer.w_enc().transpose()) + layer.b_enc().unsqueeze();
        let values = pre * active.clone().narrow(1, latent, layer.d_sae());
        let written = values.matmul(layer.w_dec());
        let before = all.dims()[1] - written.dims()[1];
        let zeros = Tensor::<2>::zeros([x.dims()[0], before + 1], &Device::flex());
        let padded = Tensor::cat(vec![zeros, written.clone()], 1);
        all = all + padded.narrow(1, 1, before + written.dims()[1]);
        read += layer.d_in();
        latent += layer.d_sae();
    }
    coder.layers()[0].with_skip(all, x.clone())
}

fn check(text: &str, loss: Loss, skipped: &[&str]) {
    let mut world = world(text);
    let (coder, plain) = (world.coder.clone(), world.batch.clone());
    let written = world.sites.written().to_vec();
    let found = model_loss(
        loss,
        &coder,
        &plain,
        &world.sequences,
        &written,
        &world.scaling,
    )
    .unwrap();
    world.batch.model_loss = Some(found);
    let context = world.recipe.context(1 << 40, &[], 1.0);
    let learned = loss_and_gradients(&coder, &world.batch, &context);
    let counts = crate::architectures::facts(coder.architecture().kind()).is_topk_like;
    let active = active(&coder, &plain.x);
    let total = |coder: &AnyCoder| {
        let y_hat = reconstruction(coder, &active, &plain.x);
        let mse = losses::mse(plain.y.clone(), y_hat.clone());
        let own = match counts {
            true => mse / losses::batch_variance(plain.y.clone()),
            false => mse,
        };
        through(loss, &world, &y_hat) + LOCAL * f64::from(own.into_scalar::<f32>())
    };
    let value = f64::from(learned.terms.total.clone().inner().into_scalar::<f32>());
    let here = total(&coder);
    assert!(
        (value - here).abs() < 1e-4 * here,
        "{text}: {value}, {here}"
    );
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut compared = 0;
    for (name, gradient) in &learned.gradients {
        if skipped.contains(&name.name) {
            continue;
        }
        let weights = coder.weights();
        let weight = &weights.iter().find(|(n, _)| n == name).unwrap().1;
        let size = weight.dims().iter().product();
        let gradient = dense(gradient, size);
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(norm > 1e-5, "{text}: {name} has no gradient");
        for direction in 0..DIRECTIONS {
            // The first direction is that of the gradient, which all entries have a part in; of the
            // others a third have.
            let mut part = |g: &f64| match direction == 0 || rng.random::<f64>() < 0.3 {
                true => g / norm,
                false => 0.0,
            };
            let along: Vec<f64> = gradient.iter().map(&mut part).collect();
            let length = along.iter().map(|a| a * a).sum::<f64>().sqrt();
            let step = 2e-3 / length;
            let slope = (total(&moved(&coder, *name, &along, step))
                - total(&moved(&coder, *name, &along, -step)))
                / (2.0 * step);
            let expected: f64 = gradient.iter().zip(&along).map(|(g, a)| g * a).sum();
            assert!(
                (slope - expected).abs() < 0.02 * norm * length,
                "{text}: {name}, direction {direction}: slope {slope}, gradient {expected} of norm {norm}"
            );
            compared += 1;
        }
    }
    assert!(compared >= 3 * DIRECTIONS);
}

/// Decoder rows that do not start at 0.
const FREE: &str = "coder.decoder_init_norm = 0.5\n";
const PLACE: &str = "hook_point = 'blocks.1.hook_resid_pre'\n";

#[test]
fn both_losses_through_a_topk_coder_have_the_slopes_of_the_model() {
    check(&format!("{PLACE}training.loss = 'kl'"), Loss::Kl, &[]);
    check(&format!("{PLACE}training.loss = 'ce'"), Loss::Ce, &[]);
}

#[test]
fn relu_and_jumprelu_coders_too() {
    let standard = format!("{PLACE}training.loss = 'kl'\ncoder.architecture = 'standard'\n{FREE}");
    check(&standard, Loss::Kl, &[]);
    // A threshold's gradient is that of a smoothed loss, which differences are not of.
    let jumprelu = format!("{PLACE}training.loss = 'ce'\ncoder.architecture = 'jumprelu'");
    check(&jumprelu, Loss::Ce, &["threshold"]);
}

#[test]
fn skip_transcoders_and_cross_layer_transcoders_too() {
    let skips = "hook_point = 'blocks.0.ln2.hook_normalized'
        hook_point_out = 'blocks.0.hook_mlp_out'
        coder.skip_connection = true
        training.loss = 'kl'\n";
    check(&format!("{skips}{FREE}"), Loss::Kl, &[]);
    let layers = "hook_points = ['blocks.0.hook_resid_mid', 'blocks.1.hook_resid_mid']
        hook_points_out = ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out']\n";
    check(
        &format!("{layers}training.loss = 'kl'\n{FREE}"),
        Loss::Kl,
        &[],
    );
    let standard = format!("{layers}training.loss = 'ce'\ncoder.architecture = 'standard'\n{FREE}");
    check(&standard, Loss::Ce, &[]);
}
