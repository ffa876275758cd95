#!/usr/bin/env python3
"""Makes tests/fixtures/gguf: small random GGUF models and what transformers computes with them.

gguf, llama.cpp's own Python package, writes each file and decodes its blocks. transformers computes
in f32 with the decoded weights. NAME.expected.safetensors has `tokens` and `logits`. Llama and Qwen
2 have blocks of many kinds. The other architectures are transformers models in f32, written as
llama.cpp's converter would write them, with the names of the gguf package.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import MODEL_ARCH, GGUFReader, GGUFWriter, TokenType, get_tensor_name_map
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel,
    GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM, Qwen2Config, Qwen2ForCausalLM,
)

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
    """Random weights as blocks of this kind. gguf cannot make K blocks: they get random bits."""
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
    """transformers' model with the file's weights; llama's rotary halves are interleaved there."""
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


def whole_models():
    """A model of each other architecture, and the keys of its configuration that the file has."""
    side = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "max_position_embeddings": 32}
    gemma = side | {"num_key_value_heads": 2, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 5, "rms_norm_eps": 1e-5}
    return {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_inner=40, n_positions=32)),
        "gptneox": GPTNeoXForCausalLM(GPTNeoXConfig(num_hidden_layers=2, rotary_pct=0.5, **side)),
        "phi2": PhiForCausalLM(
            PhiConfig(num_hidden_layers=2, rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5}, hidden_act="gelu_new", **side)
        ),
        "gemma2": Gemma2ForCausalLM(
            Gemma2Config(num_hidden_layers=2, attn_logit_softcapping=3.0, final_logit_softcapping=4.0, **gemma)
        ),
        "gemma3": Gemma3ForCausalLM(
            Gemma3TextConfig(
                num_hidden_layers=6, layer_types=["sliding_attention"] * 5 + ["full_attention"],
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }, **gemma,
            )
        ),
    }


def converted(architecture, name, weight, heads):
    """A weight as llama.cpp's converter writes it."""
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return weight.T
    if architecture == "gptneox" and "query_key_value" in name:
        return weight.reshape(heads, 3, weight.shape[0] // heads // 3, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    return weight


def write_whole(path, architecture, model):
    facts = model.config
    layers, heads = facts.num_hidden_layers, facts.num_attention_heads
    writer = GGUFWriter(path, architecture)
    writer.add_embedding_length(facts.hidden_size)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(getattr(facts, "n_inner", None) or facts.intermediate_size)
    writer.add_head_count(heads)
    writer.add_context_length(32)
    if architecture.startswith("gemma"):
        writer.add_head_count_kv(facts.num_key_value_heads)
        writer.add_key_length(facts.head_dim)
        writer.add_value_length(facts.head_dim)
        writer.add_layer_norm_rms_eps(facts.rms_norm_eps)
        writer.add_sliding_window(facts.sliding_window)
    else:
        writer.add_layer_norm_eps(1e-5)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(facts.attn_logit_softcapping)
        writer.add_final_logit_softcapping(facts.final_logit_softcapping)
    if architecture == "gemma3":
        writer.add_rope_freq_base(1e6)
        writer.add_string("gemma3.rope.scaling.type", "linear")
        writer.add_float32("gemma3.rope.scaling.factor", 8.0)
    if architecture in ("gptneox", "phi2"):
        writer.add_rope_dimension_count(facts.hidden_size // heads // 2)
    if architecture == "gptneox":
        writer.add_parallel_residual(True)
    kind = next(kind for kind in MODEL_ARCH if kind.name.lower() == architecture)
    names = get_tensor_name_map(kind, layers)
    # older files of Phi have queries, keys and values in one tensor: the last layer here has
    together = {}
    for name, value in model.state_dict().items():
        tied = model.config.tie_word_embeddings and name == "lm_head.weight"
        if tied or name.endswith((".attn.bias", ".masked_bias", "inv_freq")):
            continue
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if architecture == "phi2" and name.startswith(f"model.layers.{layers - 1}.self_attn.") and "dense" not in name:
            together.setdefault(name.rsplit(".")[-1], []).append((name, value.float().numpy()))
            continue
        writer.add_tensor(there, np.ascontiguousarray(converted(architecture, name, value.float().numpy(), heads)))
    for which, parts in together.items():
        order = [next(value for name, value in parts if f"{letter}_proj" in name) for letter in "qkv"]
        writer.add_tensor(f"blk.{layers - 1}.attn_qkv.{which}", np.concatenate(order))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_whole(folder, architecture, seed):
    torch.manual_seed(seed)
    model = whole_models()[architecture].eval()
    for name, parameter in sorted(model.named_parameters()):
        shift = 1.0 if name.endswith("weight") and ("norm" in name or "ln_" in name) and not architecture.startswith("gemma") else 0.0
        parameter.data = shift + 0.3 * torch.randn(parameter.shape)
    path = folder / f"{architecture}.gguf"
    write_whole(path, architecture, model)
    tokens = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(tokens).logits.contiguous()
    save_file({"tokens": tokens, "logits": logits}, folder / f"{architecture}.expected.safetensors")


def make(folder):
    for seed, architecture in enumerate(KINDS):
        path = folder / f"{architecture}.gguf"
        write(path, architecture, seed)
        tokens = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            logits = model_of(path, architecture)(tokens).logits.contiguous()
        save_file({"tokens": tokens, "logits": logits}, folder / f"{architecture}.expected.safetensors")
    for seed, architecture in enumerate(whole_models(), 10):
        make_whole(folder, architecture, seed)


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
