//! Weights of attention set by hand, and the models that consist of them.

use burn::tensor::Device;
use lapidary_io::tensors::TensorWriter;
use lapidary_model::{LanguageModel, Tokenizer};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A model of attention without MLPs: GPT-2 with MLPs that write zeros.
pub struct Shape {
    pub heads: usize,
    pub d_head: usize,
    pub vocabulary: usize,
    pub positions: usize,
}

impl Shape {
    pub const fn d_model(&self) -> usize {
        self.heads * self.d_head
    }
}

/// The weights of one layer's attention.
pub struct Attention {
    d_head: usize,
    d: usize,
    qkv: Vec<f32>,
    out: Vec<f32>,
}

impl Attention {
    /// Heads that write noise of this size.
    pub fn noise(shape: &Shape, size: f32, rng: &mut ChaCha8Rng) -> Self {
        let d = shape.d_model();
        let mut noise =
            |n: usize| -> Vec<f32> { (0..n).map(|_| size * (rng.random::<f32>() - 0.5)).collect() };
        Self {
            d_head: shape.d_head,
            d,
            qkv: noise(d * 3 * d),
            out: noise(d * d),
        }
    }

    /// Makes a head read only what [`Self::link`] adds for queries (0), keys (1) or values (2).
    pub fn clear(&mut self, head: usize, part: usize) {
        for i in 0..self.d_head {
            let column = part * self.d + head * self.d_head + i;
            (0..self.d).for_each(|row| self.qkv[row * 3 * self.d + column] = 0.0);
        }
    }

    /// Adds `gain` times dimension `from` of the stream to coordinate `i` of a head's queries (0),
    /// keys (1) or values (2).
    pub fn link(&mut self, head: usize, part: usize, from: usize, i: usize, gain: f32) {
        let column = part * self.d + head * self.d_head + i;
        self.qkv[from * 3 * self.d + column] += gain;
    }

    /// Makes a head read `from` for queries (0), keys (1) or values (2): coordinate i of the head
    /// is `gain` times dimension `from + i + shift` of the stream.
    pub fn read(&mut self, head: usize, part: usize, from: usize, shift: isize, gain: f32) {
        self.clear(head, part);
        for i in 0..self.d_head {
            let row = i as isize + shift;
            if (0..self.d_head as isize).contains(&row) {
                self.link(head, part, from + row as usize, i, gain);
            }
        }
    }

    /// Makes a head write its first `n` coordinates to `to`.
    pub fn write(&mut self, head: usize, to: usize, n: usize, gain: f32) {
        for i in 0..self.d_head {
            let row = head * self.d_head + i;
            self.out[row * self.d..(row + 1) * self.d].fill(0.0);
            if i < n {
                self.out[row * self.d + to + i] = gain;
            }
        }
    }
}

/// `embeddings`: `[vocabulary, d_model]`, also those of the logits; `positions`:
/// `[positions, d_model]`.
pub fn model(
    shape: &Shape,
    embeddings: Vec<f32>,
    positions: Vec<f32>,
    layers: Vec<Attention>,
    tokenizer: Option<&Tokenizer>,
) -> LanguageModel {
    let d = shape.d_model();
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": layers.len(),
        "n_head": shape.heads, "n_embd": d, "n_positions": shape.positions, "n_ctx": shape.positions,
        "vocab_size": shape.vocabulary, "n_inner": 4, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true,
        "bos_token_id": null, "eos_token_id": null,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    if let Some(tokenizer) = tokenizer {
        let json = tokenizer.to_json().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    }
    let mut file = TensorWriter::default();
    let mut add = |name: String, shape: &[usize], values: Vec<f32>| {
        file.f32(&name, shape, &values);
    };
    add("wte.weight".into(), &[shape.vocabulary, d], embeddings);
    add("wpe.weight".into(), &[shape.positions, d], positions);
    for (l, attention) in layers.into_iter().enumerate() {
        for norm in ["ln_1", "ln_2"] {
            add(format!("h.{l}.{norm}.weight"), &[d], vec![1.0; d]);
            add(format!("h.{l}.{norm}.bias"), &[d], vec![0.0; d]);
        }
        add(
            format!("h.{l}.attn.c_attn.weight"),
            &[d, 3 * d],
            attention.qkv,
        );
        add(
            format!("h.{l}.attn.c_attn.bias"),
            &[3 * d],
            vec![0.0; 3 * d],
        );
        add(format!("h.{l}.attn.c_proj.weight"), &[d, d], attention.out);
        add(format!("h.{l}.attn.c_proj.bias"), &[d], vec![0.0; d]);
        add(format!("h.{l}.mlp.c_fc.weight"), &[d, 4], vec![0.0; d * 4]);
        add(format!("h.{l}.mlp.c_fc.bias"), &[4], vec![0.0; 4]);
        add(
            format!("h.{l}.mlp.c_proj.weight"),
            &[4, d],
            vec![0.0; 4 * d],
        );
        add(format!("h.{l}.mlp.c_proj.bias"), &[d], vec![0.0; d]);
    }
    add("ln_f.weight".into(), &[d], vec![1.0; d]);
    add("ln_f.bias".into(), &[d], vec![0.0; d]);
    let path = folder.path().join("model.safetensors");
    file.write(&path, None).unwrap();
    LanguageModel::load(folder.path().to_str().unwrap(), &Device::flex()).unwrap()
}
