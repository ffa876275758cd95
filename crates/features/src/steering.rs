//! Steering a model by a latent of a dictionary: its direction added, or its activation set to a
//! value.

use crate::FeaturesError;
use burn::tensor::{Int, Tensor};
use lapidary_coder::{AnyCoder, Coder, Dictionary, Sites};
use lapidary_evaluation::Hooks;
use lapidary_model::{HookPoint, Intervention};

/// What is done with a latent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Steer {
    /// Its decoder row times this factor is added at every position.
    Add(f32),
    /// Its activation becomes this value at every position, whatever it was; 0 switches the latent
    /// off. The other latents and what the dictionary does not explain stay as they are.
    Clamp(f32),
}

/// A change at the hook point where a dictionary writes.
pub struct Steering {
    at: HookPoint,
    edit: Box<dyn Fn(Tensor<3>) -> Tensor<3>>,
}

impl Steering {
    /// Steers by latent `latent` of a dictionary, on the device where the dictionary is.
    ///
    /// # Errors
    /// When there is no such latent, the value is not finite, or the dictionary says no hook point.
    pub fn new(
        dictionary: &Dictionary,
        latent: usize,
        steer: Steer,
    ) -> Result<Self, FeaturesError> {
        let coder = dictionary.coder.clone();
        if latent >= coder.d_sae() {
            return Err(FeaturesError::Input {
                field: "--latent",
                found: latent.to_string(),
                expected: format!("0 to {}", coder.d_sae() - 1),
            });
        }
        let (Steer::Add(value) | Steer::Clamp(value)) = steer;
        if !value.is_finite() {
            return Err(FeaturesError::Input {
                field: "steering",
                found: value.to_string(),
                expected: "a finite number".into(),
            });
        }
        if let (Steer::Clamp(value), true) = (steer, dictionary.transcodes()) {
            return Err(FeaturesError::Input {
                field: "steering",
                found: format!("a transcoder's latent to be clamped to {value}"),
                expected: "an autoencoder's, whose activation can be read where it is changed; or a factor to add"
                    .into(),
            });
        }
        if dictionary.sites().are_several() {
            return Err(FeaturesError::Input {
                field: "steering",
                found: match dictionary.sites() {
                    Sites::CrossLayer { .. } => "a cross-layer transcoder's latent".into(),
                    _ => "a crosscoder's latent".into(),
                },
                expected: "one of a coder that writes at one hook point".into(),
            });
        }
        let at = Hooks::targets(dictionary)?[0];
        let row = coder.w_dec().narrow(0, latent, 1); // [1, d_in]
        let edit: Box<dyn Fn(Tensor<3>) -> Tensor<3>> = match steer {
            Steer::Add(factor) => {
                let direction = row * factor;
                Box::new(move |x| x + direction.clone().unsqueeze())
            }
            Steer::Clamp(value) => Box::new(move |x| {
                let [batch, pos, d_in] = x.dims();
                let rows = x.reshape([batch * pos, d_in]);
                // Decoding is linear, so decoding the changed code and adding the old
                // reconstruction's error moves x along the latent's row alone.
                let missing = activation(&coder, latent, rows.clone()).neg() + value; // [n, 1]
                (rows + missing * row.clone()).reshape([batch, pos, d_in])
            }),
        };
        Ok(Self { at, edit })
    }

    /// As a change of a run.
    ///
    /// ```no_run
    /// # fn of(dictionary: lapidary_coder::Dictionary) -> Result<(), Box<dyn std::error::Error>> {
    /// use burn::tensor::Device;
    /// use lapidary_features::{Steer, Steering};
    /// use lapidary_model::{LanguageModel, Sampling, generate};
    ///
    /// let model = LanguageModel::load("embedded", &Device::flex())?;
    /// let steering = Steering::new(&dictionary, 17, Steer::Clamp(0.0))?;
    /// let prompt = model.tokenizer()?.encode("My fellow citizens")?;
    /// generate(&model, &prompt, &Sampling::default(), &[steering.intervention()], &mut |token| {
    ///     println!("{token}");
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn intervention(&self) -> Intervention<'_> {
        Intervention::function(self.at, &*self.edit)
    }
}

/// A latent's activation in each row of `x` `[n, d_in]`, 0 where it is not among the chosen ones,
/// `[n, 1]`.
fn activation(coder: &AnyCoder, latent: usize, x: Tensor<2>) -> Tensor<2> {
    let codes = coder.encode(x);
    let chosen: Tensor<2, Int> = codes.indices.equal_elem(latent as i32).int();
    (codes.values * chosen.float()).sum_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};
    use lapidary_coder::{Architecture, Provenance, Sites, SparseCoder, Weights};
    use lapidary_model::{HookedRun, LanguageModel};

    const AT: &str = "blocks.1.hook_resid_post";

    fn dictionary(architecture: Architecture) -> Dictionary {
        let device = Device::flex();
        device.seed(3);
        let normal =
            |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.1), &device);
        let vector = |n: usize| normal([1, n]).squeeze_dim::<1>(0);
        let (d_in, d_sae) = (256, 64);
        Dictionary {
            coder: SparseCoder {
                architecture,
                apply_b_dec_to_input: true,
                weights: Weights::new([
                    ("w_enc", normal([d_sae, d_in]).into()),
                    ("b_enc", vector(d_sae).into()),
                    ("w_dec", normal([d_sae, d_in]).into()),
                    ("b_dec", vector(d_in).into()),
                ]),
            }
            .into(),
            provenance: Provenance {
                sites: Sites::autoencoder(AT),
                ..Default::default()
            },
        }
    }

    /// What the run has behind the hook point.
    fn steered(steering: &[Intervention<'_>]) -> Vec<f32> {
        let model = LanguageModel::load("embedded", &Device::flex()).unwrap();
        let tokens = model.tokens(&[[1, 5, 9, 200, 3, 8]]).unwrap();
        let at = AT.parse().unwrap();
        let run = HookedRun {
            capture: &[at],
            interventions: steering,
            ..Default::default()
        };
        let value = model.run(tokens, &run).unwrap().captured[&at].clone();
        value.into_data().iter::<f32>().collect()
    }

    fn close(found: &[f32], expected: &[f32]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{a} {b}");
        }
    }

    #[test]
    fn adding_moves_every_position_along_the_decoder_row() {
        let dictionary = dictionary(Architecture::TopK { k: 8 });
        let steering = Steering::new(&dictionary, 11, Steer::Add(-3.0)).unwrap();
        let row = dictionary.coder.w_dec().narrow(0, 11, 1).into_data();
        let row: Vec<f32> = row.iter::<f32>().collect();
        let plain = steered(&[]);
        let expected = plain.iter().enumerate();
        let expected: Vec<f32> = expected.map(|(i, x)| x - 3.0 * row[i % 256]).collect();
        close(&steered(&[steering.intervention()]), &expected);
    }

    #[test]
    fn clamping_changes_one_code_and_keeps_what_is_not_explained() {
        for architecture in [Architecture::TopK { k: 8 }, Architecture::Standard] {
            let dictionary = dictionary(architecture);
            let coder = &dictionary.coder;
            let plain = steered(&[]);
            let x = Tensor::<1>::from_floats(plain.as_slice(), &Device::flex()).reshape([6, 256]);
            let codes = coder.encode(x.clone());
            let k = codes.values.dims()[1];
            let dense = |values: &[f32], indices: &[i32]| {
                let mut all = vec![0.0_f32; 6 * 64];
                for (i, (value, latent)) in values.iter().zip(indices).enumerate() {
                    all[i / k * 64 + *latent as usize] += value;
                }
                all
            };
            let values: Vec<f32> = codes.values.into_data().iter::<f32>().collect();
            let indices: Vec<i32> = codes.indices.into_data().iter::<i32>().collect();
            let before = dense(&values, &indices);
            // One latent that is on somewhere and one that is on nowhere or elsewhere.
            let on = indices[values.iter().position(|v| *v > 0.0).unwrap()] as usize;
            for (latent, value) in [(on, 0.0), (on, 7.5), ((on + 1) % 64, 2.0)] {
                let mut after = before.clone();
                after
                    .iter_mut()
                    .skip(latent)
                    .step_by(64)
                    .for_each(|a| *a = value);
                let decoded = |codes: &[f32]| {
                    let codes = Tensor::<1>::from_floats(codes, &Device::flex());
                    codes.reshape([6, 64]).matmul(coder.w_dec()) + coder.b_dec().unsqueeze()
                };
                let error = x.clone() - decoded(&before);
                let expected = (decoded(&after) + error).into_data();
                let expected: Vec<f32> = expected.iter::<f32>().collect();
                let steering = Steering::new(&dictionary, latent, Steer::Clamp(value)).unwrap();
                close(&steered(&[steering.intervention()]), &expected);
                if latent == on {
                    assert_ne!(expected, plain);
                }
            }
        }
    }

    #[test]
    fn a_latent_that_is_not_there_is_named() {
        let error = Steering::new(
            &dictionary(Architecture::TopK { k: 8 }),
            64,
            Steer::Add(1.0),
        );
        let error = error.err().unwrap().to_string();
        assert!(
            error.contains("--latent: found 64, expected 0 to 63"),
            "{error}"
        );
        let error = Steering::new(
            &dictionary(Architecture::TopK { k: 8 }),
            3,
            Steer::Clamp(f32::NAN),
        );
        assert!(error.err().unwrap().to_string().contains("NaN"));
    }
}
