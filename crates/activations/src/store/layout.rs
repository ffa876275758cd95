//! Which tensors a shard has, and how large it is.

use super::StoreDtype;
use super::settings::StoreSettings;

/// The three tensors that every shard has.
pub(crate) const PLACES: [&str; 3] = ["token_ids", "documents", "positions"];

/// A tensor of a shard.
pub(super) struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub bytes: u64,
}

/// Which tensors a shard has; those of four-byte numbers come first, so that all are aligned.
pub(crate) struct Layout {
    pub(super) tensors: Vec<Tensor>,
}

impl Layout {
    /// None if sizes overflow.
    pub fn new(settings: &StoreSettings, rows: u64) -> Option<Self> {
        let vector = |name: String, dtype| {
            let bytes = rows.checked_mul(4)?;
            Some(Tensor {
                name,
                dtype,
                shape: vec![rows],
                bytes,
            })
        };
        let mut tensors = vec![];
        for name in PLACES {
            tensors.push(vector(name.into(), "U32")?);
        }
        if settings.dtype == StoreDtype::Int8 {
            for hook in &settings.hook_points {
                tensors.push(vector(scale_name(&hook.name), "F32")?);
            }
        }
        for hook in &settings.hook_points {
            let d = hook.d_in as u64;
            let bytes = rows
                .checked_mul(d)?
                .checked_mul(settings.dtype.bytes() as u64)?;
            tensors.push(Tensor {
                name: hook.name.clone(),
                dtype: settings.dtype.tensor_name(),
                shape: vec![rows, d],
                bytes,
            });
        }
        Some(Self { tensors })
    }

    pub fn header(&self) -> Option<Vec<u8>> {
        let mut entries = vec![];
        let mut offset = 0_u64;
        for t in &self.tensors {
            let end = offset.checked_add(t.bytes)?;
            entries.push(format!(
                "{:?}:{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{offset},{end}]}}",
                t.name, t.dtype, t.shape
            ));
            offset = end;
        }
        let mut json = format!("{{{}}}", entries.join(",")).into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        Some([&(json.len() as u64).to_le_bytes(), json.as_slice()].concat())
    }

    /// Bytes of a whole shard; none if that is no size a file can have.
    pub fn size(settings: &StoreSettings, rows: u64) -> Option<u64> {
        let layout = Self::new(settings, rows)?;
        let header = layout.header()?.len() as u64;
        layout
            .tensors
            .iter()
            .try_fold(header, |sum, t| sum.checked_add(t.bytes))
    }
}

pub(crate) fn scale_name(hook: &str) -> String {
    format!("{hook}.scale")
}
