//! What a training leaves: the model's files, and the tensors of a checkpoint.

use super::{ModelTrainer, ParamMoments};
use crate::tokenizer::Tokenizer;
use crate::weights::Param;
use crate::{ModelError, family};
use burn::tensor::{Tensor, TensorData};
use lapidary_io::tensors::{TensorWriter, Tensors};
use lapidary_io::write_atomically;
use std::path::Path;

impl ModelTrainer {
    /// Writes `config.json`, `model.safetensors` and, with a tokenizer, `tokenizer.json` into a
    /// folder, each by way of a temporary file. Weights are stored as f16, or as the f32 that they
    /// are if `exact`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(
        &self,
        folder: &Path,
        tokenizer: Option<&Tokenizer>,
        exact: bool,
    ) -> Result<(), ModelError> {
        std::fs::create_dir_all(folder).map_err(ModelError::write(folder))?;
        let mut file = TensorWriter::default();
        for (name, tensor) in family::llama::write_weights(&self.config, &self.weights) {
            // Norms' weights travel as one-row matrices.
            let shape = match tensor.dims() {
                [1, n] => vec![n],
                dims => dims.to_vec(),
            };
            let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
            match exact {
                true => file.f32(&name, &shape, &values),
                false => file.f16(&name, &shape, &values),
            }
        }
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        file.write_atomically(&folder.join("model.safetensors"), Some(metadata))?;
        let mut config = family::llama::write_config(&self.config);
        if exact {
            config["torch_dtype"] = "float32".into();
        }
        let config = serde_json::to_string_pretty(&config).expect("plain JSON");
        write_atomically(&folder.join("config.json"), config.as_bytes())?;
        if let Some(tokenizer) = tokenizer {
            let tokenizer = tokenizer.to_json()?;
            write_atomically(&folder.join("tokenizer.json"), tokenizer.as_bytes())?;
        }
        Ok(())
    }

    /// Adds weights, moments and the number of steps to a checkpoint's tensors, all under names
    /// that start with `model.`.
    pub fn write_state(&self, out: &mut TensorWriter<'_>) {
        let mut number = 0;
        let mut weights = self.weights.clone();
        let mut put = |part: &str, number: usize, shape: &[usize], data: TensorData| {
            let values: Vec<f32> = data.iter::<f32>().collect();
            out.f32(&format!("model.{number}.{part}"), shape, &values);
        };
        weights.each(&mut |param| {
            match (param, &self.moments[number]) {
                (Param::Vector(p), ParamMoments::Vector(m)) => {
                    for (part, tensor) in [("value", &*p), ("m", &m.m), ("v", &m.v)] {
                        put(part, number, &tensor.dims(), tensor.to_data());
                    }
                }
                (Param::Matrix(p), ParamMoments::Matrix(m)) => {
                    for (part, tensor) in [("value", &*p), ("m", &m.m), ("v", &m.v)] {
                        put(part, number, &tensor.dims(), tensor.to_data());
                    }
                }
                _ => unreachable!("weights are always visited in one order"),
            }
            number += 1;
        });
        out.u64("model.step", &[self.step]);
    }

    /// Reads what [`Self::write_state`] wrote for a model of the same shape.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn read_state(&mut self, tensors: &Tensors<'_>) -> Result<(), ModelError> {
        fn read<const D: usize>(
            tensors: &Tensors<'_>,
            name: &str,
            like: &Tensor<D>,
        ) -> Result<Tensor<D>, ModelError> {
            let values = tensors.f32(name, &like.dims())?;
            let data = TensorData::new(values, like.dims());
            Ok(Tensor::from_data(data, &like.device()))
        }
        let (mut number, mut failed) = (0, None);
        let moments = &mut self.moments;
        self.weights.each(&mut |param| {
            let name = |part: &str| format!("model.{number}.{part}");
            let result: Result<(), ModelError> = (|| {
                match (param, &mut moments[number]) {
                    (Param::Vector(p), ParamMoments::Vector(m)) => {
                        *p = read(tensors, &name("value"), p)?;
                        m.m = read(tensors, &name("m"), &m.m)?;
                        m.v = read(tensors, &name("v"), &m.v)?;
                    }
                    (Param::Matrix(p), ParamMoments::Matrix(m)) => {
                        *p = read(tensors, &name("value"), p)?;
                        m.m = read(tensors, &name("m"), &m.m)?;
                        m.v = read(tensors, &name("v"), &m.v)?;
                    }
                    _ => unreachable!("weights are always visited in one order"),
                }
                Ok(())
            })();
            failed = failed.take().or(result.err());
            number += 1;
        });
        if let Some(error) = failed {
            return Err(error);
        }
        self.step = tensors.u64("model.step", 1)?[0];
        Ok(())
    }
}
