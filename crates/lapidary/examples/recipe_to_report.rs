//! From a recipe to a report: a dictionary of the embedded model, its metrics, its feature tables.

use lapidary::kernels::device;
use lapidary::{DictionaryOptions, NamedRecipe, Opened, Silent, TextOptions, TrainOptions};

const RECIPE: &str = "training.tokens = 100_000\nfeatures.tokens = 20_000";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (device, out) = (device::open("cpu".parse()?)?, "out/recipe_to_report");
    let recipe = NamedRecipe::read("mine".into(), "recipe", RECIPE, vec![])?;
    let options = TrainOptions {
        overwrite: true,
        ..Default::default()
    };
    let report = lapidary::train(vec![recipe], out.as_ref(), false, options, &device, &Silent)?;
    println!("report: {}", report.display());

    let how = DictionaryOptions::default();
    let opened = Opened::new(out.as_ref(), how, None, &device, &Silent)?;
    let text = TextOptions::default();
    let blocks = opened.blocks("embedded:heldout", &text, 10_000, &Silent)?;
    let found = lapidary::measure(&Silent, &opened.model, &opened.dictionary, &blocks, None)?;
    println!("FVU {:.3}, L0 {:.1}", found.metrics.fvu, found.metrics.l0);
    Ok(())
}
