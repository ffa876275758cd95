//! Reading, changing and differentiating activations, keeping packed documents apart, and
//! generating with a cache: on the small random models of every family, against the same thing
//! computed another way.

use crate::fixtures::{at, close, expected, model};
use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_model::{
    BlockHook, HookPoint, HookedRun, Intervention, LanguageModel, Sampling, Start, generate,
    generate_batch,
};

const FAMILIES: [&str; 10] = [
    "gpt2",
    "neox",
    "llama-gqa",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "opt",
    "phi",
];

fn hook(name: &str) -> HookPoint {
    name.parse().unwrap()
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.clone().into_data().iter::<f32>().collect()
}

/// Every hook point that the model has.
fn points(model: &LanguageModel) -> Vec<HookPoint> {
    let outer = [
        "hook_embed",
        "hook_pos_embed",
        "ln_final.hook_scale",
        "ln_final.hook_normalized",
        "logits",
    ];
    let inner = (0..model.config().n_layers()).flat_map(|l| {
        BlockHook::ALL
            .iter()
            .map(move |(h, _)| HookPoint::Block(l, *h))
    });
    let run = |at: HookPoint| {
        let run = HookedRun {
            capture: &[at],
            ..Default::default()
        };
        model.run(model.tokens(&[[0]]).unwrap(), &run)
    };
    let all = outer.into_iter().map(hook).chain(inner);
    all.filter(|at| run(*at).is_ok()).collect()
}

fn logits(model: &LanguageModel, tokens: &[u32], interventions: &[Intervention<'_>]) -> Vec<f32> {
    let run = HookedRun {
        interventions,
        logits: true,
        ..Default::default()
    };
    host(
        &model
            .run(model.tokens(&[tokens]).unwrap(), &run)
            .unwrap()
            .logits
            .unwrap(),
    )
}

#[test]
fn a_document_in_a_packed_block_reads_as_it_does_alone() {
    let documents: [&[u32]; 3] = [&[3, 1, 4, 1, 5, 9, 2], &[6], &[5, 3, 5, 8, 9, 7, 9, 3, 2]];
    for name in FAMILIES {
        let model = model(name);
        let capture = points(&model);
        let packed = documents.concat();
        let numbers: Vec<i32> = documents
            .iter()
            .enumerate()
            .flat_map(|(i, d)| vec![i as i32 + 7; d.len()])
            .collect();
        let run = HookedRun {
            capture: &capture,
            logits: true,
            ..Default::default()
        };
        // The block stands second in its batch, behind one that is a single document.
        let other: Vec<u32> = (0..packed.len() as u32).collect();
        let whole = vec![0; packed.len()];
        let segments = TensorData::new([whole, numbers].concat(), [2, packed.len()]);
        let segments = Tensor::<2, Int>::from_data(segments, &Device::flex());
        let together = HookedRun {
            segments: Some(segments),
            ..run.clone()
        };
        let tokens = model.tokens(&[other.clone(), packed.clone()]).unwrap();
        let together = model.run(tokens, &together).unwrap();
        let unlike_patterns = |at: &HookPoint| {
            !matches!(
                at,
                HookPoint::Block(_, BlockHook::Pattern | BlockHook::AttnScores)
            )
        };
        let compare = |sequence: usize, start: usize, document: &[u32]| {
            let alone = model.run(model.tokens(&[document]).unwrap(), &run).unwrap();
            for (at, value) in alone.captured.iter().filter(|(at, _)| unlike_patterns(at)) {
                let found = together.captured[at].clone();
                let found = found
                    .narrow(0, sequence, 1)
                    .narrow(1, start, document.len());
                close(&host(&found), &host(value), 1e-4, &format!("{name}: {at}"));
            }
        };
        compare(0, 0, &other);
        let mut start = 0;
        for document in documents {
            compare(1, start, document);
            start += document.len();
        }
    }
}

#[test]
fn fused_and_composed_attention_agree() {
    let tokens: Vec<u32> = (0..19).map(|i| i * 7 % 50).collect();
    for name in FAMILIES {
        let model = model(name);
        let untouched = |x: Tensor<3>| x;
        let seen: Vec<Intervention<'_>> = (0..model.config().n_layers())
            .map(|l| Intervention::function(HookPoint::Block(l, BlockHook::Pattern), &untouched))
            .collect();
        let [fused, composed] = [&[][..], &seen].map(|i| logits(&model, &tokens, i));
        close(&fused, &composed, 1e-5, name);
    }
}

#[test]
fn per_head_results_and_the_bias_make_what_attention_writes() {
    for name in ["gpt2", "llama-gqa", "qwen3", "phi"] {
        let model = model(name);
        let tokens: Vec<u32> = (0..11).collect();
        let result = hook("blocks.1.attn.hook_result");
        let plain = logits(&model, &tokens, &[]);
        let same = logits(&model, &tokens, &[Intervention::scale(result, 1.0)]);
        close(&same, &plain, 1e-5, name);
        // A head whose output is zero and a head whose result is zero are the same thing.
        let z = hook("blocks.1.attn.hook_z");
        let by_z = logits(&model, &tokens, &[Intervention::zero(z).in_heads(&[2])]);
        let by_result = logits(
            &model,
            &tokens,
            &[Intervention::zero(result).in_heads(&[2])],
        );
        close(&by_result, &by_z, 1e-5, name);
        assert_ne!(by_z, plain);
    }
}

#[test]
fn ablations_equal_hand_computation() {
    let model = model("llama-gqa");
    let (mid, out, post) = (
        hook("blocks.2.hook_resid_mid"),
        hook("blocks.2.hook_mlp_out"),
        hook("blocks.2.hook_resid_post"),
    );
    let capture = [mid, out, post];
    let run = |tokens: &[[u32; 5]], interventions: &[Intervention<'_>]| {
        let run = HookedRun {
            capture: &capture,
            interventions,
            ..Default::default()
        };
        model
            .run(model.tokens(tokens).unwrap(), &run)
            .unwrap()
            .captured
    };
    let (tokens, others) = (
        [[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]],
        [[9, 9, 8, 7, 6], [6, 2, 6, 4, 3]],
    );
    let (clean, other) = (run(&tokens, &[]), run(&others, &[]));
    let [x, y, theirs] = [&clean[&mid], &clean[&out], &other[&out]].map(host);
    let d = model.config().d_model;
    let mean: Vec<f32> = (0..d)
        .map(|i| theirs.iter().skip(i).step_by(d).sum::<f32>() / 10.0)
        .collect();
    let direction: Vec<f32> = (0..d).map(|i| (i as f32).sin()).collect();
    let vector = Tensor::<1>::from_floats(direction.as_slice(), &Device::flex());
    let at = |i: usize| (i / d % 5, i % d); // position, dimension
    type ByHand<'a> = Box<dyn Fn(usize) -> f32 + 'a>;
    let cases: [(&str, Intervention<'_>, ByHand<'_>); 6] = [
        ("zero", Intervention::zero(out), Box::new(|_| 0.0)),
        (
            "scale",
            Intervention::scale(out, -2.5),
            Box::new(|i| -2.5 * y[i]),
        ),
        (
            "mean",
            Intervention::mean(out, &other[&out]),
            Box::new(|i| mean[at(i).1]),
        ),
        (
            "resample",
            Intervention::set(out, other[&out].clone()),
            Box::new(|i| theirs[i]),
        ),
        (
            "add",
            Intervention::add(out, vector),
            Box::new(|i| y[i] + direction[at(i).1]),
        ),
        (
            "zero at two positions",
            Intervention::zero(out).at_positions(&[1, 4]),
            Box::new(|i| if [1, 4].contains(&at(i).0) { 0.0 } else { y[i] }),
        ),
    ];
    for (name, intervention, by_hand) in cases {
        let found = run(&tokens, &[intervention]);
        let (mlp, resid): (Vec<f32>, Vec<f32>) = (0..y.len())
            .map(|i| (by_hand(i), x[i] + by_hand(i)))
            .unzip();
        close(&host(&found[&out]), &mlp, 1e-6, name);
        close(&host(&found[&post]), &resid, 1e-5, name);
    }
    // Several at one point work in their order.
    let both = [
        Intervention::zero(out),
        Intervention::scale(mid, 2.0),
        Intervention::scale(out, 3.0),
    ];
    let found = run(&tokens, &both);
    close(
        &host(&found[&post]),
        &x.iter().map(|v| 2.0 * v).collect::<Vec<_>>(),
        1e-5,
        "several",
    );
}

/// With patterns and scales frozen, a layer's attention is linear in its input: twice the values
/// give twice the output.
#[test]
fn frozen_patterns_and_scales_stay_when_the_stream_changes() {
    for name in ["gpt2", "llama-gqa", "gemma2"] {
        let model = model(name);
        let capture = points(&model);
        let tokens: Vec<u32> = (0..9).collect();
        let run = |interventions: &[Intervention<'_>]| {
            let run = HookedRun {
                capture: &capture,
                interventions,
                ..Default::default()
            };
            model.run(model.tokens(&[&tokens]).unwrap(), &run).unwrap()
        };
        let clean = run(&[]);
        let frozen = |at: HookPoint| {
            let inner = matches!(
                at,
                HookPoint::Block(
                    _,
                    BlockHook::Pattern | BlockHook::Ln1Scale | BlockHook::Ln2Scale
                )
            );
            inner || at == HookPoint::FinalNormScale
        };
        let mut interventions = clean.freeze(frozen);
        interventions.push(Intervention::scale(hook("blocks.0.hook_resid_pre"), 2.0));
        let changed = run(&interventions);
        for at in capture.iter().filter(|at| frozen(**at)) {
            assert_eq!(
                host(&changed.captured[at]),
                host(&clean.captured[at]),
                "{name}: {at}"
            );
        }
        let ln1 = hook("blocks.0.ln1.hook_normalized");
        let twice: Vec<f32> = host(&clean.captured[&ln1])
            .iter()
            .map(|v| 2.0 * v)
            .collect();
        close(&host(&changed.captured[&ln1]), &twice, 1e-5, name);
    }
}

#[test]
fn gradients_at_every_hook_point_equal_finite_differences() {
    let tokens: Vec<u32> = vec![3, 1, 4, 1, 5, 9];
    for name in ["gpt2", "neox", "llama-gqa", "gemma2", "qwen3"] {
        let model = model(name);
        let at = points(&model);
        // A scalar with curvature, of a few logits at two positions.
        let scalar = |logits: Tensor<3>| {
            let some = logits.narrow(1, 3, 2).narrow(2, 5, 4);
            (some.clone() * some / 8.0 + 0.0).sum()
        };
        let batch = || model.tokens(&[&tokens]).unwrap();
        let found = model
            .gradients(batch(), &HookedRun::default(), &at, &scalar)
            .unwrap();
        assert_eq!(found.at.len(), at.len());
        for (point, gradient) in &found.at {
            let shape = gradient.dims();
            let n = shape.iter().product::<usize>();
            let value = |step: f32| {
                // A direction that no symmetry of the model cancels.
                let direction: Vec<f32> = (0..n).map(|i| (i as f32 * 1.7 + 0.3).sin()).collect();
                let direction = Tensor::<1>::from_floats(direction.as_slice(), &Device::flex());
                let nudge = |x: Tensor<3>| x + direction.clone().reshape(shape) * step;
                let interventions = [Intervention::function(*point, &nudge)];
                let run = HookedRun {
                    interventions: &interventions,
                    logits: true,
                    ..Default::default()
                };
                let logits = model.run(batch(), &run).unwrap().logits.unwrap();
                f64::from(scalar(logits).into_scalar::<f32>())
            };
            let step = 4e-3;
            let slope = (8.0 * (value(step) - value(-step))
                - (value(2.0 * step) - value(-2.0 * step)))
                / (12.0 * f64::from(step));
            let along: f64 = host(gradient)
                .iter()
                .enumerate()
                .map(|(i, g)| f64::from(*g) * f64::from((i as f32 * 1.7 + 0.3).sin()))
                .sum();
            let size = host(gradient)
                .iter()
                .map(|g| f64::from(g * g))
                .sum::<f64>()
                .sqrt();
            assert!(
                (slope - along).abs() <= 5e-3 * (size + 0.1),
                "{name}: {point}: slope {slope}, gradient {along} (norm {size})"
            );
        }
        let plain = scalar(
            Tensor::<1>::from_floats(logits(&model, &tokens, &[]).as_slice(), &Device::flex())
                .reshape([1, tokens.len(), model.config().d_vocab]),
        );
        assert!((plain.into_scalar::<f32>() - found.value).abs() <= 1e-4 * found.value.abs());
    }
}

#[test]
fn prompts_continued_side_by_side_give_the_tokens_of_each_alone() {
    for name in FAMILIES {
        let model = model(name);
        let greedy = Sampling {
            max_tokens: 40,
            temperature: 0.0,
            ..Default::default()
        };
        let prompts: [&[u32]; 3] = [&[5, 17, 3], &[4, 9, 11], &[5, 17, 3]];
        let found = generate_batch(&model, &prompts, &greedy, &[]).unwrap();
        let alone = prompts.map(|p| generate(&model, p, &greedy, &[], &mut |_| ()).unwrap());
        assert_eq!(found, alone, "{name}");
        // Two of one prompt are drawn apart.
        let drawn = Sampling {
            temperature: 5.0,
            ..greedy
        };
        let found = generate_batch(&model, &prompts, &drawn, &[]).unwrap();
        assert_ne!(found[0], found[2], "{name}");
        let stop = |text: &Vec<u32>| text.iter().position(|t| model.stop_tokens().contains(t));
        for text in &found {
            assert!(
                stop(text).is_none_or(|at| at + 1 == text.len()),
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn generation_with_a_cache_gives_the_tokens_of_whole_passes() {
    for name in FAMILIES {
        let model = model(name);
        let greedy = Sampling {
            max_tokens: 40,
            temperature: 0.0,
            ..Default::default()
        };
        let at = hook("blocks.1.hook_resid_post");
        let direction: Vec<f32> = (0..model.config().d_model)
            .map(|i| (i as f32).cos())
            .collect();
        let direction = Tensor::<1>::from_floats(direction.as_slice(), &Device::flex());
        let steer = [Intervention::add(at, direction)];
        for interventions in [&[][..], &steer] {
            let prompt = [5, 17, 3];
            let found = generate(&model, &prompt, &greedy, interventions, &mut |_| ()).unwrap();
            // Through the context's end, where tokens fall out of sight.
            let mut tokens = prompt.to_vec();
            for _ in 0..greedy.max_tokens {
                let start = tokens.len().saturating_sub(model.config().n_ctx);
                let all = logits(&model, &tokens[start..], interventions);
                let last = &all[all.len() - model.config().d_vocab..];
                let best = (0..last.len())
                    .rev()
                    .max_by(|a, b| last[*a].total_cmp(&last[*b]))
                    .unwrap() as u32;
                tokens.push(best);
                if model.stop_tokens().contains(&best) {
                    break;
                }
            }
            assert_eq!(found, tokens[3..], "{name}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let model = model("llama-gqa");
    let tokens = || model.tokens(&[[1, 2, 3]]).unwrap();
    let error = |intervention: Intervention<'_>| {
        let run = HookedRun {
            interventions: &[intervention],
            ..Default::default()
        };
        model.run(tokens(), &run).unwrap_err().to_string()
    };
    let vector = |n: usize| Tensor::<1>::zeros([n], &Device::flex());
    let post = hook("blocks.0.hook_resid_post");
    let z = hook("blocks.0.attn.hook_z");
    assert!(error(Intervention::add(post, vector(7))).contains("[1, 1, 7]"));
    assert!(error(Intervention::zero(post).in_heads(&[0])).contains("has none"));
    assert!(error(Intervention::zero(z).in_heads(&[4])).contains("0 to 3"));
    assert!(error(Intervention::zero(z).at_positions(&[3])).contains("0 to 2"));
    assert!(error(Intervention::zero(hook("blocks.9.hook_resid_post"))).contains("0 to 2"));
    assert!(model.width(hook("blocks.0.attn.hook_pattern")).is_err());
    for (numbers, part) in [(vec![0, 1, 0], "do not decrease"), (vec![0, 0], "shape")] {
        let n = numbers.len();
        let segments =
            Tensor::<2, Int>::from_data(TensorData::new(numbers, [1, n]), &Device::flex());
        let run = HookedRun {
            segments: Some(segments),
            ..Default::default()
        };
        let error = model.run(tokens(), &run).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_the_mlp_and_attention_read_is_their_input_normalized_with_the_norms_weight() {
    // GPT-2's recorded `ln2.hook_out` is what transformers hands to the MLP.
    let (gpt2, expected) = (model("gpt2"), expected("gpt2"));
    for (name, recorded) in [
        ("blocks.1.mlp.hook_in", "blocks.1.ln2.hook_out"),
        ("blocks.0.attn.hook_in", "blocks.0.ln1.hook_out"),
        ("blocks.1.ln2.hook_out", "blocks.1.ln2.hook_out"),
        ("blocks.1.mlp.hook_out", "blocks.1.hook_mlp_out"),
        ("blocks.1.attn.hook_out", "blocks.1.hook_attn_out"),
        ("blocks.1.hook_in", "blocks.1.hook_resid_pre"),
        ("blocks.1.hook_out", "blocks.1.hook_resid_post"),
        ("blocks.1.mlp.out.hook_in", "blocks.1.mlp.hook_post"),
        ("embed.hook_out", "hook_embed"),
    ] {
        close(
            &at(&gpt2, &expected.tokens, name),
            &expected.values[recorded],
            1e-4,
            name,
        );
    }
    // By every family's own weights: W_in of it is the pre-activation.
    for name in FAMILIES {
        let model = model(name);
        let tokens = vec![vec![3, 1, 4, 1, 5]];
        let c = model.config().clone();
        let read = at(&model, &tokens, "blocks.1.mlp.hook_in");
        let read =
            Tensor::<1>::from_floats(read.as_slice(), &Device::flex()).reshape([5, c.d_model]);
        let (matrix, point) = match c.gated {
            true => (model.w_in(1), "blocks.1.mlp.hook_pre_linear"),
            false => (model.w_in(1), "blocks.1.mlp.hook_pre"),
        };
        let pre = read.matmul(matrix);
        let pre = match model.b_in(1) {
            Some(bias) => pre + bias.unsqueeze(),
            None => pre,
        };
        let pre: Vec<f32> = pre.into_data().iter::<f32>().collect();
        close(&pre, &at(&model, &tokens, point), 1e-4, name);
    }
}

/// With interventions too, and in a batch that is cut into pieces without them.
#[test]
fn a_pass_that_starts_at_a_block_continues_the_other_one() {
    for name in FAMILIES {
        let model = model(name);
        let layer = model.config().n_layers() - 1;
        let at = HookPoint::Block(layer, BlockHook::ResidPre);
        let mlp_out = HookPoint::Block(layer, BlockHook::MlpOut);
        let double = [Intervention::scale(mlp_out, 2.0)];
        let rows: Vec<[u32; 9]> = (0..80)
            .map(|i| [3, 1, i % 7, 1, 5, 9, 2, i % 5, 6])
            .collect();
        for (rows, interventions) in [(&rows[..], &[][..]), (&rows[..2], &double[..])] {
            let tokens = model.tokens(rows).unwrap();
            let capture = [at, mlp_out, hook("logits")];
            let whole = HookedRun {
                capture: &capture,
                interventions,
                logits: true,
                ..Default::default()
            };
            let whole = model.run(tokens.clone(), &whole).unwrap();
            let start = Start {
                layer,
                resid_pre: whole.captured[&at].clone(),
            };
            for last_logits in [false, true] {
                let run = HookedRun {
                    capture: &capture,
                    interventions,
                    logits: true,
                    last_logits,
                    start: Some(start.clone()),
                    ..Default::default()
                };
                let again = model.run(tokens.clone(), &run).unwrap();
                let expected = whole.logits.clone().unwrap();
                let expected = match last_logits {
                    true => expected.narrow(1, 8, 1),
                    false => expected,
                };
                let found = again.logits.as_ref().unwrap();
                assert_eq!(found.dims(), expected.dims());
                // A product of other shape may round otherwise.
                close(&host(found), &host(&expected), 1e-5, name);
                let found = &again.captured[&hook("logits")];
                close(&host(found), &host(&expected), 1e-5, name);
                for point in &capture[..2] {
                    let pair = [&again, &whole].map(|run| host(&run.captured[point]));
                    close(&pair[0], &pair[1], 1e-6, name);
                }
            }
        }
        let tokens = model.tokens(&rows[..1]).unwrap();
        let refused = |start: Start, capture: &[HookPoint]| {
            let run = HookedRun {
                capture,
                start: Some(start),
                ..Default::default()
            };
            model.run(tokens.clone(), &run).unwrap_err().to_string()
        };
        let start = |layer: usize, pos: usize| Start {
            layer,
            resid_pre: Tensor::zeros([1, pos, model.config().d_model], model.device()),
        };
        let problem = refused(start(layer, 9), &[hook("hook_embed")]);
        assert!(problem.contains("found hook_embed"), "{problem}");
        let problem = refused(start(layer, 8), &[mlp_out]);
        assert!(problem.contains("[1, 9, "), "{problem}");
        let problem = refused(start(layer + 1, 9), &[mlp_out]);
        assert!(problem.contains("blocks are 0 to"), "{problem}");
        let run = HookedRun {
            start: Some(start(layer, 9)),
            ..Default::default()
        };
        let embed = [hook("hook_embed")];
        let found = model.gradients(tokens.clone(), &run, &embed, &|logits| logits.sum());
        let problem = found.unwrap_err().to_string();
        assert!(problem.contains("found hook_embed"), "{problem}");
        // An intervention on the logits has one position too.
        for (pos, fits) in [(1, true), (9, false)] {
            let value = Tensor::zeros([1, pos, model.config().d_vocab], model.device());
            let run = HookedRun {
                interventions: &[Intervention::set(hook("logits"), value)],
                logits: true,
                last_logits: true,
                ..Default::default()
            };
            let output = model.run(tokens.clone(), &run);
            assert_eq!(output.is_ok(), fits, "{name} {pos}");
        }
    }
}
