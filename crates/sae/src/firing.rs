//! Which latents are dead: have not fired for a given number of tokens.
//!
//! What fired stays on the device and is counted on the host every few steps, so that a GPU is not
//! kept waiting.

use burn::tensor::{Device, Int, Tensor, TensorData};

use lapidary_coder::CoderError;

use crate::encoded::Codes;

/// Firing record of every latent.
pub(crate) struct Firing {
    /// Tokens since each latent last fired, as of the last count.
    pub(crate) since: Vec<u64>,
    /// Latents dead as of the last check, ascending.
    pub(crate) dead: Vec<u32>,
    /// `dead` on the device, of each layer by itself.
    by_layer: Vec<Option<Tensor<1, Int>>>,
    /// Steps not yet counted.
    pending: Vec<(u64, Fired)>,
}

enum Fired {
    /// Index of each code, -1 where inactive.
    Indices(Tensor<2, Int>),
    /// Number of tokens that each latent fired on, `[1, d_sae]`.
    Counts(Tensor<2>),
}

impl Firing {
    /// All latents, `d_sae` in `layers` layers, as if they had just fired.
    pub(crate) fn new(d_sae: usize, layers: usize) -> Self {
        Self {
            since: vec![0; d_sae],
            dead: Vec::new(),
            by_layer: vec![None; layers],
            pending: Vec::new(),
        }
    }

    /// Goes on from a checkpoint.
    pub(crate) fn restore(since: Vec<u64>, dead: Vec<u32>, layers: usize, device: &Device) -> Self {
        let mut firing = Self {
            since,
            dead,
            by_layer: vec![None; layers],
            pending: Vec::new(),
        };
        firing.upload(device);
        firing
    }

    /// Notes one step's codes over `tokens` tokens.
    pub(crate) fn record(&mut self, codes: &Codes, tokens: u64) {
        let fired = match codes {
            Codes::Sparse(c) => {
                let values = c.values.clone().inner();
                let silent = values.equal_elem(0.0);
                Fired::Indices(c.indices.clone().inner().mask_fill(silent, -1))
            }
            Codes::Dense(latents) => {
                Fired::Counts(latents.clone().inner().greater_elem(0.0).float().sum_dim(0))
            }
        };
        self.pending.push((tokens, fired));
    }

    /// Counts what was noted.
    pub(crate) fn count(&mut self) -> Result<(), CoderError> {
        let device_error = |e: String| CoderError::Device {
            what: "the codes of a batch",
            message: e,
        };
        let mut fired = vec![false; self.since.len()];
        for (tokens, record) in self.pending.drain(..) {
            fired.fill(false);
            match record {
                Fired::Indices(indices) => {
                    let data = indices
                        .try_into_vec_as::<i32>()
                        .map_err(|e| device_error(format!("{e:?}")))?;
                    for i in data {
                        if let Some(f) = usize::try_from(i).ok().and_then(|i| fired.get_mut(i)) {
                            *f = true;
                        }
                    }
                }
                Fired::Counts(counts) => {
                    let data = counts
                        .try_into_vec_as::<f32>()
                        .map_err(|e| device_error(format!("{e:?}")))?;
                    for (f, c) in fired.iter_mut().zip(data) {
                        *f = c > 0.0;
                    }
                }
            }
            for (since, fired) in self.since.iter_mut().zip(&fired) {
                *since = if *fired { 0 } else { *since + tokens };
            }
        }
        Ok(())
    }

    /// Counts, then decides anew who is dead.
    pub(crate) fn check(&mut self, dead_after: u64, device: &Device) -> Result<(), CoderError> {
        self.count()?;
        self.dead = (0u32..)
            .zip(&self.since)
            .filter(|(_, since)| **since >= dead_after)
            .map(|(i, _)| i)
            .collect();
        self.upload(device);
        Ok(())
    }

    /// Some of the dead live again, as if they had just fired.
    pub(crate) fn revive(&mut self, latents: &[u32], device: &Device) {
        for latent in latents {
            self.since[*latent as usize] = 0;
        }
        self.dead.retain(|latent| !latents.contains(latent));
        self.upload(device);
    }

    /// The dead on the device, of each layer and counted within it, if it has any.
    pub(crate) fn by_layer(&self) -> &[Option<Tensor<1, Int>>] {
        &self.by_layer
    }

    fn upload(&mut self, device: &Device) {
        let latents = (self.since.len() / self.by_layer.len()).max(1) as u32;
        for (layer, on_device) in (0u32..).zip(&mut self.by_layer) {
            let own = self.dead.iter().filter(|i| **i / latents == layer);
            let list: Vec<i32> = own.map(|i| (i % latents) as i32).collect();
            let n = list.len();
            *on_device = (n > 0).then(|| Tensor::from_data(TensorData::new(list, [n]), device));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapidary_kernels::SparseCodes;

    #[test]
    fn a_latent_dies_of_silence_and_revives_when_it_fires() {
        let device = Device::flex();
        let mut firing = Firing::new(4, 1);
        let codes = |i: [i32; 2], v: [f32; 2]| {
            Codes::Sparse(SparseCodes {
                values: Tensor::from_data(TensorData::new(v.to_vec(), [1, 2]), &device),
                indices: Tensor::from_data(TensorData::new(i.to_vec(), [1, 2]), &device),
            })
        };
        firing.record(&codes([0, 1], [1.0, 0.0]), 10);
        firing.record(&codes([0, 2], [1.0, 0.5]), 10);
        firing.check(20, &device).unwrap();
        assert_eq!(firing.since, [0, 20, 0, 20]);
        assert_eq!(firing.dead, [1, 3]);
        let dense = Tensor::from_data([[0.0f32, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]], &device);
        firing.record(&Codes::Dense(dense), 10);
        firing.check(20, &device).unwrap();
        assert_eq!(firing.since, [10, 30, 10, 0]);
        assert_eq!(firing.dead, [1]);
    }
}
