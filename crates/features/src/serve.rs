//! A dictionary that is looked at latent by latent: what `lapidary serve` answers from.
//!
//! - [`FeatureIndex`]: all rows of `features.parquet` in memory, with the labels;
//! - [`Query`]: a ranked search over them;
//! - [`LatentDetail`]: one latent, with the rows of the other tables, read when it is asked for;
//! - [`page`]: the page that shows all this.

mod context_texts;
mod detail;
mod index;
mod page;
mod query;
mod search;

pub use detail::{About, LatentDetail, LatentSummary};
pub use index::{DensityBins, FeatureIndex};
pub use page::{Page, page};
pub use query::{Dead, Found, Match, Order, Query};

#[cfg(test)]
mod tests;
