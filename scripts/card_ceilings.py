#!/usr/bin/env python3
"""Measures what PyTorch reaches on a card, and the floor of a TopK training step that follows.

Prints one JSON object with the rates of

- a product of 8192 x 8192 x 8192 in bf16 and in f32 (without TF32)
- a copy, in bytes read and written

and, for each argument `d,F,tokens`, the seconds of

- the encoder's product at these sizes: 2·tokens·d·F operations, in bf16 and in f32
- one pass of Adam over the weights: 28 bytes per weight

Inputs are normal random numbers. Times are medians.
"""

import argparse
import json
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("sizes", nargs="*", metavar="d,F,tokens")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
parser.add_argument("--size", type=int, default=8192, help="of the product; the copy takes four times its bytes in f32")
arguments = parser.parse_args()

import torch  # noqa: E402

torch.backends.cuda.matmul.allow_tf32 = False
ON_CARD = arguments.device == "cuda"
N = arguments.size


def seconds(work, times=10):
    def finished():
        if ON_CARD:
            torch.cuda.synchronize()

    found = []
    for _ in range(times + 3):
        finished()
        start = time.perf_counter()
        work()
        finished()
        found.append(time.perf_counter() - start)
    return statistics.median(found[3:])


def product(dtype):
    a, b = (torch.randn(N, N, device=arguments.device).to(dtype) for _ in range(2))
    return 2 * N**3 / seconds(lambda: a @ b)


rates = {"bf16": product(torch.bfloat16), "f32": product(torch.float32)}
source = torch.randn(4 * N, N, device=arguments.device)
target = torch.empty_like(source)
copied = 2 * source.numel() * 4 / seconds(lambda: target.copy_(source))
floors = []
for sizes in arguments.sizes:
    d, f, tokens = map(int, sizes.split(","))
    floor = {f"product_{name}_seconds": 2 * tokens * d * f / rate for name, rate in rates.items()}
    floors.append({"d_in": d, "d_sae": f, "batch_tokens": tokens, **floor, "adam_seconds": 28 * 2 * d * f / copied})
print(
    json.dumps(
        {
            "device": torch.cuda.get_device_name() if ON_CARD else "CPU",
            "torch": torch.__version__,
            "bf16_tflops": rates["bf16"] / 1e12,
            "f32_tflops": rates["f32"] / 1e12,
            "copy_tb_per_second": copied / 1e12,
            "floors": floors,
        },
        indent=1,
    )
)
