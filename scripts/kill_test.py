#!/usr/bin/env python3
"""Kills commands at random moments, lets them finish, and compares with an undisturbed run.

    scripts/kill_test.py --lapidary target/debug/lapidary --kills 500 --pairs 50

The commands are train, train --overwrite, harvest, features and convert. Each is killed up to three
times on one folder (by SIGKILL, sometimes SIGTERM) and then run to its end. Afterwards every file
must have the bytes of the undisturbed run, except the times in metrics.jsonl. No other file may be
left in the folder.

`--pairs` starts two processes on one folder at the same moment. One must do the work, and the other
must be refused, unless it starts after the first has ended. Prints a table and one JSON object. The
exit code is 1 if anything was wrong. Needs Python alone.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = [
    "coder.d_sae=128",
    "coder.k=8",
    "corpus.context=32",
    "training.tokens=6400",
    "training.batch_tokens=128",
    "training.checkpoint_every_steps=7",
    "training.log_every_steps=1",
    "activations.buffer_tokens=512",
    "evaluation.tokens=256",
    "features.tokens=512",
    "features.examples_per_feature=2",
]
ROOT = Path(__file__).resolve().parent.parent


def settings(more=()):
    return [part for item in [*SETTINGS, *more] for part in ("--set", item)]


class Command:
    """A command on a folder: how to start it, how to finish it, and its expected result."""

    def __init__(self, name, start, finish=None, prepare=None, code=0):
        self.name, self.start, self.finish = name, start, finish or start
        self.prepare = prepare or (lambda folder: None)


def commands(program, scratch):
    train = [program, "train", str(ROOT / "configs/quickstart.toml"), "--device", "cpu", *settings(), "--out"]
    other = [*train[:-1], "--set", "seed=7", "--out"]
    run = scratch / "finished"
    subprocess.run([*train, str(run)], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    old = scratch / "old"
    subprocess.run([*other, str(old)], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    harvest = [program, "harvest", "--device", "cpu", "--hook", "blocks.1.hook_resid_post,blocks.2.hook_resid_post"]
    harvest += ["--corpus", "embedded", "--context", "32", "--tokens", "20000", "--shard-tokens", "2048", "--out"]
    features = [program, "features", "--device", "cpu", "--tokens", "2048"]
    convert = [program, "convert", "--format", "sparsify", "--overwrite", "--from", str(run), "--to"]
    return [
        Command("train", lambda out: [*train, str(out), "--resume"]),
        Command(
            "train --overwrite",
            lambda out: [*train, str(out), "--overwrite"],
            # If the new run has begun, --resume finishes it. Otherwise the command starts again.
            lambda out: [*train, str(out), "--resume"] if is_new(out) else [*train, str(out), "--overwrite"],
            lambda out: shutil.copytree(old, out),
        ),
        Command("harvest", lambda out: [*harvest, str(out)]),
        Command("features", lambda out: [*features, str(out)], prepare=lambda out: shutil.copytree(run, out)),
        Command("convert", lambda out: [*convert, str(out)]),
    ]


def is_new(out):
    """Whether the folder has the new run of `train --overwrite`, by the seed of its recipe."""
    if (out / ".run.next").exists():
        return True
    try:
        return "seed = 0" in (out / "config.toml").read_text()
    except OSError:
        return True


def contents(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.decode().splitlines()]
            for line in lines:
                del line["seconds"], line["tokens_per_second"]
            data = json.dumps(lines).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def run(arguments):
    return subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_one(command, place, rng, longest):
    """Starts the command and kills it at a random moment; whether it was still alive then."""
    process = subprocess.Popen(command.start(place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(rng.uniform(0, longest))
    alive = process.poll() is None
    process.send_signal(signal.SIGTERM if rng.random() < 0.15 else signal.SIGKILL)
    process.wait()
    return alive


def kills(program, scratch, wanted, rng):
    table, problems = [], []
    each = commands(program, scratch)
    for number, command in enumerate(each):
        whole = scratch / f"whole-{number}" / "out"
        whole.parent.mkdir()
        command.prepare(whole)
        began = time.monotonic()
        subprocess.run(command.start(whole), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        longest = time.monotonic() - began
        expected = contents(whole)
        share = wanted // len(each) + (number < wanted % len(each))
        killed, folders, wrong = 0, 0, 0
        while killed < share:
            around = scratch / f"kill-{number}-{folders}"
            around.mkdir()
            place = around / "out"
            command.prepare(place)
            for _ in range(rng.randint(1, 3)):
                killed += kill_one(command, place, rng, longest)
            done = run(command.finish(place))
            folders += 1
            found = contents(place) if place.exists() else {}
            litter = sorted(p.name for p in around.iterdir() if p != place)
            different = [f for f in {*expected, *found} if expected.get(f) != found.get(f)]
            if done.returncode or different or litter:
                wrong += 1
                problems.append(
                    {"command": command.name, "exit": done.returncode, "different": sorted(different), "litter": litter, "stderr": done.stderr[-400:]}
                )
            shutil.rmtree(around)
        table.append({"command": command.name, "kills": killed, "folders": folders, "wrong": wrong, "seconds": round(longest, 2)})
    return table, problems


def pairs(program, scratch, wanted):
    table, problems = [], []
    each = [c for c in commands(program, scratch) if c.name != "train --overwrite"]
    for number, command in enumerate(each):
        whole = scratch / f"alone-{number}" / "out"
        whole.parent.mkdir()
        command.prepare(whole)
        subprocess.run(command.start(whole), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        expected = contents(whole)
        share = wanted // len(each) + (number < wanted % len(each))
        refused = in_turn = 0
        for turn in range(share):
            place = scratch / f"pair-{number}-{turn}" / "out"
            place.parent.mkdir()
            command.prepare(place)
            both = [
                subprocess.Popen(command.start(place), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                for _ in range(2)
            ]
            ends = [(process.communicate()[1], process.returncode) for process in both]
            codes = sorted(code for _, code in ends)
            said = [error for error, code in ends if code and "another process is writing" in error]
            litter = sorted(p.name for p in place.parent.iterdir() if p != place)
            good = contents(place) == expected and not litter
            if codes == [0, 1] and len(said) == 1 and good:
                refused += 1
            elif codes == [0, 0] and good:
                in_turn += 1  # the first had ended before the second looked
            else:
                problems.append({"pair": command.name, "codes": codes, "litter": litter, "stderr": [e[-300:] for e, _ in ends]})
            shutil.rmtree(place.parent)
        table.append({"pair": command.name, "pairs": share, "refused": refused, "in_turn": in_turn})
    return table, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lapidary", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    program = str(Path(arguments.lapidary).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "kills").mkdir()
        (scratch / "pairs").mkdir()
        killed, problems = kills(program, scratch / "kills", arguments.kills, random.Random(arguments.seed))
        paired, more = pairs(program, scratch / "pairs", arguments.pairs)
    for row in killed:
        print(f"{row['command']:18} {row['kills']:4} kills, {row['folders']:4} folders, {row['wrong']:3} wrong   ({row['seconds']} s undisturbed)")
    for row in paired:
        print(f"{row['pair']:18} {row['pairs']:4} pairs, {row['refused']:4} times one was refused, {row['in_turn']} times they came one after the other")
    problems += more
    print(json.dumps({"kills": killed, "pairs": paired, "problems": problems[:20]}))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
