#!/usr/bin/env python3
"""Times the forward pass of transformers, for `lapidary bench --model FOLDER --vs-peers`.

The script prints `transformers=version`. It then reads lines `transformers harvest` or
`transformers logits` from standard input and answers each with the time in seconds. `harvest` runs
only the first --layers layers, since Lapidary stops after the last hook point. `logits` computes
the logits of all positions. Everything is in f32, with transformers' default attention and without
a cache of keys and values.
"""

import argparse
import copy
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a waiting tool must not use the CPU
os.environ["HF_HUB_OFFLINE"] = "1"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="folder in Hugging Face layout")
parser.add_argument("--layers", type=int, required=True)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--context", type=int, default=128)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--threads", type=int, default=os.cpu_count())
arguments = parser.parse_args()
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # keeps the output of libraries out of the answers

import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(arguments.threads)
model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(arguments.device).eval()
first = copy.copy(model.base_model)  # shares its weights
first._modules = dict(first._modules)
layers = next(name for name, part in first._modules.items() if isinstance(part, torch.nn.ModuleList))
first._modules[layers] = first._modules[layers][: arguments.layers]
first.config = copy.copy(first.config)
first.config.num_hidden_layers = arguments.layers
vocabulary = model.config.vocab_size
tokens = ((torch.arange(arguments.batch * arguments.context) * 7919 + 13) % vocabulary).reshape(arguments.batch, -1)
tokens = tokens.to(arguments.device)
passes = {"harvest": lambda: first(tokens, use_cache=False), "logits": lambda: model(tokens, use_cache=False)}
print(f"transformers={transformers.__version__}", file=answers)

with torch.no_grad():
    for line in sys.stdin:
        _, what = line.split()
        start = time.perf_counter()
        output = passes[what]()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - start, file=answers)
        del output
