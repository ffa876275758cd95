#!/usr/bin/env python3
"""Writes the SHA-256 hashes of every pinned package into requirements files, below its pin.

    scripts/hash_requirements.py [--check] [FILE ...]      default: scripts/requirements*.txt

After a change to a pin, run this script and commit both. With --check nothing is written, and a
file is an error if its hashes differ from those of the registry. uv reads the hashes from the
registry. It must be on the path or beside the Python that runs this script.

Hashes are kept for wheels of CPython 3.11 to 3.14 on Linux with glibc (x86-64 and ARM) and macOS,
and for wheels of any platform. If a package has no such wheel, the hash of its source archive is
kept.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHONS = {"py3", "py2.py3", *(f"cp3{minor}" for minor in range(11, 15))}
ABIS = {"none", "abi3", *(f"cp3{minor}" for minor in range(11, 15))}
PLATFORMS = re.compile(r"any|(manylinux\w*|linux)_(x86_64|aarch64)|macosx_\w+_(arm64|x86_64|universal2)")


def normal(name: str) -> str:
    """The normalized spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_kept(wheel: str) -> bool:
    """Whether a wheel with this name can be installed where the scripts run."""
    python, abi, platforms = wheel.removesuffix(".whl").rsplit("-", 3)[1:]
    pythons = set(python.split("."))
    # A newer Python has the stable interface of an older one.
    stable = abi == "abi3" and any(re.fullmatch(r"cp3\d+", p) and int(p[3:]) <= 14 for p in pythons)
    fits = stable or python in PYTHONS or pythons & PYTHONS
    return bool(fits) and abi in ABIS and any(PLATFORMS.fullmatch(p) for p in platforms.split("."))


def hashes(path: Path) -> dict[str, list[str]]:
    """The sorted hashes of each package that a file pins."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "pylock.toml"
        options = ["--no-deps", "--universal", "--python-version", "3.11", "--quiet", "--no-config"]
        subprocess.run([uv, "pip", "compile", *options, "--format", "pylock.toml", path, "-o", lock], check=True)
        packages = tomllib.loads(lock.read_text())["packages"]
    found: dict[str, list[str]] = {}
    for package in packages:
        wheels = [w for w in package.get("wheels", []) if is_kept(w["url"].rsplit("/", 1)[1])]
        files = wheels or [package["sdist"]]
        found[package["name"]] = sorted(file["hashes"]["sha256"] for file in files)
    return found


def with_hashes(path: Path) -> str:
    """The text of a file with the right hashes."""
    found = hashes(path)
    out = []
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("--hash"):
            continue
        line = line.removesuffix("\\").rstrip()
        out.append(line)
        pin = re.match(r"([\w.-]+)==", line)
        if pin:
            of_it = [f"    --hash=sha256:{digest}" for digest in found[normal(pin[1])]]
            out[-1:] = [f"{line} \\", *(f"{each} \\" for each in of_it[:-1]), of_it[-1]]
    return "\n".join(out) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    wrong = 0
    for path in arguments.files or sorted(HERE.glob("requirements*.txt")):
        text = with_hashes(path)
        if text == path.read_text():
            print(f"{path.name}: {text.count('--hash=')} hashes, as they should be")
        elif arguments.check:
            print(f"{path.name}: found other hashes than the registry's, expected what {Path(__file__).name} writes")
            wrong = 1
        else:
            path.write_text(text)
            print(f"{path.name}: wrote {text.count('--hash=')} hashes")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
