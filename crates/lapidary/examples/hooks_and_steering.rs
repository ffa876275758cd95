//! Activations at a hook point, an intervention there, and generation with a direction added.

use burn::tensor::Device;
use lapidary::model::{HookPoint, HookedRun, Intervention, LanguageModel, Sampling, generate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = LanguageModel::load("embedded", &Device::flex())?;
    let tokenizer = model.tokenizer()?;
    let prompt = tokenizer.encode("My fellow citizens")?;
    let hook: HookPoint = "blocks.2.hook_resid_post".parse()?;
    let run = HookedRun {
        capture: &[hook],
        ..Default::default()
    };
    let found = model.run(model.tokens(&[&prompt])?, &run)?.captured[&hook].clone();
    println!("{hook}: {:?}", found.dims()); // [1, pos, d_model]

    let direction = found.mean_dim(1); // [1, 1, d_model]
    let add = |x| x + direction.clone() * 2.0;
    let steer = [Intervention::function(hook, &add)];
    let mut show = |token| print!("{}", tokenizer.token_text(token));
    generate(&model, &prompt, &Sampling::default(), &steer, &mut show)?;
    Ok(())
}
