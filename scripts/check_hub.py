#!/usr/bin/env python3
"""Checks how `lapidary` fetches from a hub, with servers on loopback (`hub_server.py`).

A hub that behaves: models, dictionaries and datasets are fetched, and the token is sent only to the
endpoint. If `huggingface_hub` is installed, it must find the files that Lapidary fetched, and
Lapidary must find the files that it fetched.

A hub that misbehaves, in every mode: the program must print one line of error and exit with code 1.
It must leave nothing outside the cache, and no file under its final name.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hub_server import COMMIT, LISTING_MODES, MODES, Hub, folder_files

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
TOKEN = "hf_do_not_tell"
COPIED = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME")


def environment(home, endpoint, **more):
    """The environment of this process, without the variables of the hub or a proxy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(COPIED) and not name.lower().endswith("_proxy")
    }
    ours = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    }
    return kept | ours | more


def model_files():
    folder = FIXTURES / "models" / "gpt2"
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


def sharded_files():
    files = folder_files(FIXTURES / "models" / "gpt2-sharded")
    return {name: data for name, data in files.items() if name not in ("expected.safetensors", "lens.safetensors")}


def dictionary_files():
    data = (FIXTURES / "dictionaries" / "jumprelu.pt").read_bytes()
    config = b'{"trainer": {"dict_class": "JumpReluAutoEncoder"}}'
    return {"trainer_0/ae.pt": data, "trainer_0/config.json": config}


def dataset_files():
    line = '{"text": "%s"}\n' % ("Nine words that a model reads many times over. " * 9)
    return {"data/train-00000-of-00001.jsonl": line.encode() * 4}


RUN = ["run", "--model", "someone/tiny", "--tokens", "1,2,3", "--capture", "logits", "--device", "cpu", "--out", "x.safetensors"]
CONVERT = ["convert", "--format", "saelens", "--from", "hf:someone/tiny/trainer_0", "--to", "converted"]
HARVEST = ["harvest", "--corpus", "hf:someone/tiny", "--hook", "blocks.0.hook_resid_pre", "--context", "8", "--device", "cpu"]
HARVEST += ["--out", "store"]

# Commands that fetch, with the files at which the hub may misbehave.
KINDS = {
    "model": (model_files, RUN, ["config.json", "model.safetensors"]),
    "sharded": (sharded_files, RUN, ["model.safetensors.index.json", "model-00002-of-00002.safetensors"]),
    "dictionary": (dictionary_files, CONVERT, ["trainer_0/config.json", "trainer_0/ae.pt"]),
    "dataset": (dataset_files, HARVEST, ["data/train-00000-of-00001.jsonl"]),
}


def run(lapidary, arguments, home, endpoint, **more):
    return subprocess.run(
        [lapidary, *arguments],
        cwd=home,
        env=environment(home, endpoint, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )


def misbehave(lapidary, kind, mode, target):
    """What the program did wrong in a mode, or None."""
    make, arguments, _ = KINDS[kind]
    said = LISTING_MODES[mode] if target is None else MODES[mode]
    with tempfile.TemporaryDirectory() as outer, Hub(make(), mode, target) as hub:
        home = Path(outer) / "a" / "b" / "c" / "home"
        home.mkdir(parents=True)
        done = run(lapidary, arguments, home, hub.endpoint)
        # `harvest` first prints that it has loaded its model.
        lines = [line for line in done.stderr.splitlines() if not line.startswith("      load ")]
        faults = []
        if done.returncode != 1:
            faults.append(f"exit code {done.returncode}")
        if len(lines) != 1 or not lines[0].startswith("error: ") or "panicked" in done.stderr:
            faults.append("not one line of error")
        if not re.search(said, done.stderr):
            faults.append(f"without {said!r}")
        if TOKEN in done.stderr:
            faults.append("the token is shown")
        if hub.tokens_elsewhere():
            faults.append("the token went to another host")
        for path in sorted(Path(outer).rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            if home / "hub" not in path.parents:
                faults.append(f"{path.relative_to(outer)} is outside the cache")
            elif target is not None and "snapshots" in path.parts and str(path).endswith("/" + target):
                faults.append(f"{path.name} has its final name")
        for escaped in Path("/tmp").glob("escaped*"):
            faults.append(f"{escaped} was written")
            escaped.unlink()
        name = f"{kind:>10} {mode:<24} {target or ''}"
        if faults:
            return f"{name}: {', '.join(faults)}\n    {done.stderr.strip()}"
        print(f"{name}\n    {lines[0]}", flush=True)
        return None


def behave(lapidary, kind):
    """A hub that behaves: files are fetched once, then found without a hub."""
    make, arguments, _ = KINDS[kind]
    with tempfile.TemporaryDirectory() as outer, Hub(make()) as hub:
        home = Path(outer)
        done = run(lapidary, arguments, home, hub.endpoint)
        if done.returncode:
            return f"{kind}: {done.stderr}"
        if hub.tokens_elsewhere():
            return f"{kind}: the token went to another host"
        if not all(headers.get("authorization") for host, _, headers in hub.requests if host == "hub"):
            return f"{kind}: a request to the endpoint had no token"
        for made in ("x.safetensors", "converted", "store"):
            subprocess.run(["rm", "-rf", home / made], check=True)
        done = run(lapidary, arguments, home, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
        if done.returncode:
            return f"{kind}, offline: {done.stderr}"
    return None


IN_PYTHON = """
import sys
from pathlib import Path
from huggingface_hub import constants, hf_hub_download, snapshot_download, try_to_load_from_cache
repo_type, offline, *files = sys.argv[1:]
if offline == "offline":
    folder = Path(snapshot_download("someone/tiny", repo_type=repo_type, local_files_only=True))
    for file in files:
        found = try_to_load_from_cache("someone/tiny", file, repo_type=repo_type)
        assert isinstance(found, str) and Path(found) == folder / file, (file, found)
        assert hf_hub_download("someone/tiny", file, repo_type=repo_type, local_files_only=True) == found
else:
    for file in files:
        folder = Path(hf_hub_download("someone/tiny", file, repo_type=repo_type))
print(constants.HF_HUB_CACHE)
for file in sorted(Path(constants.HF_HUB_CACHE).rglob("*")):
    if file.is_file():
        print(file.relative_to(constants.HF_HUB_CACHE), file.resolve().relative_to(Path(constants.HF_HUB_CACHE).resolve()))
"""


def share(lapidary, kind):
    """Lapidary and Python's `huggingface_hub` read each other's cache."""
    make, arguments, _ = KINDS[kind]
    files = make()
    repo_type = "dataset" if kind == "dataset" else "model"

    def python(offline, home, endpoint):
        more = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if offline == "offline":
            more["HF_HUB_OFFLINE"] = "1"
        done = subprocess.run(
            [sys.executable, "-c", IN_PYTHON, repo_type, offline, *files],
            cwd=home,
            env=environment(home, endpoint, **more),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"check_hub: huggingface_hub, {kind}, {offline}: {done.stderr}")
        return done.stdout.splitlines()[1:]

    def layout(lines):
        """Names in the cache and targets of links, without files that only one program makes."""
        return [line for line in lines if "/.no_exist/" not in line and ".locks/" not in line and "CACHEDIR.TAG" not in line]

    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs, Hub(files) as hub:
        done = run(lapidary, arguments, Path(ours), hub.endpoint)
        if done.returncode:
            return f"{kind}: {done.stderr}"
        found = python("offline", Path(ours), "http://127.0.0.1:9")
        fetched = python("online", Path(theirs), hub.endpoint)
        if layout(found) != layout(fetched):
            return f"{kind}: the caches differ: {layout(found)} and {layout(fetched)}"
        done = run(lapidary, arguments, Path(theirs), "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
        if done.returncode:
            return f"{kind}, in Python's cache: {done.stderr}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lapidary", required=True, help="the program")
    parser.add_argument("--mode", choices=[*MODES, *LISTING_MODES], help="only this one")
    arguments = parser.parse_args()
    lapidary = str(Path(arguments.lapidary).resolve())
    try:
        import huggingface_hub

        print(f"huggingface_hub {huggingface_hub.__version__}")
        both_ways = True
    except ImportError:
        print("huggingface_hub is not installed: the cache is not compared")
        both_ways = False
    jobs = []
    if arguments.mode is None:
        jobs += [(behave, (kind,)) for kind in KINDS]
        jobs += [(share, (kind,)) for kind in KINDS if both_ways]
    for kind, (_, _, targets) in KINDS.items():
        jobs += [(misbehave, (kind, mode, target)) for mode in MODES for target in targets]
        if kind in ("dictionary", "dataset"):
            jobs += [(misbehave, (kind, mode, None)) for mode in LISTING_MODES]
    jobs = [job for job in jobs if arguments.mode in (None, *job[1])]
    # Most modes wait for time-outs.
    with ThreadPoolExecutor(8) as pool:
        faults = [fault for fault in pool.map(lambda job: job[0](lapidary, *job[1]), jobs) if fault]
    if faults:
        sys.exit("check_hub:\n" + "\n".join(faults))
    print(f"check_hub: {len(jobs)} cases, commit {COMMIT[:8]}")


if __name__ == "__main__":
    main()
