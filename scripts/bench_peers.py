#!/usr/bin/env python3
"""Times a training step and the encoder of sparsify, SAELens and dictionary_learning.

`lapidary bench --vs-peers` runs this script. It prints one line with the tools that could be
started, `name=version` each. It then reads lines `name step` or `name encode` from standard input
and answers each with the time in seconds.

A step is what the tool's own trainer does with one batch by default: forward pass, backward pass
and Adam. sparsify and dictionary_learning also keep decoder rows at norm 1, as Lapidary does.
SAELens and dictionary_learning also clip gradients. The batch is normal random numbers, the same
for all tools. On the CPU every tool computes in f32. On a GPU, sparsify runs as in its trainer,
with its Triton decoder, bf16 autocast and fused Adam. The other tools also run under autocast.

With `--coder matching_pursuit` the tools are SAELens and overcomplete. Both do k steps per row,
without a threshold.

LAPIDARY_PEERS=NAME,NAME selects tools. The tool `pytorch` is a TopK coder in plain PyTorch. It is
timed if it is selected, or if no other tool can be started. LAPIDARY_PEERS_DEVICE overrides
`--device`. If a tool fails while it is timed (out of memory, for example), the answer is `nan`. All
later answers for this tool are `nan` too.
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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a waiting tool must not use the CPU
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
os.dup2(2, 1)  # keeps the output of libraries out of the answers

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
    """Lets single modules of a package be imported without the package's other imports."""
    package = types.ModuleType(name)
    package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = package


def sparsify():
    # Import only the coder: the trainer imports packages for data sets.
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
    # Import only the coders: the rest imports packages for images.
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
    except Exception:  # the other tools are timed even if one is missing or broken
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
