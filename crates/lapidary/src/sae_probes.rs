//! Sparse probing on the data sets of the Python package sae-probes: reads a data set, computes its
//! activations and latents once, and probes them for every setting and seed.

use std::path::{Path, PathBuf};

use lapidary_coder::{Coder, Weight, host};
use lapidary_evaluation::probing::sae_probes::{
    DataSet, DataSets, KSparseConfig, Kind, ProbeFigures, RegType, Setting, baseline_probe,
    k_sparse_probes, usable_train_sizes,
};
use lapidary_evaluation::probing::{Reading, Represented, Rows, represent};
use lapidary_io::tensors::{TensorWriter, Tensors};
use lapidary_io::{Checksum, IoError};
use lapidary_kernels::MappedFile;

use crate::error::{Context, Result, bail};
use crate::opened::Opened;
use crate::progress::{Progress, Stage, count};

/// What [`probe_data_sets`] does.
#[derive(Debug, Clone)]
pub struct SaeProbesOptions {
    /// The folder of the installed package.
    pub data: PathBuf,
    /// Names of data sets; all with two classes if empty.
    pub only: Vec<String>,
    /// Which rows probes are trained and tested on.
    pub settings: Vec<Setting>,
    /// Numbers of latents; the package's if none.
    pub ks: Option<Vec<usize>>,
    /// Penalty of probes of latents.
    pub reg_type: RegType,
    /// Seeds of the rows.
    pub seeds: Vec<u32>,
    /// Whether the whole activation is probed too.
    pub baseline: bool,
    /// Longest prompt in tokens, BOS among them; the beginning of a longer one is left out.
    pub max_tokens: usize,
    /// Where activations and latents are kept, a file per data set.
    pub cache: Option<PathBuf>,
}

/// Probes the latents of a dictionary, and the activations, at the last token of each prompt.
/// `keep` hears all probes so far after each data set.
///
/// # Errors
/// The data cannot be read, the model fails, a data set has too few rows, or `keep` fails.
pub fn probe_data_sets(
    opened: &Opened,
    options: &SaeProbesOptions,
    progress: &dyn Progress,
    keep: &mut dyn FnMut(&[ProbeFigures]) -> Result<()>,
) -> Result<Vec<ProbeFigures>> {
    let all = DataSets::open(&options.data)?;
    let chosen: Vec<&DataSet> = match options.only.is_empty() {
        true => all.binary(),
        false => {
            let named = options.only.iter().map(|name| all.find(name));
            named.collect::<Result<_, _>>()?
        }
    };
    if let Some(other) = chosen.iter().find(|d| d.kind != Kind::Binary) {
        bail!(
            "{}: found a data set with {}, expected one with two classes",
            other.name,
            match other.kind {
                Kind::Continuous => "numbers",
                _ => "several classes",
            }
        );
    }
    let cache = match &options.cache {
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            Some((folder.as_path(), hash_of(opened)?))
        }
        None => None,
    };
    let stage = Stage::new(progress, "data sets", chosen.len() as u64);
    let mut figures = vec![];
    for (done, data_set) in chosen.iter().enumerate() {
        let of_set = probe(opened, data_set, options, cache.as_ref(), progress);
        figures.extend(of_set.with_context(|| data_set.name.clone())?);
        keep(&figures)?;
        stage.at(done as u64 + 1, data_set.name.clone());
    }
    stage.done(count(figures.len() as u64, "probe"));
    Ok(figures)
}

/// The probes of one data set, for every seed and setting.
fn probe(
    opened: &Opened,
    data_set: &DataSet,
    options: &SaeProbesOptions,
    cache: Option<&(&Path, Checksum)>,
    progress: &dyn Progress,
) -> Result<Vec<ProbeFigures>> {
    let name = &data_set.name;
    let samples = data_set.read()?;
    let labels = samples.labels()?;
    let sizes = usable_train_sizes(labels.len());
    let represented = represented(opened, name, &samples.prompts, options, cache, progress)?;
    let mut figures = vec![];
    for seed in &options.seeds {
        for setting in &options.settings {
            // As in the package, sizes that leave too few rows to test on are left out.
            if matches!(setting, Setting::Scarcity { num_train } if !sizes.contains(num_train)) {
                continue;
            }
            let config = KSparseConfig {
                setting: *setting,
                ks: options.ks.clone(),
                reg_type: options.reg_type,
                seed: *seed,
                ..KSparseConfig::default()
            };
            // The package flips labels for probes of the activation alone.
            if !matches!(setting, Setting::LabelNoise { .. }) {
                let latents = &represented.latents;
                figures.extend(k_sparse_probes(name, latents, &labels, &config)?);
            }
            if options.baseline {
                let x = &represented.activations;
                let (setting, solver) = (of_baseline(*setting), config.solver);
                figures.push(baseline_probe(name, x, &labels, setting, solver, *seed)?);
            }
        }
    }
    Ok(figures)
}

/// The setting as the package has it for baselines: their shares are exact twentieths, those of
/// latents carry the rounding of a division.
fn of_baseline(setting: Setting) -> Setting {
    match setting {
        Setting::Imbalance { frac } => Setting::Imbalance {
            frac: (frac * 20.0).round() / 20.0,
        },
        other => other,
    }
}

/// Activations and latents of the prompts of a data set, from the cache if they are there.
fn represented(
    opened: &Opened,
    name: &str,
    prompts: &[String],
    options: &SaeProbesOptions,
    cache: Option<&(&Path, Checksum)>,
    progress: &dyn Progress,
) -> Result<Represented> {
    let (_, bos) = opened.context();
    let most = options.max_tokens.min(opened.model.config().n_ctx);
    let room = most.saturating_sub(usize::from(bos.is_some()));
    if room == 0 {
        let least = 1 + usize::from(bos.is_some());
        bail!("--max-tokens: found {most}, expected at least {least}, BOS counted");
    }
    let kept = cache.map(|(folder, of_coder)| {
        let mut key = of_coder.clone();
        key.update(&most.to_le_bytes());
        for prompt in prompts {
            key.update(prompt.as_bytes());
            key.update(&[0]);
        }
        (folder.join(format!("{name}.safetensors")), key.finish())
    });
    if let Some((path, key)) = kept.as_ref().filter(|(path, _)| path.exists()) {
        return read(path, opened, prompts.len(), *key);
    }
    let tokenizer = opened.model.tokenizer()?;
    let mut texts = Vec::with_capacity(prompts.len());
    for (row, prompt) in prompts.iter().enumerate() {
        let tokens = tokenizer.encode(prompt)?;
        if tokens.is_empty() {
            bail!("{name}: row {row}: found a prompt without a token, expected one with some");
        }
        let last = &tokens[tokens.len().saturating_sub(room)..];
        let tokens: Vec<u32> = bos.iter().chain(last).copied().collect();
        let place = tokens.len() - 1;
        texts.push((tokens, Reading::At(place)));
    }
    let longest = texts.iter().map(|(tokens, _)| tokens.len()).max();
    let hook = opened.only_hook()?;
    let coder = opened.dictionary.coder.clone();
    let coder = coder.to_device(opened.model.device());
    let stage = Stage::new(progress, "represent", texts.len() as u64);
    let context = longest.unwrap_or(most).max(opened.context().0.min(most));
    let represented = represent(&opened.model, &coder, hook, &texts, context, &mut |n| {
        stage.at(n as u64, format!("{name}, {n} prompts"));
    })?;
    stage.done(format!("{name}, {}", count(texts.len() as u64, "prompt")));
    if let Some((path, key)) = &kept {
        write(path, &represented, *key)?;
    }
    Ok(represented)
}

/// A checksum of what activations and latents depend on beside the prompts: the coder with all its
/// weights, the hook point, BOS, and the model, of which some weights stand for all.
fn hash_of(opened: &Opened) -> Result<Checksum> {
    let mut hash = Checksum::default();
    let (model, hook) = (&opened.model, opened.only_hook()?);
    let said = format!("{} {hook} {:?}", model.name(), opened.context().1);
    hash.update(said.as_bytes());
    let some = [model.w_out(0), model.final_norm_weight().unsqueeze()];
    for layer in opened.dictionary.coder.layers() {
        let (architecture, shifted) = (&layer.architecture, layer.apply_b_dec_to_input);
        hash.update(format!("{architecture:?} {shifted}").as_bytes());
        for (name, weight) in layer.weights.iter() {
            hash.update(name.as_bytes());
            let numbers = match weight {
                Weight::Matrix(matrix) => host(matrix)?,
                Weight::Vector(vector) => host(vector)?,
            };
            numbers.iter().for_each(|v| hash.update(&v.to_le_bytes()));
        }
    }
    for weights in some {
        let numbers = host(&weights)?;
        numbers.iter().for_each(|v| hash.update(&v.to_le_bytes()));
    }
    Ok(hash)
}

fn write(path: &Path, represented: &Represented, key: u64) -> Result<()> {
    let (x, latents) = (&represented.activations, &represented.latents);
    let (n, d) = (x.len(), x.columns());
    let mut activations = vec![0.0f32; n * d];
    for (row, values) in activations.chunks_exact_mut(d.max(1)).enumerate() {
        x.row(row)
            .iter()
            .for_each(|(j, v)| values[*j as usize] = *v);
    }
    let k = (0..n).map(|row| latents.row(row).len()).max();
    let k = k.unwrap_or(0).max(1);
    let mut values = vec![0.0f32; n * k];
    let mut indices = vec![latents.columns() as i32; n * k]; // no latent
    for row in 0..n {
        for (place, (latent, value)) in latents.row(row).iter().enumerate() {
            values[row * k + place] = *value;
            indices[row * k + place] = *latent as i32;
        }
    }
    let mut file = TensorWriter::default();
    file.u64("key", &[key]);
    file.borrowed_f32("activations", &[n, d], &activations);
    file.borrowed_f32("latent_values", &[n, k], &values);
    file.i32("latent_indices", &[n * k], &indices);
    Ok(file.write_atomically(path, None)?)
}

fn read(path: &Path, opened: &Opened, n: usize, key: u64) -> Result<Represented> {
    let bytes = MappedFile::open(path).map_err(|e| IoError::read(path)(e))?;
    let tensors = Tensors::parse(path, &bytes)?;
    if tensors.u64("key", 1)? != [key] {
        bail!(
            "{}: found activations of another model, dictionary or text, expected those of this run: choose another --cache, or remove the file",
            path.display()
        );
    }
    let (d, d_sae) = (
        opened.dictionary.coder.d_in(),
        opened.dictionary.coder.d_sae(),
    );
    let activations = tensors.f32("activations", &[n, d])?;
    let k = match tensors.shape("latent_values").as_deref() {
        Some([_, k]) => *k,
        _ => 0,
    };
    let values = tensors.f32("latent_values", &[n, k])?;
    let indices = tensors.wholes("latent_indices", n * k)?;
    let mut latents = Rows::new(d_sae);
    for row in 0..n {
        let entries = row * k..(row + 1) * k;
        let entries = indices[entries.clone()].iter().zip(&values[entries]);
        let entries = entries.filter(|(latent, _)| **latent < d_sae as u64);
        latents.push(entries.map(|(latent, value)| (*latent as u32, *value)));
    }
    Ok(Represented {
        activations: Rows::dense(&activations, d),
        latents,
    })
}
