use super::*;

fn error(text: &str, set: &[&str]) -> String {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse("run.toml", text, &set)
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn an_empty_file_is_a_whole_recipe() {
    let c = Recipe::parse("run.toml", "", &[]).unwrap();
    assert_eq!(c.model, "embedded");
    assert_eq!(c.evaluation.corpus, "embedded:heldout");
    let r = c.resolve(256).unwrap();
    assert_eq!(r.coder.d_sae, 4096);
    let of_sizes = (2048.0_f64 / (256.0 * 4096.0)).sqrt();
    assert!((r.training.lr - 0.135 * of_sizes * (300.0_f64 / 488.0).powf(0.25)).abs() < 1e-12);
    let long = Recipe::parse("run.toml", "training.tokens = 6_144_000", &[]).unwrap();
    let falls = (300.0_f64 / 3000.0).powf(0.25) * (1200.0_f64 / 3000.0).powf(0.75);
    let lr = long.resolve(256).unwrap().training.lr;
    assert!((lr - 0.135 * of_sizes * falls).abs() < 1e-12);
    assert_eq!(r.training.aux_k, 32);
    assert_eq!(r.training.aux_k_coefficient, 1.0 / 32.0);
    assert_eq!(r.training.dead_after_tokens, 1_000_000 / 30);
    assert!((r.training.threshold_decay - (1.0 - 50.0 / 488.0)).abs() < 1e-12);
    assert_eq!(
        (r.coder.encoder_init_norm, r.coder.decoder_init_norm),
        (0.4, 1.0)
    );
}

#[test]
fn an_architecture_decides_the_rate_the_start_and_what_becomes_of_dead_latents() {
    let of = |settings: &str| {
        let set: Vec<String> = settings.split_whitespace().map(str::to_owned).collect();
        let recipe = Recipe::parse("test", "", &set).unwrap();
        recipe.resolve(256).unwrap()
    };
    let usual = of("").training.lr;
    for (architecture, factor, revival) in [
        ("topk", 1.0, DeadLatents::AuxK),
        ("batchtopk", 1.0, DeadLatents::AuxK),
        ("matryoshka", 1.0, DeadLatents::AuxK),
        ("standard", 1.5, DeadLatents::AuxK),
        ("jumprelu", 1.5, DeadLatents::AuxK),
        ("gated", 1.5, DeadLatents::AuxK),
        ("proximal", 1.5, DeadLatents::AuxK),
        ("matching_pursuit", 0.7, DeadLatents::None),
    ] {
        let training = of(&format!("coder.architecture={architecture}")).training;
        assert!(
            (training.lr / usual - factor).abs() < 1e-12,
            "{architecture}"
        );
        assert_eq!(training.revival, revival, "{architecture}");
    }
    let norms = |settings: &str| {
        let coder = of(&format!("coder.architecture=standard {settings}")).coder;
        (coder.encoder_init_norm, coder.decoder_init_norm)
    };
    assert_eq!(norms(""), (0.1, 0.1));
    assert_eq!(norms("coder.target_l0=32"), (0.4, 1.0));
    let transcoder = "coder.target_l0=32 hook_point_out=blocks.2.hook_mlp_out";
    assert_eq!(norms(transcoder), (1.0, 0.1));
    assert_eq!(
        of("coder.architecture=gated coder.target_l0=48")
            .training
            .aux_k,
        48
    );
}

/// Before the key was there, AuxK was for those that choose by number.
#[test]
fn a_recipe_without_a_treatment_of_dead_latents_means_the_one_of_its_time() {
    for (architecture, expected) in [
        ("topk", DeadLatents::AuxK),
        ("standard", DeadLatents::None),
        ("gated", DeadLatents::None),
    ] {
        let json = serde_json::json!({ "coder": { "architecture": architecture }, "training": {} });
        let recipe = Recipe::from_json(&json).unwrap();
        assert_eq!(recipe.training.revival, expected, "{architecture}");
    }
}

#[test]
fn the_learning_rate_falls_with_the_length_of_the_run_down_to_that_of_long_ones() {
    let lr = |steps: u64, d_sae: u64| {
        let text = format!(
            "coder.d_sae = {d_sae}\ntraining.batch_tokens = 100\ntraining.tokens = {}",
            100 * steps
        );
        let recipe = Recipe::parse("run.toml", &text, &[]).unwrap();
        recipe.resolve(256).unwrap().training.lr
    };
    assert_eq!(lr(100, 4096), lr(300, 4096));
    assert!((lr(1_200, 4096) / lr(300, 4096) - 0.25_f64.powf(0.25)).abs() < 1e-12);
    assert!((lr(2_400, 4096) / lr(1_200, 4096) - 0.5).abs() < 1e-12);
    assert!((lr(300, 16_384) / lr(300, 4096) - 0.5).abs() < 1e-12);
    assert!((lr(100_000_000, 16_384) - 2e-4).abs() < 1e-18);
    // Latents of all layers count.
    let layers = "hook_points = ['blocks.0.ln2.hook_normalized', 'blocks.1.ln2.hook_normalized']\n\
                  hook_points_out = ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out']\ncoder.d_sae = 2048";
    let [several, one] = [layers, "coder.d_sae = 4096"].map(|text| {
        let recipe = Recipe::parse("run.toml", text, &[]).unwrap();
        recipe.resolve(256).unwrap().training.lr
    });
    assert_eq!(several, one);
}

#[test]
fn a_resolved_recipe_reads_back_as_itself() {
    for text in [
        "",
        "coder.architecture = 'standard'\nseed = 9\n[training]\nl1_coefficient = 5",
        "coder.architecture = 'matryoshka'\ncoder.matryoshka.widths = [8, 100]",
        "coder = { architecture = 'matryoshka', d_sae = 1, k = 1 }",
        "[coder]\narchitecture = 'jumprelu'\njumprelu = { penalty = 'quadratic', target_l0 = 20 }",
    ] {
        let c = Recipe::parse("run.toml", text, &[])
            .unwrap()
            .resolve(96)
            .unwrap();
        let again = Recipe::parse("again.toml", &c.recipe().to_toml(), &[]).unwrap();
        assert_eq!(again, *c.recipe());
        assert_eq!(again.resolve(96).unwrap(), c);
        let json = Recipe::from_json(&c.recipe().to_json()).unwrap();
        assert_eq!(json, again);
    }
}

#[test]
fn set_wins_over_the_file_and_is_typed() {
    let c = Recipe::parse(
        "run.toml",
        "[training]\nlr = 1.0\ntokens = 1e6",
        &[
            "training.lr=1e-3".into(),
            "coder.architecture=batchtopk".into(),
            "model = my/folder".into(),
        ],
    )
    .unwrap();
    assert_eq!(c.training.lr, Some(1e-3));
    assert_eq!(c.training.tokens, 1_000_000);
    assert_eq!(c.coder.architecture, ArchitectureKind::BatchTopK);
    assert_eq!(c.model, "my/folder");
}

#[test]
fn an_unknown_key_names_the_file_and_what_was_meant() {
    assert_eq!(
        error("[training]\nlog_evry_steps = 2", &[]),
        "run.toml: unknown key `training.log_evry_steps`; did you mean `training.log_every_steps`?"
    );
    assert_eq!(
        error("d_sae = 2048", &[]),
        "run.toml: unknown key `d_sae`; did you mean `coder.d_sae`?"
    );
    assert_eq!(
        error("", &["coder.dsae=3"]),
        "--set: unknown key `coder.dsae`; did you mean `coder.d_sae`?"
    );
    assert!(error("[corpus]\nzzz = 2", &[]).ends_with(
        "unknown key `corpus.zzz`; known there: corpus.path, corpus.text_field, corpus.context, corpus.prepend_bos, corpus.attend_across_documents"
    ));
}

#[test]
fn a_wrong_type_names_file_key_found_and_expected() {
    assert_eq!(
        error("[coder]\nk = 'many'", &[]),
        "run.toml: `coder.k`: found string \"many\", expected a whole number, 0 or more"
    );
    assert_eq!(
        error("", &["training.tokens=-5"]),
        "--set: `training.tokens`: found integer -5, expected a whole number, 0 or more"
    );
    assert_eq!(
        error("training = 3", &[]),
        "run.toml: `training`: found integer 3, expected a table [training]"
    );
    assert_eq!(
        error("[coder]\narchitecture = 'top-k'", &[]),
        "run.toml: `coder.architecture`: found \"top-k\", expected one of \"standard\", \"topk\", \"batchtopk\", \"matryoshka\", \"jumprelu\", \"gated\", \
         \"matching_pursuit\", \"proximal\""
    );
    assert_eq!(
        error("[training]\nlr = nan", &[]),
        "run.toml: `training.lr`: found float nan, expected a finite number"
    );
    assert!(error("k = = 3", &[]).starts_with("run.toml: not valid TOML: "));
    assert!(error("", &["training.lr"]).starts_with("--set: `training.lr`: found no `=`"));
}

#[test]
fn the_tables_of_coders_are_checked_whichever_is_chosen() {
    assert_eq!(
        error("coder.jumprelu.bandwidth = 0", &[]),
        "run.toml: `coder.jumprelu.bandwidth`: found 0, expected more than 0"
    );
    assert_eq!(
        error("coder.jumprelu.penalty = 'quadratic'", &[]),
        "run.toml: `coder.jumprelu.target_l0`: found nothing, expected a number of latents, which penalty = \"quadratic\" needs"
    );
    assert_eq!(
        error("coder.matryoshka.widths = [8, 8]", &[]),
        "run.toml: `coder.matryoshka.widths`: found [8, 8], expected whole numbers, at least 1, strictly ascending"
    );
    assert!(
        error("coder.matryoshka.widths = 'all'", &[])
            .ends_with("a list of whole numbers, 0 or more")
    );
    let text = "[coder]\narchitecture = 'matryoshka'\nd_sae = 64\nmatryoshka.widths = [16, 64]";
    assert!(
        error(text, &[])
            .contains("`coder.matryoshka.widths`: found 64, expected widths below d_sae = 64")
    );
    // Whoever is not chosen leaves nothing in the resolved recipe.
    let c = Recipe::parse("run.toml", "coder.jumprelu.bandwidth = 1", &[]).unwrap();
    assert!(!c.to_toml().contains("jumprelu"));
}

#[test]
fn the_shape_of_a_penalty_decides_its_usual_parameter() {
    for (shape, expected) in [("mcp", 2.0), ("scad", 3.7), ("log_sum", 0.05), ("l0", 0.0)] {
        let text = format!("coder.proximal.shape = '{shape}'");
        let c = Recipe::parse("run.toml", &text, &[]).unwrap();
        assert_eq!(c.architectures.proximal.bend, expected, "{shape}");
    }
}

#[test]
fn contradictions_are_refused() {
    assert!(
        error("[coder]\narchitecture = 'gated'\nmulti_topk = true", &[])
            .contains("option of \"topk\"")
    );
    assert!(
        error(
            "[coder]\narchitecture = 'proximal'\nd_sae = 64\n[training]\ntokens = 20480\nsparsity_warmup_steps = 10",
            &[]
        )
        .contains("not less than the 10 steps")
    );
    assert!(
        error("[coder]\nk = 33\nd_sae = 32", &[])
            .contains("`coder.k` = 33 is more than the number of latents")
    );
    let many = "[coder]\narchitecture = 'matching_pursuit'\nk = 65537\nd_sae = 32";
    assert_eq!(
        error(many, &[]),
        "run.toml: `coder.k`: found 65537, expected at most 65536 steps"
    );
    let resampled = "coder.architecture = 'proximal'\ntraining.revival = 'resampling'";
    assert!(error(resampled, &[]).ends_with(
        "a proximal one: it is for \"standard\", \"jumprelu\" and \"matching_pursuit\", but for cross-layer transcoders"
    ));
    let through = "coder.architecture = 'gated'\ntraining.loss = 'kl'";
    assert!(
        error(through, &[])
            .ends_with("it is for \"standard\", \"topk\", \"batchtopk\" and \"jumprelu\"")
    );
    assert!(error("[training]\ntokens = 100", &[]).contains("less than one batch"));
    assert!(
        error("[coder]\nd_sae = 64\nexpansion_factor = 2", &[])
            .contains("both set the number of latents")
    );
    assert!(error("[training]\ndecoder_norm = 'free'", &[]).contains("comparable"));
    assert!(
        error("[training]\nbatch_tokens = 0", &[])
            .contains("`training.batch_tokens`: found 0, expected at least 1")
    );
    assert!(error("[training]\nadam_beta2 = 1.0", &[]).contains("expected 0 to below 1"));
    // 0 as f32, in which norms are compared.
    assert!(error("", &["activations.exclude.norm_multiple=1e-50"]).contains("expected 0 or more"));
    let c = Recipe::parse("run.toml", "coder.expansion_factor = 1", &[]).unwrap();
    assert!(
        c.resolve(16)
            .unwrap_err()
            .to_string()
            .contains("`coder.k` = 32")
    );
}

#[test]
fn a_resumed_run_may_log_more_often_but_not_learn_faster() {
    let a = Recipe::parse("a", "", &[]).unwrap();
    let b = Recipe::parse(
        "b",
        "[training]\nlog_every_steps = 1\n[features]\ntokens = 0",
        &[],
    )
    .unwrap();
    assert_eq!(a.training_difference(&b), None);
    let c = Recipe::parse("c", "[training]\nadam_beta1 = 0.5", &[]).unwrap();
    assert_eq!(
        a.training_difference(&c),
        Some(("training.adam_beta1".into(), "0.9".into(), "0.5".into()))
    );
}

#[test]
fn a_start_of_k_that_cannot_fall_is_refused() {
    for (text, expected) in [
        (
            "coder.k_start = 8",
            "`coder.k_start`: found 8, expected at least `coder.k` = 32",
        ),
        (
            "coder.k_start = 64\ncoder.architecture = 'gated'",
            "`coder.k_start` does not go with `coder.architecture` = \"gated\": it is for \"topk\", \"batchtopk\" and \"matryoshka\"",
        ),
        (
            "training.k_anneal_steps = 9",
            "`training.k_anneal_steps` needs `coder.k_start`",
        ),
        (
            "coder.k_start = 64\ncoder.d_sae = 40",
            "`coder.k_start` = 64 is more than",
        ),
        (
            "training.optimizer = 'sgd'",
            "one of \"adam\", \"signum\", \"muon\"",
        ),
    ] {
        let found = error(text, &[]);
        assert!(found.contains(expected), "{found}");
    }
    let c = Recipe::parse("run.toml", "coder.k_start = 64", &[]).unwrap();
    let c = c.resolve(256).unwrap();
    assert_eq!(c.training.k_anneal_steps, c.steps() / 2);
    assert_eq!(
        (c.k_at(0), c.k_at(c.steps() / 4), c.k_at(c.steps())),
        (64, 48, 32)
    );
}

#[test]
fn a_target_of_l0_is_for_coders_with_a_penalty() {
    for (text, expected) in [
        (
            "coder.target_l0 = 32",
            "`coder.target_l0` does not go with `coder.architecture` = \"topk\": it is for \"standard\", \"jumprelu\", \"gated\" and \"proximal\"",
        ),
        (
            "coder.target_l0 = 32\ncoder.architecture = 'jumprelu'\ncoder.d_sae = 64\n\
             coder.jumprelu = { penalty = 'quadratic', target_l0 = 32 }",
            "which has `coder.jumprelu.target_l0`",
        ),
        (
            "coder.target_l0 = 32\ncoder.architecture = 'proximal'\ncoder.proximal.weight = 0",
            "`coder.target_l0` needs `coder.proximal.weight` above 0",
        ),
        (
            "coder.target_l0 = 0\ncoder.architecture = 'gated'",
            "`coder.target_l0`: found 0, expected more than 0",
        ),
    ] {
        let found = error(text, &[]);
        assert!(found.contains(expected), "{found}");
    }
    let text = "coder.target_l0 = 32\ncoder.architecture = 'jumprelu'";
    assert!(Recipe::parse("run.toml", text, &[]).is_ok());
}

#[test]
fn first_positions_beyond_the_context_are_refused_with_both_numbers() {
    let set = ["activations.exclude.first_positions=200"];
    let refused = error("", &set);
    assert!(
        refused.contains("activations.exclude.first_positions") && refused.contains("200"),
        "{refused}"
    );
    assert!(refused.contains("128"), "{refused}");
    let at = [
        "activations.exclude.first_positions=64",
        "corpus.context=64",
    ];
    assert!(error("", &at).contains("first_positions"));
    let below = [
        "activations.exclude.first_positions=63",
        "corpus.context=64",
    ];
    let below: Vec<String> = below.map(String::from).into();
    assert!(Recipe::parse("run.toml", "", &below).is_ok());
}

#[test]
fn a_hook_point_given_twice_is_refused_by_name() {
    let text = "hook_points = ['blocks.1.hook_resid_post', 'blocks.1.hook_resid_post']";
    let refused = error(text, &[]);
    assert!(
        refused.contains("hook_points") && refused.contains("each once"),
        "{refused}"
    );
}

#[test]
fn coders_that_cannot_share_batches_are_told_their_own_loss() {
    let of = |loss: &str| {
        let set = [format!("training.loss={loss}")];
        Recipe::parse("run.toml", "", &set).unwrap()
    };
    let difference = of("ce").batch_difference(&of("local")).unwrap();
    let expected = ("training.loss", "\"ce\"", "\"local\"");
    let (key, ours, theirs) = &difference;
    assert_eq!((key.as_str(), ours.as_str(), theirs.as_str()), expected);
    assert_eq!(of("ce").batch_difference(&of("kl")), None);
}

#[test]
fn a_recipe_from_before_norms_were_limited_leaves_none_out() {
    let mut json = Recipe::parse("a", "", &[]).unwrap().to_json();
    assert_eq!(
        Recipe::from_json(&json).unwrap().exclusion().norm_multiple,
        Some(10.0)
    );
    let exclude = json.pointer_mut("/activations/exclude").unwrap();
    exclude.as_object_mut().unwrap().remove("norm_multiple");
    let older = Recipe::from_json(&json).unwrap();
    assert_eq!(older.exclusion().norm_multiple, None);
}
