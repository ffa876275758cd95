#!/usr/bin/env python3
"""Times a training step and the encoder of sparsify, SAELens and dictionary_learning: the other half of `lapidary bench --vs-peers`.

Prints one line with the tools that could be started, `name=version` each, and then answers each line `name step` or
`name encode` on standard input with the seconds that it took. A step is what the tool's own trainer does by default with
one batch: forward, backward, decoder rows kept at norm 1 (sparsify, dictionary_learning, as ours does), clipping (SAELens,
dictionary_learning) and Adam. The batch is normal random numbers, the same for all; every tool computes in f32 on the CPU. On a GPU sparsify runs as its
trainer runs it: its Triton decoder, bf16 autocast, fused Adam; the others likewise under autocast.

With `--coder matching_pursuit` the tools are SAELens and overcomplete, both without a threshold and with k steps a row.

LAPIDARY_PEERS=NAME,NAME chooses among the tools. `pytorch` among them is a TopK coder as one would write it in PyTorch alone; it is
timed when it is asked for, and when no other tool can be started. LAPIDARY_PEERS_DEVICE overrides `--device`. A tool that fails
while it is timed (memory, say) answers `nan`, and so it does from then on.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import sys
import time
import traceback
import types

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who waits for its turn must not spin
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--d-in", type=int, default=768)
parser.add_argument("--d-sae", type=int, default=24576)
parser.add_argument("-k", type=int, default=32)
parser.add_argument("--batch-tokens", type=int, default=2048)
parser.add_argument("--coder", choices=["topk", "matching_pursuit"], default="topk")
parser.add_argument("--threads", type=int, default=os.cpu_count())
arguments = parser.parse_args()
arguments.device = os.environ.get("LAPIDARY_PEERS_DEVICE", arguments.device)
if arguments.device == "cpu":
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print must not stand among the answers

import torch  # noqa: E402

torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
D, F, K, N, DEVICE = arguments.d_in, arguments.d_sae, arguments.k, arguments.batch_tokens, arguments.device
x = torch.randn(N, D, device=DEVICE)


def autocast():
    return torch.autocast("cuda", torch.bfloat16) if DEVICE == "cuda" else contextlib.nullcontext()


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=1e-4, fused=True if DEVICE == "cuda" else None)


def trained(module, loss, before=lambda: None, adjust=lambda: None, after=lambda: None):
    optimizer = adam(module)

    def step():
        before()
        with autocast():
            value = loss()
        value.backward()
        adjust()
        optimizer.step()
        optimizer.zero_grad()
        after()

    return step


def clip(module):
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)


def parts_of(name):
    """Lets single modules of a package be imported without what the package imports for other work."""
    package = types.ModuleType(name)
    package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = package


def sparsify():
    # Only its coder: the trainer around it imports packages for data sets.
    parts_of("sparsify")
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(D, SparseCoderConfig(num_latents=F, k=K)).to(DEVICE)
    step = trained(
        coder,
        lambda: coder(x).fvu,
        before=coder.set_decoder_norm_to_unit_norm,
        adjust=coder.remove_gradient_parallel_to_decoder_directions,
    )
    return step, lambda: coder.encode(x)


def saelens():
    import sae_lens
    from sae_lens.saes.sae import TrainStepInput

    if arguments.coder == "topk":
        config = sae_lens.TopKTrainingSAEConfig(d_in=D, d_sae=F, k=K, device=DEVICE)
        sae = sae_lens.TopKTrainingSAE(config).to(DEVICE)
    else:
        config = sae_lens.MatchingPursuitTrainingSAEConfig(
            d_in=D,
            d_sae=F,
            max_iterations=K,
            residual_threshold=0.0,
            stop_on_duplicate_support=False,
            decoder_init_norm=1.0,
            device=DEVICE,
        )
        sae = sae_lens.MatchingPursuitTrainingSAE(config).to(DEVICE)
    names = TrainStepInput.__dataclass_fields__
    known = {"sae_in": x, "coefficients": {}, "dead_neuron_mask": None, "n_training_steps": 0, "is_logging_step": False}
    given = TrainStepInput(**{name: value for name, value in known.items() if name in names})
    step = trained(sae, lambda: sae.training_forward_pass(given).loss, adjust=lambda: clip(sae))
    return step, lambda: sae.encode(x)


def dictionary_learning():
    from dictionary_learning.trainers import top_k

    coder = top_k.AutoEncoderTopK(D, F, K).to(DEVICE)
    decoder = coder.decoder.weight

    def adjust():
        decoder.grad = top_k.remove_gradient_parallel_to_decoder_directions(decoder, decoder.grad, D, F)
        clip(coder)

    def after():
        decoder.data = top_k.set_decoder_norm_to_unit_norm(decoder, D, F)

    def loss():
        return ((coder(x) - x) ** 2).sum(-1).mean()

    return trained(coder, loss, adjust=adjust, after=after), lambda: coder.encode(x)


def overcomplete():
    # Only its coders: the rest imports packages for images that timing has no use for.
    parts_of("overcomplete")
    from overcomplete.sae.mp_sae import MpSAE

    coder = MpSAE(D, F, k=K, device=DEVICE)

    def loss():
        residual, _ = coder.encode(x)
        return residual.square().mean()

    return trained(coder, loss, adjust=lambda: clip(coder)), lambda: coder.encode(x)


def pytorch():
    encoder = torch.nn.Linear(D, F, device=DEVICE)
    decoder = torch.nn.Parameter(encoder.weight.detach().clone())
    b_dec = torch.nn.Parameter(torch.zeros(D, device=DEVICE))
    coder = torch.nn.ParameterList([*encoder.parameters(), decoder, b_dec])

    def encode():
        return encoder(x - b_dec).topk(K)

    def loss():
        values, indices = encode()
        found = torch.nn.functional.embedding_bag(
            indices, decoder, per_sample_weights=values.to(decoder.dtype), mode="sum"
        )
        return (x - b_dec - found).square().mean()

    return trained(coder, loss), encode


if arguments.coder == "topk":
    PACKAGES = {sparsify: "eai-sparsify", saelens: "sae-lens", dictionary_learning: "dictionary-learning", pytorch: "torch"}
else:
    PACKAGES = {saelens: "sae-lens", overcomplete: "overcomplete"}
usual = [tool.__name__ for tool in PACKAGES if tool is not pytorch]
chosen = os.environ.get("LAPIDARY_PEERS", ",".join(usual)).split(",")
tools = {}
for tool, package in PACKAGES.items():
    if tool.__name__ not in chosen:
        continue
    try:
        tools[tool.__name__] = (importlib.metadata.version(package), *tool())
    except Exception:  # a tool that is missing or broken must not keep the others from being timed
        traceback.print_exc(limit=3, file=sys.stderr)
if not tools and arguments.coder == "topk":
    tools["pytorch"] = (torch.__version__, *pytorch())
print(" ".join(f"{name}={version}" for name, (version, *_) in tools.items()), file=answers)


@torch.no_grad()
def timed_encode(encode):
    with autocast():
        encode()


def finished():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


failed = set()
for line in sys.stdin:
    name, what = line.split()
    seconds = float("nan")
    if name not in failed:
        try:
            _, step, encode = tools[name]
            finished()
            start = time.perf_counter()
            if what == "step":
                step()
            else:
                timed_encode(encode)
            finished()
            seconds = time.perf_counter() - start
        except Exception:
            traceback.print_exc(limit=3, file=sys.stderr)
            failed.add(name)
            tools[name] = step = encode = None
    print(seconds, file=answers)
