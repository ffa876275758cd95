//! `lapidary encode`.

use crate::arguments::{DeviceArgument, DictionaryArgument};
use anyhow::{Context, Result, bail};
use burn::tensor::{Tensor, TensorData};
use clap::Args;
use lapidary_activations::Store;
use lapidary_coder::{Coder, Dictionary};
use lapidary_evaluation::HostCodes;
use lapidary_io::check_target;
use lapidary_io::tensors::TensorWriter;
use lapidary_model::TensorFile;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Rows encoded at once.
const ROWS: usize = 8192;

/// Encode the activations in a file with a dictionary
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary encode --dictionary out/dictionary --activations x.safetensors --out codes.safetensors
  lapidary encode --dictionary trainer_0/ae.pt --activations x.safetensors --out codes.safetensors

Tensors of the output, for n rows (tokens):
  values [n, k]          values of the active latents, in descending order (for matching pursuit: of magnitude)
  indices [n, k]         numbers of these latents
  reconstruction [n, d]  reconstruction of the row; for a transcoder, of the activation at its output hook point

If a row has fewer than k active latents, its last entries have value 0 and index -1. For a cross-layer transcoder, each row has the
entries of layer 0, then those of layer 1, and so on. Values are then in descending order within each layer. Entries with index -1 can
be at the end of each layer.

If the dictionary reads several hook points, the input has one tensor per hook point, with the name of the hook point. The input can
also be one tensor with the activations at all hook points side by side.
If the dictionary reads one head (`hook_head_index`) and the input has the activations of all heads side by side, only those of this
head are used.")]
pub struct Encode {
    /// Dictionary: a run's folder, a folder or file in any format, or hf:OWNER/NAME/PATH on the
    /// Hugging Face hub
    #[arg(long, value_name = "DIR")]
    dictionary: PathBuf,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Input: a safetensors file with activations of shape [.., d]
    #[arg(long, value_name = "FILE")]
    activations: PathBuf,
    /// Name of the input tensor; default: the only tensor of the file, or the tensor that is named
    /// after the dictionary's hook point
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
    /// Number of active latents per token (TopK) or of steps per token (matching pursuit); default:
    /// k of the dictionary
    #[arg(long)]
    k: Option<usize>,
    /// Safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Encode {
    pub fn run(self) -> Result<()> {
        check_target(&self.out)?;
        let device = self.device.open()?;
        let mut dictionary = self.from.open(&self.dictionary, &device)?;
        if let Some(k) = self.k {
            dictionary.coder = dictionary.coder.with_k(k)?;
        }
        // A shard of a store has a checksum.
        Store::verify_file(&self.activations)?;
        let file = TensorFile::open(&self.activations)?;
        let d = dictionary.coder.d_in();
        let rows = match self.side_by_side(&file, &dictionary)? {
            Some(rows) => rows,
            None => {
                let name = self.tensor_name(&file, &dictionary)?;
                let (shape, rows) = file.read(&name)?;
                let (shape, rows) = of_head(shape, rows, &dictionary);
                if shape.last() != Some(&d) {
                    bail!(
                        "{}: tensor `{name}` has shape {shape:?}, the dictionary reads activations of width {d}",
                        self.activations.display()
                    );
                }
                rows
            }
        };
        let n = rows.len() / d;
        let mut parts = vec![];
        let mut reconstruction = Vec::with_capacity(n * dictionary.coder.d_out());
        for chunk in rows.chunks(ROWS * d) {
            let x = Tensor::<2>::from_data(
                TensorData::new(chunk.to_vec(), [chunk.len() / d, d]),
                &device,
            );
            let codes = dictionary.coder.encode(x.clone());
            let x_hat = dictionary.coder.reconstruct(codes.clone(), x);
            reconstruction.extend(x_hat.into_data().iter::<f32>());
            parts.push(HostCodes::read(codes));
        }
        let HostCodes { values, indices, k } = HostCodes::joined(parts);
        let active = indices.iter().filter(|i| **i >= 0).count();
        let mut file = TensorWriter::default();
        file.borrowed_f32("values", &[n, k], &values);
        file.i32("indices", &[n, k], &indices);
        let shape = [n, dictionary.coder.d_out()];
        file.borrowed_f32("reconstruction", &shape, &reconstruction);
        file.write_atomically(&self.out, None)?;
        writeln!(
            stdout(),
            "{n} rows, {:.2} active latents per row",
            active as f64 / n.max(1) as f64
        )?;
        Ok(())
    }

    /// The activations at all hook points of a coder that reads several, if the file has a tensor
    /// for each.
    fn side_by_side(&self, file: &TensorFile, dictionary: &Dictionary) -> Result<Option<Vec<f32>>> {
        let hooks = match dictionary.sites().are_several() {
            true => dictionary.sites().read(),
            false => vec![],
        };
        let has = |hook: &String| file.tensors().any(|(name, ..)| name == hook);
        if self.tensor.is_some() || hooks.is_empty() || !hooks.iter().all(has) {
            return Ok(None);
        }
        let (mut parts, mut all) = (vec![], 0);
        for hook in &hooks {
            let (shape, rows) = file.read(hook)?;
            let width = shape.last().copied().unwrap_or(1).max(1);
            all += width;
            parts.push((rows.len() / width, width, rows));
        }
        let (n, d) = (parts[0].0, dictionary.coder.d_in());
        if all != d || parts.iter().any(|(rows, ..)| *rows != n) {
            let shown: Vec<String> = parts
                .iter()
                .map(|(n, d, _)| format!("[{n}, {d}]"))
                .collect();
            bail!(
                "{}: tensors {}: found shapes {}, expected the same number of rows in each, and {d} columns in total",
                self.activations.display(),
                hooks.join(", "),
                shown.join(", ")
            );
        }
        let mut rows = Vec::with_capacity(n * d);
        for row in 0..n {
            for (_, width, values) in &parts {
                rows.extend_from_slice(&values[row * width..(row + 1) * width]);
            }
        }
        Ok(Some(rows))
    }

    fn tensor_name(&self, file: &TensorFile, dictionary: &Dictionary) -> Result<String> {
        if let Some(name) = &self.tensor {
            return Ok(name.clone());
        }
        let names: Vec<&str> = file.tensors().map(|(name, ..)| name).collect();
        if let [only] = names[..] {
            return Ok(only.into());
        }
        let hook = dictionary.sites().first_read();
        let found = names
            .iter()
            .find(|name| Some(**name) == hook)
            .map(|name| name.to_string());
        found.with_context(|| {
            format!(
                "{} holds the tensors {}: say which with --tensor",
                self.activations.display(),
                names.join(", ")
            )
        })
    }
}

/// Of activations of all heads side by side those of the one that the dictionary reads, if it reads
/// one.
fn of_head(
    mut shape: Vec<usize>,
    rows: Vec<f32>,
    dictionary: &Dictionary,
) -> (Vec<usize>, Vec<f32>) {
    let d = dictionary.coder.d_in();
    let all = shape.last().copied().unwrap_or(0);
    let head = dictionary.provenance.loading.head;
    let head = head.and_then(|head| usize::try_from(head).ok());
    match head {
        Some(head) if all > d && all.is_multiple_of(d) && head < all / d => {
            let each = rows.chunks_exact(all);
            let rows = each.flat_map(|row| row[head * d..][..d].iter().copied());
            let rows = rows.collect();
            if let Some(last) = shape.last_mut() {
                *last = d;
            }
            (shape, rows)
        }
        _ => (shape, rows),
    }
}
