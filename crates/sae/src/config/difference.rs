//! In which keys recipes differ, and what must not.

use std::collections::BTreeMap;

use toml::Value;

use super::RunConfig;
use lapidary_model::settings::Reader;

/// A dotted key and its values in two recipes, "absent" where it has none.
pub type Difference = (String, String, String);

impl RunConfig {
    /// Every key that has a value, dotted, in alphabetic order.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, Value> {
        let reader = Reader::new("", &self.to_toml(), &[]);
        reader.map(Reader::into_values).unwrap_or_default()
    }

    fn difference(&self, other: &Self, counts: impl Fn(&str) -> bool) -> Option<Difference> {
        let (a, b) = (self.values(), other.values());
        let show = |m: &BTreeMap<String, Value>, key| {
            m.get(key).map_or("absent".to_owned(), ToString::to_string)
        };
        a.keys()
            .chain(b.keys())
            .find(|key| counts(key) && a.get(*key) != b.get(*key))
            .map(|key| (key.clone(), show(&a, key), show(&b, key)))
    }

    /// The first key in which two recipes differ that a resumed run must not change. How often to
    /// log, to checkpoint, and what happens after training may change.
    #[must_use]
    pub fn training_difference(&self, other: &Self) -> Option<Difference> {
        let free = [
            "training.log_every_steps",
            "training.checkpoint_every_steps",
        ];
        self.difference(other, |key| {
            !free.contains(&key) && !key.starts_with("evaluation.") && !key.starts_with("features.")
        })
    }

    /// The first key in which two recipes differ that decides which tokens' activations make which batch: what the
    /// coders of one run have in common. Their hook points may differ, unless norms there decide what is left out.
    #[must_use]
    pub fn batch_difference(&self, other: &Self) -> Option<Difference> {
        let ordered = |c: &Self| {
            let mut c = c.clone();
            c.activations.seed = Some(c.order_seed());
            // Whole sequences or not; which loss goes through the model may differ.
            if c.learns_end_to_end() {
                "kl or ce".clone_into(&mut c.training.loss);
            }
            c
        };
        let by_norm = self.activations.exclude.norm_multiple.is_some();
        ordered(self).difference(&ordered(other), |key| {
            key == "model"
                || key == "other_model"
                || key == "training.batch_tokens"
                || key == "training.loss"
                || (key.starts_with("hook_point") && by_norm)
                || key.starts_with("corpus.")
                || key.starts_with("activations.")
        })
    }
}
