//! A model whose circuit is known because it was built by hand: two layers of attention without
//! MLPs that continue repeated sequences. A head of the first layer writes at each position which
//! token comes before it; a head of the second looks for the position after an earlier copy of the
//! current token, and writes the token there. All other heads write noise.

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use lapidary_circuits::{Comparison, Ranker, tasks};
use lapidary_model::{LanguageModel, Outgoing, Values, write_tensors};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LAYERS: usize = 2;
const HEADS: usize = 4;
const D_HEAD: usize = 24;
const D: usize = HEADS * D_HEAD;
const VOCABULARY: usize = 24;
const POSITIONS: usize = 24;
/// Where tokens, positions and previous tokens are in the residual stream.
const TOKEN: usize = 0;
const POSITION: usize = VOCABULARY;
const PREVIOUS: usize = VOCABULARY + POSITIONS;
/// Two dimensions that nobody changes: they make the norms nearly constant.
const CONSTANT: usize = PREVIOUS + VOCABULARY;
const TRUTH: [(usize, usize); 2] = [(0, 1), (1, 2)];

/// The weights of one layer's attention.
struct Attention {
    qkv: Vec<f32>,
    out: Vec<f32>,
}

impl Attention {
    fn noise(rng: &mut ChaCha8Rng) -> Self {
        let mut noise =
            |n: usize| -> Vec<f32> { (0..n).map(|_| 0.1 * (rng.random::<f32>() - 0.5)).collect() };
        Self {
            qkv: noise(D * 3 * D),
            out: noise(D * D),
        }
    }

    /// Makes a head read `from` for queries (0), keys (1) or values (2): coordinate i of the head
    /// is `gain` times dimension `from + i + shift` of the stream.
    fn read(&mut self, head: usize, part: usize, from: usize, shift: isize, gain: f32) {
        for i in 0..D_HEAD {
            let column = part * D + head * D_HEAD + i;
            for row in 0..D {
                self.qkv[row * 3 * D + column] = 0.0;
            }
            let row = i as isize + shift;
            if (0..D_HEAD as isize).contains(&row) {
                self.qkv[(from + row as usize) * 3 * D + column] = gain;
            }
        }
    }

    /// Makes a head write its coordinates to `to`.
    fn write(&mut self, head: usize, to: usize, gain: f32) {
        for i in 0..D_HEAD {
            let row = head * D_HEAD + i;
            self.out[row * D..(row + 1) * D].fill(0.0);
            self.out[row * D + to + i] = gain;
        }
    }
}

fn model() -> LanguageModel {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut embeddings = vec![0.0; VOCABULARY * D];
    let mut positions = vec![0.0; POSITIONS * D];
    for i in 0..VOCABULARY {
        embeddings[i * D + TOKEN + i] = 1.0;
        positions[i * D + POSITION + i] = 1.0;
        positions[i * D + CONSTANT] = 5.0;
        positions[i * D + CONSTANT + 1] = -5.0;
    }
    let mut layers = [Attention::noise(&mut rng), Attention::noise(&mut rng)];
    let (layer, head) = TRUTH[0];
    layers[layer].read(head, 0, POSITION, 1, 6.0); // position p asks for p − 1
    layers[layer].read(head, 1, POSITION, 0, 6.0);
    layers[layer].read(head, 2, TOKEN, 0, 1.0);
    layers[layer].write(head, PREVIOUS, 1.0);
    let (layer, head) = TRUTH[1];
    layers[layer].read(head, 0, TOKEN, 0, 5.0);
    layers[layer].read(head, 1, PREVIOUS, 0, 5.0);
    layers[layer].read(head, 2, TOKEN, 0, 1.0);
    layers[layer].write(head, TOKEN, 4.0);

    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": LAYERS,
        "n_head": HEADS, "n_embd": D, "n_positions": POSITIONS, "n_ctx": POSITIONS,
        "vocab_size": VOCABULARY, "n_inner": 4, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true,
        "bos_token_id": null, "eos_token_id": null,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![];
    let mut add = |name: String, shape: &[usize], values: Vec<f32>| {
        tensors.push(Outgoing {
            name,
            shape: shape.to_vec(),
            values: Values::F32(values),
        });
    };
    add("wte.weight".into(), &[VOCABULARY, D], embeddings);
    add("wpe.weight".into(), &[POSITIONS, D], positions);
    for (l, attention) in layers.into_iter().enumerate() {
        for norm in ["ln_1", "ln_2"] {
            add(format!("h.{l}.{norm}.weight"), &[D], vec![1.0; D]);
            add(format!("h.{l}.{norm}.bias"), &[D], vec![0.0; D]);
        }
        add(
            format!("h.{l}.attn.c_attn.weight"),
            &[D, 3 * D],
            attention.qkv,
        );
        add(
            format!("h.{l}.attn.c_attn.bias"),
            &[3 * D],
            vec![0.0; 3 * D],
        );
        add(format!("h.{l}.attn.c_proj.weight"), &[D, D], attention.out);
        add(format!("h.{l}.attn.c_proj.bias"), &[D], vec![0.0; D]);
        add(format!("h.{l}.mlp.c_fc.weight"), &[D, 4], vec![0.0; D * 4]);
        add(format!("h.{l}.mlp.c_fc.bias"), &[4], vec![0.0; 4]);
        add(
            format!("h.{l}.mlp.c_proj.weight"),
            &[4, D],
            vec![0.0; 4 * D],
        );
        add(format!("h.{l}.mlp.c_proj.bias"), &[D], vec![0.0; D]);
    }
    add("ln_f.weight".into(), &[D], vec![1.0; D]);
    add("ln_f.bias".into(), &[D], vec![0.0; D]);
    write_tensors(&folder.path().join("model.safetensors"), &tensors, None).unwrap();
    LanguageModel::load(folder.path().to_str().unwrap(), &Device::flex()).unwrap()
}

#[test]
fn every_method_that_uses_the_metric_finds_the_two_heads() {
    let model = model();
    let task = tasks::generate("induction", &model, 32, 0, false).unwrap();
    let comparison = Comparison::new(&model, &task, Some(&TRUTH), 0).unwrap();
    let exact = comparison.exact();
    println!(
        "metric {}, corrupted {}, effects {:?}",
        exact.clean, exact.corrupted, exact.effects
    );
    assert!(exact.clean > 1.0 && exact.corrupted.abs() < 0.3 * exact.clean);
    for (ranker, name) in Ranker::ALL {
        let found = comparison.judge(ranker).unwrap();
        println!("{name}: {found:?}");
        if !matches!(
            ranker,
            Ranker::DiscreteSae | Ranker::DiscreteSaeTotalVariation
        ) {
            assert_eq!(found.auc, Some(1.0), "{name}");
        }
    }
    // Both heads together do the work, and neither does it alone.
    let graph = comparison.graph();
    let circuits = [TRUTH.to_vec(), TRUTH[..1].to_vec(), TRUTH[1..].to_vec()];
    let kept = lapidary_circuits::faithfulness(&model, graph, &task, &circuits).unwrap();
    println!("faithfulness {kept:?}");
    assert!(
        (kept[0] - 1.0).abs() < 0.1 && kept[1] < 0.3 && kept[2] < 0.3,
        "{kept:?}"
    );
}
