#!/usr/bin/env python3
"""Times the forward pass of transformers: the other half of `lapidary bench --model FOLDER --vs-peers`.

Prints `transformers=version` and then answers each line `transformers harvest` or `transformers logits` on standard input
with the seconds that it took. Harvesting runs the first --layers layers only, as a pass here stops after its last hook
point; logits are those of all positions. f32, transformers' default attention, no cache of keys and values.
"""

import argparse
import copy
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # who waits for its turn must not spin
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
os.dup2(2, 1)  # what libraries print must not stand among the answers

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
