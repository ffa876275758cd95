//! The hook points of a coder: where it reads and what it reconstructs.

use serde::{Deserialize, Serialize};

/// What the hook points of a second model begin with where they stand beside those of the first.
pub const SECOND_MODEL: &str = "other:";

/// What a coder reads and what it reconstructs: names of hook points in TransformerLens's spelling.
/// A name is absent where a file from elsewhere does not say it; a recipe always does.
///
/// Where there are several hook points, their activations stand side by side, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SiteKeys", into = "SiteKeys")]
pub enum Sites {
    /// Reads and reconstructs the activations at one hook point.
    Autoencoder {
        /// The hook point.
        at: Option<String>,
    },
    /// Reads at one hook point and reconstructs the activations at another.
    Transcoder {
        /// The hook point that it reads.
        from: Option<String>,
        /// The hook point whose activations it reconstructs.
        to: Option<String>,
    },
    /// Reads and reconstructs the activations at several hook points with the same latents.
    Crosscoder {
        /// The hook points.
        at: Vec<String>,
    },
    /// A transcoder per layer, whose latents write at their own layer and at all later ones.
    CrossLayer {
        /// The hook point that each layer reads.
        from: Vec<String>,
        /// The hook point at which each layer writes first.
        to: Vec<String>,
    },
    /// A crosscoder of two models that see the same tokens.
    TwoModels {
        /// The hook point in the first model.
        at: String,
        /// The second model.
        second_model: String,
        /// The hook point in the second model.
        second_at: String,
    },
}

impl Default for Sites {
    fn default() -> Self {
        Self::Autoencoder { at: None }
    }
}

impl Sites {
    /// An autoencoder at a hook point.
    #[must_use]
    pub fn autoencoder(at: impl Into<String>) -> Self {
        Self::Autoencoder {
            at: Some(at.into()),
        }
    }

    /// A transcoder between two hook points.
    #[must_use]
    pub fn transcoder(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self::Transcoder {
            from: Some(from.into()),
            to: Some(to.into()),
        }
    }

    /// The hook points that the coder reads, as far as they are known. Those of a second model
    /// begin with [`SECOND_MODEL`].
    #[must_use]
    pub fn read(&self) -> Vec<String> {
        match self {
            Self::Autoencoder { at } => at.iter().cloned().collect(),
            Self::Transcoder { from, .. } => from.iter().cloned().collect(),
            Self::Crosscoder { at } => at.clone(),
            Self::CrossLayer { from, .. } => from.clone(),
            Self::TwoModels { at, second_at, .. } => {
                vec![at.clone(), format!("{SECOND_MODEL}{second_at}")]
            }
        }
    }

    /// The hook points whose activations the coder reconstructs, as far as they are known.
    #[must_use]
    pub fn written(&self) -> Vec<String> {
        match self {
            Self::Transcoder { to, .. } => to.iter().cloned().collect(),
            Self::CrossLayer { to, .. } => to.clone(),
            _ => self.read(),
        }
    }

    /// The first hook point that the coder reads, if it is known.
    #[must_use]
    pub fn first_read(&self) -> Option<&str> {
        match self {
            Self::Autoencoder { at } => at.as_deref(),
            Self::Transcoder { from, .. } => from.as_deref(),
            Self::Crosscoder { at } => at.first().map(String::as_str),
            Self::CrossLayer { from, .. } => from.first().map(String::as_str),
            Self::TwoModels { at, .. } => Some(at),
        }
    }

    /// Whether the coder reconstructs other activations than it reads.
    #[must_use]
    pub const fn transcodes(&self) -> bool {
        matches!(self, Self::Transcoder { .. } | Self::CrossLayer { .. })
    }

    /// Whether the coder reads the activations at several hook points.
    #[must_use]
    pub const fn are_several(&self) -> bool {
        matches!(
            self,
            Self::Crosscoder { .. } | Self::CrossLayer { .. } | Self::TwoModels { .. }
        )
    }

    /// The number of layers of a cross-layer transcoder; 1 for every other coder.
    #[must_use]
    pub fn layers(&self) -> usize {
        match self {
            Self::CrossLayer { to, .. } => to.len(),
            _ => 1,
        }
    }

    /// The second model of a crosscoder of two.
    #[must_use]
    pub fn second_model(&self) -> Option<&str> {
        match self {
            Self::TwoModels { second_model, .. } => Some(second_model),
            _ => None,
        }
    }

    /// Replaces the hook point of an autoencoder, the one that a transcoder reads, or the one in
    /// the first of two models. Other coders with several keep theirs.
    pub fn set_read(&mut self, hook_point: String) {
        match self {
            Self::Autoencoder { at: place } | Self::Transcoder { from: place, .. } => {
                *place = Some(hook_point);
            }
            Self::TwoModels { at, .. } => *at = hook_point,
            Self::Crosscoder { .. } | Self::CrossLayer { .. } => {}
        }
    }
}

/// Sites as recipes and files spell them. `hook_point` is always the first that is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteKeys {
    /// The hook point that is read, the first of several.
    pub hook_point: Option<String>,
    /// The hook points of a crosscoder, or those that a cross-layer transcoder reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hook_points: Vec<String>,
    /// The hook points at which a cross-layer transcoder writes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hook_points_out: Vec<String>,
    /// The hook point whose activations a transcoder reconstructs, empty if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_point_out: Option<String>,
    /// The second model of a crosscoder of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_model: Option<String>,
    /// The hook point in the second model; absent: the same as in the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_hook_point: Option<String>,
}

impl From<SiteKeys> for Sites {
    fn from(keys: SiteKeys) -> Self {
        let not_empty = |name: &String| !name.is_empty();
        let SiteKeys {
            hook_point,
            hook_points,
            hook_points_out,
            hook_point_out,
            other_model,
            other_hook_point,
        } = keys;
        if let Some(second_model) = other_model {
            // Dictionaries from before there was `other_hook_point` list both in `hook_points`.
            let listed = hook_points
                .iter()
                .find_map(|hook| hook.strip_prefix(SECOND_MODEL));
            let at = hook_point.unwrap_or_default();
            let second_at = other_hook_point.or_else(|| listed.map(str::to_owned));
            return Self::TwoModels {
                second_at: second_at.unwrap_or_else(|| at.clone()),
                at,
                second_model,
            };
        }
        match (hook_points.is_empty(), hook_points_out.is_empty()) {
            (_, false) => Self::CrossLayer {
                from: hook_points,
                to: hook_points_out,
            },
            (false, true) => Self::Crosscoder { at: hook_points },
            (true, true) => match hook_point_out {
                Some(to) => Self::Transcoder {
                    from: hook_point.filter(not_empty),
                    to: Some(to).filter(not_empty),
                },
                None => Self::Autoencoder { at: hook_point },
            },
        }
    }
}

impl From<Sites> for SiteKeys {
    fn from(sites: Sites) -> Self {
        let mut keys = Self {
            hook_point: sites.first_read().map(str::to_owned),
            ..Self::default()
        };
        match sites {
            Sites::Autoencoder { .. } => {}
            Sites::Transcoder { to, .. } => keys.hook_point_out = Some(to.unwrap_or_default()),
            Sites::Crosscoder { at } => keys.hook_points = at,
            Sites::CrossLayer { from, to } => {
                (keys.hook_points, keys.hook_points_out) = (from, to);
            }
            Sites::TwoModels {
                at,
                second_model,
                second_at,
            } => {
                keys.other_hook_point = Some(second_at).filter(|second| *second != at);
                keys.other_model = Some(second_model);
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sites_survive_their_keys() {
        for sites in [
            Sites::default(),
            Sites::autoencoder("a"),
            Sites::transcoder("a", "b"),
            Sites::Transcoder {
                from: None,
                to: Some("b".into()),
            },
            Sites::Transcoder {
                from: Some("a".into()),
                to: None,
            },
            Sites::Crosscoder {
                at: names(&["a", "b"]),
            },
            Sites::CrossLayer {
                from: names(&["a", "b"]),
                to: names(&["c", "d"]),
            },
            Sites::TwoModels {
                at: "a".into(),
                second_model: "m".into(),
                second_at: "b".into(),
            },
        ] {
            let text = serde_json::to_string(&sites).unwrap();
            let read: Sites = serde_json::from_str(&text).unwrap();
            assert_eq!(read, sites, "{text}");
        }
    }

    #[test]
    fn an_older_crosscoder_of_two_models_lists_both_hook_points() {
        let old = r#"{"hook_point": "a", "hook_points": ["a", "other:b"], "other_model": "m", "hook_points_out": [],
                     "hook_point_out": null}"#;
        let read: Sites = serde_json::from_str(old).unwrap();
        assert_eq!(read.read(), ["a", "other:b"]);
        assert_eq!(read.second_model(), Some("m"));
    }
}
