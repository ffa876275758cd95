//! Sparse probing on the data sets of the Python package sae-probes: reads a data set, computes its
//! activations and latents once, and probes them for every setting and seed.

use std::path::{Path, PathBuf};

use lapidary_coder::{Coder, host};
use lapidary_evaluation::probing::sae_probes::{
    DataSet, DataSets, KSparseConfig, ProbeFigures, RegType, Setting, Solver, baseline_probe,
    k_sparse_probes,
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
    /// Where the search for weights ends.
    pub solver: Solver,
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
///
/// # Errors
/// The data cannot be read, the model fails, or a data set has too few rows.
pub fn probe_data_sets(
    opened: &Opened,
    options: &SaeProbesOptions,
    progress: &dyn Progress,
) -> Result<Vec<ProbeFigures>> {
    let all = DataSets::open(&options.data)?;
    let chosen: Vec<&DataSet> = match options.only.is_empty() {
        true => all.binary(),
        false => options
            .only
            .iter()
            .map(|name| all.find(name))
            .collect::<Result<_, _>>()?,
    };
    if let Some(cache) = &options.cache {
        std::fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    }
    let stage = Stage::new(progress, "data sets", chosen.len() as u64);
    let mut figures = vec![];
    for (done, data_set) in chosen.iter().enumerate() {
        let name = &data_set.name;
        let samples = data_set.read()?;
        let labels = samples.labels()?;
        let represented = represented(opened, name, &samples.prompts, options, progress)?;
        for seed in &options.seeds {
            for setting in &options.settings {
                let config = KSparseConfig {
                    setting: *setting,
                    ks: options.ks.clone(),
                    reg_type: options.reg_type,
                    solver: options.solver,
                    seed: *seed,
                    ..KSparseConfig::default()
                };
                // The package flips labels for probes of the activation alone.
                if !matches!(setting, Setting::LabelNoise { .. }) {
                    figures.extend(k_sparse_probes(
                        name,
                        &represented.latents,
                        &labels,
                        &config,
                    )?);
                }
                if options.baseline {
                    let (setting, solver) = (*setting, options.solver);
                    let x = &represented.activations;
                    figures.push(baseline_probe(name, x, &labels, setting, solver, *seed)?);
                }
            }
        }
        stage.at(done as u64 + 1, name.clone());
    }
    stage.done(count(figures.len() as u64, "probe"));
    Ok(figures)
}

/// Activations and latents of the prompts of a data set, from the cache if they are there.
fn represented(
    opened: &Opened,
    name: &str,
    prompts: &[String],
    options: &SaeProbesOptions,
    progress: &dyn Progress,
) -> Result<Represented> {
    let (_, bos) = opened.context();
    let most = options.max_tokens.min(opened.model.config().n_ctx);
    let room = most.saturating_sub(usize::from(bos.is_some()));
    if room == 0 {
        bail!("--max-tokens: found {most}, expected at least 2 (BOS and one more)");
    }
    let key = key(opened, prompts, most)?;
    let kept = options
        .cache
        .as_ref()
        .map(|folder| folder.join(format!("{name}.safetensors")));
    if let Some(path) = kept.as_ref().filter(|path| path.exists()) {
        return read(path, opened, prompts.len(), key);
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
    if let Some(path) = &kept {
        write(path, &represented, key)?;
    }
    Ok(represented)
}

/// A number that differs for what would give other activations or latents.
fn key(opened: &Opened, prompts: &[String], most: usize) -> Result<u64> {
    let mut hash = Checksum::default();
    let of_run = format!(
        "{} {} {most} {:?}",
        opened.model.name(),
        opened.only_hook()?,
        opened.context().1
    );
    hash.update(of_run.as_bytes());
    for prompt in prompts {
        hash.update(prompt.as_bytes());
        hash.update(&[0]);
    }
    for weights in [
        opened.dictionary.coder.w_enc(),
        opened.dictionary.coder.w_dec(),
    ] {
        for number in host(&weights)? {
            hash.update(&number.to_le_bytes());
        }
    }
    Ok(hash.finish())
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
