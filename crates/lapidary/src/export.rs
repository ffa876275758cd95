//! A run's feature tables as files for other viewers.

use std::path::Path;

use lapidary_coder::Coder;
use lapidary_evaluation::Hooks;
use lapidary_features::exports::{
    DictionaryExport, ExportNames, FeatureExplanation, write_neuronpedia, write_sae_dashboard,
};
use lapidary_features::{
    FeaturesError, best_labels, names, read_examples, read_features, read_histograms, read_source,
};
use lapidary_io::StagedFolder;

use crate::error::{Result, bail};
use crate::label_table::labels_of_run;
use crate::opened::{DictionaryOptions, open_dictionary};
use crate::progress::{Progress, Stage};
use crate::run_folder::RunFolder;
use burn::tensor::Device;

/// For which viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// Neuronpedia's import folder.
    Neuronpedia,
    /// The batches of SAEDashboard.
    SaeDashboard,
}

/// Writes the feature tables of a run for another viewer, into a new folder. Names that are empty
/// are filled in from the dictionary.
///
/// # Errors
/// The run has no tables, the dictionary reads several hook points or none in a layer, a name is
/// not allowed, or a file cannot be written.
pub fn export(
    run: &Path,
    from: DictionaryOptions,
    viewer: Viewer,
    mut given: ExportNames,
    out: &Path,
    device: &Device,
    progress: &dyn Progress,
) -> Result<()> {
    let dictionary = open_dictionary(run, from, device)?;
    let tables = RunFolder::new(run).features();
    let features = tables.join("features.parquet");
    if !features.is_file() {
        bail!(
            "{}: not found; `lapidary features {}` writes it",
            features.display(),
            run.display()
        );
    }
    let hooks = Hooks::sources(&dictionary)?;
    let [hook] = hooks[..] else {
        bail!(
            "found a dictionary that reads {}, expected one hook point",
            names(&hooks)
        );
    };
    let Some(layer) = hook.layer() else {
        bail!("found the hook point {hook}, expected one in a layer");
    };
    given.layer = layer as u32;
    given.hook_name = hook.to_string();
    let provenance = &dictionary.provenance;
    if given.model_id.is_empty() {
        let name = provenance.model_name.clone().unwrap_or_default();
        let id = name.rsplit('/').next().unwrap_or_default().to_lowercase();
        given.model_id = id;
    }
    if given.dataset.is_none() {
        // The text of the statistics, which may be another one than that of the training.
        given.dataset = read_source(&features)?.text();
    }
    given.check()?;
    let stage = Stage::new(progress, "read", 1);
    let features = read_features(&features)?;
    let examples = read_examples(&tables.join("examples.parquet"))?;
    let histograms = tables.join("histograms.parquet");
    let histograms = match histograms.is_file() {
        true => read_histograms(&histograms, features.len())?,
        false => vec![],
    };
    let labels = labels_of_run(&RunFolder::new(run), progress)?;
    let d_sae = dictionary.coder.d_sae();
    if features.len() != d_sae {
        bail!(
            "{}: has {} latents, expected {d_sae} as the dictionary",
            tables.display(),
            features.len()
        );
    }
    stage.done(format!(
        "{d_sae} latents, {} contexts, {} labels",
        examples.len(),
        labels.len()
    ));
    let mut explanations: Vec<FeatureExplanation> = best_labels(&labels)
        .into_values()
        .map(|label| FeatureExplanation {
            feature_id: label.feature_id,
            // A label of white space alone is shown as code writes it.
            text: match label.label.trim() {
                "" => format!("{:?}", label.label),
                _ => label.label.clone(),
            },
            type_name: None,
            model_name: None,
        })
        .collect();
    explanations.sort_by_key(|explanation| explanation.feature_id);
    let all = DictionaryExport {
        names: &given,
        features: &features,
        examples: &examples,
        histograms: &histograms,
        explanations: &explanations,
    };
    let staged = StagedFolder::begin(out)?;
    let stage = Stage::new(progress, "export", 1);
    let mut files = 0;
    let mut write = |path: &str, bytes: &[u8]| -> std::result::Result<(), FeaturesError> {
        let path = staged.path().join(path);
        let failed = |source| FeaturesError::Write {
            path: path.clone(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        files += 1;
        std::fs::write(&path, bytes).map_err(failed)
    };
    match viewer {
        Viewer::Neuronpedia => write_neuronpedia(&all, &mut write)?,
        Viewer::SaeDashboard => write_sae_dashboard(&all, &mut write)?,
    }
    staged.commit()?;
    stage.done(format!("{files} files in {}", out.display()));
    Ok(())
}
