//! A sparse autoencoder on a matrix of your own, from a safetensors file or from anywhere.

use burn::tensor::{Device, Distribution, Tensor};
use lapidary::{activations::ActivationMatrix, coder::Coder, formats::saelens, sae};

const RECIPE: &str =
    "coder.d_sae = 128\ncoder.k = 8\ntraining.tokens = 100_000\ntraining.lr = 3e-3";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let rows = Tensor::<2>::random([8192, 32], Distribution::Normal(0.0, 1.0), &device); // [n, d]
    let recipe = sae::Recipe::parse("recipe", RECIPE, &[])?;
    let batch = recipe.training.batch_tokens;
    let source = ActivationMatrix::new(rows.clone(), batch, recipe.order_seed())?;
    let mut run = sae::TrainingRun::new(&[recipe], Box::new(source), &device)?;
    run.run(&mut |_, step| println!("step {}: FVU {:.3}", step.step, step.fvu))?;
    let dictionary = run.finish(0)?;
    let codes = dictionary.coder.encode(rows); // values and indices, [n, k]
    println!("first row: {}", codes.indices.narrow(0, 0, 1).to_data());
    saelens::save(&dictionary, "out/own_matrix".as_ref())?;
    Ok(())
}
