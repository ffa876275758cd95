//! The reference page of recipes, made of the declarations of their keys.

use std::fmt::Write;

use lapidary_coder::ArchitectureKind;

use crate::architectures::ArchitectureTables;
use crate::keys::{
    ActivationsConfig, CoderConfig, CorpusConfig, EvaluationConfig, ExcludeConfig, FeaturesConfig,
    Key, TrainingConfig,
};

/// The keys that stand in no table.
fn top_level() -> Vec<Key> {
    let key = |name, default: &str, doc: &str| Key {
        name,
        default: default.to_owned(),
        range: "",
        doc: doc.to_owned(),
    };
    vec![
        key(
            "model",
            "`\"embedded\"`",
            "The language model: a folder in Hugging Face layout, a GGUF file, a name on the Hugging Face hub, or `embedded` (the model \
             inside the program).",
        ),
        key(
            "hook_point",
            "after layer n = (number of layers) / 2, rounded down: `blocks.n.hook_resid_post`",
            "Where the activations are read ([hook points](hook-points.md)).",
        ),
        key(
            "hook_points",
            "absent",
            "For a crosscoder, instead of `hook_point`: a list of hook points. One set of latents reads and reconstructs all of them. For \
             a cross-layer transcoder, with `hook_points_out`: the hook points that it reads.",
        ),
        key(
            "hook_points_out",
            "absent",
            "For a [cross-layer transcoder](../methods/cross-layer-transcoders.md): a list of hook points in ascending order of layers, \
             with as many entries as `hook_points`. The latents of a layer write to that layer's hook point in this list and to all later \
             ones in the list.",
        ),
        key(
            "hook_point_out",
            "absent",
            "For a transcoder: the hook point whose activations the transcoder reconstructs from those at `hook_point`.",
        ),
        key(
            "other_model",
            "absent",
            "For a crosscoder of two models: the second model. Its tokenizer must have the same tokens as the tokenizer of `model`. An \
             example is a fine-tuned version of `model`. One set of latents reads and reconstructs `hook_point` in the first model and \
             `other_hook_point` in the second. The two widths may differ. Such a crosscoder cannot be trained from a store or \
             with a model loss. It cannot be evaluated, so `evaluation.tokens` must be 0.",
        ),
        key(
            "other_hook_point",
            "`hook_point`",
            "Where the second model's activations are read.",
        ),
        key(
            "seed",
            "`0`",
            "Seed of all random numbers: for the initial weights, for resampling and, unless `activations.seed` is set, for the order of \
             the activations.",
        ),
    ]
}

/// The keys of `[coder]`; that of the architecture says what each is.
fn coder() -> Vec<Key> {
    let mut keys = CoderConfig::keys();
    for key in keys
        .iter_mut()
        .filter(|key| key.name == "coder.architecture")
    {
        let each = ArchitectureKind::all().map(|kind| format!("`{kind}`: {}", kind.summary()));
        key.doc = format!("{} {}.", key.doc, each.collect::<Vec<_>>().join("; "));
    }
    keys
}

/// The tables of all keys in Markdown.
#[must_use]
pub fn reference() -> String {
    let section = |title: &str, keys: Vec<Key>| (title.to_owned(), keys);
    let mut sections = vec![
        section("Top level", top_level()),
        section("`[corpus]`: the text to train on", CorpusConfig::keys()),
        section(
            "`[activations]`: from text to shuffled, normalized batches",
            [ActivationsConfig::keys(), ExcludeConfig::keys()].concat(),
        ),
        section("`[coder]`: the sparse coder", coder()),
    ];
    for keys in ArchitectureTables::keys() {
        let table = keys[0].name.rsplit_once('.').map_or("", |(table, _)| table);
        sections.push((format!("`[{table}]`"), keys));
    }
    sections.extend([
        section("`[training]`: the optimization", TrainingConfig::keys()),
        section(
            "`[evaluation]`: metrics after training",
            EvaluationConfig::keys(),
        ),
        section(
            "`[features]`: tables after training",
            FeaturesConfig::keys(),
        ),
    ]);
    let mut text = String::new();
    for (title, keys) in sections.iter().filter(|(_, keys)| !keys.is_empty()) {
        let _ = writeln!(text, "### {title}\n");
        let _ = writeln!(
            text,
            "| key | default | range | meaning |\n|---|---|---|---|"
        );
        for Key {
            name,
            default,
            range,
            doc,
        } in keys
        {
            let doc = doc.replace('|', "\\|");
            let _ = writeln!(text, "| `{name}` | {default} | {range} | {doc} |");
        }
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}
