//! Graphs: their logits, limit of memory, JSON, and what is refused.

use super::*;

#[test]
fn the_logits_of_a_graph_can_be_named() {
    let model = model("gpt2");
    let replacement = ReplacementModel::new(&model, per_layer(&model, PLAIN)).unwrap();
    let graph = |targets: &[u32]| {
        let options = AttributionOptions {
            targets: targets.to_vec(),
            ..Default::default()
        };
        replacement.attribute(&TOKENS, &options, &|_, _| {})
    };
    let usual = graph(&[]).unwrap();
    let last = usual.logits().last().unwrap();
    let named = graph(&[3, last.token]).unwrap();
    let tokens: Vec<u32> = named.logits().iter().map(|logit| logit.token).collect();
    assert_eq!(tokens, [3, last.token]);
    assert_eq!(named.logits()[1].probability, last.probability);
    let edges = |graph: &AttributionGraph| -> Vec<f32> {
        let edges = graph.edges_to(graph.n_nodes() - 1).iter();
        edges.map(|edge| edge.weight).collect()
    };
    assert_eq!(edges(&usual), edges(&named));
    let d_vocab = model.config().d_vocab as u32;
    let problem = graph(&[d_vocab]).err().unwrap().to_string();
    assert!(problem.contains("expected one below"), "{problem}");
}

#[test]
fn a_limit_of_memory_cuts_the_smallest_edges_and_counts_them() {
    let model = model("llama-gqa");
    let whole = graph(&model, per_layer(&model, PLAIN));
    let replacement = ReplacementModel::new(&model, per_layer(&model, PLAIN)).unwrap();
    let at = |memory| {
        let options = AttributionOptions {
            memory: Some(memory),
            ..Default::default()
        };
        replacement.attribute(&TOKENS, &options, &|_, _| {})
    };
    let least = match at(1000) {
        Err(CircuitError::Memory {
            found: 1000, least, ..
        }) => least,
        other => panic!("{:?}", other.map(|graph| graph.n_edges())),
    };
    let enough = at(least).unwrap();
    // 1024 edges of each node fit into the least memory, and no node here has as many.
    assert_eq!(enough.n_edges(), whole.n_edges());
    assert!(unexplained(&enough) < 1e-5);
    assert_eq!(whole.share_cut(), 0.0);
    let few = AttributionOptions {
        max_feature_nodes: 10,
        ..Default::default()
    };
    let few = replacement.attribute(&TOKENS, &few, &|_, _| {}).unwrap();
    assert_eq!(few.selected().len(), 10);
    assert!(few.share_cut() > 0.05 && unexplained(&few) < 1e-5);
}

#[test]
fn the_json_names_every_end_of_every_link() {
    let model = model("llama-gqa");
    let found = graph(&model, per_layer(&model, PLAIN));
    let pruned = found.prune(Pruning::default());
    let names = GraphNames {
        slug: "a".into(),
        scan: "b".into(),
        transcoders: vec![],
        prompt: "</script>".into(),
        token: &|token| format!("<{token}>"),
        promoted: &|_| vec![1, 2],
    };
    let folder = tempfile::tempdir().unwrap();
    pruned.write(folder.path(), &names, None).unwrap();
    let json = std::fs::read_to_string(folder.path().join("graph.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let nodes = json["nodes"].as_array().unwrap();
    let ids: BTreeSet<&str> = nodes
        .iter()
        .map(|node| node["node_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), nodes.len(), "every id is of one node");
    let links = json["links"].as_array().unwrap();
    assert_eq!(links.len(), pruned.edges().count());
    for link in links {
        for end in ["source", "target"] {
            assert!(ids.contains(link[end].as_str().unwrap()), "{link}");
        }
    }
    let page = std::fs::read_to_string(folder.path().join("graph.html")).unwrap();
    // Those of the page itself.
    let ends = |text: &str| text.matches("</script>").count();
    let template = include_str!("../../page/graph.html");
    assert_eq!(ends(&page), ends(template));
    let file = std::fs::read(folder.path().join("graph.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let count = |name: &str| file.tensor(name).unwrap().shape()[0];
    assert_eq!(count("row_offsets"), found.n_nodes() + 1);
    assert_eq!(count("columns"), found.n_edges());
}

/// A LayerNorm takes the mean off: what all dimensions have in common promotes nothing.
#[test]
fn promoted_tokens_do_not_depend_on_what_the_final_norm_takes_off() {
    let model = model("gpt2");
    let promoted = |shift: f32| {
        let mut transcoders = per_layer(&model, PLAIN);
        for (_, dictionary) in &mut transcoders {
            let mut coder = dictionary.coder.as_sparse().unwrap().clone();
            coder.weights = coder.weights.clone().with("w_dec", coder.w_dec() + shift);
            dictionary.coder = coder.into();
        }
        let replacement = ReplacementModel::new(&model, transcoders).unwrap();
        let found = graph(&model, per_layer(&model, PLAIN));
        replacement.promoted(&found.active()[..10], 3).unwrap()
    };
    assert_eq!(promoted(0.0), promoted(3.0));
}

#[test]
fn what_cannot_be_attributed_is_refused_by_name() {
    let model = model("llama-gqa");
    let refused = |transcoders| match ReplacementModel::new(&model, transcoders) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    let all = || per_layer(&model, PLAIN);
    let mut missing = all();
    missing.remove(1);
    let error = refused(missing);
    assert!(error.ends_with("have no transcoder: 1"), "{error}");
    let mut twice = all();
    twice.push(("again".into(), all().remove(0).1));
    let error = refused(twice);
    assert!(
        error.contains("again") && error.contains("layer 0"),
        "{error}"
    );
    let mut autoencoder = all();
    autoencoder[0].1.provenance.sites = Sites::autoencoder("blocks.0.hook_resid_post");
    let error = refused(autoencoder);
    assert!(error.contains("expected a transcoder"), "{error}");
    let mut elsewhere = all();
    elsewhere[0].1.provenance.sites =
        Sites::transcoder("blocks.0.ln2.hook_normalized", "blocks.1.hook_mlp_out");
    let error = refused(elsewhere);
    assert!(error.contains("of the same layer"), "{error}");
    let mut beyond = all();
    beyond[0].1.provenance.sites =
        Sites::transcoder("blocks.9.ln2.hook_normalized", "blocks.9.hook_mlp_out");
    let error = refused(beyond);
    assert!(error.contains("layers are 0 to"), "{error}");
    let other = self::model("gpt2");
    let d = other.config().d_model;
    if d != model.config().d_model {
        let error = refused(per_layer(&other, PLAIN));
        assert!(error.contains(&format!("reads {d} dimensions")), "{error}");
    }
    let replacement = ReplacementModel::new(&model, all()).unwrap();
    let attribute = |tokens: &[u32]| {
        let options = AttributionOptions::default();
        replacement
            .attribute(tokens, &options, &|_, _| {})
            .map(|graph| graph.n_nodes())
    };
    assert!(attribute(&[]).is_err());
    assert!(attribute(&[1_000_000]).is_err());
    assert!(attribute(&vec![1; model.config().n_ctx + 1]).is_err());
    // One token: nothing comes before it.
    assert!(attribute(&[3]).unwrap() > 0);
}
