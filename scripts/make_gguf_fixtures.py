#!/usr/bin/env python3
"""Makes small random GGUF models and what transformers computes with their weights: tests/fixtures/gguf/.

The file is written and its blocks are decoded by llama.cpp's own Python package, gguf; the weights then go through
transformers in f32. NAME.expected.safetensors has `tokens` and `logits`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter, TokenType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

FIXTURES = Path(__file__).resolve().parent.parent / "tests/fixtures/gguf"
WIDTH, VOCABULARY, HEADS, KV_HEADS, D_HEAD, MLP, LAYERS = 256, 24, 4, 2, 16, 32, 1
NAMES = {
    "token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
KINDS = {
    "llama": {
        "token_embd": Kind.Q6_K, "output": Kind.F16, "attn_q": Kind.Q4_0, "attn_k": Kind.Q4_1, "attn_v": Kind.Q5_0,
        "attn_output": Kind.Q5_1, "ffn_gate": Kind.Q4_K, "ffn_up": Kind.Q5_K, "ffn_down": Kind.Q8_0,
    },
    "qwen2": {"token_embd": Kind.BF16, "attn_q": Kind.Q8_0},
}


def blocks(kind, shape, generator):
    """Random weights in this kind's blocks. gguf cannot make K blocks, so those get random bits and small scales."""
    if kind not in (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K):
        return quantize((0.2 * generator.standard_normal(shape)).astype(np.float32), kind)
    weights, size = GGML_QUANT_SIZES[kind]
    data = generator.integers(0, 256, (shape[0], shape[1] // weights, size), dtype=np.uint8)
    scale = generator.uniform(1e-4, 3e-4, (*data.shape[:2], 2)).astype(np.float16).view(np.uint8)
    if kind == Kind.Q6_K:
        data[..., 208:210] = scale[..., :2]
    else:
        scale[..., 2:] = (generator.uniform(5e-4, 1e-3, data.shape[:2]).astype(np.float16)[..., None].view(np.uint8))
        data[..., :4] = scale
    return data.reshape(shape[0], -1)


def shapes(architecture):
    matrices = {
        "token_embd": (VOCABULARY, WIDTH), "attn_q": (HEADS * D_HEAD, WIDTH), "attn_k": (KV_HEADS * D_HEAD, WIDTH),
        "attn_v": (KV_HEADS * D_HEAD, WIDTH), "attn_output": (WIDTH, HEADS * D_HEAD), "ffn_gate": (MLP, WIDTH),
        "ffn_up": (MLP, WIDTH), "ffn_down": (WIDTH, MLP),
    }
    return matrices | ({"output": (VOCABULARY, WIDTH)} if architecture == "llama" else {})


def write(path, architecture, seed):
    generator = np.random.default_rng(seed)
    writer = GGUFWriter(path, architecture)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(D_HEAD)
    writer.add_context_length(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if architecture == "llama" else "qwen2")
    letters = [chr(ord("a") + i) for i in range(VOCABULARY - 3)]
    writer.add_token_list(["<|endoftext|>", *letters, "Ġ", "ab"])
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (VOCABULARY - 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for part, shape in shapes(architecture).items():
        outer = part in ("token_embd", "output")
        kind = KINDS[architecture].get(part, Kind.F32)
        data = blocks(kind, shape, generator)
        name = f"{part}.weight" if outer else f"blk.0.{part}.weight"
        writer.add_tensor(name, data, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", (1 + 0.3 * generator.standard_normal(WIDTH)).astype(np.float32))
    if architecture == "qwen2":
        for part in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"blk.0.{part}.bias", (0.3 * generator.standard_normal(shapes(architecture)[part][0])).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_of(path, architecture):
    """transformers' model with the file's weights; the llama architecture keeps rotary halves interleaved."""
    facts = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": D_HEAD, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    }
    if architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **facts))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=True, **facts))
    state = {}
    for tensor in GGUFReader(path).tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        weight = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        part, kind = tensor.name.removeprefix("blk.0.").split(".")
        if architecture == "llama" and part in ("attn_q", "attn_k"):
            heads = HEADS if part == "attn_q" else KV_HEADS
            weight = weight.reshape(heads, D_HEAD // 2, 2, WIDTH).transpose(0, 2, 1, 3).reshape(-1, WIDTH)
        outer = part in ("token_embd", "output_norm")
        name = "lm_head.weight" if part == "output" else f"model.{'' if outer else 'layers.0.'}{NAMES[part]}.{kind}"
        state[name] = torch.from_numpy(np.ascontiguousarray(weight))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def make(folder):
    for seed, architecture in enumerate(KINDS):
        path = folder / f"{architecture}.gguf"
        write(path, architecture, seed)
        tokens = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            logits = model_of(path, architecture)(tokens).logits.contiguous()
        save_file({"tokens": tokens, "logits": logits}, folder / f"{architecture}.expected.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; compare the folder with what comes out now")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.check:
        FIXTURES.mkdir(parents=True, exist_ok=True)
        make(FIXTURES)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for path in sorted(Path(folder).glob("*.safetensors")):
            found, wanted = load_file(FIXTURES / path.name), load_file(path)
            worst = max(float((found[name].double() - value.double()).abs().max()) for name, value in wanted.items())
            assert worst < 1e-4, f"{path.name}: differs by {worst:.2e}"
            print(f"{path.name}: largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
