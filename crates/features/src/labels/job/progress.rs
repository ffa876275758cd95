//! Which requests a labelling job makes, in which order, and what their replies add up to. Sends
//! nothing.

use super::super::endpoint::Reply;
use super::super::prompts::{
    Batch, Message, detection_prompts, explanation_prompt, fuzzing_prompts,
};
use super::super::replies::parse_explanation;
use super::super::scoring::Confusion;
use super::{Explained, LabelTask, RequestKind, Usage};
use crate::FeaturesError;
use std::collections::BTreeMap;

/// Place of a request: the task, the kind, the batch. Their order is that of the requests.
pub(super) type Place = (usize, RequestKind, usize);

/// A request to make.
pub(super) struct Request {
    pub(super) place: Place,
    pub(super) messages: Vec<Message>,
}

/// The state of a job.
pub(super) struct Progress<'a> {
    tasks: &'a [LabelTask<'a>],
    seed: u64,
    /// The first task that was not begun.
    next: usize,
    /// Prompts that wait, of tasks that were begun.
    waiting: BTreeMap<Place, Vec<Message>>,
    /// Tasks that were begun and not reported.
    begun: BTreeMap<usize, Begun>,
    /// The first task that was not reported.
    unreported: usize,
}

struct Begun {
    labelled: Explained,
    detection: Vec<Batch>,
    fuzzing: Vec<Batch>,
    /// Requests without a reply.
    open: usize,
}

impl<'a> Progress<'a> {
    /// A job at its start. All tasks were checked.
    pub(super) fn new(tasks: &'a [LabelTask<'a>], seed: u64) -> Self {
        Progress {
            tasks,
            seed,
            next: 0,
            waiting: BTreeMap::new(),
            begun: BTreeMap::new(),
            unreported: 0,
        }
    }

    /// The next request: of the earliest task that has one, else the first of a new task. `None` if
    /// there is none before more replies come.
    pub(super) fn next_request(&mut self) -> Result<Option<Request>, FeaturesError> {
        if let Some((place, messages)) = self.waiting.pop_first() {
            return Ok(Some(Request { place, messages }));
        }
        let Some(task) = self.tasks.get(self.next) else {
            return Ok(None);
        };
        let messages = explanation_prompt(&task.contexts)?;
        let labelled = Explained {
            latent: task.latent,
            label: None,
            detection: Confusion::default(),
            fuzzing: Confusion::default(),
            usage: Usage::default(),
        };
        let begun = Begun {
            labelled,
            detection: Vec::new(),
            fuzzing: Vec::new(),
            open: 1,
        };
        let place = (self.next, RequestKind::Explain, 0);
        self.begun.insert(self.next, begun);
        self.next += 1;
        Ok(Some(Request { place, messages }))
    }

    /// Takes a reply into account.
    pub(super) fn finish(&mut self, place: Place, reply: &Reply) -> Result<(), FeaturesError> {
        let (at, kind, batch) = place;
        let (Some(task), Some(begun)) = (self.tasks.get(at), self.begun.get_mut(&at)) else {
            return Ok(());
        };
        begun.open -= 1;
        begun.labelled.usage.add_reply(reply);
        let (batches, confusion) = match kind {
            RequestKind::Explain => {
                let Some(label) = reply.text.as_deref().and_then(parse_explanation) else {
                    return Ok(());
                };
                // Not the same order for all latents.
                let seed = self.seed.wrapping_add(task.latent as u64);
                begun.detection = detection_prompts(&label, &task.windows, seed);
                begun.fuzzing = fuzzing_prompts(&label, &task.windows, &task.marks, seed)?;
                begun.labelled.label = Some(label);
                begun.open += begun.detection.len() + begun.fuzzing.len();
                for (kind, batches) in [
                    (RequestKind::Detect, &mut begun.detection),
                    (RequestKind::Fuzz, &mut begun.fuzzing),
                ] {
                    for (batch, prompt) in batches.iter_mut().enumerate() {
                        let messages = std::mem::take(&mut prompt.messages);
                        self.waiting.insert((at, kind, batch), messages);
                    }
                }
                return Ok(());
            }
            RequestKind::Detect => (&begun.detection, &mut begun.labelled.detection),
            RequestKind::Fuzz => (&begun.fuzzing, &mut begun.labelled.fuzzing),
        };
        let batch = &batches[batch];
        // No text is malformed like a text without a list.
        let predictions = batch.predictions(reply.text.as_deref().unwrap_or_default());
        for (&window, predicted) in batch.windows.iter().zip(predictions) {
            confusion.record(task.fires[window], predicted);
        }
        Ok(())
    }

    /// The next task in order, if all its requests have finished.
    pub(super) fn next_labelled(&mut self) -> Option<Explained> {
        let first = self.begun.first_entry()?;
        if *first.key() != self.unreported || first.get().open > 0 {
            return None;
        }
        self.unreported += 1;
        Some(first.remove().labelled)
    }
}
