//! The recipes of a run: one file or several, each as it stands or at every point of a grid of
//! settings.

use crate::error::{Context, Result, bail, ensure};
use lapidary_activations::{Exclusion, Store};
use lapidary_coder::Sites;
use lapidary_io::read_text;
use lapidary_sae::{Recipe, hook_points};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// A recipe, the name of its results, and the store that it reads, if it reads one.
pub struct NamedRecipe {
    /// The name of its results.
    pub name: String,
    /// The recipe.
    pub config: Recipe,
    /// The store that it reads, if it reads one.
    pub store: Option<Arc<Store>>,
    /// The keys that the file, the command line or the store gives.
    pub given: BTreeSet<String>,
}

/// What stands for the layer of the hook points among the keys of a grid.
const LAYER: &str = "layer";

/// A key and the values that it takes in turn.
#[derive(Clone, Debug)]
pub struct Sweep {
    key: String,
    values: Vec<String>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((key, list)) = text.split_once('=') else {
            return Err("found no `=`; expected KEY=VALUE,VALUE…, such as coder.k=16,32".into());
        };
        let values: Vec<String> = split(list);
        match values.iter().any(String::is_empty) {
            true => Err(format!("found an empty value for {key}")),
            false => Ok(Self {
                key: key.trim().into(),
                values,
            }),
        }
    }
}

/// At commas that stand in no brackets and no quotes.
fn split(list: &str) -> Vec<String> {
    let (mut depth, mut quoted) = (0, false);
    let pieces = list.split(|c: char| {
        match c {
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0 && !quoted
    });
    pieces.map(|piece| piece.trim().to_owned()).collect()
}

impl Sweep {
    /// Over layers of the model: the hook points of the recipe, each moved to the layer.
    pub fn layers(layers: &[usize]) -> Self {
        Self {
            key: LAYER.into(),
            values: layers.iter().map(ToString::to_string).collect(),
        }
    }

    /// Over seeds of the weights.
    pub fn seeds(seeds: &[u64]) -> Self {
        Self {
            key: "seed".into(),
            values: seeds.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Every combination of the sweeps' values as settings, the last one's values varying fastest; of
/// none there is one.
fn grid(sweeps: &[Sweep]) -> Vec<Vec<(&str, &str)>> {
    sweeps.iter().fold(vec![vec![]], |points, sweep| {
        let with = |point: &Vec<_>| {
            let values = sweep
                .values
                .iter()
                .map(move |value| (&*sweep.key, &**value));
            let point = point.clone();
            values.map(move |setting| {
                let mut point: Vec<(&str, &str)> = point.clone();
                point.push(setting);
                point
            })
        };
        points.iter().flat_map(with).collect()
    })
}

/// `coder.k` = 16 and `seed` = 1 are called `k-16_seed-1`.
fn point_name(point: &[(&str, &str)]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let unique = |key: &str| point.iter().filter(|(k, _)| last(k) == last(key)).count() == 1;
    let part = |(key, value): &(&str, &str)| {
        let key = if unique(key) {
            last(key)
        } else {
            (*key).to_owned()
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let value: String = value
            .chars()
            .map(|c| if plain(c) { c } else { '-' })
            .collect();
        format!("{key}-{}", value.trim_matches('-'))
    };
    point.iter().map(part).collect::<Vec<_>>().join("_")
}

/// All recipes of a run: each file at each point of the grid, with `set` on top. Their names
/// differ, and so do they only in what coders of one run may differ in.
///
/// # Errors
/// A file cannot be read, a recipe is wrong, or they cannot be trained in one run.
pub fn read_all(files: &[PathBuf], set: &[String], sweeps: &[Sweep]) -> Result<Vec<NamedRecipe>> {
    let mut keys = BTreeSet::new();
    for sweep in sweeps {
        ensure!(keys.insert(&sweep.key), "{} is swept twice", sweep.key);
    }
    let mut recipes: Vec<NamedRecipe> = vec![];
    for path in files {
        let file = path.display().to_string();
        let text = read_text(path)?;
        let stem = path
            .file_stem()
            .with_context(|| format!("{file}: the path ends in no file"))?
            .to_string_lossy();
        for point in grid(sweeps) {
            let name = match (point.is_empty(), files.len()) {
                (true, _) => stem.to_string(),
                (false, 1) => point_name(&point),
                (false, _) => format!("{stem}_{}", point_name(&point)),
            };
            let mut all = set.to_vec();
            for (key, value) in &point {
                match *key {
                    LAYER => all.extend(at_layer(&Recipe::parse(&file, &text, set)?, value)?),
                    key => all.push(format!("{key}={value}")),
                }
            }
            if point.iter().any(|(key, _)| *key == "seed") {
                // Coders of other seeds see the batches of the recipe's own.
                let order = Recipe::parse(&file, &text, set)?.order_seed();
                let order = format!("activations.seed={order}");
                all = Recipe::set_beneath(&file, &text, &all, &[order])?;
            }
            recipes.push(NamedRecipe::read(name, &file, &text, all)?);
        }
    }
    agree(&recipes)?;
    Ok(recipes)
}

/// The settings that move a recipe's hook points to another layer.
fn at_layer(recipe: &Recipe, layer: &str) -> Result<Vec<String>> {
    let moved = |key: &str, hook: &Option<String>| {
        let Some(hook) = hook else {
            return Ok(None);
        };
        let place = hook.strip_prefix("blocks.").and_then(|h| h.split_once('.'));
        let Some((_, place)) = place else {
            bail!("--layers: found {key} = {hook}, expected a hook point inside a layer");
        };
        Ok(Some(format!("{key}=blocks.{layer}.{place}")))
    };
    let each = match &recipe.sites {
        Sites::Autoencoder { at } => [moved("hook_point", at)?, None],
        Sites::Transcoder { from, to } => {
            [moved("hook_point", from)?, moved("hook_point_out", to)?]
        }
        _ => bail!("--layers: found a coder of several layers, expected one of one layer"),
    };
    Ok(each.into_iter().flatten().collect())
}

fn agree(recipes: &[NamedRecipe]) -> Result<()> {
    let mut names = BTreeSet::new();
    for recipe in recipes {
        let name = &recipe.name;
        ensure!(
            names.insert(name),
            "two coders have the name {name}: rename one of the recipes, or remove a repeated value"
        );
        // What the run itself keeps beside its coders' folders.
        let taken = ["checkpoint", "dictionary", "features", "runs.parquet"];
        ensure!(
            recipes.len() == 1 || !taken.contains(&name.as_str()),
            "a coder cannot have the name {name}, which is that of a file or folder of the run: rename the recipe"
        );
        let Some((key, there, here)) = recipes[0].config.batch_difference(&recipe.config) else {
            continue;
        };
        bail!(
            "{} has {key} = {there}, {name} has {here}: all coders of one run must have the same model, other_model, [corpus], [activations] and training.batch_tokens, and the loss must be local for all or through the model for all",
            recipes[0].name
        );
    }
    Ok(())
}

impl NamedRecipe {
    /// Whether the recipe says where the coder reads.
    pub fn names_hook_point(&self) -> bool {
        self.given.iter().any(|key| key.starts_with("hook_point"))
    }

    /// Reads a recipe; `set` wins over `text`, named `file` in errors.
    ///
    /// # Errors
    /// The recipe is wrong, or contradicts the store that it names.
    pub fn read(name: String, file: &str, text: &str, set: Vec<String>) -> Result<Self> {
        let config = Recipe::parse(file, text, &set)?;
        let Some(folder) = &config.activations.store else {
            return Ok(Self {
                name,
                config,
                store: None,
                given: Recipe::given(file, text, &set)?,
            });
        };
        // What the recipe leaves open about model and text is as the store has it; what it says
        // must agree.
        let store = Store::open(Path::new(folder))?;
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let settings = store.manifest().map(|manifest| &manifest.settings);
        // A cache of SAELens holds every token, and does not say of which model and text.
        let exclude = settings.map_or(
            Exclusion {
                special_tokens: false,
                first_positions: 0,
                norm_multiple: None,
            },
            |s| s.exclude,
        );
        let mut said = vec![
            format!("corpus.context={}", store.context()),
            format!(
                "activations.exclude.special_tokens={}",
                exclude.special_tokens
            ),
            format!(
                "activations.exclude.first_positions={}",
                exclude.first_positions
            ),
            format!(
                "activations.exclude.norm_multiple={}",
                exclude.norm_multiple.unwrap_or(0.0)
            ),
        ];
        if let Some(s) = settings {
            said.extend([
                format!("corpus.path={}", quoted(&s.corpus)),
                format!("corpus.text_field={}", quoted(&s.text_field)),
                format!("corpus.prepend_bos={}", s.prepend_bos),
                format!(
                    "corpus.attend_across_documents={}",
                    s.attend_across_documents
                ),
            ]);
        }
        let model = settings.map(|s| format!("model={}", quoted(&s.model)));
        let hook = match store.hooks() {
            [hook] => Some(format!("hook_point={}", hook.name)),
            _ => None,
        };
        let beneath: Vec<String> = said.iter().cloned().chain(model).chain(hook).collect();
        let set = Recipe::set_beneath(file, text, &set, &beneath)?;
        let config = Recipe::parse(file, text, &set)?;
        let over: Vec<String> = set.iter().chain(&said).cloned().collect();
        let stored = Recipe::parse(file, text, &over)?;
        if let Some((key, there, here)) = stored.training_difference(&config) {
            bail!(
                "{folder}: the store was made with {key} = {there}, the recipe says {here}; leave it out of the recipe"
            );
        }
        for hook in hook_points(std::slice::from_ref(&config)) {
            store.hook(&hook)?;
        }
        Ok(Self {
            name,
            config,
            store: Some(Arc::new(store)),
            given: Recipe::given(file, text, &set)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_every_combination_under_a_name_of_its_own() {
        let sweeps: Vec<Sweep> = ["coder.k=16,32", "seed=1, 2", "x.list=[1,2],[3]"]
            .map(|text| text.parse().unwrap())
            .into();
        let points = grid(&sweeps);
        assert_eq!(points.len(), 8);
        assert_eq!(
            points[1],
            [("coder.k", "16"), ("seed", "1"), ("x.list", "[3]")]
        );
        let names: BTreeSet<String> = points.iter().map(|p| point_name(p)).collect();
        assert_eq!(names.len(), 8);
        assert!(names.contains("k-16_seed-2_list-1-2"), "{names:?}");
        let same = point_name(&[("a.k", "1"), ("b.k", "2"), ("lr", "1e-3")]);
        assert_eq!(same, "a.k-1_b.k-2_lr-1e-3");
        assert_eq!(grid(&[]), vec![vec![]]);
        assert!("coder.k".parse::<Sweep>().is_err() && "k=1,,2".parse::<Sweep>().is_err());
    }
}
