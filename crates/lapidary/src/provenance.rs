//! What tables say of the dictionary that they are about.

use lapidary_coder::{Coder, Dictionary, host};
use lapidary_evaluation::Hooks;
use lapidary_features::{TableSource, names};
use lapidary_io::Checksum;
use lapidary_sae::{Recipe, StepReport};

use crate::course::troubles;

/// How the provenance calls what labels of a method were made with.
pub(crate) const LABELS_BY: &str = "Labels by ";

/// A digest of the weights, in the provenance.
pub(crate) const WEIGHTS: &str = "Weights";

/// Tells coders apart that were trained in the same way.
fn digest(coder: &dyn Coder) -> Option<String> {
    let mut sum = Checksum::default();
    for weights in [coder.w_enc(), coder.w_dec()] {
        for some in host(&weights).ok()?.chunks(1 << 14) {
            let bytes: Vec<u8> = some.iter().flat_map(|v| v.to_le_bytes()).collect();
            sum.update(&bytes);
        }
    }
    Some(format!("{:016x}", sum.finish()))
}

/// On how many tokens statistics were gathered, in the provenance.
pub(crate) const STATISTICS: &str = "Statistics";

/// What made a table of a dictionary on `tokens` tokens of a text.
pub(crate) fn source_of_text(dictionary: &Dictionary, tokens: u64) -> TableSource {
    TableSource {
        provenance: provenance(dictionary, tokens, &[]),
    }
}

pub(crate) fn provenance(
    dictionary: &Dictionary,
    tokens: u64,
    log: &[StepReport],
) -> Vec<(String, String)> {
    let p = &dictionary.provenance;
    let coder = &dictionary.coder;
    let recipe = p.recipe.as_ref().and_then(Recipe::from_json);
    let mut rows = vec![];
    let mut row = |name: &str, value: Option<String>| {
        rows.extend(value.map(|value| (name.to_string(), value)))
    };
    row("Model", p.model_name.clone());
    row("Second model", p.sites.second_model().map(str::to_owned));
    let hooks = Hooks::sources(dictionary).map(|hooks| names(&hooks));
    let several = || p.sites.are_several().then(|| p.sites.read().join(", "));
    row("Hook point", hooks.ok().or_else(several));
    row("Reconstructs", reconstructs(dictionary));
    row(
        "Architecture",
        p.training_architecture
            .clone()
            .or(Some(coder.architecture().name().into())),
    );
    row(
        "Width",
        Some(format!("{} latents on {}", coder.d_sae(), widths(coder))),
    );
    row(
        "k",
        recipe
            .as_ref()
            .filter(|r| r.coder.architecture.takes_k())
            .map(|r| r.coder.k.to_string()),
    );
    row(
        "Trained on",
        p.tokens.map(|n| {
            format!(
                "{n} tokens of {}",
                p.corpus.as_deref().unwrap_or("unnamed text")
            )
        }),
    );
    row("Steps", p.steps.map(|n| n.to_string()));
    row("Context", p.context.map(|n| format!("{n} tokens")));
    row("Normalization", p.normalization.clone());
    row("Seed", recipe.as_ref().map(|r| r.seed.to_string()));
    row(WEIGHTS, digest(coder));
    for trouble in recipe.iter().flat_map(|recipe| troubles(recipe, log)) {
        row("Warning", Some(trouble));
    }
    row(STATISTICS, Some(format!("{tokens} tokens")));
    row(
        "Made by",
        Some(format!("lapidary {}", env!("CARGO_PKG_VERSION"))),
    );
    rows
}

/// What a transcoder reconstructs, if it says.
pub fn reconstructs(dictionary: &Dictionary) -> Option<String> {
    let hooks = Hooks::targets(dictionary).ok();
    let hooks = hooks.filter(|_| dictionary.transcodes());
    hooks.map(|hooks| names(&hooks))
}

/// What a coder reads and, if that is another width, reconstructs.
pub fn widths(coder: &dyn Coder) -> String {
    match (coder.d_in(), coder.d_out()) {
        (read, written) if read == written => format!("{read} dimensions"),
        (read, written) => format!("{read} dimensions to {written}"),
    }
}

/// A row of the provenance: what labels of a method were made with.
pub(crate) fn made_with(method: &str, settings: String) -> (String, String) {
    (format!("{LABELS_BY}{method}"), settings)
}
