//! Shows what the first batch of activations is like, and keeps it beside what was made of it.

use crate::error::Result;
use crate::progress::Progress;
use crate::run_folder::write_json;
use lapidary_activations::FirstBatch;
use std::path::Path;

/// Name of the file in a run's or a store's folder.
pub const FILE: &str = "first_batch.json";

/// Shows figures and advice.
pub fn show(progress: &dyn Progress, reports: &[FirstBatch]) {
    for r in reports {
        let text = format!(
            "{}: norm {:.3} ± {:.3}, median {:.3}, highest {:.3}; the mean activation is {:.2} times the spread around it; {} outliers, {} of them special tokens",
            r.hook_point,
            r.mean_norm,
            r.std_norm,
            r.median_norm,
            r.max_norm,
            r.mean_over_std,
            r.outliers,
            r.special_outliers
        );
        progress.say("look", &text);
        for advice in &r.advice {
            progress.say("", advice);
        }
    }
}

/// Writes the reports into a folder.
pub fn keep(folder: &Path, reports: &[FirstBatch]) -> Result<()> {
    write_json(&folder.join(FILE), &reports)
}
