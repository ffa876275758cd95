#!/usr/bin/env python3
"""Makes tests/fixtures/models/NAME/: small random language models and what transformers computes.

Most folders have config.json and weights as on the hub, and expected.safetensors: `tokens` [2, 19],
`logits`, and the value at every hook point under its TransformerLens name. transformers computes
them in f32 with eager attention. `hook_normalized` is x / scale before weight and bias, as in
TransformerLens 3; `hook_out` is after them.

Other folders are unusual checkpoints (`odd_checkpoints`). Their expected.safetensors or
expected.json has what transformers computes when it loads the folder.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel, AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig,
    GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM, PhiConfig,
    PhiForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = REPOSITORY / "tests/fixtures/models"
# This tokenizer was trained once. It is read before its folder is replaced.
SENTENCEPIECE = (MODELS / "sentencepiece-like/tokenizer.json").read_bytes()
BATCH, POSITIONS = 2, 19


def gpt2(**sizes):
    return GPT2LMHeadModel(GPT2Config(n_positions=32, bos_token_id=0, eos_token_id=0, attn_implementation="eager", **sizes))


def llama(**sizes):
    return LlamaForCausalLM(
        LlamaConfig(max_position_embeddings=32, bos_token_id=1, eos_token_id=2, attn_implementation="eager", **sizes)
    )


def like_llama(model_class, config_class, **sizes):
    return model_class(
        config_class(
            vocab_size=61, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5,
            attn_implementation="eager", **sizes,
        )
    )


def others():
    """Families beyond GPT-2 and Llama, and rotary scalings; 19 positions reach their extras."""
    small = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 4}
    grouped = small | {"num_key_value_heads": 2}
    side = {"vocab_size": 61, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "eager"}
    gemma = grouped | {"head_dim": 10, "query_pre_attn_scalar": 7, "sliding_window": 5, "tie_word_embeddings": True}

    def scaled(**rope):
        return llama(vocab_size=61, tie_word_embeddings=False, **grouped, rope_parameters={"rope_theta": 10000.0, **rope})

    return {
        "neox": GPTNeoXForCausalLM(GPTNeoXConfig(**small | {"hidden_size": 32}, **side, rotary_pct=0.25)),
        "neox-serial": GPTNeoXForCausalLM(
            GPTNeoXConfig(**small | {"hidden_size": 40}, **side, rotary_pct=0.4, use_parallel_residual=False, hidden_act="gelu_fast")
        ),
        "llama-linear": scaled(rope_type="linear", factor=3.0),
        "llama-llama3": scaled(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
        ),
        "llama-yarn": scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=8, beta_fast=4.0),
        "mistral": like_llama(MistralForCausalLM, MistralConfig, sliding_window=6, tie_word_embeddings=False, **grouped),
        "qwen2": like_llama(
            Qwen2ForCausalLM, Qwen2Config, use_sliding_window=True, sliding_window=4, max_window_layers=1,
            tie_word_embeddings=True, **grouped,
        ),
        "qwen3": like_llama(Qwen3ForCausalLM, Qwen3Config, head_dim=10, tie_word_embeddings=False, **grouped),
        "gemma2": like_llama(
            Gemma2ForCausalLM, Gemma2Config, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, **gemma
        ),
        "gemma3": like_llama(
            Gemma3ForCausalLM, Gemma3TextConfig, layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }, **gemma,
        ),
        "opt": OPTForCausalLM(
            OPTConfig(
                vocab_size=61, hidden_size=24, ffn_dim=36, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32,
                word_embed_proj_dim=24, attn_implementation="eager",
            )
        ),
        "phi": PhiForCausalLM(PhiConfig(**small | {"hidden_size": 32}, **side, rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5})),
    }


def randomize(model, seed):
    """Sets weights so large that attention varies and that a wrong bias or norm shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = "ln_" in name or "norm" in name
        if is_norm and name.endswith("weight"):
            value = (0 if "Gemma" in type(model).__name__ else 1) + 0.3 * noise
        elif "wte" in name or "embed_tokens" in name or "lm_head" in name:
            value = 0.4 * noise
        else:
            value = 0.2 * noise
        parameter.data.copy_(value)
    return model.eval()


class Recorder:
    """Copies of the values in a model's modules, by hook point name."""

    def __init__(self):
        self.values = {}

    def keep(self, name, value, heads=None):
        if heads is not None:
            value = value.reshape(*value.shape[:2], heads, -1)  # [batch, pos, head, d_head]
        self.values[name] = value.detach().clone().contiguous()

    def input_of(self, module, name, heads=None):
        module.register_forward_pre_hook(lambda _, inputs: self.keep(name, inputs[0], heads))

    def output_of(self, module, name, heads=None):
        module.register_forward_hook(lambda _, __, output: self.keep(name, output[0] if isinstance(output, tuple) else output, heads))

    def norm(self, module, name, normalize):
        module.register_forward_hook(lambda _, inputs, output: (
            self.keep(f"{name}.hook_normalized", normalize(inputs[0])),
            self.keep(f"{name}.hook_out", output),
        ) and None)

    def pattern_of(self, attention, name):
        attention.register_forward_hook(lambda _, __, output: self.keep(name, output[1]))

    def block(self, i, block, mlp_norm):
        self.input_of(block, f"blocks.{i}.hook_resid_pre")
        self.input_of(mlp_norm, f"blocks.{i}.hook_resid_mid")
        self.output_of(block, f"blocks.{i}.hook_resid_post")
        self.output_of(block.mlp, f"blocks.{i}.hook_mlp_out")


def record_gpt2(model):
    recorder, body, heads = Recorder(), model.transformer, model.config.n_head

    def normalize(x):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=model.config.layer_norm_epsilon)

    recorder.output_of(body.wte, "hook_embed")
    recorder.output_of(body.wpe, "hook_pos_embed")
    for i, block in enumerate(body.h):
        at = f"blocks.{i}"
        recorder.block(i, block, block.ln_2)
        recorder.norm(block.ln_1, f"{at}.ln1", normalize)
        recorder.norm(block.ln_2, f"{at}.ln2", normalize)

        def split(_, __, output, at=at):
            for letter, part in zip("qkv", output.chunk(3, dim=-1)):
                recorder.keep(f"{at}.attn.hook_{letter}", part, heads)

        block.attn.c_attn.register_forward_hook(split)
        recorder.input_of(block.attn.c_proj, f"{at}.attn.hook_z", heads)
        recorder.pattern_of(block.attn, f"{at}.attn.hook_pattern")
        recorder.output_of(block.attn, f"{at}.hook_attn_out")
        recorder.output_of(block.mlp.c_fc, f"{at}.mlp.hook_pre")
        recorder.input_of(block.mlp.c_proj, f"{at}.mlp.hook_post")
    recorder.norm(body.ln_f, "ln_final", normalize)
    return recorder


# Names of a family's modules: body, layers, norms, projections. Names that are not given are
# those of Llama.
LAYOUT = {
    "embed": "embed_tokens", "layers": "layers", "final": "norm", "attention": "self_attn", "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm", "o": "o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}
LAYOUTS = {
    "gpt_neox": {
        "embed": "embed_in", "final": "final_layer_norm", "attention": "attention", "o": "dense", "gate": None,
        "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h",
    },
    "gemma2": {
        "ln2": "pre_feedforward_layernorm", "ln1_post": "post_attention_layernorm", "ln2_post": "post_feedforward_layernorm",
    },
    "opt": {"ln1": "self_attn_layer_norm", "ln2": "final_layer_norm", "final": "final_layer_norm", "o": "out_proj",
            "gate": None, "up": "fc1", "down": "fc2"},
    "phi": {"ln2": None, "final": "final_layernorm", "o": "dense", "gate": None, "up": "mlp.fc1", "down": "mlp.fc2"},
}
LAYOUTS["gemma3_text"] = LAYOUTS["gemma2"]


def record(model):
    recorder, facts = Recorder(), model.config
    body = model.base_model.decoder if facts.model_type == "opt" else model.base_model
    where = LAYOUT | LAYOUTS.get(facts.model_type, {})
    heads = facts.num_attention_heads
    kv_heads = getattr(facts, "num_key_value_heads", heads)
    centred = facts.model_type in ("gpt_neox", "opt", "phi")
    eps = getattr(facts, "rms_norm_eps", None) or getattr(facts, "layer_norm_eps", 1e-5)

    def normalize(x):
        x = x - x.mean(-1, keepdim=True) if centred else x
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    def norm(module, name):
        module.register_forward_hook(lambda _, inputs, output: recorder.keep(f"{name}.hook_normalized", normalize(inputs[0])))

    recorder.output_of(getattr(body, where["embed"]), "hook_embed")
    if facts.model_type == "opt":
        recorder.output_of(body.embed_positions, "hook_pos_embed")
    parallel = facts.model_type == "phi" or getattr(facts, "use_parallel_residual", False)
    for i, block in enumerate(getattr(body, where["layers"])):
        at, attention = f"blocks.{i}", getattr(block, where["attention"])
        recorder.input_of(block, f"{at}.hook_resid_pre")
        recorder.output_of(block, f"{at}.hook_resid_post")
        norm(getattr(block, where["ln1"]), f"{at}.ln1")
        if where["ln2"]:
            norm(getattr(block, where["ln2"]), f"{at}.ln2")
            if not parallel:
                recorder.input_of(getattr(block, where["ln2"]), f"{at}.hook_resid_mid")
        for name in ("ln1_post", "ln2_post"):
            if name in where:
                norm(getattr(block, where[name]), f"{at}.{name}")
        recorder.output_of(getattr(block, where["ln1_post"]) if "ln1_post" in where else attention, f"{at}.hook_attn_out")
        if facts.model_type == "gpt_neox":

            def split(_, __, output, at=at):
                parts = output.reshape(*output.shape[:2], heads, 3, -1)
                for letter, part in zip("qkv", parts.unbind(3)):
                    recorder.keep(f"{at}.attn.hook_{letter}", part)

            attention.query_key_value.register_forward_hook(split)
        else:
            for letter, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                recorder.output_of(getattr(attention, f"{letter}_proj"), f"{at}.attn.hook_{letter}", count)

        def rotated(module, _, kwargs, output, at=at):
            q, k = (recorder.values[f"{at}.attn.hook_{letter}"] for letter in "qk")
            if hasattr(module, "q_norm"):
                q, k = module.q_norm(q), module.k_norm(k)
            cos, sin = kwargs["position_embeddings"]
            dims = cos.shape[-1]
            turned = apply_rotary_pos_emb(q[..., :dims], k[..., :dims], cos, sin, unsqueeze_dim=2)
            for letter, whole, part in zip("qk", (q, k), turned):
                recorder.keep(f"{at}.attn.hook_rot_{letter}", torch.cat([part, whole[..., dims:]], -1))

        if facts.model_type != "opt":
            attention.register_forward_hook(rotated, with_kwargs=True)
        recorder.input_of(getattr(attention, where["o"]), f"{at}.attn.hook_z", heads)
        recorder.pattern_of(attention, f"{at}.attn.hook_pattern")
        up, down = block.get_submodule(where["up"]), block.get_submodule(where["down"])
        if where["gate"]:
            recorder.output_of(block.get_submodule(where["gate"]), f"{at}.mlp.hook_pre")
        recorder.output_of(up, f"{at}.mlp.hook_pre_linear" if where["gate"] else f"{at}.mlp.hook_pre")
        recorder.input_of(down, f"{at}.mlp.hook_post")
        recorder.output_of(getattr(block, where["ln2_post"]) if "ln2_post" in where else down, f"{at}.hook_mlp_out")
    norm(getattr(body, where["final"]), "ln_final")
    return recorder


def expected(model, seed):
    """Everything that the model computes on fixed random tokens."""
    generator = torch.Generator().manual_seed(seed + 1000)
    tokens = torch.randint(model.config.vocab_size, (BATCH, POSITIONS), generator=generator)
    recorder = (record_gpt2 if isinstance(model, GPT2LMHeadModel) else record)(model)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    return {"tokens": tokens, "logits": logits.contiguous(), **recorder.values}


def weights_of(model):
    """The weights without a tied unembedding, as save_pretrained writes them."""
    tied = model.config.tie_word_embeddings
    return {name: value.contiguous() for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}


def write_config(model, folder, hub_style=False):
    facts = model.config.to_dict() | {"architectures": [type(model).__name__]}
    for key in ("_attn_implementation", "_attn_implementation_internal", "attn_implementation", "transformers_version"):
        facts.pop(key, None)
    if hub_style:  # as configs were written before transformers 5
        facts.pop("dtype", None)
        facts["torch_dtype"] = "float32"
        if rope := facts.pop("rope_parameters", None):
            if facts["model_type"] == "gpt_neox":
                facts |= {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope["partial_rotary_factor"]}
            else:
                facts["rope_theta"] = rope["rope_theta"]
    (folder / "config.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def write_whole(model, folder, **style):
    write_config(model, folder, **style)
    save_file(weights_of(model), folder / "model.safetensors", metadata={"format": "pt"})


def write_sharded(model, folder):
    """Writes a folder like the hub's gpt2, in two shards.

    Names have no `transformer.`, and the causal masks are stored as `attn.bias`.
    """
    write_config(model, folder, hub_style=True)
    weights = {name.removeprefix("transformer."): value for name, value in weights_of(model).items()}
    size = model.config.n_positions
    for i in range(model.config.n_layer):
        weights[f"h.{i}.attn.bias"] = torch.tril(torch.ones(size, size)).view(1, 1, size, size)
    names = sorted(weights)
    shards = [names[: len(names) // 2], names[len(names) // 2 :]]
    where = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: weights[name] for name in shard}, folder / file, metadata={"format": "pt"})
        where |= {name: file for name in shard}
    total = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def few(values):
    """The few hook points to record if another folder of the same family records all."""
    return {name: value for name, value in values.items() if name in ("tokens", "logits") or name.endswith("hook_resid_post")}


def make(folder):
    """Makes all models, each in its folder, and returns them by name."""
    models = {}

    def model(name, built, seed, write, reduce=lambda values: values):
        target = folder / name
        target.mkdir(parents=True)
        models[name] = randomize(built, seed)
        write(models[name], target)
        values = expected(models[name], seed)
        save_file(reduce(values), target / "expected.safetensors")
        if name in LENS:
            write_lens(name, models[name], values["tokens"], folder)

    def hub(built, target):
        write_whole(built, target, hub_style=True)

    def bf16(built, target):
        for parameter in built.parameters():  # computed in f32 with the rounded weights
            parameter.data = parameter.data.bfloat16().float()
        write_config(built, target)
        rounded = {name: value.bfloat16() for name, value in weights_of(built).items()}
        save_file(rounded, target / "model.safetensors", metadata={"format": "pt"})

    def old_unembedding(built, target):  # as Pythia's on the hub
        write_whole(built, target, hub_style=True)
        file = target / "model.safetensors"
        weights = load_file(file)
        weights["embed_out.weight"] = weights.pop("lm_head.weight")
        save_file(weights, file, metadata={"format": "pt"})

    llama_sizes = {"rope_theta": 10000.0, "rms_norm_eps": 1e-5}
    model("gpt2", gpt2(vocab_size=97, n_embd=48, n_layer=2, n_head=4), 1, hub)
    model("gpt2-sharded", gpt2(vocab_size=53, n_embd=36, n_layer=2, n_head=3, n_inner=77), 2, write_sharded, few)
    model(
        "llama-gqa",
        llama(
            vocab_size=89, hidden_size=40, intermediate_size=58, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, tie_word_embeddings=False, **llama_sizes,
        ),
        3,
        hub,
    )
    model(
        "llama-tied",
        llama(
            vocab_size=101, hidden_size=32, intermediate_size=52, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, tie_word_embeddings=True, rms_norm_eps=1e-6, rope_theta=50000.0,
        ),
        4,
        write_whole,
    )
    model(
        "llama-bf16",
        llama(
            vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=1, tie_word_embeddings=True, **llama_sizes,
        ),
        5,
        bf16,
        few,
    )
    for seed, (name, built) in enumerate(others().items(), 6):
        write = old_unembedding if name == "neox" else write_whole
        model(name, built, seed, write, few if name in ("neox-serial", "llama-linear", "llama-yarn") else lambda values: values)
    return models


def edit(path, **changes):
    """Changes keys of a JSON file, as Python writes it; a key with the value `...` is removed."""
    values = json.loads(path.read_text()) if path.exists() else {}
    values = {key: value for key, value in (values | changes).items() if value is not ...}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def odd_checkpoints(folder):
    """Unusual checkpoints, and what transformers computes when it loads them."""
    small = {
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": False,
    }
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(77))

    def target(name):
        (folder / name).mkdir(parents=True, exist_ok=True)
        return folder / name

    # The configuration ties the unembedding to the embedding, but the file has another.
    at = target("tied-but-other-head")
    write_whole(randomize(llama(**small), 40), at)
    edit(at / "config.json", tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(at, attn_implementation="eager").eval()
    with torch.no_grad():
        save_file({"tokens": tokens, "logits": model(tokens).logits.contiguous()}, at / "expected.safetensors")

    # Saved from the bare model: names without `model.`, and no unembedding.
    at = target("bare-llama")
    bare = randomize(llama(**small | {"tie_word_embeddings": True}), 41).model
    save_file({name: value.contiguous() for name, value in bare.state_dict().items()}, at / "model.safetensors", metadata={"format": "pt"})
    write_config(bare, at)
    edit(at / "config.json", architectures=["LlamaModel"])
    values = {"tokens": tokens}
    with torch.no_grad():
        states = AutoModel.from_pretrained(at, attn_implementation="eager").eval()(tokens, output_hidden_states=True).hidden_states
        values |= {"blocks.0.hook_resid_pre": states[0], "blocks.0.hook_resid_post": states[1]}
        whole = AutoModelForCausalLM.from_pretrained(at, attn_implementation="eager").eval()
        values["logits"] = whole(tokens).logits
    save_file({name: value.contiguous() for name, value in values.items()}, at / "expected.safetensors")

    # Without `sliding_window`, Mistral has a window of 4096. Logits are recorded at few positions.
    at = target("mistral-no-window-key")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = MistralConfig(vocab_size=31, max_position_embeddings=8192, tie_word_embeddings=True, **sizes)
    write_whole(randomize(MistralForCausalLM(config), 42), at)
    edit(at / "config.json", sliding_window=...)
    model = AutoModelForCausalLM.from_pretrained(at, attn_implementation="eager").eval()
    long = (torch.arange(4400) * 7 % 31).reshape(1, -1)
    places = torch.tensor([0, 1, 4000, 4095, 4096, 4097, 4200, 4399])
    with torch.no_grad():
        logits = model(long, use_cache=False).logits[0, places]
    save_file({"tokens": long, "positions": places, "logits": logits.contiguous()}, at / "expected.safetensors")

    # Weights in f64, and numbers in config.json that JSON does not have.
    at = target("llama-f64")
    model = randomize(llama(**small), 43).double()
    write_whole(model, at)
    edit(at / "config.json", attention_dropout=float("nan"), dtype="float64", router_limit=float("-inf"))
    model = AutoModelForCausalLM.from_pretrained(at, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        save_file({"tokens": tokens, "logits": model(tokens).logits.contiguous()}, at / "expected.safetensors")

    # A tokenizer like SentencePiece's, texts that transformers generates, and tokens as it decodes
    # them. The configurations name the tokens that end a sequence.
    at = target("sentencepiece-like")
    sizes = small | {"vocab_size": 700, "hidden_size": 16, "tie_word_embeddings": True}
    write_whole(randomize(llama(**sizes), 45), at)
    (at / "tokenizer.json").write_bytes(SENTENCEPIECE)
    edit(
        at / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(at)

    def generated(prompt, n, **config):
        with tempfile.TemporaryDirectory() as other:
            for file in at.iterdir():
                shutil.copy(file, other)
            if (of_model := config.get("config")) is not None:
                edit(Path(other) / "config.json", **of_model)
            if (of_generation := config.get("generation_config")) is not None:
                edit(Path(other) / "generation_config.json", **of_generation)
            model = AutoModelForCausalLM.from_pretrained(other).eval()
            ids = tokenizer(prompt, return_tensors="pt")
            found = model.generate(**ids, do_sample=False, max_new_tokens=n)[0].tolist()
        text = tokenizer.decode(found, skip_special_tokens=True)
        return config | {"prompt": prompt, "tokens": n, "ids": found[ids.input_ids.shape[1] :], "text": text}

    prompts = ["peace", "war and peace", "the people of", "We the people", "liberty", "a"]
    texts = [generated(prompt, 12) for prompt in prompts]
    plain = texts[2]["ids"]
    ends = [2, plain[5]]
    texts += [
        generated("the people of", 12, config={"eos_token_id": ends}),
        generated("the people of", 12, config={"eos_token_id": [plain[3], 2]}, generation_config={"eos_token_id": ends}),
        generated("the people of", 12, config={"eos_token_id": ends}, generation_config={"bos_token_id": 1}),
    ]
    sentences = ["We the people in peace and in war", "caf\u00e9 \u20ac5 \U0001f600 end", "a  b\n\nc", " leading"]
    encoded = [{"text": text, "ids": tokenizer(text, add_special_tokens=False).input_ids} for text in sentences]
    # Both tokens are in the middle of a text.
    middle = tokenizer.convert_tokens_to_ids("a")
    inside = {
        token: tokenizer.decode([middle, i, middle])[1:-1]
        for token, i in tokenizer.get_vocab().items() if not token.startswith("<") and len(token) > 1
    }
    some = dict(sorted(inside.items())[:: max(1, len(inside) // 40)])
    runs = [
        [597, 399, 478, 188, 534, 227, 294], [643, 361, 597, 293, 185, 578, 227, 288, 412, 314, 71, 140, 645],
        tokenizer("caf\u00e9 \u20ac5 \U0001f600 end", add_special_tokens=False).input_ids, [332, 332, 304, 2, 597], [198, 172, 198, 289, 71, 71],
    ]
    decoded = [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True)} for ids in runs]
    found = {"generated": texts, "encoded": encoded, "decoded": decoded, "inside": some}
    (at / "expected.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def compare(found, wanted, what):
    """The largest difference; all shapes must be the same."""
    worst = 0.0
    for name, value in wanted.items():
        other = found[name]
        assert other.shape == value.shape, f"{what}: {name}: found {list(other.shape)}, expected {list(value.shape)}"
        worst = max(worst, float((other.double() - value.double()).abs().max()))
    assert worst < 1e-4, f"{what}: differs by {worst:.2e}"
    print(f"{what}: {len(wanted)} tensors, largest difference {worst:.1e}")


def check(committed):
    """Compares the committed folders with models made again."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        odd_checkpoints(Path(folder))
        for path in sorted(Path(folder).rglob("*.safetensors")):
            inside = path.relative_to(folder)
            compare(load_file(committed / inside), load_file(path), str(inside))
        for path in sorted(Path(folder).rglob("expected.json")):
            inside = path.relative_to(folder)
            assert (committed / inside).read_text() == path.read_text(), f"{inside} differs"
            print(f"{inside}: the same")


def lens_config(model):
    """TransformerLens's configuration of a model and its converter of weights."""
    from transformer_lens.pretrained import weight_conversions as convert

    facts = model.config
    kind = facts.model_type
    if kind == "gpt2":
        return {
            "n_layers": facts.n_layer, "d_model": facts.n_embd, "n_heads": facts.n_head, "d_head": facts.n_embd // facts.n_head,
            "d_mlp": facts.n_inner or 4 * facts.n_embd, "act_fn": "gelu_new", "eps": facts.layer_norm_epsilon,
            "normalization_type": "LN",
        }, convert.convert_gpt2_weights
    heads = facts.num_attention_heads
    shape = {
        "n_layers": facts.num_hidden_layers, "d_model": facts.hidden_size, "n_heads": heads,
        "d_head": getattr(facts, "head_dim", None) or facts.hidden_size // heads,
        "d_mlp": facts.ffn_dim if kind == "opt" else facts.intermediate_size,
    }
    if kind == "opt":
        return shape | {"act_fn": "relu", "eps": 1e-5, "normalization_type": "LN"}, convert.convert_opt_weights
    rope = facts.rope_parameters
    rotary = {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": False}
    if kind in ("gpt_neox", "phi"):
        side = shape | rotary | {
            "eps": facts.layer_norm_eps, "normalization_type": "LN", "act_fn": facts.hidden_act, "rotary_base": rope["rope_theta"],
            "rotary_dim": round(rope["partial_rotary_factor"] * shape["d_head"]),
            "parallel_attn_mlp": getattr(facts, "use_parallel_residual", True),
        }
        return side, convert.convert_neox_weights if kind == "gpt_neox" else convert.convert_phi_weights
    config = shape | rotary | {
        "n_key_value_heads": facts.num_key_value_heads, "eps": facts.rms_norm_eps, "normalization_type": "RMS", "gated_mlp": True,
        "final_rms": True, "rotary_dim": shape["d_head"], "act_fn": getattr(facts, "hidden_act", None) or facts.hidden_activation,
        "use_qk_norm": kind in ("qwen3", "gemma3_text"),
    }
    types = getattr(facts, "layer_types", None) or ["sliding_attention" if kind == "mistral" else "full_attention"] * shape["n_layers"]
    if "sliding_attention" in types:
        config |= {
            "use_local_attn": True, "window_size": facts.sliding_window,
            "attn_types": ["local" if name == "sliding_attention" else "global" for name in types],
        }
    if kind.startswith("gemma"):
        config |= {
            "act_fn": "gelu_pytorch_tanh", "attn_scale": facts.query_pre_attn_scalar**0.5, "use_normalization_before_and_after": True,
            "original_architecture": "Gemma2ForCausalLM" if kind == "gemma2" else "Gemma3ForCausalLM",
        }
    if kind == "gemma2":
        config |= {"attn_scores_soft_cap": facts.attn_logit_softcapping, "output_logits_soft_cap": facts.final_logit_softcapping}
    if kind == "gemma3_text":
        both = rope["full_attention"], rope["sliding_attention"]
        config |= {"rotary_base": both[0]["rope_theta"], "rotary_base_local": both[1]["rope_theta"],
                   "rotary_scaling_factor": both[0]["factor"]}
    else:
        config["rotary_base"] = int(rope["rope_theta"])
    converters = {
        "llama": convert.convert_llama_weights, "mistral": convert.convert_mistral_weights, "qwen2": convert.convert_qwen2_weights,
        "qwen3": convert.convert_qwen3_weights, "gemma2": convert.convert_gemma_weights, "gemma3_text": convert.convert_gemma_weights,
    }
    return config, converters[kind]


def lens_of(model, n_ctx=32):
    """TransformerLens's unprocessed model with the same weights, and its harmless hook points."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes, convert = lens_config(model)
    config = HookedTransformerConfig(
        n_ctx=n_ctx, d_vocab=model.config.vocab_size, seed=0, device="cpu", use_attn_result=True, use_hook_mlp_in=True, **sizes
    )
    weights = convert(model, config)
    lens = HookedTransformer(config)
    lens.load_and_process_state_dict(  # this empties its argument
        dict(weights), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return lens, weights


def edited_heads(lens, tokens):
    """Logits after the inputs of single heads of the last layer are replaced."""
    last, d_model = f"blocks.{lens.cfg.n_layers - 1}", lens.cfg.d_model
    direction = torch.sin(torch.arange(d_model, dtype=torch.float32))

    def query(value, hook):
        value[:, :, 1] += direction
        return value

    def key(value, hook):
        value[:, 2, 0] -= direction
        return value

    def zero(value, hook):
        value[:, 3, -1] = 0
        return value

    with torch.no_grad():
        lens.set_use_split_qkv_input(True)
        hooks = [(f"{last}.hook_{letter}_input", edit) for letter, edit in (("q", query), ("k", key), ("v", zero))]
        values = {"edited.inputs": lens.run_with_hooks(tokens, fwd_hooks=hooks)}
        lens.set_use_split_qkv_input(False)
        if not lens.cfg.n_key_value_heads or lens.cfg.n_key_value_heads == lens.cfg.n_heads:
            lens.set_use_attn_in(True)
            values["edited.attn_in"] = lens.run_with_hooks(tokens, fwd_hooks=[(f"{last}.hook_attn_in", query)])
            lens.set_use_attn_in(False)
    return values


# Folders with all hook points and simplified weights. The others have those of the last layer.
LENS_WHOLE = ("gpt2-sharded", "llama-gqa")
LENS = (*LENS_WHOLE, "neox", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "opt", "phi")


def write_lens(name, model, tokens, folder):
    """Writes what only TransformerLens computes.

    That is its other hook points, changed inputs of single heads, and simplified weights.
    """
    lens, weights = lens_of(model)
    with torch.no_grad():
        _, cache = lens.run_with_cache(tokens)
    ends = ("hook_scale", "hook_attn_scores", "hook_result")
    kept = f"blocks.{lens.cfg.n_layers - 1}."
    if name in LENS_WHOLE:
        ends, kept = (*ends, "hook_mlp_in", "hook_rot_q", "hook_rot_k"), ""
    values = {key: value for key, value in cache.items() if key.endswith(ends) and key.startswith(kept) and "k_norm" not in key and "q_norm" not in key}
    values |= edited_heads(lens, tokens)
    if name in LENS_WHOLE:
        lens.load_and_process_state_dict(
            weights, fold_ln=True, center_writing_weights=name.startswith("gpt2"), center_unembed=True, fold_value_biases=False
        )
        roles = ("embed.", "unembed.", "pos_embed.", "blocks.0.attn.", "blocks.0.mlp.")
        values |= {
            f"simplified.{key}": value
            for key, value in lens.state_dict().items()
            if key.startswith(roles) and not key.endswith(("mask", "IGNORE", "rotary_sin", "rotary_cos")) and value.is_floating_point()
        }
    save_file({key: value.clone().contiguous() for key, value in values.items()}, folder / name / "lens.safetensors")


def check_transformer_lens(committed):
    """Compares the committed values with TransformerLens, on the models as it converts them."""
    with tempfile.TemporaryDirectory() as folder:
        models = make(Path(folder))
    for name, model in models.items():
        if name not in LENS and name not in ("gpt2", "llama-tied", "llama-bf16", "neox-serial"):
            continue
        lens, _ = lens_of(model)
        wanted = load_file(committed / name / "expected.safetensors")
        tokens = wanted.pop("tokens")
        wanted = {key: value for key, value in wanted.items() if not key.endswith("hook_out")}
        with torch.no_grad():
            logits, cache = lens.run_with_cache(tokens)
        found = {"logits": logits, **cache}
        if "hook_pos_embed" in wanted:
            wanted["hook_pos_embed"] = wanted["hook_pos_embed"].expand_as(found["hook_pos_embed"])
        if name == "opt":  # transformers flattens the MLP's input here
            wanted = {key: value.reshape(found[key].shape) for key, value in wanted.items()}
        compare(found, wanted, f"{name} against TransformerLens")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/make_model_fixtures.py --check",
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="folder of the models (default: tests/fixtures/models); replaced")
    parser.add_argument("--check", action="store_true", help="write nothing; compare the folder with what transformers computes now")
    parser.add_argument("--transformer-lens", action="store_true", help="write nothing; compare the folder with TransformerLens")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.check:
        check(arguments.out)
    elif arguments.transformer_lens:
        check_transformer_lens(arguments.out)
    else:
        shutil.rmtree(arguments.out, ignore_errors=True)
        make(arguments.out)
        odd_checkpoints(arguments.out)
        size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
        print(f"{arguments.out}: {size} bytes")


if __name__ == "__main__":
    main()
