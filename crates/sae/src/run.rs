//! A run: every batch of one source of activations is drawn once and trains all coders of the run,
//! so that several cost one pass of the model. A coder comes out with the same bits as if it had
//! been the only one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use lapidary_activations::BatchSource;
use lapidary_coder::{Dictionary, SECOND_MODEL, Sites};

use crate::batch::{Batch, SiteIndices};
use crate::checkpoint;
use crate::error::SaeError;
use crate::model_loss::model_loss;
use crate::recipe::Recipe;
use crate::trainer::{StepReport, Trainer};

/// One source of activations and the coders that are trained on it.
pub struct TrainingRun {
    pub(crate) source: Box<dyn BatchSource>,
    pub(crate) trainers: Vec<Trainer>,
    /// Which of the source's hook points are each coder's.
    sites: Vec<SiteIndices>,
}

/// How long a run goes on without a checkpoint where no recipe says after how many steps.
const CHECKPOINT_EVERY: Duration = Duration::from_mins(10);

/// What a run tells while it trains, and what it asks ([`TrainingRun::run_observed`]).
pub trait Observer {
    /// A coder, by its number, has logged a step.
    fn report(&mut self, coder: usize, report: &StepReport);

    /// The folder of the next checkpoint; none is written without one.
    fn checkpoint_folder(&mut self) -> Option<PathBuf> {
        None
    }

    /// A checkpoint stands in the folder.
    ///
    /// # Errors
    /// Ends the run.
    fn checkpoint_written(&mut self) -> Result<(), SaeError> {
        Ok(())
    }

    /// Whether to leave after the step that was just done, with a checkpoint.
    fn must_stop(&mut self) -> bool {
        false
    }
}

/// Takes the reports and keeps no checkpoints.
struct Reports<'a>(&'a mut dyn FnMut(usize, &StepReport));

impl Observer for Reports<'_> {
    fn report(&mut self, coder: usize, report: &StepReport) {
        (self.0)(coder, report);
    }
}

/// The hook points of `recipes`, each once: those that the source of their run gives, in this
/// order, a second model's last.
#[must_use]
pub fn hook_points(recipes: &[Recipe]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for recipe in recipes {
        let written = recipe.sites.written();
        for hook in recipe.sites.read().into_iter().chain(written) {
            if !found.contains(&hook) {
                found.push(hook);
            }
        }
    }
    found.sort_by_key(|hook| hook.starts_with(SECOND_MODEL));
    found
}

impl TrainingRun {
    /// A fresh run. The first batch of `source`, which gives the activations at [`hook_points`],
    /// decides where each `b_dec` starts and is not trained on.
    ///
    /// # Errors
    /// Recipes disagree about the batches, the source fails, or a recipe does not fit its width.
    pub fn new(
        recipes: &[Recipe],
        mut source: Box<dyn BatchSource>,
        device: &Device,
    ) -> Result<Self, SaeError> {
        let sites = site_indices(recipes, source.as_ref())?;
        let first = source.next_batch()?;
        let trainers = recipes
            .iter()
            .zip(&sites)
            .map(|(recipe, sites)| {
                let [width, ..] = sites.widths(source.normalizations());
                Trainer::resolved(recipe.resolve(width)?, &sites.batch(&first), device)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            source,
            trainers,
            sites,
        })
    }

    /// Goes on with the run whose checkpoint stands in `dir`, to the same bits as if it had never
    /// stopped. `source` is made as for a fresh run; its state comes from the checkpoint.
    ///
    /// # Errors
    /// There is no checkpoint, it is damaged, or the source does not fit it.
    pub fn resume(
        dir: &Path,
        mut source: Box<dyn BatchSource>,
        device: &Device,
    ) -> Result<Self, SaeError> {
        let recipes = checkpoint::recipes(dir)?;
        let sites = site_indices(&recipes, source.as_ref())?;
        let widths = sites
            .iter()
            .map(|sites| sites.widths(source.normalizations()));
        let widths: Vec<[usize; 3]> = widths.collect();
        let trainers = checkpoint::load(dir, recipes, &widths, source.as_mut(), device)?;
        Ok(Self {
            source,
            trainers,
            sites,
        })
    }

    /// The coders' trainers, in the order of the recipes.
    #[must_use]
    pub fn trainers(&self) -> &[Trainer] {
        &self.trainers
    }

    /// [`Trainer::update_settings`] for each coder.
    pub fn update_settings(&mut self, recipes: &[Recipe]) {
        for (trainer, recipe) in self.trainers.iter_mut().zip(recipes) {
            trainer.update_settings(recipe);
        }
    }

    /// Batches drawn: the steps of the coder that is furthest.
    #[must_use]
    pub fn step_count(&self) -> u64 {
        let steps = self.trainers.iter().map(Trainer::step_count);
        steps.max().unwrap_or(0)
    }

    /// Steps of the coder that takes most.
    #[must_use]
    pub fn total_steps(&self) -> u64 {
        let steps = self.trainers.iter().map(Trainer::total_steps);
        steps.max().unwrap_or(0)
    }

    /// Passes through the text or the store that the batches so far took.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.source.passes()
    }

    /// Whether all coders have had their steps.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.trainers.iter().all(Trainer::is_done)
    }

    /// One step of every coder that is not done, on the next batch. One report a coder, as
    /// [`Trainer::step`] gives them.
    ///
    /// # Errors
    /// The source or a coder fails; of a coder it is said which.
    pub fn step(&mut self) -> Result<Vec<Option<StepReport>>, SaeError> {
        let batch: Vec<Tensor<2>> = self.source.next_batch()?;
        let several = self.trainers.len() > 1;
        let mut reports = Vec::with_capacity(self.trainers.len());
        for (number, (trainer, sites)) in self.trainers.iter_mut().zip(&self.sites).enumerate() {
            if trainer.is_done() {
                reports.push(None);
                continue;
            }
            let mut own = sites.batch(&batch);
            let source = self.source.as_ref();
            let report = through_the_model(trainer, &mut own, sites, source)
                .and_then(|()| trainer.step(&own))
                .map_err(|e| of_coder(several, number, e))?;
            reports.push(report);
        }
        Ok(reports)
    }

    /// Steps until all coders are done, without checkpoints. A report comes with its coder's
    /// number.
    ///
    /// # Errors
    /// A step fails.
    pub fn run(&mut self, on_report: &mut dyn FnMut(usize, &StepReport)) -> Result<(), SaeError> {
        self.run_observed(&mut Reports(on_report))
    }

    /// Steps until all coders are done, or the observer stops the run ([`TrainingRun::is_done`]
    /// says which).
    ///
    /// Checkpoints are written whenever a recipe's `checkpoint_every_steps` has passed (without
    /// one, every ten minutes), where the run is stopped, and at the end.
    ///
    /// # Errors
    /// A step or a checkpoint fails.
    pub fn run_observed(&mut self, observer: &mut dyn Observer) -> Result<(), SaeError> {
        let every: Vec<u64> = self
            .trainers
            .iter()
            .map(|t| t.recipe().training.checkpoint_every_steps)
            .filter(|every| *every > 0)
            .collect();
        let mut last = Instant::now();
        while !self.is_done() {
            for (number, report) in self.step()?.iter().enumerate() {
                if let Some(report) = report {
                    observer.report(number, report);
                }
            }
            let stop = observer.must_stop();
            let due = match every.is_empty() {
                true => last.elapsed() >= CHECKPOINT_EVERY,
                false => every.iter().any(|n| self.step_count().is_multiple_of(*n)),
            };
            if (due || stop || self.is_done())
                && let Some(dir) = observer.checkpoint_folder()
            {
                self.save_checkpoint(&dir)?;
                observer.checkpoint_written()?;
                last = Instant::now();
            }
            if stop {
                break;
            }
        }
        Ok(())
    }

    /// Writes everything that [`TrainingRun::resume`] needs to the folder `dir`, in place of the
    /// previous checkpoint.
    ///
    /// # Errors
    /// The folder cannot be written, or a weight is not finite; the previous checkpoint then still
    /// stands.
    pub fn save_checkpoint(&mut self, dir: &Path) -> Result<(), SaeError> {
        let several = self.trainers.len() > 1;
        for (number, trainer) in self.trainers.iter_mut().enumerate() {
            trainer
                .finalize()
                .map_err(|e| of_coder(several, number, e))?;
        }
        checkpoint::save(&self.trainers, self.source.as_ref(), dir)
    }

    /// Makes the run as long as `recipes` say, with the schedules of that length from here on.
    ///
    /// # Errors
    /// There are not as many recipes as coders, or a recipe does not fit its coder's width.
    pub fn extend(&mut self, recipes: &[Recipe]) -> Result<(), SaeError> {
        if recipes.len() != self.trainers.len() {
            let (found, expected) = (recipes.len(), self.trainers.len());
            return Err(SaeError::shape("recipes", found, expected));
        }
        for ((trainer, recipe), sites) in self.trainers.iter_mut().zip(recipes).zip(&self.sites) {
            let [width, ..] = sites.widths(self.source.normalizations());
            trainer.extend(&recipe.resolve(width)?);
        }
        Ok(())
    }

    /// The dictionary of a coder, for activations as the model makes them.
    ///
    /// # Errors
    /// As [`Trainer::finish`].
    ///
    /// # Panics
    /// When there is no coder of this number.
    pub fn finish(&self, number: usize) -> Result<Dictionary, SaeError> {
        let scaling = self.sites[number].scaling(self.source.normalizations());
        self.trainers[number].finish(&scaling)
    }
}

/// Gives the batch its loss through the model, if the coder's recipe wants one.
fn through_the_model(
    trainer: &Trainer,
    batch: &mut Batch,
    sites: &SiteIndices,
    source: &dyn BatchSource,
) -> Result<(), SaeError> {
    let loss = trainer.recipe().training.loss;
    if !loss.is_end_to_end() {
        return Ok(());
    }
    let Some(sequences) = source.sequences() else {
        return Err(SaeError::Config {
            place: "training.loss".to_owned(),
            message: format!(
                "found \"{loss}\", expected \"local\", since this source of activations has no sequences"
            ),
        });
    };
    let scaling = sites.scaling(source.normalizations());
    let coder = trainer.coder_now();
    let written = sites.written();
    batch.model_loss = Some(model_loss(
        loss, &coder, batch, sequences, written, &scaling,
    )?);
    Ok(())
}

/// An error of a coder that is not the only one says which it is of.
fn of_coder(several: bool, number: usize, error: SaeError) -> SaeError {
    match several {
        true => SaeError::OfCoder {
            number,
            error: Box::new(error),
        },
        false => error,
    }
}

/// Where in the source's batches each recipe finds its activations.
fn site_indices(
    recipes: &[Recipe],
    source: &dyn BatchSource,
) -> Result<Vec<SiteIndices>, SaeError> {
    let place = || "recipes".to_owned();
    let Some(first) = recipes.first() else {
        let message = "a run has at least one".to_owned();
        return Err(SaeError::Config {
            place: place(),
            message,
        });
    };
    for other in &recipes[1..] {
        if let Some((key, a, b)) = first.batch_difference(other) {
            let message = format!("`{key}`: found {a} and {b}, expected the same in all");
            return Err(SaeError::Config {
                place: place(),
                message,
            });
        }
    }
    let hooks = hook_points(recipes);
    let found = source.normalizations().len();
    if found != hooks.len() {
        let what = "hook points of the source of activations";
        return Err(SaeError::shape(what, found, hooks.len()));
    }
    for recipe in recipes {
        let Sites::CrossLayer { from, to } = &recipe.sites else {
            continue;
        };
        let width = |hook: &String| {
            let place = hooks.iter().position(|h| h == hook);
            place.map_or(0, |place| source.normalizations()[place].mean.len())
        };
        for points in [from, to] {
            if let Some(other) = points.iter().find(|p| width(p) != width(&points[0])) {
                return Err(SaeError::shape(
                    "width at a hook point of a cross-layer transcoder, whose layers are alike",
                    width(other),
                    width(&points[0]),
                ));
            }
        }
    }
    let indices = recipes.iter();
    Ok(indices.map(|r| SiteIndices::of(&r.sites, &hooks)).collect())
}
