#!/usr/bin/env python3
"""Checks an attribution graph of Lapidary with circuit-tracer's graph of the same prompt.

circuit-tracer loads the model (float32, CPU, weights as in the checkpoint) and the transcoders, and
attributes the prompt. --graph DIR compares DIR/graph.safetensors and DIR/graph.json with it:

- active features, activations, logit targets, every entry of the adjacency matrix, biases, totals;
- circuit-tracer prunes our tensors, and must keep the nodes and links of our graph.json and give
  its scores;
- graph.json must load in circuit-tracer and follow Neuronpedia's schema.

--lapidary BINARY does all of it for the embedded model: trains small transcoders of each kind
(without and with a skip connection, cross-layer), makes a graph with each, and compares it.

--write DIR writes circuit-tracer's own graph in our layout. --time prints the time of attribute(),
with --lapidary that of ours as well.
A feature that is active in one program only is allowed if its pre-activation is within the
tolerance of its threshold. A node or link that only one program keeps is allowed if a change of the
pruning thresholds by EDGE changes circuit-tracer's own choice too.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports: nothing is fetched
warnings.simplefilter("ignore")

import huggingface_hub.constants  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402

# circuit-tracer 0.5.0 imports this name, which huggingface_hub 1 no longer has
if not hasattr(huggingface_hub.constants, "HF_HUB_ENABLE_HF_TRANSFER"):
    huggingface_hub.constants.HF_HUB_ENABLE_HF_TRANSFER = False

from circuit_tracer.attribution.attribute import attribute  # noqa: E402
from circuit_tracer.attribution.targets import LogitTarget  # noqa: E402
from circuit_tracer.frontend.graph_models import Model as GraphFile  # noqa: E402
from circuit_tracer.graph import (  # noqa: E402
    Graph, compute_graph_scores, compute_node_influence, prune_graph,
)
from circuit_tracer.replacement_model.replacement_model_transformerlens import (  # noqa: E402
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt  # noqa: E402
from circuit_tracer.utils.create_graph_files import create_graph_files  # noqa: E402
from circuit_tracer.utils.hf_utils import load_transcoders  # noqa: E402
from pydantic import ValidationError  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from transformer_lens import loading_from_pretrained as loading  # noqa: E402

TOLERANCE = 1e-4
EDGE = 1e-6  # change of a pruning threshold that decides what is on the border
MOST_UNDECIDED = 0.01  # share of nodes or links on the border
REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "crates/model/embedded"
PROMPT = (
    "The people of the United States have reason to be grateful for the peace and prosperity of "
    "the past year"
)
TENSORS = {
    "active_features": np.int32, "activation_values": np.float32, "selected_features": np.int32,
    "input_tokens": np.int32, "logit_tokens": np.int32, "logit_probabilities": np.float32,
    "row_offsets": np.int64, "columns": np.int32, "weights": np.float32,
    "bias": np.float32, "total": np.float32,
}


# The needed part of Neuronpedia's schema of a graph (draft-07).
def record(required, **properties):
    return {"type": "object", "required": required.split(), "properties": properties}


TEXT, TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
NUMBER, WHOLE = {"type": "number"}, {"type": "integer"}
NODE = record(
    "node_id feature layer ctx_idx feature_type jsNodeId clerp",
    node_id=TEXT, feature={"type": ["integer", "null"]}, layer={"type": ["string", "integer"]},
    ctx_idx=WHOLE, feature_type=TEXT, jsNodeId=TEXT, clerp=TEXT,
    influence={"type": ["number", "null"]}, activation={"type": ["number", "null"]},
)
LINK = record("source target weight", source=TEXT, target=TEXT, weight=NUMBER)
GENERATOR = record("", name=TEXT, version=TEXT, url=TEXT, email=TEXT)
INFO = record(
    "", description=TEXT, creator_name=TEXT, creator_url=TEXT, source_urls={"type": "array"},
    generator=GENERATOR, create_time_ms=NUMBER,
)
METADATA = record(
    "slug scan prompt_tokens prompt",
    slug=TEXT, scan=TEXT, prompt_tokens=TEXTS, prompt=TEXT, node_threshold=NUMBER, info=INFO,
    feature_details=record("", feature_json_base_url=TEXT, neuronpedia_source_set=TEXT),
    generation_settings=record(
        "", max_n_logits=WHOLE, desired_logit_prob=NUMBER, batch_size=WHOLE, max_feature_nodes=WHOLE
    ),
    pruning_settings=record("", node_threshold=NUMBER, edge_threshold=NUMBER),
)
QUERY = record(
    "", pinnedIds=TEXTS, supernodes={"type": "array"}, linkType=TEXT, clickedId=TEXT, sg_pos=TEXT
)
SCHEMA = {"$schema": "http://json-schema.org/draft-07/schema#"} | record(
    "metadata qParams nodes links",
    metadata=METADATA, qParams=QUERY,
    nodes={"type": "array", "items": NODE}, links={"type": "array", "items": LINK},
)


class Verdict:
    """Prints each comparison and remembers the failures."""

    def __init__(self):
        self.failures = []

    def require(self, good, what):
        if not good:
            print(f"  {what}   MISMATCH")
            self.failures.append(what)
        return good

    def report(self, good, what):
        if self.require(good, what):
            print(f"  {what}")
        return good

    def close(self, what, found, wanted, scale):
        """`found` and `wanted` differ by at most the tolerance times `scale`."""
        if not self.require(found.shape == wanted.shape, f"{what}: shapes differ"):
            return
        difference = np.abs(found.astype(np.float64) - wanted)
        difference = np.where(np.isfinite(difference), difference, np.inf)
        relative = difference / np.maximum(scale, 1e-30)
        most, worst = (part.max(initial=0) for part in (difference, relative))
        line = f"{what}: largest difference {most:.1e}, relative {worst:.1e}"
        self.report(worst <= TOLERANCE, line)


@dataclass
class Traced:
    """A graph in our layout, with a dense adjacency matrix (rows are targets)."""

    active_features: np.ndarray  # [n_active, 3]: layer, position, feature
    activation_values: np.ndarray  # [n_active]
    selected_features: np.ndarray  # [n_selected]
    input_tokens: np.ndarray  # [T]
    logit_tokens: np.ndarray  # [n_logits]
    logit_probabilities: np.ndarray  # [n_logits]
    adjacency: np.ndarray  # [n_nodes, n_nodes]
    bias: np.ndarray  # [n_nodes]
    total: np.ndarray  # [n_nodes]
    n_layers: int

    @property
    def features(self):
        """Layer, position and feature of each feature node: `[n_selected, 3]`."""
        return self.active_features[self.selected_features]

    @property
    def ends(self):
        """Where the features, errors and tokens end among the nodes."""
        features, n_tokens = len(self.selected_features), len(self.input_tokens)
        errors = features + self.n_layers * n_tokens
        return features, errors, errors + n_tokens

    def targets(self):
        """The nodes that have a row: features and logits."""
        features, _, tokens = self.ends
        return np.r_[:features, tokens : tokens + len(self.logit_tokens)]

    def node_ids(self):
        """(node_id, feature_type) of each node, by circuit-tracer's conventions."""
        last = len(self.input_tokens) - 1
        features = [(f"{l}_{f}_{p}", "cross layer transcoder") for l, p, f in self.features]
        errors = [
            (f"0_{layer}_{position}", "mlp reconstruction error")
            for layer in range(self.n_layers) for position in range(last + 1)
        ]
        tokens = [(f"E_{t}_{p}", "embedding") for p, t in enumerate(self.input_tokens)]
        logits = [(f"{self.n_layers + 1}_{t}_{last}", "logit") for t in self.logit_tokens]
        return features + errors + tokens + logits

    def write(self, path):
        target, source = self.adjacency.nonzero()
        counts = np.bincount(target, minlength=len(self.adjacency))
        rows = {
            "row_offsets": np.concatenate([[0], np.cumsum(counts)]), "columns": source,
            "weights": self.adjacency[target, source],
        }
        tensors = {name: rows[name] if name in rows else getattr(self, name) for name in TENSORS}
        save_file(
            {k: np.ascontiguousarray(v.astype(TENSORS[k])) for k, v in tensors.items()}, str(path)
        )


def read_traced(path, n_layers):
    """Reads graph.safetensors, and stops if it is not a graph in our layout."""
    with safe_open(str(path), framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    faults = [f"no tensor {name}" for name in TENSORS if name not in tensors] or [
        f"{name} is {tensors[name].dtype}, expected {np.dtype(kind)}"
        for name, kind in TENSORS.items() if tensors[name].dtype != kind
    ]
    if faults:
        sys.exit(f"check_circuit_graph: {path}: {'; '.join(faults)}")
    offsets, columns = (tensors.pop(name) for name in ("row_offsets", "columns"))
    weights = tensors.pop("weights")
    kept = {name: tensors[name] for name in TENSORS if name in tensors}
    n_nodes = len(offsets) - 1
    traced = Traced(**kept, adjacency=np.zeros((n_nodes, n_nodes), np.float32), n_layers=n_layers)
    active, selected = traced.active_features, traced.selected_features
    n_active = len(active)
    shape = active.shape == (n_active, 3) and len(traced.activation_values) == n_active
    places = list(map(tuple, active.tolist()))
    sound = {
        "active_features and activation_values do not match": shape,
        "active_features are not ascending": places == sorted(set(places)),
        "selected_features are not ascending indices": (
            (np.diff(selected) > 0).all() and (selected >= 0).all() and (selected < n_active).all()
        ),
        f"{n_nodes} rows, expected {traced.ends[2] + len(traced.logit_tokens)}": (
            n_nodes == traced.ends[2] + len(traced.logit_tokens)
        ),
        "bias or total has the wrong length": len(traced.bias) == len(traced.total) == n_nodes,
        "row_offsets do not fit": (
            offsets[0] == 0 and offsets[-1] == len(columns) == len(weights)
            and (np.diff(offsets) >= 0).all()
        ),
        "a column is outside the nodes": (columns >= 0).all() and (columns < n_nodes).all(),
    }
    for fault, good in sound.items():
        if not good:
            sys.exit(f"check_circuit_graph: {path}: {fault}")
    rows = np.repeat(np.arange(n_nodes), np.diff(offsets))
    if len(np.unique(rows * n_nodes + columns)) != len(columns):
        sys.exit(f"check_circuit_graph: {path}: a row has a column twice")
    traced.adjacency[rows, columns] = weights
    return traced


# The model, the transcoders and circuit-tracer's graph


def load_tokenizer(model, folder):
    """The model's tokenizer, saved in `folder` as transformers' AutoTokenizer needs it."""
    config = json.loads(Path(model, "config.json").read_text())
    bare = transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(model, "tokenizer.json")))
    bos = config.get("bos_token_id")
    if bos is not None:
        bare.bos_token = bare.convert_ids_to_tokens(bos)
    bare.save_pretrained(folder)
    return bare


def load_coders(folder):
    """The set or the cross-layer transcoder of a folder, with circuit-tracer's own loaders."""
    config = yaml.safe_load(Path(folder, "config.yaml").read_text())
    exact = {"device": torch.device("cpu"), "dtype": torch.float32}
    exact |= {"lazy_encoder": False, "lazy_decoder": False}
    if config["model_kind"] == "cross_layer_transcoder":  # load_transcoders would ask the hub
        names = ("feature_input_hook", "feature_output_hook", "scan")
        return load_clt(str(folder), **{name: config[name] for name in names}, **exact)
    n_layers = len(list(Path(folder).glob("layer_*.safetensors")))
    config["transcoders"] = [str(Path(folder, f"layer_{i}.safetensors")) for i in range(n_layers)]
    return load_transcoders(config, **exact)


def load_model(model, transcoders, tokenizer, tokenizer_folder):
    """circuit-tracer's replacement model of a local folder, with the checkpoint's own weights."""
    path = str(Path(model).resolve())
    config = loading.get_pretrained_model_config(path, device="cpu", dtype=torch.float32)
    config.tokenizer_name = None  # HookedTransformer would load it, and may ask the hub
    weights = loading.get_pretrained_state_dict(path, config, dtype=torch.float32)
    lens = TransformerLensReplacementModel(config)
    lens.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False,
    )
    lens.tokenizer, lens.cfg.tokenizer_name = tokenizer, str(tokenizer_folder)
    lens._configure_replacement_model(load_coders(transcoders))  # as from_pretrained does
    return lens.eval()


def tokens_of(arguments, tokenizer):
    if arguments.prompt_tokens:
        tokens = [int(part) for part in arguments.prompt_tokens.split(",")]
    else:
        tokens = tokenizer.encode(arguments.prompt, add_special_tokens=False)
        if tokens[0] not in tokenizer.all_special_ids and tokenizer.bos_token_id is not None:
            tokens = [tokenizer.bos_token_id] + tokens
    if tokens[0] not in tokenizer.all_special_ids:
        # circuit-tracer would put a token before the prompt, or fail if the only one has id 0
        sys.exit(
            f"check_circuit_graph: token {tokens[0]} is first, expected a special token: "
            f"{tokenizer.all_special_ids}"
        )
    return tokens


def layer_coder(lens, layer):
    """Encoder rows, their biases, decoder bias and thresholds of a layer."""
    coders = lens.transcoders
    if hasattr(coders, "transcoders"):
        coder = coders[layer]
        threshold = getattr(coder.activation_function, "threshold", torch.zeros(1))
        return coder.W_enc, coder.b_enc, coder.b_dec, threshold
    threshold = getattr(coders.activation_function, "threshold", None)
    threshold = torch.zeros(1) if threshold is None else threshold[layer, 0]
    return coders.W_enc[layer], coders.b_enc[layer], coders.b_dec[layer], threshold


@torch.no_grad()
def constant_part(lens, tokens, rows, logit_tokens):
    """What the rows' targets have from everything that is no node, by a frozen forward pass.

    No node: the decoder biases, the outputs of the MLPs at the positions whose features and errors
    circuit-tracer drops (less the skip connection, through which other nodes act), the encoder
    biases, and biases of the model. Embeddings, features and errors are left out of this pass.
    `rows` holds layer, position and feature: the results are [n_rows] and [n_logits].
    """
    ids = torch.tensor([tokens])
    layers = range(lens.cfg.n_layers)
    read = [f"blocks.{layer}.{lens.feature_input_hook}" for layer in layers]
    write = [f"blocks.{layer}.{lens.original_feature_output_hook}" for layer in layers]
    _, values = lens.run_with_cache(ids)
    frozen = [name for name in values if name.endswith(("hook_pattern", "hook_scale"))]

    def skip(layer, x):
        return lens.transcoders.compute_skip(layer, x) if lens.skip_transcoder else 0 * x

    constant = []
    for layer in layers:
        vector = layer_coder(lens, layer)[2].expand(len(tokens), -1).clone()[None]
        whole = values[write[layer]] - skip(layer, values[read[layer]])
        vector[:, lens.zero_positions] = whole[:, lens.zero_positions]
        constant.append(vector)
    seen = {}

    def look(x, hook, name):
        seen[name] = x

    def replace(x, hook, layer):
        return skip(layer, seen[read[layer]]) + constant[layer]

    hooks = [("hook_embed", lambda x, hook: 0 * x)]
    hooks += [(name, lambda x, hook: values[hook.name]) for name in frozen]
    hooks += [(name, lambda x, hook: look(x, hook, hook.name)) for name in read]
    for layer in layers:
        hooks.append((write[layer], lambda x, hook, layer=layer: replace(x, hook, layer)))
    logits = lens.run_with_hooks(ids, fwd_hooks=hooks)[0, -1]
    biases = np.zeros(len(rows), np.float32)
    for layer in layers:
        here = rows[:, 0] == layer
        encoder, encoder_bias, _, _ = layer_coder(lens, layer)
        position, feature = (torch.from_numpy(rows[here, i].astype(np.int64)) for i in (1, 2))
        products = (seen[read[layer]][0, position] * encoder[feature]).sum(-1)
        biases[here] = (products + encoder_bias[feature]).numpy()
    return biases, (logits[logit_tokens] - logits.mean()).numpy()


@torch.no_grad()
def pre_activations(lens, tokens):
    """Pre-activations and thresholds `[layers, T, d_sae]`, and the logits at the last position."""
    values, hooks = [], []
    for layer in range(lens.cfg.n_layers):

        def look(x, hook, layer=layer):
            encode = lens.transcoders.encode_layer
            values.append(encode(x, layer, apply_activation_function=False)[0].numpy())

        hooks.append((f"blocks.{layer}.{lens.feature_input_hook}", look))
    logits = lens.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks)[0, -1]
    values = np.stack(values)
    width = values.shape[-1]
    thresholds = [layer_coder(lens, i)[3].expand(width).numpy() for i in range(len(values))]
    return values, np.stack(thresholds)[:, None], logits.numpy()


def settings_of(arguments):
    return {
        "max_n_logits": arguments.max_logits, "desired_logit_prob": arguments.logit_probability,
        "batch_size": arguments.batch_size, "max_feature_nodes": arguments.max_feature_nodes,
    }


def traced_of(graph, lens, tokens, pre, logits):
    """circuit-tracer's graph in our layout, with biases and totals from forward passes."""
    active = graph.active_features.numpy().astype(np.int32)
    selected = graph.selected_features.numpy().astype(np.int32)
    targets = graph.logit_token_ids.numpy()
    rows = active[selected]
    between = np.zeros(len(graph.adjacency_matrix) - len(rows) - len(targets), np.float32)
    feature_bias, logit_bias = constant_part(lens, tokens, rows, torch.from_numpy(targets))
    totals = pre[tuple(rows.T)], logits[targets] - logits.mean()
    return Traced(
        active, graph.activation_values.numpy(), selected, np.array(tokens, np.int32),
        targets.astype(np.int32), graph.logit_probabilities.detach().numpy(),
        graph.adjacency_matrix.numpy(), np.concatenate([feature_bias, between, logit_bias]),
        np.concatenate([totals[0], between, totals[1]]).astype(np.float32), lens.cfg.n_layers,
    )


def graph_of(traced, lens):
    """circuit-tracer's Graph of tensors in our layout."""
    decode, tokens = lens.tokenizer.decode, torch.from_numpy(traced.input_tokens).long()
    return Graph(
        input_string=decode(tokens), input_tokens=tokens,
        active_features=torch.from_numpy(traced.active_features).long(),
        adjacency_matrix=torch.from_numpy(traced.adjacency), cfg=lens.cfg,
        selected_features=torch.from_numpy(traced.selected_features).long(),
        activation_values=torch.from_numpy(traced.activation_values),
        logit_targets=[LogitTarget(decode([t]), t) for t in traced.logit_tokens.tolist()],
        logit_probabilities=torch.from_numpy(traced.logit_probabilities), scan=lens.scan,
    )


def write_json(graph, path, arguments):
    """graph.json by circuit-tracer, to which our two scores are added."""
    with tempfile.TemporaryDirectory() as folder:
        thresholds = arguments.node_threshold, arguments.edge_threshold
        create_graph_files(graph, "graph", folder, None, *thresholds)
        content = json.loads(Path(folder, "graph.json").read_text())
    replacement, completeness = compute_graph_scores(graph)
    content["metadata"]["scores"] = {"replacement": replacement, "completeness": completeness}
    Path(path).write_text(json.dumps(content, indent=1))


# Comparison of the tensors


def compare_features(ours, theirs, pre, thresholds, verdict):
    """Active features and activations. Returns the features that only one program has."""
    mine = dict(zip(map(tuple, ours.active_features.tolist()), ours.activation_values))
    their = dict(zip(map(tuple, theirs.active_features.tolist()), theirs.activation_values))
    odd = sorted(mine.keys() ^ their.keys())

    def near(place):
        layer, position, feature = place
        inside = (np.array(place) >= 0).all() and (np.array(place) < pre.shape).all()
        threshold = thresholds[layer, 0, feature] if inside else 0
        return inside and abs(pre[place] - threshold) <= TOLERANCE * max(1, threshold)

    far = [place for place in odd if not near(place)]
    line = f"active features: {len(mine)} and {len(their)}, {len(odd)} in one only"
    verdict.report(not far, line + (f", such as {far[0]}" if far else ""))
    verdict.require(len(odd) <= 1 + len(their) // 1000, f"{len(odd)} features at their thresholds")
    common = sorted(mine.keys() & their.keys())
    values = [np.array([side[place] for place in common], np.float32) for side in (mine, their)]
    verdict.close("activations", *values, np.abs(values[1]).max(initial=0))
    return odd


def compare_logits(ours, theirs, verdict):
    verdict.require(
        ours.input_tokens.tolist() == theirs.input_tokens.tolist(), "input_tokens differ"
    )
    mine, their = ours.logit_tokens.tolist(), theirs.logit_tokens.tolist()
    same = sorted(mine) == sorted(their)
    verdict.report(same, f"logit targets: {len(mine)} and {len(their)}")
    if same:
        wanted = theirs.logit_probabilities[[their.index(token) for token in mine]]
        verdict.close("logit probabilities", ours.logit_probabilities, wanted, wanted)
        falls = np.diff(wanted) <= TOLERANCE * wanted[1:]
        verdict.require(falls.all(), "logit targets are not in the order of their probabilities")
    return same


def shared_nodes(ours, theirs):
    """Indices in both graphs of the nodes that both have."""
    sides = [{key: i for i, key in enumerate(graph.node_ids())} for graph in (ours, theirs)]
    common = [key for key in sides[1] if key in sides[0]]
    return [np.array([side[key] for key in common], np.int64) for side in sides]


def compare_weights(ours, theirs, odd, verdict):
    """Every weight, the biases, the totals and the sums of the rows."""
    mine, their = shared_nodes(ours, theirs)
    n_selected = len(ours.selected_features), len(theirs.selected_features)
    n_common = int((their < n_selected[1]).sum())
    partial = n_selected[1] < len(theirs.active_features)
    most = max(len(odd), max(n_selected) // 100 if partial else 0)
    line = f"feature nodes: {n_selected[0]} and {n_selected[1]}, {n_common} in both"
    verdict.report(max(n_selected) - n_common <= most, line)
    features, errors, tokens = theirs.ends
    n_tokens = len(theirs.input_tokens)
    # a feature that only one program has changes the error nodes of its position
    changed = np.zeros(len(theirs.adjacency), bool)
    for layer, position, _ in odd:
        for later in range(layer, theirs.n_layers):
            changed[features + later * n_tokens + position] = True
    columns = ~changed[their]
    mine_columns, their_columns = mine[columns], their[columns]
    has_row = np.isin(their, theirs.targets())
    mine_rows, their_rows = mine[has_row], their[has_row]
    found = ours.adjacency[np.ix_(mine_rows, mine_columns)]
    wanted = theirs.adjacency[np.ix_(their_rows, their_columns)]
    scale = np.abs(theirs.adjacency[their_rows]).sum(1, dtype=np.float64)
    verdict.close(f"weights ({np.count_nonzero(wanted)})", found, wanted, scale[:, None])
    entries = np.abs(found.astype(np.float64) - wanted) / np.maximum(scale[:, None], 1e-30)
    target, source = np.unravel_index(entries.argmax(), entries.shape)
    names = theirs.node_ids()
    names = [names[i][0] for i in (their_columns[source], their_rows[target])]
    print(
        f"    largest: {names[0]} to {names[1]}, {found[target, source]:.6g} and "
        f"{wanted[target, source]:.6g}"
    )
    others = np.delete(ours.adjacency, ours.targets(), axis=0)
    verdict.require(not others.any(), "an error or token node has a row of weights")
    verdict.require(not ours.adjacency[:, ours.ends[2] :].any(), "a logit node is a source")
    scale = scale + np.abs(theirs.bias[their_rows])
    verdict.close("biases", ours.bias[mine_rows], theirs.bias[their_rows], scale)
    verdict.close("totals", ours.total[mine_rows], theirs.total[their_rows], scale)
    for name, graph in (("ours", ours), ("circuit-tracer's", theirs)):
        if len(graph.selected_features) < len(graph.active_features):
            print(f"  row sums, {name}: not checked, since features were left out")
            continue
        rows = graph.targets()
        sums = graph.adjacency[rows].sum(1, dtype=np.float64) + graph.bias[rows]
        sizes = np.abs(graph.adjacency[rows]).sum(1, dtype=np.float64) + np.abs(graph.bias[rows])
        verdict.close(f"row sums + biases = totals, {name}", sums, graph.total[rows], sizes)


# Comparison of graph.json


def faults_of(value, schema, place="graph"):
    """What a value does wrong by a schema: types, required properties and items."""
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kinds = {"object": dict, "array": list, "string": str, "null": type(None)}
    kinds |= {"integer": int, "number": (int, float)}
    if isinstance(value, bool) or not any(isinstance(value, kinds[name]) for name in names):
        whole = isinstance(value, float) and value.is_integer() and "integer" in names
        return [] if whole else [f"{place} is {value!r:.40}, expected {' or '.join(names)}"]
    faults = []
    if isinstance(value, dict):
        faults += [f"{place} has no {name}" for name in schema["required"] if name not in value]
        for name, part in schema["properties"].items():
            faults += faults_of(value[name], part, f"{place}.{name}") if name in value else []
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            faults += faults_of(item, schema["items"], f"{place}[{i}]")
    return faults


def check_form(content, verdict):
    """The file follows Neuronpedia's schema, and circuit-tracer loads it."""
    faults = faults_of(content, SCHEMA)
    try:
        import jsonschema
    except ImportError:
        checker = "by hand"
    else:
        checker = "by hand and by jsonschema"
        found = jsonschema.Draft7Validator(SCHEMA).iter_errors(content)
        faults += [error.message for error in found]
    verdict.report(not faults, f"Neuronpedia's schema, {checker}{': ' if faults else ''}" + (
        f"{len(faults)} faults, such as: {faults[0]}" if faults else ""
    ))
    try:
        loaded = GraphFile.model_validate(content)
        line, good = f"{len(loaded.nodes)} nodes and {len(loaded.links)} links", True
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        line, good = f"{error.error_count()} faults, such as: {place}: {first['msg']}", False
    verdict.report(good, f"circuit-tracer's model of the file: {line}")
    return good and not faults


def kept_by(graph, names, node_threshold, edge_threshold):
    """The nodes and links that circuit-tracer keeps, without the nodes that have no link."""
    nodes, edges, _ = prune_graph(graph, node_threshold, edge_threshold)
    edges = edges & nodes[:, None] & nodes[None, :]
    linked = edges.any(0) | edges.any(1)
    kinds = [kind for _, kind in names]
    always = torch.tensor([kind in ("embedding", "logit") for kind in kinds])
    kept = (nodes & (linked | always)).nonzero()[:, 0].tolist()
    return set(kept), set(map(tuple, edges.nonzero().tolist()))


def compare_kept(what, found, choose, verdict):
    """What we keep is what circuit-tracer keeps, but for what is on the border."""
    exact = choose(0, 0)
    if found == exact:
        verdict.report(True, f"{what}: {len(found)}, the same")
        return
    around = [choose(*steps) for steps in itertools.product((-EDGE, 0, EDGE), repeat=2)]
    surely, perhaps = set.intersection(*around), set.union(*around)
    wrong = (surely - found) | (found - perhaps)
    undecided = len(found ^ exact)
    line = f"{what}: {len(found)} and {len(exact)}, {undecided} in one only"
    good = not wrong and undecided <= 1 + MOST_UNDECIDED * len(exact)
    verdict.report(good, line + (f", such as {sorted(wrong)[0]}" if wrong else ", on the border"))


def check_pruning(content, ours, lens, arguments, verdict):
    """circuit-tracer prunes our tensors: nodes, links, weights and scores of our graph.json."""
    graph, names = graph_of(ours, lens), ours.node_ids()
    written = [(node["node_id"], node["feature_type"]) for node in content["nodes"]]
    twice = [key for key, count in Counter(written).items() if count > 1]
    verdict.require(not twice, f"graph.json has nodes twice: {twice[:3]}")
    shared = [name for name, count in Counter(name for name, _ in written).items() if count > 1]
    if shared:
        print(f"  {len(shared)} names are those of a feature and of an error, such as {shared[0]}")
    memory = {}

    def kept(node_step, edge_step):
        steps = node_step, edge_step
        if steps not in memory:
            thresholds = arguments.node_threshold, arguments.edge_threshold
            moved = [float(np.clip(t + step, 0, 1)) for t, step in zip(thresholds, steps)]
            nodes, links = kept_by(graph, names, *moved)
            links = {(names[source][0], names[target][0]) for target, source in links}
            memory[steps] = {names[i] for i in nodes}, links
        return memory[steps]

    compare_kept("nodes that pruning keeps", set(written), lambda *s: kept(*s)[0], verdict)
    pairs = [(link["source"], link["target"]) for link in content["links"]]
    compare_kept("links that pruning keeps", set(pairs), lambda *s: kept(*s)[1], verdict)
    known = {name for name, _ in written}
    verdict.require(
        all(end in known for pair in pairs for end in pair), "a link has an end that is no node"
    )
    check_link_weights(content, ours, names, verdict)
    scores = content["metadata"].get("scores") or {}
    wanted = dict(zip(("replacement", "completeness"), compute_graph_scores(graph)))
    for name, value in wanted.items():
        found = scores.get(name)
        good = isinstance(found, (int, float)) and abs(found - value) <= TOLERANCE
        verdict.report(good, f"{name} score: {found} and {value:.6f}")
    check_fields(content, graph, ours, names, lens, arguments, verdict)


def check_link_weights(content, ours, names, verdict):
    """The weight of each link is that of the adjacency matrix."""
    at = defaultdict(list)
    for i, (name, _) in enumerate(names):
        at[name].append(i)
    scale = np.abs(ours.adjacency).sum(1)
    wrong = []
    pairs = Counter()
    for link in content["links"]:
        ends = link["target"], link["source"]
        places = list(itertools.product(at[ends[0]], at[ends[1]]))
        # a name that two nodes share is right with the weight of either
        if not any(
            abs(ours.adjacency[t, s] - link["weight"]) <= TOLERANCE * scale[t]
            and ours.adjacency[t, s] for t, s in places
        ):
            wrong.append(ends[::-1])
        pairs[ends] += 1
        if pairs[ends] > max(len(places), 1):
            wrong.append(ends[::-1])
    fault = f": {len(wrong)} differ, such as {wrong[0]}" if wrong else ""
    verdict.report(not wrong, f"weights of {len(content['links'])} links{fault}")


def check_fields(content, graph, ours, names, lens, arguments, verdict):
    """The fields of our nodes and metadata are those that circuit-tracer writes."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(graph, Path(folder, "graph.json"), arguments)
        theirs = json.loads(Path(folder, "graph.json").read_text())
    their = {(node["node_id"], node["feature_type"]): node for node in theirs["nodes"]}
    index = {key: i for i, key in enumerate(names)}
    weights = np.zeros(len(names), np.float32)
    weights[ours.ends[2] :] = ours.logit_probabilities
    influence = compute_node_influence(graph.adjacency_matrix, torch.from_numpy(weights))
    influence = influence.double().numpy()
    falling = np.sort(influence)[::-1]
    upto, whole = np.concatenate([[0], falling.cumsum()]), influence.sum()
    wrong, labels = defaultdict(list), 0
    for node in content["nodes"]:
        key = node["node_id"], node["feature_type"]
        if key not in their:
            continue
        other = their[key]
        for field in ("feature", "layer", "ctx_idx", "jsNodeId", "is_target_logit"):
            absent = False if field == "is_target_logit" else None
            if node.get(field, absent) != other[field]:
                wrong[field].append(f"{key[0]}: {node.get(field)!r}, expected {other[field]!r}")
        for field in ("activation", "token_prob"):
            found, value = node.get(field) or 0, other[field] or 0
            if abs(found - value) > TOLERANCE * max(1e-3, abs(value)):
                wrong[field].append(f"{key[0]}: {found}, expected {value}")
        if node.get("influence") is not None and key[1] != "logit":
            # the cumulative share may count nodes of nearly the same influence in any order
            size = influence[index[key]]
            least = upto[np.searchsorted(-falling, -size * (1 + TOLERANCE))] + size
            most = upto[np.searchsorted(-falling, -size * (1 - TOLERANCE), side="right")]
            low, high = least / whole - TOLERANCE, most / whole + TOLERANCE
            if not low <= node["influence"] <= high:
                wrong["influence"].append(f"{key[0]}: {node['influence']}, {other['influence']}")
        elif key[1] != "logit":
            wrong["influence"].append(f"{key[0]} has none")
        labels += node["clerp"] != other["clerp"]
    for field, faults in wrong.items():
        verdict.require(False, f"field {field} of {len(faults)} nodes, such as {faults[0]}")
    if not wrong:
        print(f"  fields of the nodes: the same{f'; {labels} labels differ' * bool(labels)}")
    for field in ("prompt", "prompt_tokens", "node_threshold"):
        found, value = content["metadata"].get(field), theirs["metadata"][field]
        verdict.require(found == value, f"metadata.{field}: {found!r}, expected {value!r}")


# The command


def check(ours, theirs, content, pre, thresholds, lens, arguments):
    """All comparisons of one graph. Returns the mismatches."""
    verdict = Verdict()
    odd = compare_features(ours, theirs, pre, thresholds, verdict)
    if compare_logits(ours, theirs, verdict):
        compare_weights(ours, theirs, odd, verdict)
    if content is not None and check_form(content, verdict):
        check_pruning(content, ours, lens, arguments, verdict)
    return verdict.failures


def time_attribution(lens, tokens, arguments):
    seconds, busy = [], []
    for _ in range(3):
        start, used = time.perf_counter(), time.process_time()
        graph = attribute(torch.tensor(tokens), lens, **settings_of(arguments))
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
    shown = ", ".join(f"{value:.2f}" for value in seconds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"circuit-tracer attributes {len(tokens)} tokens, {len(graph.selected_features)} of "
        f"{len(graph.active_features)} features, {len(graph.logit_targets)} logits, on "
        f"{torch.get_num_threads()} threads in {statistics.median(seconds):.2f} s (median of "
        f"{shown}; {statistics.median(busy):.2f} s of CPU time; batches of "
        f"{arguments.batch_size}; {memory:.1f} GiB of memory at most)"
    )
    return graph


def parse(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="folder of the model (Hugging Face layout)")
    parser.add_argument("--transcoders", help="folder in circuit-tracer's layout")
    parser.add_argument("--lapidary", help="our binary: makes transcoders and graphs itself")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default=PROMPT, help="text; BOS is put before it")
    prompt.add_argument("--prompt-tokens", help="token ids: 0,12,345; the first is BOS")
    parser.add_argument("--graph", help="folder with our graph.safetensors and graph.json")
    parser.add_argument("--write", help="folder for circuit-tracer's graph in our layout")
    parser.add_argument("--time", action="store_true", help="time attribute(), median of 3")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--max-feature-nodes", type=int, help="default: all active features")
    parser.add_argument("--max-logits", type=int, default=10)
    parser.add_argument("--logit-probability", type=float, default=0.95)
    parser.add_argument("--batch-size", type=int, default=512, help="rows in a backward pass")
    parser.add_argument("--node-threshold", type=float, default=0.8)
    parser.add_argument("--edge-threshold", type=float, default=0.98)
    arguments = parser.parse_args(words)
    if not (arguments.transcoders or arguments.lapidary):
        parser.error("expected --transcoders or --lapidary")
    return arguments


# What --lapidary trains of each kind: a recipe, and what is changed in it.
KINDS = {
    "plain": ("transcoder-embedded", ["--layers", "0-3"]),
    "skip": ("skip-transcoder-embedded", ["--layers", "0-3"]),
    "cross-layer": ("cross-layer-transcoder-embedded", []),
}
SMALL = {
    "coder.architecture": "jumprelu", "coder.d_sae": 512, "coder.target_l0": 16,
    "training.tokens": 65536, "evaluation.tokens": 0, "features.tokens": 0,
}


def run(*words):
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"check_circuit_graph: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done


def of_kind(kind, folder, arguments):
    """Trains transcoders and makes a graph with them, for main()."""
    recipe, more = KINDS[kind]
    trained, converted, made = (folder / f"{kind}-{name}" for name in ("run", "set", "graph"))
    changes = [f"--set={key}={value}" for key, value in SMALL.items()]
    recipe = REPOSITORY / f"configs/{recipe}.toml"
    run(arguments.lapidary, "train", recipe, *more, *changes, "--quiet", "--out", trained)
    layers = sorted(trained.glob("layer-*")) or [trained]
    convert = ["--format", "circuit_tracer", "--to", converted, "--quiet"]
    run(arguments.lapidary, "convert", "--from", *layers, *convert)
    graph = ["circuit", "graph", "--model", arguments.model, "--transcoders", converted]
    graph += ["--prompt", arguments.prompt, "--threads", arguments.threads, "--device", "cpu"]
    for _ in range(3 if arguments.time else 1):
        done = run(arguments.lapidary, *graph, "--out", made, "--overwrite")
        print(done.stderr.strip().splitlines()[-1])
    words = ["--transcoders", converted, "--graph", made, "--model", arguments.model]
    words += ["--prompt", arguments.prompt, "--threads", arguments.threads]
    words += ["--time"] * arguments.time
    return parse([str(word) for word in words])


def main():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.transcoders:
        compare(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            compare(of_kind(kind, Path(folder), arguments))


def compare(arguments):
    """Compares one graph, or only writes circuit-tracer's."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(arguments.model, folder)
        tokens = tokens_of(arguments, tokenizer)
        lens = load_model(arguments.model, arguments.transcoders, tokenizer, folder)
        print(f"{arguments.transcoders}: {lens.feature_input_hook}, {len(tokens)} tokens")
        print(f"  tokens {','.join(map(str, tokens))}")
        if arguments.time:
            graph = time_attribution(lens, tokens, arguments)
        else:
            graph = attribute(torch.tensor(tokens), lens, **settings_of(arguments))
        if not (arguments.graph or arguments.write):
            return
        pre, thresholds, logits = pre_activations(lens, tokens)
        theirs = traced_of(graph, lens, tokens, pre, logits)
        if arguments.write:
            target = Path(arguments.write)
            target.mkdir(parents=True, exist_ok=True)
            theirs.write(target / "graph.safetensors")
            write_json(graph, target / "graph.json", arguments)
            print(f"{target}: circuit-tracer's graph, {len(theirs.adjacency)} nodes")
        if not arguments.graph:
            return
        ours = read_traced(Path(arguments.graph, "graph.safetensors"), lens.cfg.n_layers)
        file = Path(arguments.graph, "graph.json")
        if not file.exists():
            sys.exit(f"check_circuit_graph: {file} is missing")
        content = json.loads(file.read_text())
        print(f"{arguments.graph}:")
        failures = check(ours, theirs, content, pre, thresholds, lens, arguments)
    if failures:
        sys.exit(f"check_circuit_graph: {len(failures)} mismatches; the first: {failures[0]}")
    print("check_circuit_graph: everything agrees")


if __name__ == "__main__":
    main()
