//! The steps of a run, with bars, logs and checkpoints.

use crate::course::Course;
use crate::error::{Error, Result};
use crate::progress::{Progress, Stage};
use crate::recipes::NamedRecipe;
use crate::run_folder::{MetricsLog, RunWriter};
use lapidary_sae::{Observer, SaeError, StepReport, TrainingRun};
use std::path::PathBuf;

/// Shows a run's progress, keeps its logs, and says where checkpoints go.
struct Watch<'a> {
    progress: &'a dyn Progress,
    stage: &'a Stage,
    writer: &'a mut RunWriter,
    logs: Vec<MetricsLog>,
    last: Vec<Option<StepReport>>,
    courses: Vec<Course>,
    names: &'a [&'a str],
    first_step: u64,
    batch: f64,
    /// What went wrong outside the training; it is stopped then.
    failed: Option<Error>,
}

impl Observer for Watch<'_> {
    fn report(&mut self, number: usize, report: &StepReport) {
        let steps = report.step.saturating_sub(self.first_step);
        let speed = steps as f64 * self.batch / self.stage.seconds();
        let figures = format!(
            "loss {:.4}  FVU {:.3}  L0 {:.1}  dead {}",
            report.loss, report.fvu, report.l0, report.dead
        );
        if self.logs.len() > 1 {
            self.stage.line(number, figures);
            self.stage.at(report.step, format!("{speed:.0} tokens/s"));
        } else {
            let message = format!("{speed:.0} tokens/s  {figures}");
            self.stage.at(report.step, message);
        }
        for text in self.courses[number].watch(report) {
            let text = match self.logs.len() {
                1 => text,
                _ => format!("{}: {text}", self.names[number]),
            };
            self.progress.say("warning", &text);
        }
        let pushed = self.logs[number].push(report);
        self.failed = self.failed.take().or(pushed.err());
        self.last[number] = Some(report.clone());
    }

    fn checkpoint_folder(&mut self) -> Option<PathBuf> {
        Some(self.writer.folder().join("checkpoint"))
    }

    fn checkpoint_written(&mut self) -> Result<(), SaeError> {
        let replaced = self.writer.replace_old();
        self.failed = self.failed.take().or(replaced.err());
        Ok(())
    }

    fn must_stop(&mut self) -> bool {
        let stops = self.progress.must_stop();
        if stops {
            let text = "writing a checkpoint; send the signal again to end at once";
            self.progress.say("stop", text);
        }
        stops || self.failed.is_some()
    }
}

/// All steps, with bars and logs.
pub(super) fn steps(
    progress: &dyn Progress,
    run: &mut TrainingRun,
    recipes: &[NamedRecipe],
    logs: Vec<MetricsLog>,
    writer: &mut RunWriter,
) -> Result<()> {
    let several = recipes.len() > 1;
    let names: Vec<&str> = recipes.iter().map(|r| r.name.as_str()).collect();
    let stage = match several {
        true => Stage::with_lines(progress, "train", run.total_steps(), &names),
        false => Stage::new(progress, "train", run.total_steps()),
    };
    let first = run.step_count();
    let trained = run.trainers().iter();
    let courses = trained.map(|t| Course::new(t.recipe().recipe()).resumed(t.restarts()));
    let courses = courses.collect();
    let batch = recipes[0].config.training.batch_tokens as f64;
    progress.training(true);
    let mut watch = Watch {
        progress,
        stage: &stage,
        writer,
        logs,
        last: vec![None; recipes.len()],
        courses,
        names: &names,
        first_step: first,
        batch,
        failed: None,
    };
    let trained = run.run_observed(&mut watch);
    progress.training(false);
    let Watch { last, failed, .. } = watch;
    trained.map_err(|e| named(e, recipes))?;
    if let Some(error) = failed {
        return Err(error);
    }
    let count = run.step_count();
    if !run.is_done() {
        let left = format!(
            "stopped after step {count} of {}, with a checkpoint: --resume goes on",
            run.total_steps()
        );
        return Err(Error::Interrupted(left));
    }
    let speed = (count - first) as f64 * batch / stage.seconds();
    let figures = |r: &StepReport| {
        format!(
            "loss {:.4}, FVU {:.4}, L0 {:.1}, dead {}",
            r.loss, r.fvu, r.l0, r.dead
        )
    };
    match (several, &last[0]) {
        (true, _) => {
            let coders = recipes.len();
            stage.done(format!(
                "{count} steps of {coders} coders at {speed:.0} tokens/s"
            ));
            for (name, last) in names.iter().zip(&last) {
                if let Some(r) = last {
                    progress.say("", &format!("{name}: {}", figures(r)));
                }
            }
        }
        (false, Some(r)) => {
            stage.done(format!(
                "{count} steps at {speed:.0} tokens/s: {}",
                figures(r)
            ));
        }
        (false, None) => stage.done(format!("{count} steps")),
    }
    Ok(())
}

/// An error that is of one coder says so by its name.
pub(super) fn named(error: SaeError, recipes: &[NamedRecipe]) -> Error {
    match error {
        SaeError::OfCoder { number, error } => {
            Error::from(*error).context(format!("coder {}", recipes[number].name))
        }
        error => error.into(),
    }
}
