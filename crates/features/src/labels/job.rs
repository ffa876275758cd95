//! A labelling job that can be resumed: a language model explains each latent and judges its own
//! explanation by detection and fuzzing (Paulo et al. 2024).

use super::endpoint::{Endpoint, POLL, Reply};
use super::prompts::{TextContext, explanation_prompt};
use super::scoring::Confusion;
use crate::FeaturesError;
use journal::Key;
use progress::{Place, Progress, Request};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

mod estimate;
mod journal;
mod progress;
#[cfg(test)]
mod tests;

pub use estimate::{Estimate, Prices, Usage, estimate};
pub use journal::{Journal, RequestKind};

/// How a job is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobConfig {
    /// Most requests in flight.
    pub parallel: usize,
    /// Seed of the order in which a prompt shows windows.
    pub seed: u64,
}

impl Default for JobConfig {
    /// 4 requests in flight, seed 22.
    fn default() -> Self {
        JobConfig {
            parallel: 4,
            seed: 22,
        }
    }
}

/// One latent to label: what to explain it from, and what to test the explanation on.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelTask<'a> {
    /// The latent.
    pub latent: usize,
    /// Contexts to explain it from, of documents that no window below is from.
    pub contexts: Vec<TextContext<'a>>,
    /// The windows of both tests, each as pieces of text.
    pub windows: Vec<Vec<String>>, // [windows][window]
    /// Whether the latent fires in each window: the right answers.
    pub fires: Vec<bool>, // [windows]
    /// The tokens that fuzzing marks, right ones where the latent fires.
    pub marks: Vec<Vec<bool>>, // [windows][window]
}

impl LabelTask<'_> {
    /// Checks all that could be wrong after the first request is paid for.
    fn check(&self) -> Result<(), FeaturesError> {
        for (field, found) in [("fires", self.fires.len()), ("marks", self.marks.len())] {
            if found != self.windows.len() {
                return Err(FeaturesError::Input {
                    field,
                    found: format!("{found} for latent {}", self.latent),
                    expected: format!("one per window, {}", self.windows.len()),
                });
            }
        }
        for (window, marks) in self.windows.iter().zip(&self.marks) {
            if marks.len() != window.len() {
                return Err(FeaturesError::Input {
                    field: "marks",
                    found: format!("{} in a window of latent {}", marks.len(), self.latent),
                    expected: format!("one per piece, {}", window.len()),
                });
            }
        }
        explanation_prompt(&self.contexts).map(drop)
    }
}

/// A latent's label and its scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The latent.
    pub latent: usize,
    /// The explanation; `None` if the reply held none. Such a label is not tested.
    pub label: Option<String>,
    /// Predictions of whether the latent fires in a window.
    pub detection: Confusion,
    /// Predictions of whether marks are right.
    pub fuzzing: Confusion,
    /// Requests and tokens for this latent, whether of this run or of an earlier one.
    pub usage: Usage,
}

/// What a job did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Latents that were reported.
    pub latents: usize,
    /// Those of them without a label.
    pub unlabelled: usize,
    /// Predictions of the reported latents, detection.
    pub detection: Confusion,
    /// Predictions of the reported latents, fuzzing.
    pub fuzzing: Confusion,
    /// Requests and tokens for the reported latents, whether of this run or of an earlier one.
    pub usage: Usage,
    /// Requests that finished and tokens in this run, also for latents that were not reported.
    pub sent: Usage,
    /// Whether the job was stopped before its end.
    pub stopped: bool,
}

/// A request that has finished.
struct Finished {
    place: Place,
    key: Key,
    reply: Result<Option<Reply>, FeaturesError>,
    /// Whether this run sent it; else it comes from the journal.
    is_new: bool,
}

/// Labels latents and reports them in the order of the tasks.
///
/// Every finished request is in the journal at once. A job that is run again with its journal takes
/// from there what it would ask for again, and reports the same as one that was not interrupted. A
/// text that is no valid prediction is final, too; an answer without a text is not kept. `stop` is
/// asked at least every 100 ms; after it, or after an error, no request is begun and those in
/// flight are broken off.
///
/// # Errors
/// When a task's lists do not fit together or a latent does not fire in one of its contexts, the
/// endpoint refuses ([`Endpoint::complete`]), the journal cannot be written, or `report` says so.
pub fn explain_latents(
    endpoint: &Endpoint,
    tasks: &[LabelTask<'_>],
    journal: &mut Journal,
    config: &JobConfig,
    stop: &dyn Fn() -> bool,
    report: &mut dyn FnMut(Explained) -> Result<(), FeaturesError>,
) -> Result<Totals, FeaturesError> {
    if config.parallel == 0 {
        return Err(FeaturesError::Input {
            field: "parallel",
            found: "0".into(),
            expected: "at least 1".into(),
        });
    }
    // All of them, before anything is paid for.
    for task in tasks {
        task.check()?;
    }
    let halt = AtomicBool::new(false);
    let halted = || halt.load(Ordering::Relaxed);
    let mut progress = Progress::new(tasks, config.seed);
    let mut totals = Totals::default();
    let (sender, receiver) = mpsc::channel();
    let failure = thread::scope(|scope| {
        let mut failure = None;
        let mut in_flight = 0;
        loop {
            if stop() {
                halt.store(true, Ordering::Relaxed);
            }
            while in_flight < config.parallel && !halted() {
                let Request { place, messages } = match progress.next_request() {
                    Ok(Some(request)) => request,
                    Ok(None) => break,
                    Err(error) => {
                        failure.get_or_insert(error);
                        halt.store(true, Ordering::Relaxed);
                        break;
                    }
                };
                let (task, kind, batch) = place;
                let key = Key {
                    latent: tasks[task].latent,
                    kind,
                    batch,
                    digest: endpoint.digest(&messages),
                };
                let known = journal.reply(&key).cloned();
                let is_new = known.is_none();
                let sender = sender.clone();
                // The receiver outlives all threads.
                let finish = move |reply| {
                    drop(sender.send(Finished {
                        place,
                        key,
                        reply,
                        is_new,
                    }));
                };
                match known {
                    Some(reply) => finish(Ok(Some(reply))),
                    None => {
                        let ask = move || finish(endpoint.complete(&messages, &halted));
                        if let Err(error) = thread::Builder::new().spawn_scoped(scope, ask) {
                            failure.get_or_insert(too_many_threads(config.parallel, &error));
                            halt.store(true, Ordering::Relaxed);
                            break;
                        }
                    }
                }
                in_flight += 1;
            }
            if in_flight == 0 {
                return failure;
            }
            let Ok(finished) = receiver.recv_timeout(POLL) else {
                continue;
            };
            in_flight -= 1;
            let settled = settle(finished, journal, &mut progress, &mut totals).and_then(|()| {
                // Nothing is reported after an error.
                while let Some(labelled) = progress.next_labelled().filter(|_| failure.is_none()) {
                    totals.count(&labelled);
                    report(labelled)?;
                }
                Ok(())
            });
            if let Err(error) = settled {
                failure.get_or_insert(error);
                halt.store(true, Ordering::Relaxed);
            }
        }
    });
    totals.stopped = totals.latents < tasks.len();
    match failure {
        Some(error) => Err(error),
        None => Ok(totals),
    }
}

/// Writes a reply down, then takes it into account.
fn settle(
    finished: Finished,
    journal: &mut Journal,
    progress: &mut Progress<'_>,
    totals: &mut Totals,
) -> Result<(), FeaturesError> {
    // Without a reply it was broken off.
    let Some(reply) = finished.reply? else {
        return Ok(());
    };
    if finished.is_new {
        totals.sent.add_reply(&reply);
        // Without a text there is nothing to keep: the next run may find a working endpoint.
        if reply.text.is_some() {
            journal.append(finished.key, &reply)?;
        }
    }
    progress.finish(finished.place, &reply)
}

fn too_many_threads(parallel: usize, error: &std::io::Error) -> FeaturesError {
    FeaturesError::Input {
        field: "parallel",
        found: format!("{parallel} ({error})"),
        expected: "no more threads than the system allows".into(),
    }
}

impl Totals {
    fn count(&mut self, labelled: &Explained) {
        self.latents += 1;
        self.unlabelled += usize::from(labelled.label.is_none());
        self.detection.add(&labelled.detection);
        self.fuzzing.add(&labelled.fuzzing);
        self.usage.add(&labelled.usage);
    }
}
