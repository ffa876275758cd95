//! What there is to do in a folder that may hold a run: start, go on, or nothing; and whether it is
//! the same run.

use super::{Common, TrainOptions, check_store, source};
use crate::error::{Result, bail, ensure};
use crate::progress::Stage;
use crate::recipes::NamedRecipe;
use crate::run_folder::RunWriter;
use crate::texts::Texts;
use lapidary_coder::Dictionary;
use lapidary_formats::saelens;
use lapidary_sae::{Recipe, TrainingRun, checkpoint};
use std::collections::BTreeSet;
use std::path::Path;

/// What there is to do in a folder.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Way {
    Start,
    GoOn,
    /// Nothing but, perhaps, evaluation and tables of other settings.
    Done,
}

impl Way {
    pub(super) fn of(options: TrainOptions, writer: &RunWriter) -> Result<Self> {
        let folder = writer.folder();
        let has_checkpoint = checkpoint::exists(&folder.join("checkpoint"));
        if options.extend {
            ensure!(
                has_checkpoint,
                "{}: no checkpoint to extend; `train --keep-checkpoint` keeps that of a finished run",
                folder.display()
            );
            return Ok(Self::GoOn);
        }
        if options.resume {
            return Ok(match (writer.is_finished(), has_checkpoint) {
                (true, _) => Self::Done,
                (false, true) => Self::GoOn,
                (false, false) => Self::Start,
            });
        }
        match writer.existing() {
            Some(found) if !options.overwrite => bail!(
                "{} holds a run already ({} is there): give --resume to go on with it, --overwrite to replace it, or another --out",
                folder.display(),
                found.display()
            ),
            _ => Ok(Self::Start),
        }
    }
}

/// Refuses a recipe that is not `saved`, which is in `place`, but for what follows from another
/// length where that may change.
fn same_training(
    saved: &Recipe,
    place: &Path,
    recipe: &NamedRecipe,
    width: usize,
    common: &Common<'_>,
    extend: bool,
) -> Result<()> {
    let (saved, wanted) = (saved.resolve(width)?, recipe.config.resolve(width)?);
    let saved = saved.recipe();
    let differences = saved.training_differences(wanted.recipe());
    let mut differences: Vec<_> = differences
        .into_iter()
        .filter(|(key, ..)| !(extend && Recipe::is_length(key)))
        .collect();
    // What the user changed, before what follows from it.
    differences.sort_by_key(|(key, ..)| !recipe.given.contains(key));
    let Some((key, there, here)) = differences.into_iter().next() else {
        return Ok(());
    };
    let of = match common.several() {
        true => format!(" of {}", recipe.name),
        false => String::new(),
    };
    let advice =
        match key == "training.tokens" && recipe.config.training.tokens > saved.training.tokens {
            true => "--extend goes on to the larger number",
            false => "give the run's own recipe, --overwrite to replace the run, or another --out",
        };
    bail!(
        "{}: the run was trained with {key} = {there}, the recipe{of} says {here}; {advice}",
        place.display()
    )
}

/// The run of the folder's checkpoint, if it is one of these recipes.
pub(super) fn resume(
    recipes: &[NamedRecipe],
    widths: &[usize],
    common: &Common<'_>,
    texts: &mut Texts,
    extend: bool,
) -> Result<TrainingRun> {
    let place = match common.several() {
        true => common.folders[0].path.with_file_name("checkpoint"),
        false => common.folders[0].checkpoint(),
    };
    let saved = checkpoint::recipes(&place)?;
    ensure!(
        saved.len() == recipes.len(),
        "{}: the checkpoint is of {} coders, here are {}",
        place.display(),
        saved.len(),
        recipes.len()
    );
    for ((saved, recipe), width) in saved.iter().zip(recipes).zip(widths) {
        same_training(saved, &place, recipe, *width, common, extend)?;
        ensure!(
            !extend || recipe.config.training.tokens >= saved.training.tokens,
            "{}: found {} tokens in the run, expected at most the {} of training.tokens to extend it to",
            place.display(),
            saved.training.tokens,
            recipe.config.training.tokens
        );
    }
    check_store(common.progress, &recipes[0])?;
    let stage = Stage::new(common.progress, "buffer", 1);
    let source = source(&recipes[0], common, texts.training_stream()?, false)?;
    let mut run = TrainingRun::resume(&place, source, &common.device)?;
    let configs: Vec<Recipe> = recipes.iter().map(|r| r.config.clone()).collect();
    run.update_settings(&configs);
    if extend {
        run.extend(&configs)?;
    }
    let to_shuffle = recipes[0].config.activations.buffer_tokens;
    stage.done(format!("{to_shuffle} activations to shuffle"));
    Ok(run)
}

/// The dictionaries of a finished run whose evaluation or tables the recipes now want otherwise;
/// none if all is done.
pub(super) fn finished(
    recipes: &[NamedRecipe],
    widths: &[usize],
    common: &Common<'_>,
    (out, there): (&Path, &BTreeSet<String>),
) -> Result<(Vec<Recipe>, Vec<Dictionary>)> {
    let here: BTreeSet<String> = common.names.iter().cloned().collect();
    let listed = |names: &BTreeSet<String>| match names.is_empty() {
        true => "one coder".to_owned(),
        false => names.iter().cloned().collect::<Vec<_>>().join(", "),
    };
    ensure!(
        *there == here,
        "{}: the finished run is of {}, here are {}",
        out.display(),
        listed(there),
        listed(&here)
    );
    let mut configs = vec![];
    let mut as_wanted = true;
    for ((recipe, folder), width) in recipes.iter().zip(&common.folders).zip(widths) {
        let saved = Recipe::load(&folder.config(), &[])?;
        same_training(&saved, &folder.config(), recipe, *width, common, false)?;
        let config = recipe.config.resolve(*width)?.recipe().clone();
        as_wanted &= saved.evaluation == config.evaluation && saved.features == config.features;
        configs.push(config);
    }
    if as_wanted {
        common.progress.say("train", "the run is finished already");
        return Ok((configs, vec![]));
    }
    let mut dictionaries = vec![];
    for folder in &common.folders {
        dictionaries.push(saelens::load(&folder.dictionary(), &common.device)?);
    }
    Ok((configs, dictionaries))
}
