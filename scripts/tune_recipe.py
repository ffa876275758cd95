#!/usr/bin/env python3
"""Trains recipes with several learning rates and names the best coder of each.

All coders are trained in one run, so the model runs once over the text:

    scripts/tune_recipe.py configs/quickstart.toml configs/gated-embedded.toml --out tuned
    scripts/tune_recipe.py my-recipe.toml --rates 1e-3,2e-3,4e-3 --sweep coder.k=32,64 --out tuned

Each recipe must say how many latents are active: `coder.k`, `coder.target_l0`, or
`coder.jumprelu.target_l0` with the penalty `quadratic`. Otherwise coders of different L0 would be
compared, and the one with more active latents would win.

A coder qualifies if at least --alive of its latents fire on the held-out text, and its L0 is within
a tenth of what the recipe says (a matching pursuit may also have fewer). Among these, the best one
explains most of each token (`explained_variance_legacy`). Coders that differ in a key of --sweep are
compared only with those that have the same value.

The result is a table in Markdown, and the learning rate and folder of each best coder. A best rate
at the end of --rates may not be the best one of all: then the script says so. If a coder diverges,
the run stops: try again with lower --rates and another --out.
"""

import argparse
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

RATES = "1e-3,2e-3,4e-3,8e-3,1.6e-2"
COUNTING = ["topk", "batchtopk", "matryoshka", "matching_pursuit"]  # architectures with a k
COLUMNS = ["L0", "FVU", "explained per token", "CE-loss score", "alive"]
NEEDED = ["l0", "fvu", "explained_variance_legacy", "ce_loss_score", "frac_alive"]  # of COLUMNS


def fail(message):
    sys.exit(f"tune_recipe: {message}")


def rates(text):
    written = [rate.strip() for rate in text.split(",")]
    try:
        found = [float(rate) for rate in written]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text}, expected learning rates with commas") from None
    if any(not 0 < rate < math.inf for rate in found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"found {text}, expected different learning rates above 0")
    return written


def check(path):
    try:
        recipe = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or error}")
    coder = recipe.get("coder", {})
    counts = coder.get("architecture", "topk") in COUNTING
    quadratic = coder.get("jumprelu", {}).get("penalty") == "quadratic"
    if not (counts or quadratic or "target_l0" in coder):
        fail(f"{path}: coder.target_l0: found none, expected a number: else coders of different L0 would be compared")
    if recipe.get("evaluation", {}).get("tokens") == 0:
        fail(f"{path}: evaluation.tokens: found 0, expected at least 1: coders are compared on held-out text")


def train(arguments):
    command = [arguments.lapidary, "train", *map(str, arguments.recipes), "--out", str(arguments.out)]
    command += ["--sweep", "training.lr=" + ",".join(arguments.rates)]
    for sweep in arguments.sweep:
        command += ["--sweep", sweep]
    for key in ["features.tokens=0", "training.restart_if_diverging=false", *arguments.set]:
        command += ["--set", key]
    if (arguments.out / "run.json").exists():
        command.append("--resume")  # finished or not: what is done is not done again
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        fail(f"{arguments.lapidary}: not found: give the binary with --lapidary")
    except subprocess.CalledProcessError as error:
        fail(f"`lapidary train` ended with {error.returncode}")


def coders(out):
    """Recipe and metrics of each coder, by its name."""
    found = {}
    for config in sorted(out.glob("*/config.toml")):
        metrics = config.with_name("metrics.json")
        if not metrics.exists():
            fail(f"{metrics}: not there: the recipe needs evaluation.tokens above 0")
        found[config.parent.name] = (tomllib.loads(config.read_text()), json.loads(metrics.read_text()))
    if not found:
        fail(f"{out}: no coders")
    return found


def wanted_l0(recipe):
    coder = recipe["coder"]
    layers = len(recipe.get("hook_points_out", [])) or 1
    if coder["architecture"] in COUNTING:
        return coder["k"] * layers
    return coder.get("target_l0", coder.get("jumprelu", {}).get("target_l0", math.nan)) * layers


def qualifies(recipe, metrics, alive):
    share = metrics["l0"] / wanted_l0(recipe)
    least = 0 if recipe["coder"]["architecture"] == "matching_pursuit" else 0.9
    return metrics["frac_alive"] >= alive and least <= share <= 1.1


def group(name, rate):
    """The name without the learning rate: what coders that are compared have in common."""
    parts = name.split(f"lr-{rate}")
    if len(parts) < 2:
        fail(f"{name}: the name has no part lr-{rate}")
    before, after = f"lr-{rate}".join(parts[:-1]), parts[-1]
    return (before.rstrip("_") + after).strip("_")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="CONFIG", help="recipes of `lapidary train`")
    parser.add_argument("--rates", type=rates, default=rates(RATES), help=f"learning rates (default: {RATES})")
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=V,V", help="another key to try; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key for all coders; may be repeated")
    parser.add_argument("--alive", type=float, default=0.9, help="least share of latents that fire (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run; a run there is continued")
    parser.add_argument("--lapidary", default="lapidary", metavar="BIN", help="the binary (default: the one on the path)")
    arguments = parser.parse_args()

    for recipe in arguments.recipes:
        check(recipe)
    train(arguments)
    groups = {}
    for name, (recipe, metrics) in coders(arguments.out).items():
        rate = next((r for r in arguments.rates if float(r) == recipe["training"]["lr"]), None)
        if rate is None:
            fail(f"{arguments.out}/{name}: its learning rate is {recipe['training']['lr']}, not one of --rates")
        groups.setdefault(group(name, rate), []).append((float(rate), name, recipe, metrics))

    print(f"\n| coder | lr | {' | '.join(COLUMNS)} | best |\n|---|---|{'---|' * len(COLUMNS)}---|")
    notes = []
    for title, members in sorted(groups.items()):
        members.sort()
        measured = [m for m in members if all(isinstance(m[3][key], float) for key in NEEDED)]
        fit = [m for m in measured if qualifies(m[2], m[3], arguments.alive)]
        best = max(fit, key=lambda m: m[3]["explained_variance_legacy"], default=None)
        for member in members:
            rate, name, _, m = member
            # A metric that is not finite is null.
            values = " | ".join("-" if m[key] is None else f"{m[key]:.4f}" for key in NEEDED)
            mark = "best" if member is best else ""
            print(f"| {title or 'coder'} | {rate:g} | {values} | {mark} |")
        title = title or "the recipe"
        if best is None:
            notes.append(f"{title}: no coder has {100 * arguments.alive:g} % of its latents alive and the L0 that was asked for")
            continue
        notes.append(f"{title}: training.lr = {best[0]:g}, in {arguments.out / best[1]}")
        if len(members) > 1 and best in (members[0], members[-1]):
            notes.append(f"{title}: {best[0]:g} is at the end of --rates: try more")
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
