//! The command `lapidary`: parses, calls the libraries, shows progress, prints.

use clap::Parser;
fn main() { let _ = std::any::type_name::<Cli>(); pretrain_main().unwrap() }
/// Cuts language-model activations into interpretable features.
#[derive(Parser)]
struct Cli {}
fn pretrain_main() -> anyhow::Result<()> {
    use lapidary_activations::Corpus;
    use lapidary_model::{pretrain::*, *};
    let args: Vec<String> = std::env::args().collect();
    let config: PretrainConfig = toml::from_str(&std::fs::read_to_string(&args[1])?)?;
    let out = std::path::PathBuf::from(&args[2]);
    let device = burn::tensor::Device::flex();
    let texts: Vec<String> = Corpus::open(&config.corpus)?.documents().collect::<Result<_, _>>()?;
    let t = std::time::Instant::now();
    let tokenizer = Tokenizer::train(&texts, config.d_vocab)?;
    println!("tokenizer {} in {:?}", tokenizer.len(), t.elapsed());
    let documents = tokenizer.encode_batch(texts.iter().map(|s| s.as_str()).collect())?;
    let held: Vec<String> = Corpus::open(&config.heldout)?.documents().collect::<Result<_, _>>()?;
    let held = tokenizer.encode_batch(held.iter().map(|s| s.as_str()).collect())?;
    let mut p = Pretrainer::new(&config, &tokenizer, &documents, &device)?;
    println!("tokens {} heldout {}", p.corpus_tokens(), held.iter().map(Vec::len).sum::<usize>());
    let t = std::time::Instant::now();
    for s in 0..p.steps() {
        let r = p.step()?;
        if s < 10 || s % 10 == 0 {
            println!("step {}/{} loss {:.4} lr {:.5} |g| {:.3} {:.0} tok/s", r.step, r.steps, r.loss, r.lr, r.grad_norm, r.tokens as f64 / t.elapsed().as_secs_f64());
        }
        if config.save_every_steps > 0 && r.step % config.save_every_steps == 0 { p.save(&out, &tokenizer)?; }
    }
    p.save(&out, &tokenizer)?;
    let model = LanguageModel::load(out.to_str().unwrap(), &device)?;
    println!("heldout {:?}", mean_loss(&model, &held)?);
    let prompt: Vec<u32> = std::iter::once(0).chain(tokenizer.encode("The people of the United States")?).collect();
    println!("{}", tokenizer.decode(&generate(&model, &prompt, &Sampling::default(), &mut |_| ())?));
    Ok(())
}
