//! Texts of different lengths as a model and a coder see them: packed into blocks, each text a
//! sequence of its own.

use burn::tensor::{Int, Tensor};
use lapidary_activations::{Segment, TokenBlock, harvest};
use lapidary_coder::{Coder, host, host_int};
use lapidary_model::{HookPoint, LanguageModel};

use super::rows::Rows;
use crate::core::special_tokens;
use crate::error::EvaluationError;

/// Blocks that go through the model at once.
const BLOCKS: usize = 16;

/// Texts as samples for probes.
#[derive(Clone, Debug)]
pub struct Represented {
    /// Activations, `[texts, d_in]`.
    pub activations: Rows,
    /// Latents, `[texts, d_sae]`.
    pub latents: Rows,
}

/// Which tokens of a text speak for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The mean over all but special tokens, as in SAEBench.
    Mean,
    /// The token at this place.
    At(usize),
}

/// Runs model and coder over texts given by their tokens, each of 1 to `context` of them and read
/// as said. `on_progress` hears the number of texts done.
///
/// # Errors
/// A text is empty or too long, has no token to be read at, or the coder does not fit the hook
/// point.
pub fn represent(
    model: &LanguageModel,
    coder: &dyn Coder,
    hook: HookPoint,
    texts: &[(Vec<u32>, Reading)],
    context: usize,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Represented, EvaluationError> {
    let width = model.width(hook)?;
    if width != coder.d_in() {
        return Err(EvaluationError::input(
            "width of the activations at the hook point (against the dictionary's d_in)",
            width,
            coder.d_in(),
        ));
    }
    let special = special_tokens(model);
    let mut represented = Represented {
        activations: Rows::new(width),
        latents: Rows::new(coder.d_sae()),
    };
    let mut sums = Latents::new(coder.d_sae());
    for packed in pack(texts, context)?.chunks(BLOCKS) {
        let blocks: Vec<TokenBlock> = packed.iter().map(|p| p.block.clone()).collect();
        let mut rows: Vec<i32> = Vec::new(); // of the harvested tokens, those that are read
        let mut counts = Vec::new(); // of each text
        for (b, packed) in packed.iter().enumerate() {
            for (text, start) in &packed.texts {
                let (tokens, reading) = &texts[*text];
                let read = |i: &usize| match reading {
                    Reading::Mean => !special.contains(&tokens[*i]),
                    Reading::At(place) => i == place,
                };
                let before = rows.len();
                let places = (0..tokens.len()).filter(read);
                rows.extend(places.map(|place| (b * context + start + place) as i32));
                if rows.len() == before {
                    return Err(EvaluationError::input(
                        "text to be read",
                        format!("text {text} with special tokens alone"),
                        "others",
                    ));
                }
                counts.push(rows.len() - before);
            }
        }
        let x = harvest(model, hook, &blocks)?;
        let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &x.device());
        let x = x.select(0, rows); // what no text is read at is not encoded
        let codes = coder.encode(x.clone());
        let k = codes.values.dims()[1];
        let (x, values, indices) = (host(&x)?, host(&codes.values)?, host_int(&codes.indices)?);
        let mut row = 0;
        for count in counts {
            let share = 1.0 / count as f32;
            let mut mean = vec![0.0f32; width];
            for row in row..row + count {
                mean.iter_mut()
                    .zip(&x[row * width..])
                    .for_each(|(m, v)| *m += share * v);
                let of = row * k..(row + 1) * k;
                for (value, index) in values[of.clone()].iter().zip(&indices[of]) {
                    sums.add(*index as usize, share * value);
                }
            }
            row += count;
            represented.activations.push((0..).zip(mean));
            represented.latents.push(sums.take());
        }
        on_progress(represented.latents.len());
    }
    Ok(represented)
}

/// One text's latents while they are summed.
struct Latents {
    values: Vec<f32>,
    used: Vec<u32>,
}

impl Latents {
    fn new(d_sae: usize) -> Self {
        Self {
            values: vec![0.0; d_sae],
            used: Vec::new(),
        }
    }

    fn add(&mut self, latent: usize, value: f32) {
        if value != 0.0 {
            if self.values[latent] == 0.0 {
                self.used.push(latent as u32);
            }
            self.values[latent] += value;
        }
    }

    fn take(&mut self) -> Vec<(u32, f32)> {
        self.used.sort_unstable();
        self.used.dedup();
        let entry = |i: u32| (i, std::mem::take(&mut self.values[i as usize]));
        self.used.drain(..).map(entry).collect()
    }
}

/// A block, and which texts begin where in it.
struct Packed {
    block: TokenBlock,
    texts: Vec<(usize, usize)>,
}

/// Texts in their order, as many a block as fit; what is left of a block is a sequence that nobody
/// reads.
fn pack(texts: &[(Vec<u32>, Reading)], context: usize) -> Result<Vec<Packed>, EvaluationError> {
    let mut packed: Vec<Packed> = Vec::new();
    for (text, (tokens, _)) in texts.iter().enumerate() {
        if tokens.is_empty() || tokens.len() > context {
            return Err(EvaluationError::input(
                "tokens of a text",
                tokens.len(),
                format!("1 to {context}"),
            ));
        }
        let fits = packed
            .last()
            .is_some_and(|p| p.block.tokens.len() + tokens.len() <= context);
        if !fits {
            packed.push(Packed {
                block: TokenBlock {
                    tokens: Vec::with_capacity(context),
                    segments: Vec::new(),
                    attend_across_documents: false,
                },
                texts: Vec::new(),
            });
        }
        let Packed { block, texts } = packed.last_mut().expect("one was pushed");
        texts.push((text, block.tokens.len()));
        block.segments.push(segment(block.tokens.len(), text));
        block.tokens.extend(tokens);
    }
    for Packed { block, .. } in &mut packed {
        if block.tokens.len() < context {
            block
                .segments
                .push(segment(block.tokens.len(), texts.len()));
            let filler = block.tokens[0];
            block.tokens.resize(context, filler);
        }
    }
    Ok(packed)
}

fn segment(start: usize, document: usize) -> Segment {
    Segment {
        start,
        bos: false,
        document: document as u32,
        offset: 0,
    }
}
