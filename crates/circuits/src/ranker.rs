//! Methods that score heads, edges or both, by name.

use std::fmt;
use std::str::FromStr;

/// A method that scores the heads or the edges of a model for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ranker {
    /// `patching`: the exact effect of each head ([`crate::head_effects`]).
    Patching,
    /// `exact-edges`: the exact effect of each edge ([`crate::edge_effects`]).
    ExactEdges,
    /// `attribution-patching`: [`crate::Method::Eap`].
    AttributionPatching,
    /// `eap-ig-inputs`: [`crate::Method::EapIgInputs`].
    EapIgInputs,
    /// `eap-ig-activations`: [`crate::Method::EapIgActivations`].
    EapIgActivations,
    /// `relp`: [`crate::Method::RelP`].
    RelP,
    /// `hisp`: [`crate::Attribution::importance`], with norm 1 in each layer.
    HeadImportance,
    /// `discrete-sae`: [`crate::discrete::CodeScore::Unique`].
    DiscreteSae,
    /// `discrete-sae-tv`: [`crate::discrete::CodeScore::TotalVariation`].
    DiscreteSaeTotalVariation,
    /// `discrete-sae-pairs`: [`crate::discrete::HeadCodes::heads_of_pairs`].
    DiscreteSaePairs,
    /// `discrete-sae-positions`: [`crate::discrete::CodeScore::Unique`] of the codes at each
    /// position.
    DiscreteSaePositions,
    /// `discrete-sae-positions-tv`: the same with
    /// [`crate::discrete::CodeScore::TotalVariation`].
    DiscreteSaePositionsTotalVariation,
    /// `subnetwork-probing`: [`crate::subnetwork_probing`].
    SubnetworkProbing,
    /// `information-flow`: [`crate::information_flow`]; a head has the sum over its edges.
    InformationFlow,
    /// `acdc`: [`crate::acdc`]; a head has the largest score of its edges.
    Acdc,
    /// `acdc-heads`: [`crate::acdc_heads`].
    AcdcHeads,
}

impl Ranker {
    /// All of them with their names, those that need the fewest passes first.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::DiscreteSae, "discrete-sae"),
        (Self::DiscreteSaeTotalVariation, "discrete-sae-tv"),
        (Self::DiscreteSaePairs, "discrete-sae-pairs"),
        (Self::DiscreteSaePositions, "discrete-sae-positions"),
        (
            Self::DiscreteSaePositionsTotalVariation,
            "discrete-sae-positions-tv",
        ),
        (Self::InformationFlow, "information-flow"),
        (Self::AttributionPatching, "attribution-patching"),
        (Self::RelP, "relp"),
        (Self::HeadImportance, "hisp"),
        (Self::EapIgInputs, "eap-ig-inputs"),
        (Self::EapIgActivations, "eap-ig-activations"),
        (Self::SubnetworkProbing, "subnetwork-probing"),
        (Self::Patching, "patching"),
        (Self::AcdcHeads, "acdc-heads"),
        (Self::ExactEdges, "exact-edges"),
        (Self::Acdc, "acdc"),
    ];

    /// Whether it scores heads.
    #[must_use]
    pub const fn ranks_heads(self) -> bool {
        !matches!(self, Self::ExactEdges)
    }

    /// Whether it scores edges.
    #[must_use]
    pub const fn ranks_edges(self) -> bool {
        matches!(
            self,
            Self::ExactEdges
                | Self::AttributionPatching
                | Self::RelP
                | Self::EapIgInputs
                | Self::EapIgActivations
                | Self::InformationFlow
                | Self::Acdc
        )
    }

    /// Whether it runs the model at least once for each edge.
    #[must_use]
    pub const fn runs_per_edge(self) -> bool {
        matches!(self, Self::ExactEdges | Self::Acdc)
    }

    /// Whether a score below 0 means that a component works against the behaviour.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(
            self,
            Self::Patching
                | Self::ExactEdges
                | Self::AttributionPatching
                | Self::RelP
                | Self::EapIgInputs
                | Self::EapIgActivations
        )
    }

    /// The names of all methods that a condition holds for, separated by commas.
    pub fn names(holds: impl Fn(Self) -> bool) -> String {
        let chosen = Self::ALL.iter().filter(|(ranker, _)| holds(*ranker));
        let names: Vec<&str> = chosen.map(|(_, name)| *name).collect();
        names.join(", ")
    }
}

impl fmt::Display for Ranker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(ranker, _)| ranker == self);
        f.write_str(named.expect("all are named").1)
    }
}

impl FromStr for Ranker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(ranker, _)| *ranker).ok_or_else(|| {
            let known = Self::names(|_| true);
            format!("found {text}, expected one of {known}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_name_of_its_own_and_something_that_it_scores() {
        for (ranker, name) in Ranker::ALL {
            assert_eq!(name.parse(), Ok(ranker));
            assert_eq!(ranker.to_string(), name);
            assert!(ranker.ranks_heads() || ranker.ranks_edges(), "{name}");
        }
        assert!("eap".parse::<Ranker>().unwrap_err().contains("acdc"));
    }
}
