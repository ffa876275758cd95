#!/usr/bin/env python3
"""Compares dictionaries that Lapidary, sparsify, SAELens and dictionary_learning train.

All tools train on the same activations, on the CPU, with the same number of steps and latents. The
dictionaries are measured on held-out activations. `--store` and `--heldout` are folders of
`lapidary harvest`. The result is one table in Markdown, and with `--out` a JSON file.

Training rows are the first steps x batch rows of the store, or all rows several times if it has
fewer. The seed fixes their order. All peers get the same batches in this order. Lapidary shuffles
the same rows itself, so its order is another one.

Metrics are computed here, in the same way for all tools, on activations as they were harvested:
- FVU: sum of squared errors / sum of squared deviations from the held-out mean
- EV per token: mean over tokens of 1 - |x - reconstruction|^2 / |x - mean|^2
- L0: active latents per token
- alive: share of the latents that fire on a held-out row
- seconds: time of the training steps. For peers, this is without setup, reading rows, the estimate
  of a normalization and measuring. For Lapidary, it is `seconds` of the last line of metrics.jsonl,
  which includes reading rows
- to target: the part of `seconds` after which the FVU was below --target-fvu for the first time. It
  is measured every 20 steps and at the end: for peers on the first 2,048 held-out rows, for Lapidary
  on the next batch, in its first pass over the rows, when it has not trained on that batch yet, and
  at the end on all held-out rows

Each tool runs with its own defaults. "short run" stands for a rule of this script: a default number
of steps that is not below the number of steps of the run becomes a twentieth of the run.

sparsify (sparsify/config.py, trainer.py, sparse_coder.py; its training loop is repeated here):
  loss FVU of the batch, b_dec starts at the mean of the first batch, decoder rows at norm 1 before
  each step, gradients parallel to decoder rows removed, no normalization, clipping or auxiliary
  loss (auxk_alpha 0).
  signum, the default: SignSGD in schedulefree's wrapper, momentum 0.95, constant learning rate
  5e-3 / sqrt(d_sae / 2^14). The saved weights are the average of the wrapper (`eval()`).
  Adam: 2e-4 / sqrt(d_sae / 2^14), linear warm-up of 1,000 steps (short run: a twentieth), then
  linear decay to 0. bitsandbytes' 8-bit Adam is not used.

SAELens (config.py: SAETrainerConfig; saes/*.py; its SAETrainer runs here): Adam with a constant
  3e-4, gradients clipped to norm 1, decoder rows start at norm 0.1 with the encoder as their copy,
  b_dec at 0. Latents are dead after 1,000 steps; the auxiliary loss of the TopK family has the
  coefficient 1. Coefficients of penalties are 1. normalize_activations is "none" by default;
  "expected_average_only_in" (one scale, mean norm sqrt(d_in)) is measured too. The scale is
  estimated from the first 1,000 batches at most. The measured dictionary is the one that
  `save_inference_model` writes and `SAE.load_from_disk` reads: JumpReLU for batchtopk and
  matryoshka. Matryoshka widths have no default: see below.

dictionary_learning (training.py, trainers/*.py; its trainers' `update` runs here): topk, batchtopk
  and matryoshka: Adam with 2e-4 / sqrt(d_sae / 2^14), b_dec starts at the geometric median of the
  first batch, decoder rows at norm 1, gradients clipped to norm 1, auxiliary loss with the
  coefficient 1/32 for latents that are dead after 10 million tokens. jumprelu: 7e-5; standard:
  1e-3; gated: 5e-5; penalties as in their trainers. Linear warm-up of 1,000 steps, no decay. The
  trainers refuse a run of 1,000 steps or fewer (short run: warm-up of a twentieth; the same for the
  warm-up of penalties, 2,000 steps). The threshold of batchtopk and matryoshka is averaged after
  step 1,000 with beta 0.999 (short run: in the last tenth, since an earlier start would keep early
  values). Inference uses the threshold; measurements before it exists use the batch's top k.
  normalize_activations is False by default; True (recommended by its README) is measured too. Its
  scale is estimated from the first 100 batches.

Lapidary: a recipe with only architecture, sizes, seed and store, so all else has its defaults.

Matryoshka prefixes are a 16th, an 8th, a quarter, a half and all of d_sae for all tools. For
jumprelu, SAELens and Lapidary are also measured with the quadratic penalty with target L0 = k;
dictionary_learning's target_l0 is always k. For jumprelu, standard and gated, L0 is not fixed, so
compare the FVU only at a similar L0: --target-l0 trains Lapidary with these values of
coder.target_l0.

Only sparsify and Lapidary train transcoders. --hook-point is what they read, --hook-point-out what
they reconstruct. As in sparsify's trainer, its decoder starts at 0 and has free norms, and the
encoder's bias starts so that the mean of the first batch gives 0.

--tune also trains each peer with 1/2, 2, 4 and 8 times its default learning rate. If the best rate
is at an end of the grid, the grid is extended by factors of 2, at most three times. The rate with
the lowest FVU on the held-out rows is the "tuned" row. With several seeds, it is chosen with the
first one. For jumprelu, standard and gated, where the L0 changes with the rate, each rate is a row
of its own and the grid is not extended. Lapidary is not tuned.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import types
import warnings
from pathlib import Path

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("WANDB_MODE", "disabled")

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

PACKAGES = {"sparsify": "eai-sparsify", "saelens": "sae-lens", "dictionary_learning": "dictionary-learning", "lapidary": None}
MEASURE_EVERY, MEASURE_ROWS = 20, 2048
CHUNK = 1024  # held-out rows that are encoded at once
PENALIZED = ["jumprelu", "gated", "standard"]  # architectures whose L0 depends on a penalty
TRANSCODERS = {"transcoder": False, "skip_transcoder": True}  # whether with a skip connection


def fail(message):
    sys.exit(f"compare_quality: {message}")


# ---- Activations


def read_manifest(folder):
    try:
        manifest = json.loads(Path(folder, "manifest.json").read_text())
    except (OSError, ValueError) as error:
        fail(f"{folder}: not a store of `lapidary harvest`: {error}")
    if manifest.get("format") != "lapidary activation store":
        fail(f"{folder}: manifest.json has the format {manifest.get('format')!r}, expected 'lapidary activation store'")
    return manifest


def choose_hook(folder, manifest, wanted):
    """Name and width of the hook point whose activations are used."""
    widths = {hook["name"]: hook["d_in"] for hook in manifest["settings"]["hook_points"]}
    if wanted is None and len(widths) > 1:
        fail(f"{folder}: the store has several hook points: choose one with --hook-point: {', '.join(widths)}")
    name = wanted or next(iter(widths))
    if name not in widths:
        fail(f"{folder}: no hook point {name}; the store has {', '.join(widths)}")
    return name, widths[name]


def read_rows(folder, manifest, hook, limit=None):
    """The first rows of a store `[rows, d_in]`, in the type of the store (int8: f32)."""
    parts, missing = [], manifest["rows"] if limit is None else min(limit, manifest["rows"])
    for shard in manifest["shards"]:
        if missing == 0:
            break
        try:
            tensors = load_file(Path(folder, shard["file"]))
            rows = tensors[hook]
        except Exception as error:
            fail(f"{folder}/{shard['file']}: {error}")
        if f"{hook}.scale" in tensors:
            rows = rows.float() * tensors[f"{hook}.scale"][:, None]
        parts.append(rows[:missing].clone())
        missing -= len(parts[-1])
    if not parts:
        fail(f"{folder}: the store has no rows")
    return torch.cat(parts)


def first_rows_shard(path, rows):
    """The bytes of a shard with only the first rows, in Lapidary's layout of safetensors."""
    content, header, body, end = path.read_bytes(), [], [], 0
    start = 8 + int.from_bytes(content[:8], "little")
    for name, tensor in json.loads(content[8:start]).items():
        first, last = tensor["data_offsets"]
        size = (last - first) // tensor["shape"][0] * rows
        body.append(content[start + first : start + first + size])
        # Printed with spaces: Lapidary compares the size of the file.
        shape = [rows, *tensor["shape"][1:]]
        kind = f'"dtype":"{tensor["dtype"]}","shape":{shape},"data_offsets":[{end},{end + size}]'
        header.append(f"{json.dumps(name)}:{{{kind}}}")
        end += size
    text = f"{{{','.join(header)}}}".encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *body])


def first_rows_store(folder, manifest, rows, scratch):
    """A store with only the first rows, so that Lapidary trains on the same ones as its peers."""
    if manifest["rows"] <= rows:
        return Path(folder).resolve()
    import xxhash

    out, shards, missing = Path(scratch, "store"), [], rows
    out.mkdir()
    for shard in manifest["shards"]:
        if missing == 0:
            break
        target = out / shard["file"]
        if shard["rows"] <= missing:
            shutil.copyfile(Path(folder, shard["file"]), target)
        else:
            content = first_rows_shard(Path(folder, shard["file"]), missing)
            target.write_bytes(content)
            shard = {**shard, "rows": missing, "bytes": len(content), "xxh64": xxhash.xxh64(content).hexdigest()}
        missing -= shard["rows"]
        shards.append(shard)
    changed = {**manifest, "rows": rows, "corpus_ended": False, "shards": shards}
    changed.pop("checksum", None)  # a manifest without one is read too
    (out / "manifest.json").write_text(json.dumps(changed, indent=2))
    return out


def digest(rows):
    """Sums that tell one set of rows from another, rounded: their last digits depend on threads."""
    chunks = [chunk.double() for chunk in rows.split(65536)]
    return [f"{sum(float(part(chunk)) for chunk in chunks):.8e}" for part in (torch.sum, torch.norm)]


class HeldOut:
    """Held-out rows, and the metrics of a dictionary on them. `targets` are what it reconstructs."""

    def __init__(self, rows, targets):
        self.x, self.y = rows.float(), targets.float()
        self.mean = self.y.double().mean(0)
        self.deviation = (self.y.double() - self.mean).square().sum(1)  # [rows]

    def score(self, model, d_sae, limit=None):
        """`model` gives (active latents, reconstruction) of rows: bool `[n, d_sae]`, `[n, d_in]`."""
        fired, active, errors = torch.zeros(d_sae, dtype=torch.bool), [], []
        with torch.no_grad():
            for x, y in zip(self.x[:limit].split(CHUNK), self.y[:limit].split(CHUNK)):
                on, reconstruction = model(x)
                fired |= on.any(0)
                active.append(on.sum(1))
                errors.append((y.double() - reconstruction.double()).square().sum(1))
        errors, deviation = torch.cat(errors), self.deviation[:limit]
        return {
            "fvu": float(errors.sum() / deviation.sum()),
            "ev_per_token": float((1 - errors / deviation).mean()),
            "l0": float(torch.cat(active).double().mean()),
            "alive": float(fired.double().mean()),
        }


class Run:
    """One training: sizes, batches, and a clock that runs only while the tool trains."""

    def __init__(self, arguments, rows, targets, heldout, seed, lr=None):
        self.d_in, self.d_sae, self.k = rows.shape[1], arguments.d_sae, arguments.k
        self.steps, self.batch_tokens, self.seed, self.lr = arguments.steps, arguments.batch_tokens, seed, lr
        self.rows, self.targets, self.heldout = rows, targets, heldout
        self.target_fvu = arguments.target_fvu
        needed, generator = self.steps * self.batch_tokens, torch.Generator().manual_seed(seed)
        passes = math.ceil(needed / len(rows))
        self.order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(passes)])[:needed]
        self.seconds, self.started, self.curve, self.notes = 0.0, None, [], ""

    def batch(self, step):
        """Rows and targets of a step."""
        chosen = self.order[step * self.batch_tokens : (step + 1) * self.batch_tokens]
        x = self.rows[chosen].float()
        return x, x if self.targets is self.rows else self.targets[chosen].float()

    def batches(self, model):
        """All batches; in between, measures `model`."""
        for step in range(self.steps):
            self.pause()
            if step > 0 and step % MEASURE_EVERY == 0:
                self.measure(model, step)
            batch = self.batch(step)
            self.started = time.perf_counter()
            yield batch
        self.pause()

    def pause(self):
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
            self.started = None

    def measure(self, model, step):
        fvu = self.heldout.score(model, self.d_sae, MEASURE_ROWS)["fvu"]
        self.curve.append({"step": step, "seconds": self.seconds, "fvu": fvu})

    def finish(self, model):
        self.pause()
        self.measure(model, self.steps)
        scores = self.heldout.score(model, self.d_sae)
        return {**scores, "seconds": self.seconds, "seconds_to_target": self.reached(self.curve), "curve": self.curve}

    def reached(self, curve):
        """Seconds to the target FVU, if it was reached."""
        return next((point["seconds"] for point in curve if point["fvu"] < self.target_fvu), None)


def short(default, steps):
    """The rule for short runs: a default number of steps, or a twentieth of the run."""
    return default if default < steps else steps // 20


# ---- Tools: each function trains a dictionary and returns its scores


def sparsify(run, optimizer, transcode=False, skip=False):
    if "sparsify" not in sys.modules:  # its __init__ imports packages for data sets
        package = types.ModuleType("sparsify")
        package.__path__ = list(importlib.util.find_spec("sparsify").submodule_search_locations)
        sys.modules["sparsify"] = package
    from schedulefree import ScheduleFreeWrapper
    from sparsify.config import SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.sparse_coder import SparseCoder
    from transformers import get_linear_schedule_with_warmup

    sizes = {"num_latents": run.d_sae, "k": run.k, "transcode": transcode, "skip_connection": skip}
    coder = SparseCoder(run.d_in, SparseCoderConfig(**sizes), dtype=torch.float32)
    root = (run.d_sae / 2**14) ** 0.5
    if optimizer == "signum":
        run.lr = run.lr or 5e-3 / root
        optim, schedule = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=run.lr), momentum=0.95), None
        optim.train()
    else:
        run.lr = run.lr or 2e-4 / root
        optim, warmup = torch.optim.Adam(coder.parameters(), lr=run.lr), short(1000, run.steps)
        schedule = get_linear_schedule_with_warmup(optim, warmup, run.steps)
        run.notes = f"warm-up {warmup}, decay to 0"

    def encode(x):
        values, indices, _ = coder.encode(x)
        on = torch.zeros(len(x), run.d_sae, dtype=torch.bool).scatter_(1, indices, values > 0)
        reconstruction = coder.decode(values, indices)
        return on, reconstruction if coder.W_skip is None else reconstruction + x @ coder.W_skip.mT

    def model(x):
        if schedule is not None:
            return encode(x)
        before = [parameter.detach().clone() for parameter in coder.parameters()]
        optim.eval()
        found = encode(x)
        optim.train()
        # Undoes rounding, so that measuring changes nothing.
        for parameter, value in zip(coder.parameters(), before):
            parameter.data.copy_(value)
        return found

    for step, (x, y) in enumerate(run.batches(model)):
        if step == 0:
            coder.b_dec.data = y.mean(0)
            if transcode:
                coder.encoder.bias.data = -x.mean(0) @ coder.encoder.weight.data.T
        if not transcode:
            coder.set_decoder_norm_to_unit_norm()
        coder(x, y, total_variance=(y - y.mean(0)).pow(2).sum()).fvu.backward()
        if not transcode:
            coder.remove_gradient_parallel_to_decoder_directions()
        optim.step()
        optim.zero_grad()
        if schedule is not None:
            schedule.step()
    return run.finish(model)


def saelens(run, architecture, normalize, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE
        from sae_lens.config import SAETrainerConfig
        from sae_lens.registry import get_sae_training_class
        from sae_lens.training.sae_trainer import SAETrainer

    sae_class, config_class = get_sae_training_class(architecture)
    normalization = "expected_average_only_in" if normalize else "none"
    sae = sae_class(config_class(d_in=run.d_in, d_sae=run.d_sae, normalize_activations=normalization, **options))
    run.lr = run.lr or SAETrainerConfig.lr
    config = SAETrainerConfig(
        total_training_samples=run.steps * run.batch_tokens,
        train_batch_size_samples=run.batch_tokens,
        lr=run.lr,
        lr_end=run.lr / 10,  # as the runner sets it; a constant rate does not use it
    )

    loaded = {}

    def model(x):
        """The dictionary that SAELens saves at this step, on rows as they were harvested."""
        at = trainer.n_training_samples, trainer.activation_scaler.scaling_factor
        if loaded.get("at") != at:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sae.save_inference_model(folder)
                loaded.update(at=at, sae=SAE.load_from_disk(folder))
        # None once it is folded into the weights.
        scale = trainer.activation_scaler.scaling_factor or 1.0
        codes = loaded["sae"].encode(x * scale)
        return codes > 0, loaded["sae"].decode(codes) / scale

    trainer = SAETrainer(cfg=config, sae=sae, data_provider=(x for x, _ in run.batches(model)))
    if normalize:
        number = min(config.n_batches_for_norm_estimate, run.steps)
        estimate = (run.batch(step)[0] for step in range(number))
        trainer.activation_scaler.estimate_scaling_factor(run.d_in, estimate, number)
    trainer.fit()
    return run.finish(model)


def dictionary_learning(run, trainer, normalize, sparsity_warmup=False, threshold=False, **options):
    # Only its buffers of activations need it.
    if "nnsight" not in sys.modules and importlib.util.find_spec("nnsight") is None:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object
    module, name = trainer.split(".")
    trainer_class = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), name)
    get_norm_factor = importlib.import_module("dictionary_learning.training").get_norm_factor
    options["warmup_steps"] = short(1000, run.steps)
    run.notes = f"warm-up {options['warmup_steps']}"
    if sparsity_warmup:
        options["sparsity_warmup_steps"] = short(2000, run.steps)
        run.notes += f", of the penalty {options['sparsity_warmup_steps']}"
    if threshold:
        options["threshold_start_step"] = 1000 if run.steps > 1000 else run.steps * 9 // 10
        run.notes += f", threshold after step {options['threshold_start_step']}"
    if run.lr is not None:
        options["lr"] = run.lr
    learner = trainer_class(
        steps=run.steps, activation_dim=run.d_in, dict_size=run.d_sae, layer=0, lm_name="", device="cpu", **options
    )
    run.lr = learner.lr
    number = min(100, run.steps)
    scale = get_norm_factor((run.batch(step)[0] for step in range(number)), number) if normalize else 1.0

    def encode(x):
        if not threshold:
            return learner.ae.encode(x)
        return learner.ae.encode(x, use_threshold=bool(learner.ae.threshold >= 0))

    def model(x):
        codes = encode(x / scale)
        return codes > 0, learner.ae.decode(codes) * scale

    for step, (x, _) in enumerate(run.batches(model)):
        learner.update(step, x / scale if normalize else x)
    run.pause()
    if normalize:  # as trainSAE does before it saves
        learner.ae.scale_biases(scale)
        scale = 1.0
    return run.finish(model)


def lapidary(run, arguments, store, hooks, architecture, coder=()):
    # `hooks`: read, and reconstructed. `coder` has further lines of the recipe.
    def call(*command):
        finished = subprocess.run([arguments.lapidary, *map(str, command)], capture_output=True, text=True)
        if finished.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")

    threads = ["--device", "cpu", "--threads", arguments.threads]
    with tempfile.TemporaryDirectory() as scratch:
        recipe, out = Path(scratch, "recipe.toml"), Path(scratch, "out")
        lines = [f"model = {json.dumps(arguments.model)}"] if arguments.model else []
        lines += [f"hook_point = {json.dumps(hooks[0])}", f"seed = {run.seed}"]
        lines += [f"hook_point_out = {json.dumps(hooks[1])}"] if hooks[1] != hooks[0] else []
        lines += ["[activations]", f"store = {json.dumps(str(store))}"]
        lines += ["[training]", f"tokens = {run.steps * run.batch_tokens}", f"batch_tokens = {run.batch_tokens}"]
        lines += [f"log_every_steps = {MEASURE_EVERY}"]
        lines += ["[evaluation]", "tokens = 0", "[features]", "tokens = 0"]
        lines += ["[coder]", f'architecture = "{architecture}"', f"d_sae = {run.d_sae}", f"k = {run.k}", *coder]
        recipe.write_text("\n".join(lines) + "\n")
        call("train", recipe, "--out", out, *threads)
        run.lr = tomllib.loads((out / "config.toml").read_text())["training"].get("lr")
        log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        if log[-1]["step"] != run.steps:
            raise RuntimeError(f"metrics.jsonl ends at step {log[-1]['step']}, expected {run.steps}")
        given, codes = Path(scratch, "rows.safetensors"), Path(scratch, "codes.safetensors")
        save_file({"rows": run.heldout.x}, given)
        call("encode", "--dictionary", out / "dictionary", "--activations", given, "--out", codes, *threads)
        codes = load_file(codes)
    position = itertools.count(0, CHUNK)

    def model(x):
        first = next(position)
        values, indices = codes["values"][first : first + len(x)], codes["indices"][first : first + len(x)].long()
        # The last column is that of index -1.
        on = torch.zeros(len(x), run.d_sae + 1, dtype=torch.bool)
        on.scatter_(1, torch.where((indices >= 0) & (values != 0), indices, run.d_sae), True)
        return on[:, :-1], codes["reconstruction"][first : first + len(x)]

    scores = run.heldout.score(model, run.d_sae)
    # The FVU of a step is that of the batch before the step.
    first_pass = [line for line in log if line["step"] * run.batch_tokens <= len(run.rows)]
    curve = [{"step": line["step"], "seconds": line["seconds"], "fvu": line["fvu"]} for line in first_pass]
    curve.append({"step": run.steps, "seconds": log[-1]["seconds"], "fvu": scores["fvu"]})
    return {**scores, "seconds": log[-1]["seconds"], "seconds_to_target": run.reached(curve), "curve": curve}


# ---- What is compared


def fractions(d_sae):
    """Sizes of the matryoshka groups: prefixes of a 16th, an 8th, a quarter, a half and all."""
    prefixes = [d_sae // 16, d_sae // 8, d_sae // 4, d_sae // 2, d_sae]
    return prefixes, [(after - before) / d_sae for before, after in zip([0, *prefixes], prefixes)]


def saelens_variants(architecture, words="", default=" (default)", **options):
    """An entry for each normalization."""
    return [
        (f"{words}not normalized{default}", lambda run: saelens(run, architecture, False, **options)),
        (f"{words}expected_average_only_in", lambda run: saelens(run, architecture, True, **options)),
    ]


def dictionary_learning_variants(trainer, **options):
    return [
        ("not normalized (default)", lambda run: dictionary_learning(run, trainer, False, **options)),
        ("normalize_activations", lambda run: dictionary_learning(run, trainer, True, **options)),
    ]


def entries(arguments, store, hooks):
    """For each tool and architecture: settings in words, and the function that trains with them."""
    k, (prefixes, shares) = arguments.k, fractions(arguments.d_sae)

    def ours(architecture, words="default", coder=()):
        return [(words, lambda run: lapidary(run, arguments, store, hooks, architecture, coder))]

    def ours_with_targets(architecture, words="default"):
        if not arguments.target_l0:
            return ours(architecture, words)
        lines = {target: [f"target_l0 = {target}"] for target in arguments.target_l0}
        return [entry for target in lines for entry in ours(architecture, f"target_l0 {target:g}", lines[target])]

    quadratic = ("[coder.jumprelu]", 'penalty = "quadratic"', f"target_l0 = {float(k)}")
    gate, target = {"sparsity_warmup": True}, {"sparsity_warmup": True, "target_l0": float(k)}
    return {
        ("sparsify", "topk"): [
            ("signum (default)", lambda run: sparsify(run, "signum")),
            ("Adam", lambda run: sparsify(run, "adam")),
        ],
        **{
            ("sparsify", name): [
                ("signum (default)", lambda run, skip=skip: sparsify(run, "signum", True, skip)),
                ("Adam", lambda run, skip=skip: sparsify(run, "adam", True, skip)),
            ]
            for name, skip in TRANSCODERS.items()
        },
        ("saelens", "topk"): saelens_variants("topk", k=k),
        ("saelens", "batchtopk"): saelens_variants("batchtopk", k=k),
        ("saelens", "matryoshka"): saelens_variants("matryoshka_batchtopk", k=k, matryoshka_widths=prefixes),
        ("saelens", "jumprelu"): [
            *saelens_variants("jumprelu", "step penalty, "),
            *saelens_variants("jumprelu", "quadratic penalty, ", "", jumprelu_sparsity_loss_mode="quadratic", target_l0=float(k)),
        ],
        ("saelens", "gated"): saelens_variants("gated"),
        ("saelens", "standard"): saelens_variants("standard"),
        ("dictionary_learning", "topk"): dictionary_learning_variants("top_k.TopKTrainer", k=k),
        ("dictionary_learning", "batchtopk"): dictionary_learning_variants("batch_top_k.BatchTopKTrainer", k=k, threshold=True),
        ("dictionary_learning", "matryoshka"): dictionary_learning_variants(
            "matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer", k=k, threshold=True, group_fractions=shares
        ),
        ("dictionary_learning", "jumprelu"): dictionary_learning_variants("jumprelu.JumpReluTrainer", **target),
        ("dictionary_learning", "gated"): dictionary_learning_variants("gdm.GatedSAETrainer", **gate),
        ("dictionary_learning", "standard"): dictionary_learning_variants("standard.StandardTrainer", **gate),
        ("lapidary", "topk"): ours("topk"),
        ("lapidary", "batchtopk"): ours("batchtopk"),
        ("lapidary", "matryoshka"): ours("matryoshka"),
        ("lapidary", "jumprelu"): ours_with_targets("jumprelu", "step penalty (default)") + ours("jumprelu", "quadratic penalty", quadratic),
        ("lapidary", "gated"): ours_with_targets("gated"),
        ("lapidary", "standard"): ours_with_targets("standard"),
        ("lapidary", "transcoder"): ours("topk"),
        ("lapidary", "skip_transcoder"): ours("topk", coder=["skip_connection = true"]),
    }


class Kept:
    """Results of earlier trainings, one JSON object a line: what was trained, and its result."""

    def __init__(self, path, data):
        self.path, self.data, self.results = path, data, {}
        if path is None or not path.exists():
            return
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                entry = json.loads(line)
                self.results[json.dumps(entry["trained"], sort_keys=True)] = entry["result"]
            except (ValueError, KeyError, TypeError) as error:
                fail(f"--keep {path}: line {number} is not a kept result: {error!r}")

    def key(self, settings):
        return {**self.data, **settings}

    def find(self, settings):
        return self.results.get(json.dumps(self.key(settings), sort_keys=True))

    def add(self, settings, result):
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"trained": self.key(settings), "result": result}) + "\n")


class Comparison:
    """Trains entries and collects their results."""

    def __init__(self, arguments, rows, targets, heldout, kept):
        self.arguments, self.rows, self.targets, self.heldout = arguments, rows, targets, heldout
        self.runs, self.table, self.failed, self.kept = [], [], False, kept

    def run(self, tool, version, words, train, seed, lr=None):
        """One training, or its kept result; None if it failed."""
        key = {"tool": tool, "version": version, "words": words, "seed": seed, "lr": lr}
        result = self.kept.find(key) if tool != "lapidary" else None
        if result is not None:
            self.runs.append(result)
            print(f"{tool}, {result['settings']}, lr {result['lr']:.3g}, seed {seed}: kept", file=sys.stderr)
            return result
        run = Run(self.arguments, self.rows, self.targets, self.heldout, seed, lr)
        torch.manual_seed(seed)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                result = train(run)
        except Exception:  # the others are measured even if one fails
            traceback.print_exc(limit=-4, file=sys.stderr)
            print(f"compare_quality: {tool}, {words}, seed {seed}: failed", file=sys.stderr)
            self.failed = True
            return None
        result = {"tool": tool, "settings": ", ".join(filter(None, [words, run.notes])), "seed": seed, "lr": run.lr, **result}
        self.runs.append(result)
        if tool != "lapidary":
            self.kept.add(key, result)
        line = f"{tool}, {result['settings']}, lr {run.lr:.3g}, seed {seed}: FVU {result['fvu']:.4f}, L0 {result['l0']:.1f}"
        print(f"{line}, {result['seconds']:.1f} s", file=sys.stderr)
        return result

    def row(self, tool, version, words, found):
        """A row of the table: mean over seeds, and the standard deviation if there are several."""
        found = [result for result in found if result is not None]
        if not found:
            return
        row = {"tool": tool, "version": version, "settings": f"{found[0]['settings']}, lr {found[0]['lr']:.3g}{words}"}
        row["seeds"] = [result["seed"] for result in found]
        for key in ("fvu", "ev_per_token", "l0", "alive", "seconds"):
            values = [result[key] for result in found]
            row[key] = statistics.fmean(values)
            row[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
        times = [result["seconds_to_target"] for result in found if result["seconds_to_target"] is not None]
        row["reached_target"] = len(times)
        row["seconds_to_target"] = statistics.fmean(times) if times and len(times) == len(found) else None
        self.table.append(row)

    def compare(self, tool, version, words, train):
        seeds = self.arguments.seeds
        default = [self.run(tool, version, words, train, seed) for seed in seeds]
        self.row(tool, version, "", default)
        if not self.arguments.tune or tool == "lapidary" or default[0] is None:
            return
        base = default[0]["lr"]
        tried = {0: default[0]}  # by the power of 2
        for power in (-1, 1, 2, 3):
            tried[power] = self.run(tool, version, words, train, seeds[0], base * 2**power)
            if self.arguments.architecture in PENALIZED:
                self.row(tool, version, f" ({2.0**power:g} x default)", [tried[power]])
        if self.arguments.architecture in PENALIZED:
            return

        def best():
            return min(tried, key=lambda power: finite(tried[power]))

        for _ in range(3):
            if best() not in (min(tried), max(tried)):
                break
            power = best() - 1 if best() == min(tried) else best() + 1
            tried[power] = self.run(tool, version, words, train, seeds[0], base * 2**power)
        power = best()
        others = default[1:] if power == 0 else [self.run(tool, version, words, train, seed, base * 2**power) for seed in seeds[1:]]
        grid = f"{2.0 ** min(tried):g} to {2.0 ** max(tried):g}"
        edge = ", at the end of the grid" if power in (min(tried), max(tried)) else ""
        self.row(tool, version, f" (tuned: {2.0**power:g} x default, best of {grid}{edge})", [tried[power], *others])


def finite(result):
    return result["fvu"] if result is not None and math.isfinite(result["fvu"]) else math.inf


def markdown(table, target):
    """The table as text."""

    def value(row, key, digits, factor=1, unit=""):
        spread = row[f"{key}_std"]
        shown = f"{row[key] * factor:.{digits}f}"
        return shown + ("" if spread is None else f" ± {spread * factor:.{digits}f}") + unit

    def to_target(row):
        if row["seconds_to_target"] is None:
            return f"{row['reached_target']} of {len(row['seeds'])} seeds" if row["reached_target"] else "not reached"
        return f"{row['seconds_to_target']:.1f}"

    lines = [f"| tool | version | settings | FVU | EV per token | L0 | alive | seconds | to FVU {target:g} |"]
    lines.append("|" + "---|" * 9)
    for row in table:
        cells = [row["tool"], row["version"], row["settings"], value(row, "fvu", 4), value(row, "ev_per_token", 4)]
        cells += [value(row, "l0", 1), value(row, "alive", 1, 100, " %"), value(row, "seconds", 1), to_target(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def without_nan(value):
    """For JSON, which has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def version_of(tool, binary):
    if tool != "lapidary":
        try:
            return importlib.metadata.version(PACKAGES[tool])
        except importlib.metadata.PackageNotFoundError:
            fail(f"{tool}: the package {PACKAGES[tool]} is not installed")
    try:
        return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        fail(f"--lapidary {binary}: {error}")


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(text)


def numbers(text):
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [0.0]
    if not all(0 < number < math.inf for number in found):
        raise argparse.ArgumentTypeError(f"{text} is not a list of numbers above 0")
    return found


def seeds(text):
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a list of whole numbers") from None
    if min(found) < 0 or len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"{text}: seeds must be 0 or more, each once")
    return found


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python scripts/compare_quality.py --lapidary target/release/lapidary --store acts --heldout held --tune",
    )
    parser.add_argument("--lapidary", default="lapidary", metavar="BIN", help="the binary (default: the one on the path)")
    parser.add_argument("--store", type=Path, required=True, help="activations to train on, from `lapidary harvest`")
    parser.add_argument("--heldout", type=Path, required=True, metavar="STORE", help="activations to measure on, from the same")
    parser.add_argument("--hook-point", help="needed if the stores have several")
    parser.add_argument("--hook-point-out", metavar="HOOK_POINT", help="what a transcoder reconstructs")
    architectures = ["topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard", *TRANSCODERS]
    parser.add_argument("--architecture", choices=architectures, default="topk")
    parser.add_argument("--d-sae", type=positive, default=4096)
    parser.add_argument("-k", type=positive, default=32)
    parser.add_argument("--steps", type=positive, default=292)
    parser.add_argument("--batch-tokens", type=positive, default=2048)
    parser.add_argument("--tools", default=",".join(PACKAGES), help="names with commas (default: %(default)s)")
    parser.add_argument("--tune", action="store_true", help="peers also with other learning rates")
    parser.add_argument("--target-l0", type=numbers, metavar="L0", help="for jumprelu, gated, standard: targets with commas")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the settings whose description contains TEXT")
    parser.add_argument("--seeds", type=seeds, default=[0], help="seeds with commas (default: 0)")
    parser.add_argument("--target-fvu", type=float, default=0.1, help="FVU of the column `to FVU` (default: %(default)s)")
    parser.add_argument("--model", help="the model in Lapidary's recipe (default: the store's)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="CPU threads of each tool (default: all)")
    parser.add_argument("--keep", type=Path, metavar="FILE.jsonl", help="keeps results of peers here, and uses those that are there")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="writes table and all runs as JSON too")
    arguments = parser.parse_args()

    arguments.tools = arguments.tools.split(",")
    for tool in arguments.tools:
        if tool not in PACKAGES:
            fail(f"--tools: unknown tool {tool!r}, expected some of {', '.join(PACKAGES)}")
    if arguments.target_l0 and arguments.architecture not in PENALIZED:
        fail(f"--target-l0 is for {', '.join(PENALIZED)}, not {arguments.architecture}")
    if (arguments.architecture in TRANSCODERS) != (arguments.hook_point_out is not None):
        fail(f"--hook-point-out is for transcoders, which need it: {', '.join(TRANSCODERS)}")
    if arguments.k > arguments.d_sae:
        fail(f"-k {arguments.k} is more than --d-sae {arguments.d_sae}")
    if arguments.architecture == "matryoshka" and (arguments.d_sae < 16 or arguments.d_sae % 16):
        fail(f"--d-sae {arguments.d_sae}: matryoshka needs a multiple of 16")
    if arguments.out is not None and not arguments.out.resolve().parent.is_dir():
        fail(f"--out {arguments.out}: the folder does not exist")
    return arguments


def main():
    arguments = parse()
    manifest, held = read_manifest(arguments.store), read_manifest(arguments.heldout)
    hook, d_in = choose_hook(arguments.store, manifest, arguments.hook_point)
    hooks = [hook, arguments.hook_point_out or hook]
    for name in hooks:
        for folder, found in [(arguments.store, manifest), (arguments.heldout, held)]:
            _, width = choose_hook(folder, found, name)
            if width != d_in:
                fail(f"{folder}: {name} has width {width}, expected {d_in} as {hook} in {arguments.store}")
    if held["settings"].get("model_digest") != manifest["settings"].get("model_digest"):
        fail(f"{arguments.heldout}: the model is {held['settings']['model']}, not that of {arguments.store}")
    versions = {tool: version_of(tool, arguments.lapidary) for tool in arguments.tools}
    torch.set_num_threads(arguments.threads)
    needed = arguments.steps * arguments.batch_tokens
    rows = read_rows(arguments.store, manifest, hook, needed)
    targets = rows if hooks[1] == hook else read_rows(arguments.store, manifest, hooks[1], needed)
    heldout = HeldOut(*(read_rows(arguments.heldout, held, name) for name in hooks))

    data = {name: getattr(arguments, name) for name in ("architecture", "d_sae", "k", "steps", "batch_tokens", "target_fvu")}
    data.update(hook_points=hooks, rows=[len(rows), len(heldout.x)], stores=[digest(rows), digest(heldout.x)])
    comparison = Comparison(arguments, rows, targets, heldout, Kept(arguments.keep, data))
    with tempfile.TemporaryDirectory() as scratch:
        store = arguments.store
        if "lapidary" in arguments.tools:
            store = first_rows_store(arguments.store, manifest, needed, scratch)
        known, skipped = entries(arguments, store, hooks), []
        for tool in arguments.tools:
            if (tool, arguments.architecture) not in known:
                skipped.append(tool)
            for words, train in known.get((tool, arguments.architecture), []):
                if arguments.only not in words:
                    continue
                comparison.compare(tool, versions[tool], words, train)

    sizes = f"{arguments.architecture}, d_in {d_in}, d_sae {arguments.d_sae}, k {arguments.k}, {arguments.steps} steps of"
    sizes += f" {arguments.batch_tokens} rows ({needed / len(rows):.3g} passes over {len(rows)} rows of {', '.join(dict.fromkeys(hooks))}),"
    sizes += f" {len(heldout.x)} held-out rows, seeds {', '.join(map(str, arguments.seeds))}, {arguments.threads} threads"
    print(f"{sizes}\n")
    print(markdown(comparison.table, arguments.target_fvu))
    for tool in skipped:
        print(f"\n{tool} does not have {arguments.architecture}.")
    if arguments.out is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        settings.update(hook_points=hooks, d_in=d_in, rows=len(rows), heldout_rows=len(heldout.x), versions=versions)
        result = {"settings": settings, "table": comparison.table, "runs": comparison.runs}
        arguments.out.write_text(json.dumps(without_nan(result), indent=2) + "\n")
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    main()
