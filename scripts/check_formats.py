#!/usr/bin/env python3
"""Checks the formats of dictionaries with the libraries that define them.

SAELens, sparsify, dictionary_learning and Llamascopium make and save small random coders. Others
are written in the layouts of releases that SAELens's loaders read (Gemma Scope, Llama Scope). For
each coder:

1. `lapidary encode` must give the library's codes and reconstructions within 1e-4 of the largest
   value.
2. `lapidary convert` writes the coder in each format that can store it. The library of that format
   must load the result and give the same codes and reconstructions. `lapidary encode` must give
   them too.
3. If a format cannot store the coder, `convert` must say so.

Transcoders are checked in the same way with SAELens, sparsify and circuit-tracer. Cross-layer
transcoders are checked with circuit-tracer.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels need a GPU
# dictionary_learning imports it for activations, which are not needed here.
nnsight = types.ModuleType("nnsight")
nnsight.LanguageModel = object
sys.modules["nnsight"] = nnsight

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dictionary_learning.dictionary as learning
    import sae_lens
    import sparsify
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
    from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder, load_transcoder_set
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    from dictionary_learning.utils import load_dictionary
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
    from sae_lens.loading import pretrained_sae_loaders
    from sae_lens.registry import get_sae_class

# This logger prints which of our keys sparsify ignores.
logging.getLogger("simple_parsing").setLevel(logging.ERROR)

TOLERANCE = 1e-4
D_IN, D_SAE, K, ROWS = 12, 40, 5, 64
# of a cross-layer transcoder, which reads D_IN / LAYERS dimensions at each and has D_SAE / LAYERS
# latents there
LAYERS = 4
HOOK = "blocks.1.hook_resid_post"
ENDS = ("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out")
failed = False


def require(good, what):
    global failed
    if not good:
        print(f"    {what}   MISMATCH")
        failed = True


def compare(what, found, wanted):
    """Compares codes and reconstructions within the tolerance."""
    for part, a, b in zip(["codes", "reconstructions"], found, wanted):
        if a.shape != b.shape:
            require(False, f"{what}: {part} of shape {list(a.shape)}, expected {list(b.shape)}")
            continue
        scale = float(np.abs(b).max()) or 1.0
        apart = float(np.abs(a - b).max()) / scale
        require(apart <= TOLERANCE, f"{what}: {part} {apart:.1e} of {scale:.3g} apart")


class Lapidary:
    """Runs the command `lapidary`."""

    def __init__(self, binary, scratch, activations):
        self.binary, self.scratch, self.activations = binary, scratch, activations

    def run(self, *command):
        command = [str(part) for part in (self.binary, *command)]
        return subprocess.run(command, capture_output=True, text=True)

    def encode(self, dictionary, *options):
        """Codes [n, d_sae] and reconstructions [n, d_in]."""
        out = self.scratch / "codes.safetensors"
        done = self.run("encode", "--dictionary", dictionary, "--activations", self.activations, "--out", out, *options)
        if done.returncode != 0:
            sys.exit(f"check_formats: {done.stderr}")
        file = load_file(out)
        codes = np.zeros((len(file["values"]), D_SAE), np.float32)
        used = file["indices"] >= 0
        rows = np.broadcast_to(np.arange(len(codes))[:, None], used.shape)[used]
        np.add.at(codes, (rows, file["indices"][used]), file["values"][used])
        return codes, file["reconstruction"]


# How the libraries load a folder: a function from activations to codes and reconstructions.


def of_saelens(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae = sae_lens.SAE.load_from_disk(str(folder))

    def run(x):
        codes = sae.encode(x)
        skip = x @ sae.W_skip.T if hasattr(sae, "W_skip") else 0.0
        return codes, sae.decode(codes) + skip

    return run


def of_sparsify(folder):
    coder = sparsify.SparseCoder.load_from_disk(folder)

    def run(x):
        found = coder.encode(x)
        codes = torch.zeros(len(x), coder.num_latents).scatter_add_(1, found.top_indices, found.top_acts)
        skip = x @ coder.W_skip.mT if coder.W_skip is not None else 0.0
        return codes, coder.decode(found.top_acts, found.top_indices) + skip

    return run


def of_learning(folder):
    trainer = json.loads(Path(folder, "config.json").read_text())["trainer"]
    if trainer["dict_class"] == "AutoEncoder":
        # load_dictionary scales decoder rows to norm 1 and latents up; the product stays the same.
        ae = learning.AutoEncoder.from_pretrained(f"{folder}/ae.pt", normalize_decoder=False)
    else:
        ae, _ = load_dictionary(str(folder), "cpu")

    def run(x):
        codes = ae.encode(x)
        return codes, ae.decode(codes)

    return run


def of_circuit_tracer(folder):
    """Loads the one layer of a set, or a cross-layer transcoder, as circuit-tracer does."""
    if Path(folder, "W_enc_0.safetensors").exists():
        return of_layers(load_clt(str(folder), device=torch.device("cpu"), dtype=torch.float32, lazy_decoder=False))
    paths = {0: str(Path(folder, "layer_0.safetensors"))}
    places = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out"}
    settings = {"device": torch.device("cpu"), "lazy_encoder": False, "lazy_decoder": False}
    transcoder = load_transcoder_set(paths, scan="gpt2", **places, **settings)[0]

    def run(x):
        codes = transcoder.encode(x)
        return codes, transcoder.decode(codes, x)

    return run


def of_layers(clt):
    def run(x):
        # [layers, n, d_transcoder]
        codes = clt.encode(x.reshape(len(x), LAYERS, -1).transpose(0, 1))
        side_by_side = [part.transpose(0, 1).reshape(len(x), -1) for part in (codes, clt.decode(codes))]
        return tuple(side_by_side)

    return run


LIBRARIES = {
    "saelens": of_saelens,
    "sparsify": of_sparsify,
    "dictionary_learning": of_learning,
    "circuit_tracer": of_circuit_tracer,
}


def host(run, x):
    with torch.no_grad():
        return tuple(part.numpy() for part in run(torch.from_numpy(x)))


# Coders, each saved by its library.


def randomize(module):
    """Sets every weight to random numbers; the decoder rows have different norms."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.ndim == 2 else 0.1))
            if "threshold" in name:
                p.abs_().add_(0.2)


def saelens(kind, **settings):
    def make(folder):
        metadata = sae_lens.saes.sae.SAEMetadata(model_name="gpt2", hook_name=HOOK)
        plain = {"d_in": D_IN, "d_sae": D_SAE, "metadata": metadata, "apply_b_dec_to_input": True, **settings}
        config = get_sae_class(kind)[1](**plain)
        sae = get_sae_class(kind)[0](config)
        randomize(sae)
        sae.save_model(folder)
        return of_saelens(folder)

    return make


def of_sparsify_config(**settings):
    def make(folder):
        coder = sparsify.SparseCoder(D_IN, sparsify.SparseCoderConfig(num_latents=D_SAE, k=K, **settings))
        randomize(coder)
        coder.save_to_disk(folder)
        return of_sparsify(folder)

    return make


def saelens_transcoder(kind):
    def make(folder):
        metadata = sae_lens.saes.sae.SAEMetadata(model_name="gpt2", hook_name=ENDS[0], hook_name_out=ENDS[1])
        class_of, config_of = get_sae_class(kind)
        sae = class_of(config_of(d_in=D_IN, d_out=D_IN, d_sae=D_SAE, metadata=metadata, apply_b_dec_to_input=False))
        randomize(sae)
        sae.save_model(folder)
        return of_saelens(folder)

    return make


def circuit_tracer_layer(threshold, skip):
    """Writes a layer as `to_safetensors` does, with its configuration."""

    def make(folder):
        folder.mkdir()
        tensors = {"W_enc": numbers(1, D_SAE, D_IN), "W_dec": numbers(2, D_SAE, D_IN), "b_enc": numbers(3, D_SAE), "b_dec": numbers(4, D_IN)}
        if threshold:
            tensors["activation_function.threshold"] = np.abs(numbers(5, D_SAE)) + 0.2
        if skip:
            tensors["W_skip"] = numbers(6, D_IN, D_IN)
        path = folder / "layer_0.safetensors"
        save_file(tensors, path)
        load_relu_transcoder(str(path), 0, torch.device("cpu"), lazy_encoder=False, lazy_decoder=False).to_safetensors(str(path))
        places = "feature_input_hook: ln2.hook_normalized\nfeature_output_hook: hook_mlp_out\n"
        (folder / "config.yaml").write_text(f"model_name: gpt2\nmodel_kind: transcoder_set\nscan: gpt2\n{places}")
        return of_circuit_tracer(folder)

    return make


def circuit_tracer_layers(activation):
    """Writes a cross-layer transcoder as `to_safetensors` does, with a configuration."""

    def make(folder):
        places = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
        sizes = (LAYERS, D_SAE // LAYERS, D_IN // LAYERS)
        settings = {"activation_function": activation, "device": torch.device("cpu"), "dtype": torch.float32}
        clt = CrossLayerTranscoder(*sizes, lazy_decoder=False, **places, **settings)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, p in sorted(clt.named_parameters()):
                p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if "W_" in name else 0.1))
                if "threshold" in name:
                    p.abs_().add_(0.1)
        clt.to_safetensors(str(folder))
        text = "".join(f"{key}: {value}\n" for key, value in places.items())
        (folder / "config.yaml").write_text(f"model_name: gpt2\nmodel_kind: cross_layer_transcoder\nscan: gpt2\n{text}")
        return of_layers(clt)

    return make


def learned(make_coder, **trainer):
    def make(folder):
        folder.mkdir()
        coder = make_coder()
        randomize(coder)
        if hasattr(coder, "k"):
            coder.threshold.fill_(0.4)
        # as in its trainer
        torch.save({name: value.cpu() for name, value in coder.state_dict().items()}, folder / "ae.pt")
        name = type(coder).__name__
        facts = {"dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 1, "lm_name": "gpt2"}
        facts |= {"submodule_name": "resid_post_layer_1", **trainer}
        (folder / "config.json").write_text(json.dumps({"trainer": facts, "buffer": {"ctx_len": 128}}))
        return of_learning(folder)

    return make


def through_saelens(loader, write, scale=None):
    """Loads a release's layout with SAELens's loader for it."""

    def make(folder):
        folder.mkdir()
        write(folder)

        def here(*names, filename=None, subfolder="", **_):
            name = filename or names[-1]
            return str(folder / name if subfolder == "." else folder / subfolder.removeprefix("./") / name.removeprefix("./"))

        was = pretrained_sae_loaders.hf_hub_download
        pretrained_sae_loaders.hf_hub_download = here
        try:
            config, state, _ = loader("release", ".", device="cpu", cfg_overrides={"dtype": "float32"})
        finally:
            pretrained_sae_loaders.hf_hub_download = was
        class_of, config_of = get_sae_class(config["architecture"])
        plain = {"d_in": D_IN, "d_sae": D_SAE, "apply_b_dec_to_input": config["apply_b_dec_to_input"]}
        sae = class_of(config_of(**plain))
        sae.process_state_dict_for_loading(state)
        sae.load_state_dict({name: value.float() for name, value in state.items()})
        if scale is not None:
            sae.fold_activation_norm_scaling_factor(scale)

        def run(x):
            codes = sae.encode(x)
            return codes, sae.decode(codes)

        return run

    return make


def numbers(seed, *shape):
    return (np.random.default_rng(seed).normal(size=shape) * (0.3 if len(shape) == 2 else 0.1)).astype(np.float32)


def write_gemma_scope(folder):
    arrays = {"W_enc": numbers(1, D_IN, D_SAE), "W_dec": numbers(2, D_SAE, D_IN), "b_enc": numbers(3, D_SAE)}
    np.savez(folder / "params.npz", b_dec=numbers(4, D_IN), threshold=np.abs(numbers(5, D_SAE)) + 0.2, **arrays)


NORM = 2.5


def write_llama_scope(folder):
    facts = {"d_model": D_IN, "d_sae": D_SAE, "jump_relu_threshold": 0.3, "hook_point_in": HOOK, "hook_point_out": HOOK}
    facts |= {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": NORM, "out": NORM}}
    (folder / "hyperparams.json").write_text(json.dumps(facts))
    (folder / "checkpoints").mkdir()
    weights = {"encoder.weight": numbers(1, D_SAE, D_IN), "encoder.bias": numbers(3, D_SAE)}
    weights |= {"decoder.weight": numbers(2, D_IN, D_SAE), "decoder.bias": numbers(4, D_IN)}
    save_file(weights, folder / "checkpoints" / "final.safetensors")


def gemma_2_config(*names, **_):
    return {"architecture": "jumprelu", "apply_b_dec_to_input": False, "d_in": D_IN, "finetuning_scaling_factor": False}


def gemma_scope(folder):
    # This loader reads sizes from the release's names.
    pretrained_sae_loaders.get_gemma_2_config_from_hf = gemma_2_config
    loader = pretrained_sae_loaders.gemma_2_sae_huggingface_loader
    return through_saelens(loader, write_gemma_scope)(folder)


def llama_scope(folder):
    loader = pretrained_sae_loaders.llama_scope_sae_huggingface_loader
    return through_saelens(loader, write_llama_scope, D_IN**0.5 / NORM)(folder)


def llamascopium(act_fn):
    def make(folder):
        folder.mkdir()
        places = {"hook_point_in": HOOK, "hook_point_out": HOOK}
        facts = {"d_model": D_IN, "expansion_factor": D_SAE / D_IN, "act_fn": act_fn, "top_k": K, "norm_activation": "dataset-wise"}
        sae = SparseAutoEncoder(SAEConfig(dtype=torch.float32, device="cpu", **places, **facts))
        randomize(sae)
        if act_fn == "jumprelu":
            sae.activation_function.log_jumprelu_threshold.data.log_()
        sae.set_dataset_average_activation_norm({HOOK: NORM})
        sae.save_pretrained(folder)
        sae.cfg.save_hyperparameters(folder)

        def run(x):
            batch, scales = sae.normalize_activations({HOOK: x}, return_scale_factor=True)
            codes = sae.encode(batch[HOOK])
            back = sae.denormalize_activations({HOOK: sae.decode(codes)}, scales)[HOOK]
            # Ours are codes of raw activations, and a TopK's are larger by the norms that it
            # chooses by.
            weights = sae.decoder_norm() if act_fn == "topk" else 1.0
            return codes * weights / scales[HOOK], back

        return run

    return make


def openai(folder):
    """The equations of OpenAI's README, since their package is not on PyPI."""
    folder.mkdir()
    w_enc, w_dec = torch.from_numpy(numbers(1, D_SAE, D_IN)), torch.from_numpy(numbers(2, D_IN, D_SAE))
    pre_bias, latent_bias = torch.from_numpy(numbers(4, D_IN)), torch.from_numpy(numbers(3, D_SAE))
    state = {"pre_bias": pre_bias, "encoder.weight": w_enc, "latent_bias": latent_bias, "decoder.weight": w_dec}
    state |= {"stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long), "activation": "ReLU", "activation_state_dict": {}}
    torch.save(state, folder / "autoencoder.pt")

    def run(x):
        codes = torch.relu((x - pre_bias) @ w_enc.T + latent_bias)
        return codes, codes @ w_dec.T + pre_bias

    return run


EVERY = {"saelens", "sparsify", "dictionary_learning"}
TRACED = {"saelens", "circuit_tracer"}
CODERS = {
    "SAELens standard": (saelens("standard"), EVERY - {"sparsify"}),
    "SAELens standard, b_dec not subtracted": (saelens("standard", apply_b_dec_to_input=False), EVERY - {"sparsify"}),
    "SAELens topk": (saelens("topk", k=K), EVERY),
    "SAELens topk, b_dec not subtracted": (saelens("topk", k=K, apply_b_dec_to_input=False), EVERY),
    "SAELens jumprelu": (saelens("jumprelu"), EVERY - {"sparsify"}),
    "SAELens gated": (saelens("gated"), EVERY - {"sparsify"}),
    "SAELens matching_pursuit": (saelens("matching_pursuit", max_iterations=K), {"saelens"}),
    "sparsify topk": (of_sparsify_config(), EVERY),
    "dictionary_learning AutoEncoder": (learned(lambda: learning.AutoEncoder(D_IN, D_SAE)), EVERY - {"sparsify"}),
    "dictionary_learning AutoEncoderNew": (learned(lambda: learning.AutoEncoderNew(D_IN, D_SAE)), EVERY - {"sparsify"}),
    "dictionary_learning GatedAutoEncoder": (learned(lambda: learning.GatedAutoEncoder(D_IN, D_SAE)), EVERY - {"sparsify"}),
    "dictionary_learning AutoEncoderTopK": (learned(lambda: AutoEncoderTopK(D_IN, D_SAE, K), k=K), EVERY),
    "dictionary_learning BatchTopKSAE": (learned(lambda: BatchTopKSAE(D_IN, D_SAE, K), k=K), EVERY - {"sparsify"}),
    "dictionary_learning MatryoshkaBatchTopKSAE": (
        learned(lambda: MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [10, 30]), k=K),
        EVERY - {"sparsify"},
    ),
    "dictionary_learning JumpReluAutoEncoder": (learned(lambda: learning.JumpReluAutoEncoder(D_IN, D_SAE)), EVERY - {"sparsify"}),
    "Gemma Scope": (gemma_scope, EVERY - {"sparsify"}),
    "Llama Scope": (llama_scope, EVERY - {"sparsify"}),
    "Llamascopium relu": (llamascopium("relu"), EVERY - {"sparsify"}),
    "Llamascopium jumprelu": (llamascopium("jumprelu"), EVERY - {"sparsify"}),
    "Llamascopium topk": (llamascopium("topk"), EVERY),
    "OpenAI ReLU": (openai, EVERY - {"sparsify"}),
    "SAELens transcoder": (saelens_transcoder("transcoder"), TRACED),
    "SAELens skip_transcoder": (saelens_transcoder("skip_transcoder"), TRACED),
    "SAELens jumprelu_transcoder": (saelens_transcoder("jumprelu_transcoder"), TRACED),
    "sparsify transcoder": (of_sparsify_config(transcode=True), {"sparsify"}),
    "sparsify skip transcoder": (of_sparsify_config(transcode=True, skip_connection=True), {"sparsify"}),
    "circuit-tracer ReLU": (circuit_tracer_layer(False, False), TRACED),
    "circuit-tracer JumpReLU with a skip connection": (circuit_tracer_layer(True, True), TRACED),
    "circuit-tracer cross-layer ReLU": (circuit_tracer_layers("relu"), TRACED),
    "circuit-tracer cross-layer JumpReLU": (circuit_tracer_layers("jump_relu"), TRACED),
}


def check(name, make, holders, lapidary, x):
    print(f"{name}:")
    source = lapidary.scratch / name.replace(" ", "-").replace(",", "")
    theirs = host(make(source), x)
    active = (theirs[0] != 0).sum(1).mean()
    require(0 < active < D_SAE, f"{active} latents are active")
    compare("lapidary encode", lapidary.encode(source), theirs)
    for format, load in LIBRARIES.items():
        to = lapidary.scratch / f"{source.name}-{format}"
        hook = () if holders & {"circuit_tracer"} else ("--hook-point", HOOK)
        done = lapidary.run("convert", "--from", source, "--to", to, "--format", format, *hook)
        if format not in holders:
            if "sparsify" in name and "transcoder" in name and format == "saelens":
                continue  # SAELens has no TopK transcoder, so it refuses ours
            refused = done.returncode == 1 and "cannot hold" in done.stderr and not to.exists()
            require(refused, f"{format}: was not refused: {done.stdout}{done.stderr}")
            continue
        require(done.returncode == 0, f"{format}: {done.stderr}")
        # SAELens has no cross-layer transcoder, so it cannot read ours.
        if done.returncode == 0 and not ("cross-layer" in name and format == "saelens"):
            compare(f"{format} loads what was written", host(load(to), x), theirs)
        if done.returncode == 0:
            compare(f"lapidary encode from {format}", lapidary.encode(to), theirs)
    print(f"  {active:.1f} latents active; the same in {', '.join(sorted(holders))}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/check_formats.py --lapidary target/debug/lapidary",
    )
    parser.add_argument("--lapidary", type=Path, default="lapidary", help="the binary (default: the one on the path)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only coders whose name has this in it")
    arguments = parser.parse_args()
    x = np.random.default_rng(0).normal(size=(ROWS, D_IN)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        activations = Path(scratch, "x.safetensors")
        save_file({"x": x}, activations)
        lapidary = Lapidary(arguments.lapidary, Path(scratch), activations)
        for name, (make, holders) in CODERS.items():
            if arguments.only in name:
                check(name, make, holders, lapidary, x)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
