//! Where a dictionary reads in its model, and where its reconstruction belongs.

use lapidary_coder::{CoderError, Dictionary, SECOND_MODEL, Sites};
use lapidary_model::HookPoint;

use crate::error::EvaluationError;

/// The encoder reads at `sources`; the reconstruction is compared with the activations at `targets`
/// and spliced in there. For an autoencoder they are one and the same point, for a transcoder they
/// differ, for a crosscoder they are several, whose activations stand side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Where the encoder reads.
    pub sources: Vec<HookPoint>,
    /// What is reconstructed.
    pub targets: Vec<HookPoint>,
}

impl From<HookPoint> for Hooks {
    /// An autoencoder's.
    fn from(hook: HookPoint) -> Self {
        Self {
            sources: vec![hook],
            targets: vec![hook],
        }
    }
}

impl Hooks {
    /// Those of a dictionary of one model.
    ///
    /// # Errors
    /// The dictionary is of two models, does not say its hook points, or says one that no model
    /// here has.
    pub fn of(dictionary: &Dictionary) -> Result<Self, EvaluationError> {
        Ok(Self {
            sources: Self::sources(dictionary)?,
            targets: Self::targets(dictionary)?,
        })
    }

    /// Whether each target is a source or comes after all sources in the forward pass. Then a pass
    /// that captures both computes the sources just as one that captures the sources only.
    pub(crate) fn targets_follow_sources(&self) -> bool {
        let last = self.sources.iter().max();
        let mut targets = self.targets.iter();
        targets.all(|target| self.sources.contains(target) || Some(target) > last)
    }

    /// The hook points that a dictionary of one model reads.
    ///
    /// # Errors
    /// As [`Hooks::of`].
    pub fn sources(dictionary: &Dictionary) -> Result<Vec<HookPoint>, EvaluationError> {
        let [first, _] = Self::sources_of_both(dictionary)?;
        match dictionary.sites().second_model() {
            None => Ok(first),
            Some(second) => Err(refused(format!(
                "found a crosscoder of two models (second model: `{second}`), expected a dictionary of one model; features, encode and inspect work with two models"
            ))),
        }
    }

    /// The hook points that a dictionary reads in its model, and those in its second model, if it
    /// has one.
    ///
    /// # Errors
    /// As [`Hooks::of`], but for two models.
    pub fn sources_of_both(
        dictionary: &Dictionary,
    ) -> Result<[Vec<HookPoint>; 2], EvaluationError> {
        let names = dictionary.sites().read();
        if names.is_empty() {
            return Err(refused(
                "its files do not name its hook point (metadata.hook_name in cfg.json): give --hook-point"
                    .to_owned(),
            ));
        }
        let mut both = [vec![], vec![]];
        for name in &names {
            match name.strip_prefix(SECOND_MODEL) {
                Some(name) => both[1].push(name.parse()?),
                None => both[0].push(name.parse()?),
            }
        }
        Ok(both)
    }

    /// The hook points whose activations a dictionary of one model reconstructs.
    ///
    /// # Errors
    /// As [`Hooks::of`].
    pub fn targets(dictionary: &Dictionary) -> Result<Vec<HookPoint>, EvaluationError> {
        match dictionary.sites() {
            Sites::Transcoder { to: None, .. } => Err(refused(
                "its files do not name the hook point that this transcoder reconstructs (metadata.hook_name_out in cfg.json)".to_owned(),
            )),
            sites if sites.transcodes() => {
                let parsed = sites.written().into_iter().map(|name| name.parse());
                Ok(parsed.collect::<Result<_, _>>()?)
            }
            _ => Self::sources(dictionary),
        }
    }
}

fn refused(message: String) -> EvaluationError {
    let place = "dictionary".to_owned();
    CoderError::Invalid { place, message }.into()
}
