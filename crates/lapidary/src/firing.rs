//! Which latents fire where in a text that someone types.

use std::collections::HashMap;

use lapidary_activations::OtherModel;
use lapidary_features::{best_labels, read_features};
use serde::Serialize;

use crate::error::{Result, bail};
use crate::label_table::labels_of_run;
use crate::opened::Opened;
use crate::progress::Progress;
use crate::run_folder::RunFolder;

/// A latent that fires on a token.
#[derive(Debug, Clone, Serialize)]
pub struct Firing {
    /// The latent.
    pub feature_id: u32,
    /// Its activation.
    pub activation: f32,
    /// What it is about: its label, else the usual token at its peaks, if tables say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

/// A token of a text with the latents that fire on it.
#[derive(Debug, Clone, Serialize)]
pub struct FiringToken {
    /// Its place in the text, in tokens.
    pub position: usize,
    /// Its text.
    pub token: String,
    /// Its id.
    pub id: u32,
    /// The latents, the strongest first.
    pub latents: Vec<Firing>,
}

/// The latents that fire on each token of `text`, at most `top` per token, those in `only` if it is
/// not empty (`(top, only)`). A text that is longer than the context is read in pieces.
///
/// # Errors
/// The text has no token, the model fails, or a table beside the dictionary is damaged.
pub fn fire(
    opened: &Opened,
    text: &str,
    shown: (usize, &[u32]),
    progress: &dyn Progress,
) -> Result<Vec<FiringToken>> {
    let second = opened.second()?;
    let about = about(opened.folder.as_ref(), progress)?;
    let about = |latent: u32| about.get(&latent).cloned();
    fire_with(opened, second.as_ref(), text, shown, &about)
}

/// The same for who has the second model of a crosscoder ([`Opened::second`]), and knows what each
/// latent is about. `(top, only)` are as there.
///
/// # Errors
/// The text has no token, or the model fails.
pub fn fire_with(
    opened: &Opened,
    second: Option<&OtherModel>,
    text: &str,
    (top, only): (usize, &[u32]),
    about: &dyn Fn(u32) -> Option<String>,
) -> Result<Vec<FiringToken>> {
    let reader = opened.reader(second)?;
    let d_sae = reader.d_sae();
    if let Some(latent) = only.iter().find(|latent| **latent as usize >= d_sae) {
        bail!("found latent {latent}, expected one below {d_sae}");
    }
    let tokenizer = opened.model.tokenizer()?;
    let tokens = tokenizer.encode(text)?;
    if tokens.is_empty() {
        bail!("the text has no token");
    }
    let texts = tokenizer.texts(&tokens);
    let (context, bos) = opened.context();
    let room = context.saturating_sub(bos.iter().count()).max(1);
    let mut found = vec![];
    for piece in tokens.chunks(room) {
        let block = opened.block_of(piece, found.len());
        let first = block.tokens.len() - piece.len();
        let codes = reader.read(&[block])?;
        for (at, &id) in piece.iter().enumerate() {
            let row = (first + at) * codes.k..(first + at + 1) * codes.k;
            let entries = codes.values[row.clone()].iter().zip(&codes.indices[row]);
            let active = entries.filter(|(value, index)| **value > 0.0 && **index >= 0);
            let wanted =
                active.filter(|(_, index)| only.is_empty() || only.contains(&(**index as u32)));
            let mut latents: Vec<(u32, f32)> = wanted
                .map(|(value, index)| (*index as u32, *value))
                .collect();
            latents.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            latents.truncate(top);
            let firing = |(feature_id, activation)| Firing {
                feature_id,
                activation,
                about: about(feature_id),
            };
            found.push(FiringToken {
                position: found.len(),
                token: texts.get(found.len()).cloned().unwrap_or_default(),
                id,
                latents: latents.into_iter().map(firing).collect(),
            });
        }
    }
    Ok(found)
}

/// What the tables of a run say that its latents are about.
fn about(folder: Option<&RunFolder>, progress: &dyn Progress) -> Result<HashMap<u32, String>> {
    let mut about = HashMap::new();
    let Some(run) = folder else {
        return Ok(about);
    };
    let tables = run.features();
    let features = tables.join("features.parquet");
    if features.is_file() {
        for row in read_features(&features)? {
            if let Some(token) = row.peak_token {
                about.insert(row.feature_id, token.text.to_string());
            }
        }
    }
    let labels = labels_of_run(run, progress)?;
    for (latent, label) in best_labels(&labels) {
        about.insert(latent, label.label.clone());
    }
    Ok(about)
}
