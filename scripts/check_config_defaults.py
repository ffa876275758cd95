#!/usr/bin/env python3
"""Records what an absent or null key of config.json means in each model family of transformers.

Writes two files, which crates/model/tests/model/config.rs reads:

- crates/model/src/defaults.json has the defaults of the keys that Lapidary reads.
- tests/fixtures/config-cases.json has small configurations with keys left out, set to null, or in
  older spellings, each with the values that transformers uses.

With --check nothing is written, and a difference is an error.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULTS = REPOSITORY / "crates/model/src/defaults.json"
CASES = REPOSITORY / "tests/fixtures/config-cases.json"

TOKENS = ["vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"]
LLAMA = TOKENS + [
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "rms_norm_eps", "hidden_act",
]
GEMMA = [key for key in LLAMA if key != "hidden_act"] + [
    "attention_bias", "hidden_activation", "query_pre_attn_scalar", "sliding_window", "layer_types", "attn_logit_softcapping",
    "final_logit_softcapping", "use_bidirectional_attention",
]
WINDOWS = ["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"]
# The keys that we read, by model_type.
KEYS = {
    "gpt2": TOKENS + [
        "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function", "layer_norm_epsilon", "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx", "add_cross_attention",
    ],
    "gpt_neox": TOKENS + [
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "max_position_embeddings",
        "layer_norm_eps", "use_parallel_residual", "attention_bias",
    ],
    "llama": LLAMA + ["attention_bias", "mlp_bias"],
    "mistral": LLAMA + ["sliding_window"],
    "qwen2": [key for key in LLAMA if key != "head_dim"] + WINDOWS,
    "qwen3": LLAMA + ["attention_bias"] + WINDOWS,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "opt": TOKENS + [
        "hidden_size", "num_hidden_layers", "ffn_dim", "max_position_embeddings", "do_layer_norm_before", "_remove_final_layer_norm",
        "word_embed_proj_dim", "num_attention_heads", "activation_function", "enable_bias", "layer_norm_elementwise_affine",
    ],
    "phi": [key for key in LLAMA if key not in ("head_dim", "rms_norm_eps")] + ["layer_norm_eps", "qk_layernorm"],
}
# Small sizes that fit the defaults of the other keys; few of them are defaults.
SIZES = {
    "vocab_size": 61, "hidden_size": 512, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 64,
    "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 64, "n_positions": 64, "n_embd": 512, "n_layer": 3, "n_head": 64,
    "n_inner": 40, "ffn_dim": 40, "bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5, "rms_norm_eps": 1e-4, "layer_norm_eps": 1e-4,
    "layer_norm_epsilon": 1e-4, "hidden_act": "relu", "activation_function": "silu", "hidden_activation": "gelu", "sliding_window": 7,
    "query_pre_attn_scalar": 9, "attn_logit_softcapping": 11.0, "final_logit_softcapping": 12.0, "max_window_layers": 1,
    "use_sliding_window": True,
}
FLIPPED = ["tie_word_embeddings", "attention_bias", "mlp_bias", "use_parallel_residual", "enable_bias"]
# Older spellings and combinations, and keys that few configurations have.
EXTRAS = {
    "gpt2": [
        {"n_ctx": 16}, {"hidden_size": 128}, {"n_embd": None, "hidden_size": 192}, {"max_position_embeddings": 32},
        {"num_hidden_layers": 2, "num_attention_heads": 2}, {"attention_bias": True}, {"eos_token_id": [4, 9]},
    ],
    "gpt_neox": [
        {"rotary_pct": 0.5}, {"rotary_emb_base": 500.0}, {"rope_theta": 300.0}, {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_theta": 700.0, "rope_type": "default"}}, {"rope_parameters": None}, {"rotary_pct": 0.5, "rope_parameters": {}},
        {"partial_rotary_factor": 0.5},
    ],
    "llama": [
        {"rope_theta": 300.0}, {"rope_scaling": None}, {"rope_scaling": {"type": "linear", "factor": 2.0}}, {"rope_parameters": None},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 300.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 9.0}},
        {"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 3.0}},
        {"rope_parameters": {"rope_theta": 700.0}}, {"rope_parameters": {"rope_type": "default", "rope_theta": 700.0}, "rope_theta": 300.0},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
        {
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 16,
        },
        {"sliding_window": 5}, {"layer_types": ["sliding_attention"] * 3, "sliding_window": 5}, {"eos_token_id": [4, 9]},
        {"eos_token_id": [9]}, {"bos_token_id": None, "eos_token_id": None}, {"qk_layernorm": True},
    ],
    "mistral": [
        {"attention_bias": True}, {"mlp_bias": True}, {"layer_types": ["full_attention"] * 3}, {"rope_theta": 300.0}, {"use_sliding_window": False},
    ],
    "qwen2": [
        {"use_sliding_window": False}, {"sliding_window": None}, {"max_window_layers": 0}, {"max_window_layers": 9}, {"rope_theta": 300.0},
        {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, {"attention_bias": True}, {"mlp_bias": True},
        {"use_sliding_window": False, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}, {"head_dim": 10},
    ],
    "qwen3": [
        {"use_sliding_window": False}, {"sliding_window": None}, {"max_window_layers": 0}, {"mlp_bias": True},
        {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ],
    "gemma2": [
        {"hidden_act": "relu"}, {"layer_types": ["full_attention"] * 3}, {"sliding_window": 5}, {"rope_theta": 300.0}, {"mlp_bias": True},
        {"layer_types": ["full_attention"] * 3, "sliding_window": None},
    ],
    "gemma3_text": [
        {"sliding_window_pattern": 2}, {"rope_theta": 300.0}, {"rope_local_base_freq": 200.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": None}, "sliding_window_pattern": 2},
        {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 70.0}}, "rope_theta": 300.0},
        {
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 90.0}}, "sliding_window_pattern": 2,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ],
    "opt": [{"bias": False}],
    "phi": [
        {"rope_theta": 300.0}, {"partial_rotary_factor": 0.25}, {"rope_parameters": {"rope_theta": 700.0}},
        {"rope_parameters": {"rope_theta": 700.0, "partial_rotary_factor": 1.0}}, {"rope_scaling": {"type": "linear", "factor": 2.0}}, {"head_dim": 12},
    ],
}


def defaults():
    """The keys that we read: their defaults, which may be null, and other spellings, by family."""
    found = {}
    for kind, keys in KEYS.items():
        config = CONFIG_MAPPING[kind]
        values, nullable = {}, []
        for key in sorted(keys):
            field = config.__dataclass_fields__.get(key)
            assert field is not None, f"{kind}: {key} is no key of {config.__name__}"
            values[key] = field.default
            try:
                config(**{key: None})
                nullable.append(key)
            except Exception:  # null is refused: the key needs a value
                pass
        aliases = {other: own for other, own in config.attribute_map.items() if own in keys}
        found[kind] = {"defaults": values, "nullable": nullable, "aliases": aliases}
    return found


def base(kind):
    found = {"model_type": kind}
    for key in KEYS[kind]:
        default = CONFIG_MAPPING[kind].__dataclass_fields__[key].default
        if key in SIZES:
            found[key] = SIZES[key]
        elif key in FLIPPED:
            found[key] = not default
    return found


def same(values):
    """The value of all, if all are the same."""
    return values[:1] if all(value == values[0] for value in values) else values


def facts(values):
    """The values that transformers uses for a config.json. The built model gives those it lacks."""
    values = json.loads(json.dumps(values))
    config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    kind, get = config.model_type, lambda *names: next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
    body = model.base_model.decoder if kind == "opt" else model.base_model
    layers = body.h if kind == "gpt2" else body.layers
    attention = [getattr(layer, "attn", None) or getattr(layer, "attention", None) or layer.self_attn for layer in layers]
    qkv = getattr(attention[0], "c_attn", None) or getattr(attention[0], "query_key_value", None) or attention[0].q_proj
    out = getattr(attention[0], "c_proj", None) or getattr(attention[0], "dense", None) or getattr(attention[0], "o_proj", None) or attention[0].out_proj
    mlp = getattr(layers[0], "mlp", None)
    up = layers[0].fc1 if mlp is None else next(module for module in mlp.children() if hasattr(module, "weight"))
    heads, width = get("num_attention_heads", "n_head"), get("hidden_size", "n_embd")
    d_head = getattr(attention[0], "head_dim", None) or width // heads
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    windows = [None] * len(layers)
    if kind == "mistral":
        windows = [window] * len(layers)
    elif kind in ("qwen2", "qwen3", "gemma2", "gemma3_text"):
        windows = [window if name == "sliding_attention" else None for name in types]
        if window is None and "sliding_attention" in types and kind.startswith("gemma"):
            raise ValueError("the model's masks refuse it")
    ropes = [None] * len(layers)
    rope = getattr(config, "rope_parameters", None)
    if rope is not None:
        rope = [rope if "full_attention" not in rope and "sliding_attention" not in rope else rope[name] for name in types or [None] * len(layers)]
        ropes = [
            {
                "theta": one["rope_theta"], "type": one["rope_type"], "dims": int(d_head * one.get("partial_rotary_factor", 1.0)),
                "factor": one.get("factor"), "original": one.get("original_max_position_embeddings"),
            }
            for one in rope
        ]
    eos = config.eos_token_id
    return {
        "d_model": width, "n_layers": len(layers), "n_heads": heads,
        "n_kv_heads": getattr(config, "num_key_value_heads", None) or heads, "d_head": d_head, "d_mlp": up.weight.shape[1 if kind == "gpt2" else 0],
        "d_vocab": config.vocab_size, "n_ctx": get("max_position_embeddings"),
        "norm_eps": get("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon") or 1e-5,
        "activation": get("hidden_activation", "hidden_act", "activation_function"), "tied": config.tie_word_embeddings,
        "bos": config.bos_token_id, "eos": eos if isinstance(eos, list) else [eos] if eos is not None else [], "pad": config.pad_token_id,
        "qkv_bias": qkv.bias is not None, "o_bias": out.bias is not None, "mlp_bias": up.bias is not None,
        "attn_softcap": getattr(config, "attn_logit_softcapping", None), "logit_softcap": getattr(config, "final_logit_softcapping", None),
        "attn_scale": float(getattr(attention[0], "scaling", None) or d_head**-0.5), "windows": same(windows), "ropes": same(ropes),
        "parallel": kind == "phi" or getattr(config, "use_parallel_residual", False),
    }


def cases():
    """A small configuration of each family with its values, and changes with the changed values."""
    found = {}
    for kind in KEYS:
        small = base(kind)
        whole = facts(small)
        tried = []
        for key in sorted(set(small) - {"model_type"}):
            tried += [{"without": [key]}, {"with": {key: None}}]
        tried += [{"with": extra} for extra in EXTRAS[kind]]
        tried.append({"without": sorted(set(small) - {"model_type"})})
        for case in tried:
            values = {key: value for key, value in small.items() if key not in case.get("without", [])} | case.get("with", {})
            try:
                now = facts(values)
                case["changes"] = {key: value for key, value in now.items() if value != whole[key]}
            except Exception as error:  # any error means that it is refused
                case["refused"] = type(error).__name__
        found[kind] = {"config": small, "expected": whole, "cases": tried}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; compare the files with what transformers says now")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    wrong = 0
    for path, values in ((DEFAULTS, defaults()), (CASES, cases())):
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        if path == CASES:  # one case per line
            lines = []
            for kind, family in values.items():
                rows = ",\n".join(json.dumps(case, sort_keys=True) for case in family["cases"])
                start = ", ".join(f'"{key}": {json.dumps(family[key], sort_keys=True)}' for key in ("config", "expected"))
                lines.append(f'"{kind}": {{{start}, "cases": [\n{rows}\n]}}')
            text = "{\n" + ",\n".join(lines) + "\n}\n"
            json.loads(text)
        if not arguments.check:
            path.write_text(text)
            print(f"{path}: {len(values)} entries")
        elif path.read_text() != text:
            wrong += 1
            print(f"{path} differs from what transformers {transformers.__version__} says: run this script without --check, and look", file=sys.stderr)
        else:
            print(f"{path}: as transformers {transformers.__version__} has it")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
