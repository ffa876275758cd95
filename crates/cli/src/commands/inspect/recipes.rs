//! Recipes.

use super::view::View;
use lapidary_sae::Recipe;

/// Facts of a recipe.
pub fn recipe(view: &mut View, config: &Recipe) {
    let hooks = config.sites.read().join(", ");
    let coder = &config.coder;
    view.fact("architecture", coder.architecture.to_string());
    view.fact("model", config.model.clone());
    if let Some(second) = config.sites.second_model() {
        view.fact("second model", second.to_owned());
    }
    view.fact("hook point", hooks.clone());
    let written = config.sites.written().join(", ");
    if written != hooks {
        view.fact("reconstructs", written);
    }
    if let Some(latents) = coder.d_sae {
        view.fact("latents", latents);
    }
    if coder.architecture.takes_k() {
        view.fact("k", coder.k);
    }
    view.fact("corpus", config.corpus.path.clone());
    view.fact("tokens", config.training.tokens);
    view.fact("seed", config.seed);
}
