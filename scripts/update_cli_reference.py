#!/usr/bin/env python3
"""Puts the texts of `lapidary COMMAND --help` into docs/reference/cli.md.

    scripts/update_cli_reference.py --lapidary target/debug/lapidary [--check]

Each text goes below the heading that names the command. With --check nothing is written, and the
exit code is 1 if the page is out of date. Needs Python alone.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs/reference/cli.md"


def help_of(program, command):
    environment = {**os.environ, "COLUMNS": "140"}
    printed = subprocess.run([program, *command.split(), "--help"], check=True, capture_output=True, text=True, env=environment)
    return printed.stdout.rstrip() + "\n"


def commands_in(text):
    """Names of the commands that a help text lists."""
    listed = re.search(r"^Commands:\n(.*?)\n\n", text, re.M | re.S)
    lines = listed[1].splitlines() if listed else []
    return [line.split()[0] for line in lines if re.match(r"  \S", line) and line.split()[0] != "help"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lapidary", required=True)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    program = str(Path(arguments.lapidary).resolve())
    commands = []
    for command in commands_in(help_of(program, "")):
        commands += [command, *(f"{command} {inner}" for inner in commands_in(help_of(program, command)))]
    page = PAGE.read_text()
    new, seen = [], []
    for section in re.split(r"(?m)^(?=## )", page):
        name = re.match(r"## (.+)\n", section)
        if name and name[1] in commands:
            seen.append(name[1])
            text = f"```text\n{help_of(program, name[1])}```"
            section, count = re.subn(r"(?s)```text\n.*?\n```", lambda _: text, section, count=1)
            if not count:
                sys.exit(f"{PAGE}: section `{name[1]}` has no block of text")
        new.append(section)
    missing = [c for c in commands if c not in seen]
    if missing:
        sys.exit(f"{PAGE}: found no section for {', '.join(missing)}")
    new = "".join(new)
    if arguments.check and new != page:
        sys.exit(f"{PAGE} is out of date: run scripts/update_cli_reference.py")
    if not arguments.check:
        PAGE.write_text(new)


if __name__ == "__main__":
    main()
