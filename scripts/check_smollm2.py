#!/usr/bin/env python3
"""Compares SmolLM2-135M here with the same weights in transformers.

Run it by hand, since the weights are 540 MB. It compares, within 1e-3, the next-token loss on
held-out speeches and the five likeliest tokens at every position. It runs twenty indirect-object
prompts through both programs. It compares the GGUF file with the folder that
scripts/fetch_smollm2.py made of it, within 1e-4.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import polars
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

REPOSITORY = Path(__file__).resolve().parent.parent
CORPUS = REPOSITORY / "crates/activations/corpus/state_of_the_union.parquet"
SCENES = [
    ("went to the store", "gave a drink"), ("were at the park", "handed a flower"), ("had lunch together", "passed the salt"),
    ("met at the station", "gave a ticket"), ("worked in the garden", "handed a shovel"), ("sat by the fire", "read a letter"),
    ("went to the school", "gave a book"), ("were in the kitchen", "passed a plate"), ("walked to the beach", "threw a ball"),
    ("arrived at the office", "sent a message"),
]
NAMES = [("Mary", "John"), ("Anna", "Tom"), ("Sarah", "Peter"), ("Lisa", "James"), ("Emma", "David")]


def prompts():
    """Indirect-object prompts: each scene with two pairs of names and either name as the giver."""
    for i, (scene, act) in enumerate(SCENES):
        for turn in range(2):
            one, other = NAMES[(2 * i + turn) % len(NAMES)]
            giver, receiver = (other, one) if turn == 0 else (one, other)
            yield f"When {one} and {other} {scene}, {giver} {act} to", receiver, giver


class Ours:
    def __init__(self, binary, model, folder):
        self.binary, self.model, self.out = binary, model, Path(folder) / "out.safetensors"

    def logits(self, tokens):
        command = [self.binary, "run", "--device", "cpu", "--model", self.model, "--capture", "logits", "--out", self.out]
        subprocess.run([*command, "--tokens", ",".join(map(str, tokens))], check=True, stdout=subprocess.DEVNULL)
        return load_file(self.out)["logits"]


def loss(logits, tokens):
    """Mean next-token loss over positions, in nats."""
    return torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(tokens[1:])).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder, made by scripts/fetch_smollm2.py")
    parser.add_argument("--gguf", type=Path, help="the GGUF file that the folder was made of")
    parser.add_argument("--lapidary", default="target/debug/lapidary", help="the binary")
    parser.add_argument("--windows", type=int, default=8, help="windows of 256 tokens of the held-out speeches")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    bos = json.loads((arguments.folder / "config.json").read_text())["bos_token_id"]
    theirs = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32).eval()

    def reference(tokens):
        with torch.no_grad():
            return theirs(torch.tensor([tokens]), use_cache=False).logits[0]

    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments.lapidary, arguments.folder, folder)
        speeches = polars.read_parquet(CORPUS).filter(polars.col("split") == "heldout")["text"]
        ids = tokenizer.encode("\n\n".join(speeches), add_special_tokens=False).ids
        step = len(ids) // arguments.windows
        windows = [[bos] + ids[i * step : i * step + 255] for i in range(arguments.windows)]
        ours_loss, their_loss, worst, same, positions = 0.0, 0.0, 0.0, 0, 0
        for tokens in windows:
            found, wanted = ours.logits(tokens), reference(tokens)
            ours_loss += loss(found, tokens) / len(windows)
            their_loss += loss(wanted, tokens) / len(windows)
            best = wanted.topk(5).indices
            found_p, wanted_p = found.log_softmax(-1).gather(1, best), wanted.log_softmax(-1).gather(1, best)
            worst = max(worst, (found_p - wanted_p).abs().max().item())
            same += (found.topk(5).indices == best).all(1).sum().item()
            positions += len(tokens)
        print(f"next-token loss on {positions} tokens: {ours_loss:.6f} here, {their_loss:.6f} in transformers")
        print(f"five likeliest: the same in the same order at {same} of {positions} positions, log probabilities within {worst:.1e}")
        assert abs(ours_loss - their_loss) < 1e-3 and worst < 1e-3
        # Two logits that differ by less than the rounding may be in either order.
        assert same >= 0.999 * positions, f"{positions - same} positions differ"

        right, gaps = [0, 0], []
        for text, receiver, giver in prompts():
            tokens = [bos] + tokenizer.encode(text, add_special_tokens=False).ids
            names = [tokenizer.encode(f" {name}", add_special_tokens=False).ids[0] for name in (receiver, giver)]
            assert names[0] != names[1], f"{receiver} and {giver} begin with the same token"
            for who, logits in enumerate((ours.logits(tokens)[-1], reference(tokens)[-1])):
                gap = (logits[names[0]] - logits[names[1]]).item()
                right[who] += gap > 0
                if who == 0:
                    gaps.append(gap)
        mean = sum(gaps) / len(gaps)
        print(f"indirect objects: {right[0]} of {len(gaps)} right here, {right[1]} in transformers, mean logit difference {mean:.2f}")
        assert right[0] == right[1] and right[0] >= 19

        if arguments.gguf:
            direct = Ours(arguments.lapidary, arguments.gguf, folder)
            found, wanted = direct.logits(windows[0]), ours.logits(windows[0])
            difference = (found - wanted).abs().max().item()
            print(f"GGUF read directly: logits within {difference:.1e} of the folder's, the largest of which is {wanted.abs().max():.1f}")
            assert difference < 1e-4


if __name__ == "__main__":
    main()
