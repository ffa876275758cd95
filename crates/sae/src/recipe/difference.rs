//! In which keys recipes differ, and in which they must not.

use std::collections::{BTreeMap, BTreeSet};

use toml::Value;

use super::Recipe;

/// A dotted key and its values in two recipes, "absent" where it has none.
pub type Difference = (String, String, String);

impl Recipe {
    fn differences(&self, other: &Self, counts: impl Fn(&str) -> bool) -> Vec<Difference> {
        let (a, b) = (self.values(), other.values());
        let show = |m: &BTreeMap<String, Value>, key| {
            m.get(key).map_or("absent".to_owned(), ToString::to_string)
        };
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        keys.into_iter()
            .filter(|key| counts(key) && a.get(*key) != b.get(*key))
            .map(|key| (key.clone(), show(&a, key), show(&b, key)))
            .collect()
    }

    /// The keys in which two recipes differ that a resumed run must not change. How often to log
    /// and to checkpoint, and what happens after training, may change.
    #[must_use]
    pub fn training_differences(&self, other: &Self) -> Vec<Difference> {
        let free = [
            "training.log_every_steps",
            "training.checkpoint_every_steps",
        ];
        self.differences(other, |key| {
            !free.contains(&key) && !key.starts_with("evaluation.") && !key.starts_with("features.")
        })
    }

    /// The first of [`Self::training_differences`].
    #[must_use]
    pub fn training_difference(&self, other: &Self) -> Option<Difference> {
        self.training_differences(other).into_iter().next()
    }

    /// Whether a key is the length of the training or follows from it unless the recipe says
    /// otherwise: what may change where a run is made longer.
    #[must_use]
    pub fn is_length(key: &str) -> bool {
        const KEYS: [&str; 8] = [
            "training.tokens",
            "training.lr",
            "training.lr_warmup_steps",
            "training.sparsity_warmup_steps",
            "training.k_anneal_steps",
            "training.resample_every_steps",
            "training.dead_after_tokens",
            "training.threshold_decay",
        ];
        KEYS.contains(&key)
    }

    /// The first key in which two recipes differ that decides which tokens' activations make which
    /// batch: what the coders of one run have in common. Their hook points may differ.
    #[must_use]
    pub fn batch_difference(&self, other: &Self) -> Option<Difference> {
        let ordered = |c: &Self| {
            let mut c = c.clone();
            c.activations.seed = Some(c.order_seed());
            c
        };
        // Whole sequences or not; which loss goes through the model may differ.
        let [ours, theirs] = [self, other].map(|c| c.training.loss.is_end_to_end());
        let differences = ordered(self).differences(&ordered(other), |key| {
            key == "model"
                || key == "other_model"
                || key == "training.batch_tokens"
                || (key == "training.loss" && ours != theirs)
                || key.starts_with("corpus.")
                || key.starts_with("activations.")
        });
        differences.into_iter().next()
    }
}
