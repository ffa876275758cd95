#!/usr/bin/env python3
"""Makes tests/fixtures/dictionaries: small files of PyTorch and NumPy.

    python scripts/make_dictionary_fixtures.py

Some files have coders of 4 dimensions and 6 latents, as dictionary_learning, OpenAI and Gemma Scope
save them. Others must be refused. The tests compute the weights by the same formula.
"""

import os
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent.parent / "tests/fixtures/dictionaries"
D, F = 4, 6


def numbers(seed, *shape):
    n = int(np.prod(shape))
    values = [((i * 37 + seed * 11) % 64) / 16 - 2 for i in range(n)]
    return np.array(values, np.float32).reshape(shape)


def tensor(seed, *shape):
    return torch.from_numpy(numbers(seed, *shape))


def topk(d=D, f=F, k=2):
    """The tensors of AutoEncoderTopK, which are also those of BatchTopKSAE."""
    return {
        "k": torch.tensor(k, dtype=torch.int),
        "threshold": torch.tensor(0.5),
        "decoder.weight": tensor(3, f, d).T.contiguous(),
        "encoder.weight": tensor(1, f, d),
        "encoder.bias": tensor(2, f),
        "b_dec": tensor(4, d),
    }


class Call:
    """A call that unpickling would run."""

    def __reduce__(self):
        return os.system, ("echo this must never run",)


class Rebuilt:
    """A tensor that an unknown function builds."""

    def __reduce__(self):
        return Call, (tensor(1, F, D),)


def openai(activation):
    return {
        "pre_bias": tensor(4, D),
        "encoder.weight": tensor(1, F, D),
        "latent_bias": tensor(2, F),
        "decoder.weight": tensor(3, F, D).T.contiguous(),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long),
        "activation": activation,
        "activation_state_dict": {"k": 2, "postact_fn": "ReLU"} if activation == "TopK" else {},
    }


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    jumprelu = {"W_enc": tensor(1, F, D).T.contiguous(), "b_enc": tensor(2, F), "W_dec": tensor(3, F, D), "b_dec": tensor(4, D)}
    jumprelu["threshold"] = tensor(5, F)
    files = {
        "topk": topk(),
        "topk_square": topk(f=D),
        "topk_bf16": {n: t.bfloat16() if t.is_floating_point() else t for n, t in topk().items()},
        "topk_f64": {n: t.double() if t.is_floating_point() else t for n, t in topk().items()},
        "topk_views": topk() | {"encoder.weight": tensor(1, F, D).T.contiguous().T},
        "transposed": topk() | {"encoder.weight": tensor(1, F, D).T.contiguous()},
        "missing": {n: t for n, t in topk().items() if n != "b_dec"},
        "extra": topk() | {"W_skip": tensor(6, D, D)},
        "wrong_k": topk(k=7),
        "float8": topk() | {"encoder.weight": tensor(1, F, D).to(torch.float8_e4m3fn)},
        "integers": topk() | {"encoder.weight": tensor(1, F, D).int()},
        "nan": topk() | {"encoder.bias": tensor(2, F).log()},
        "huge_view": topk() | {"encoder.weight": torch.zeros(1, 1).expand(1 << 20, 1 << 20)},
        "wide_view": topk() | {"encoder.weight": torch.zeros(1, 1).expand(1 << 10, 1 << 10)},
        "unset_threshold": topk() | {"threshold": torch.tensor(-1.0)},
        "jumprelu": jumprelu,
        "groups": jumprelu | {"k": torch.tensor(2), "threshold": torch.tensor(0.5), "group_sizes": torch.tensor([2, 3])},
        "call": topk() | {"b_dec": Call()},
        "rebuilt": topk() | {"b_dec": Rebuilt()},
        "object": topk() | {"config": {"lr": 1.0}},
        "no_dictionary": [tensor(1, F)],
        "openai_relu": openai("ReLU"),
        "openai_topk": openai("TopK"),
    }
    for name, content in files.items():
        torch.save(content, FOLDER / f"{name}.pt")
    torch.save(topk(), FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)

    arrays = {"W_enc": numbers(1, F, D).T.copy(), "W_dec": numbers(3, F, D), "b_enc": numbers(2, F), "b_dec": numbers(4, D)}
    arrays["threshold"] = numbers(5, F)
    np.savez(FOLDER / "gemma_scope.npz", **arrays)
    np.savez_compressed(FOLDER / "compressed.npz", **arrays)
    np.savez(FOLDER / "gemma_scope_f64.npz", **{n: a.astype(np.float64) for n, a in arrays.items()})
    np.savez(FOLDER / "fortran.npz", **arrays | {"W_enc": np.asfortranarray(numbers(1, D, F))})
    np.savez(FOLDER / "object.npz", **arrays | {"W_enc": np.array([{"a": 1}], dtype=object)})
    np.savez_compressed(FOLDER / "zeros.npz", **arrays | {"W_enc": np.zeros((D, 1 << 21), np.float32)})
    np.savez(FOLDER / "integers.npz", **arrays | {"b_enc": np.arange(F)})
    print(f"{FOLDER}: {sum(f.stat().st_size for f in FOLDER.iterdir())} bytes in {len(list(FOLDER.iterdir()))} files")


if __name__ == "__main__":
    main()
