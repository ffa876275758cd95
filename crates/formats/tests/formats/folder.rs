//! Folders as other programs write them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{
    AnyCoder, Architecture, Coder, Dictionary, Provenance, Sites, SparseCoder, Weights,
};
use lapidary_formats::{Format, open};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

pub const D: usize = 4;
pub const F: usize = 6;

/// As `scripts/make_dictionary_fixtures.py` has them.
pub fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i * 37 + seed * 11) % 64) as f32 / 16.0 - 2.0)
        .collect()
}

/// `[rows, columns]` to `[columns, rows]`.
pub fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..values.len())
        .map(|i| values[i % rows * columns + i / rows])
        .collect()
}

pub fn host<const N: usize>(t: &Tensor<N>) -> Vec<f32> {
    t.clone().try_into_vec_as().unwrap()
}

/// A coder with the numbers of the fixtures.
pub fn dictionary(architecture: Architecture, apply_b_dec_to_input: bool) -> Dictionary {
    let device = Device::flex();
    let matrix =
        |seed| Tensor::<2>::from_data(TensorData::new(numbers(F * D, seed), [F, D]), &device);
    let vector =
        |n: usize, seed| Tensor::<1>::from_data(TensorData::new(numbers(n, seed), [n]), &device);
    let mut weights = Weights::default().with("w_enc", matrix(1));
    match architecture {
        Architecture::Gated => {
            for (name, seed) in [("b_gate", 2), ("b_mag", 5), ("r_mag", 6)] {
                weights = weights.with(name, vector(F, seed) / 4.0);
            }
        }
        Architecture::JumpRelu => {
            weights = weights
                .with("b_enc", vector(F, 2))
                .with("threshold", vector(F, 5).abs());
        }
        _ => weights = weights.with("b_enc", vector(F, 2)),
    }
    Dictionary {
        coder: SparseCoder {
            architecture,
            apply_b_dec_to_input,
            weights: weights.with("w_dec", matrix(3)).with("b_dec", vector(D, 4)),
        }
        .into(),
        provenance: Provenance {
            model_name: Some("gpt2".into()),
            sites: Sites::autoencoder("blocks.2.hook_resid_post"),
            context: Some(128),
            tokens: Some(700),
            ..Provenance::default()
        },
    }
}

/// The coder of a dictionary that has one layer.
pub fn sparse(d: &Dictionary) -> &SparseCoder {
    d.coder.as_sparse().unwrap()
}

pub fn sparse_mut(d: &mut Dictionary) -> &mut SparseCoder {
    match &mut d.coder {
        AnyCoder::Sparse(coder) => coder,
        AnyCoder::CrossLayer(_) => panic!("a coder of several layers"),
    }
}

/// The weights that fixtures have in common.
pub fn assert_weights(d: &Dictionary) {
    let coder = sparse(d);
    assert_eq!(coder.w_enc().dims(), [F, D]);
    assert_eq!(host(&coder.w_enc()), numbers(F * D, 1));
    assert_eq!(host(&coder.b_enc()), numbers(F, 2));
    assert_eq!(host(&coder.w_dec()), numbers(F * D, 3));
    assert_eq!(host(&coder.b_dec()), numbers(D, 4));
}

pub type Stored = (Dtype, Vec<usize>, Vec<u8>);

pub fn f32s(shape: &[usize], values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    (Dtype::F32, shape.to_vec(), bytes)
}

/// A folder with a JSON file and a safetensors file.
pub struct Foreign {
    pub config: (&'static str, Value),
    pub weights: &'static str,
    pub tensors: BTreeMap<&'static str, Stored>,
}

impl Foreign {
    pub fn write(&self, dir: &Path) {
        fs::write(dir.join(self.config.0), self.config.1.to_string()).unwrap();
        let views = self
            .tensors
            .iter()
            .map(|(n, (t, s, b))| (*n, TensorView::new(*t, s.clone(), b).unwrap()));
        let path = dir.join(self.weights);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn open(&self) -> Result<Dictionary, String> {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        opened(dir.path(), None)
    }

    /// The error after a change, which must be one.
    pub fn refused(mut self, change: impl FnOnce(&mut Self)) -> String {
        change(&mut self);
        self.open().map(|_| ()).unwrap_err()
    }
}

/// What opening gives; in errors the folder is called DIR.
pub fn opened(dir: &Path, format: Option<Format>) -> Result<Dictionary, String> {
    let found = open(dir, format, &Device::flex());
    let folder = if dir.is_file() {
        dir.parent().unwrap()
    } else {
        dir
    };
    found.map_err(|e| e.to_string().replace(&folder.display().to_string(), "DIR"))
}

/// A file of `tests/fixtures/dictionaries`.
pub fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dictionaries");
    root.join(name)
}
