#!/usr/bin/env python3
"""Checks the width of prose and the links of the documentation.

    scripts/check_text.py [--wrap] [PATH...]

Prose in Markdown and comments in Rust and Python may be 100 columns wide. Code blocks, tables,
headings and words that cannot be broken may be wider. Every relative link in Markdown must lead to
a file, its anchor to a heading. Every docs/….md that a source file names must exist, unless the
name is in backticks.

Each finding is one line, `file:line: what`, and the exit code is 1 if there is any. With --wrap,
Markdown paragraphs and whole-line comments that are too wide are wrapped first; code is not
changed. PATH is a file or folder; without one, all files that git knows are checked. Needs git and
Python alone.
"""

import argparse
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

WIDTH = 100
GENERATED = ("docs/reference/cli.md", "docs/reference/recipe.md", "docs/reference/metrics.md")
LIST_ITEM = re.compile(r"(\s*(?:[-*+]|\d+[.)])\s+)\S")
# What starts a block of its own, or is left as it is: headings, tables, quotes, HTML, rules, link
# definitions, code indented by four columns.
BLOCK = re.compile(r"\s*(?:#{1,6} |\||>|<|(?:[-*_=]\s*){3,}$|\[[^\]]+\]: )|\s{4,}\S")
FENCE = re.compile(r"\s*(```+|~~~+)")
# A code span is not broken, nor is what would start a list or another block at a line's beginning.
WORD = re.compile(r"(?:`[^`]*`|\S)+")
NO_START = re.compile(r"(?:[-*+>|=]|#{1,6}|\d+[.)])$|[|>]")
# Rust, as far as needed to know comments from strings.
RUST = re.compile(
    r"""//[^\n]*|/\*.*?\*/|(?<!\w)[bc]?r(?P<n>\#*)".*?"(?P=n)|"(?:\\.|[^"\\])*"|'(?:\\[^']*|[^'\\])'""",
    re.S,
)
MARKER = re.compile(r"(\s*)(///|//!|//|#)( |$)(.*)")

# Comments that tools read.
PRAGMA = re.compile(r"# (noqa|fmt:)")


def words(text):
    units = []
    for word in WORD.findall(text):
        if units and NO_START.match(word):
            units[-1] += " " + word
        else:
            units.append(word)
    return units


def fill(text, first, rest, width):
    """Wraps the words of `text` to `width` columns; lines begin with `first`, then with `rest`."""
    lines, line, empty = [], first, True
    for word in words(text):
        if not empty and len(line) + 1 + len(word) > width:
            lines.append(line)
            line, empty = rest, True
        line += word if empty else " " + word
        empty = False
    return lines + [line]


def paragraphs(lines, keep_short):
    """Yields (first line, last line + 1, first prefix, other prefix) of each paragraph to wrap.

    With `keep_short`, a line ends its paragraph if the next word would have fitted on it.
    """
    start = prefix = rest = fence = None
    for at, line in enumerate(lines + [""]):
        mark = FENCE.match(line)
        item = LIST_ITEM.match(line)
        in_item = rest and line.startswith(rest) and not BLOCK.match(line[len(rest):])
        ends = (
            mark
            or not line.strip()
            or item
            or line.lstrip().startswith("SAFETY:")
            or (BLOCK.match(line) and not in_item)
            or (keep_short and start is not None
                and len(lines[at - 1]) + 1 + len(line.split()[0]) <= keep_short)
        )
        if fence is None and start is not None and ends:
            yield start, at, prefix, rest
            start = None
        if mark:
            fence = None if fence and mark[1].startswith(fence) else fence or mark[1]
        elif fence is None and line.strip():
            if item and not re.fullmatch(r"(?:[-*_]\s*){3,}", line.strip()):
                start, prefix = at, item[1]
                rest = " " * len(prefix)
            elif BLOCK.match(line) and not in_item:
                start = None
            elif start is None:
                start = at
                prefix = rest = line[: len(line) - len(line.lstrip())]
        if not line.strip() and fence is None:
            rest = None


def wrap(lines, width, keep_short=0):
    """Wraps those paragraphs of `lines` that have a line wider than `width`."""
    new, at = [], 0
    for start, end, first, rest in paragraphs(lines, keep_short):
        new += lines[at:start]
        block = lines[start:end]
        if any(len(line) > width for line in block):
            text = " ".join([block[0][len(first):]] + [line.strip() for line in block[1:]])
            block = fill(text, first, rest, width)
        new += block
        at = end
    return new + lines[at:]


def comments(path, text):
    """Position (line, column), from 0, of each comment of a source file."""
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0] - 1, token.start[1]
    else:
        for token in RUST.finditer(text):
            if token[0].startswith("//"):
                before = text.rfind("\n", 0, token.start()) + 1
                yield text.count("\n", 0, token.start()), token.start() - before


def runs(lines, found):
    """Runs of adjacent whole-line comments: (first line, last line + 1, indent and marker)."""
    whole = {at for at, column in found if not lines[at][:column].strip()}
    at = 0
    while at < len(lines):
        head = MARKER.match(lines[at]) if at in whole else None
        if not head:
            at += 1
            continue
        end = at + 1
        while end in whole and (m := MARKER.match(lines[end])) and m.groups()[:2] == head.groups()[:2]:
            end += 1
        yield at, end, head[1] + head[2]
        at = end


def wrap_comments(lines, found):
    new, at = [], 0
    for start, end, marker in runs(lines, found):
        body = [line[len(marker) + 1:] for line in lines[start:end]]
        width = WIDTH - len(marker) - 1
        plain = marker.strip() in ("//", "#")
        body = wrap(body, width, width if plain else 0)
        new += lines[at:start] + [(marker + " " + line).rstrip() for line in body]
        at = end
    return new + lines[at:]


def can_break(line, start):
    """Whether a line can be broken after `start`."""
    indent = len(line) - len(line.lstrip())
    return len(words(line[start:])) > 1 and len(words(line[start:])[0]) + max(indent, start) <= WIDTH


def too_wide(path, lines, found):
    if path.suffix == ".md":
        for start, end, first, _ in paragraphs(lines, 0):
            for at in range(start, end):
                if len(lines[at]) > WIDTH and can_break(lines[at], len(first)):
                    yield at, f"prose of {len(lines[at])} columns"
        return
    prose = {}
    for start, end, marker in runs(lines, found):
        body = [line[len(marker) + 1:] for line in lines[start:end]]
        for first, last, _, _ in paragraphs(body, 0):
            prose.update({start + at: len(marker) + 1 for at in range(first, last)})
    for at, column in found:
        whole = not lines[at][:column].strip()
        if PRAGMA.search(lines[at]):
            continue
        if len(lines[at]) > WIDTH and (not whole or (at in prose and can_break(lines[at], prose[at]))):
            yield at, f"comment of {len(lines[at])} columns"


def text_only(lines):
    """The lines of a Markdown page without its code."""
    fence = None
    for line in lines:
        mark = FENCE.match(line)
        if mark:
            fence = None if fence and mark[1].startswith(fence) else fence or mark[1]
        yield "" if mark or fence else re.sub(r"`[^`]*`", lambda m: " " * len(m[0]), line)


def anchors(path):
    """The anchors that a Markdown page has on GitHub."""
    seen, names, fence = {}, set(), None
    for line in path.read_text().splitlines():
        if mark := FENCE.match(line):
            fence = None if fence and mark[1].startswith(fence) else fence or mark[1]
        names.update(re.findall(r'<a (?:id|name)="([^"]+)"', line))
        if fence or not (heading := re.match(r"#{1,6} +(.*?)(?: #+)?$", line)):
            continue
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def broken_links(path, lines):
    text = "\n".join(text_only(lines))
    for link in re.finditer(r"\]\(\s*<?([^)\s>]+)|^\s*\[[^\]]+\]:\s+(\S+)", text, re.M):
        target = link[1] or link[2]
        if re.match(r"[a-z]+:", target):
            continue
        at = text.count("\n", 0, link.start())
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        if not there.exists():
            yield at, f"no such file: {target}"
        elif anchor and there.suffix == ".md" and anchor not in anchors(there):
            yield at, f"no such heading: {target}"


def missing_pages(root, lines):
    for at, line in enumerate(lines):
        for page in re.findall(r"(?<![\w/.`-])docs/[\w/.-]+\.md(?:#[\w-]+)?", line):
            file, _, anchor = page.partition("#")
            if not (root / file).exists() or anchor and anchor not in anchors(root / file):
                yield at, f"no such page: {page}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wrap", action="store_true", help="wrap what is too wide")
    parser.add_argument("paths", nargs="*", type=Path)
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    if arguments.paths:
        files = [f for p in arguments.paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p])]
    else:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
        files = [root / name for name in sorted(set(names.split("\0"))) if name]
    findings = 0
    for path in files:
        if path.suffix not in (".md", ".rs", ".py", ".sh", ".toml") or not path.is_file():
            continue
        name = path.relative_to(root) if path.is_relative_to(root) else path
        text = path.read_text()
        lines = text.split("\n")
        source = path.suffix in (".rs", ".py")
        prose = path.suffix == ".md" and name.as_posix() not in GENERATED
        found = list(comments(path, text)) if source else []
        if arguments.wrap and (source or prose):
            lines = wrap_comments(lines, found) if source else wrap(lines, WIDTH)
            if lines != text.split("\n"):
                path.write_text("\n".join(lines))
                found = list(comments(path, "\n".join(lines))) if source else []
        problems = list(too_wide(path, lines, found)) if source or prose else []
        if path.suffix == ".md":
            problems += broken_links(path, lines)
        elif path.is_relative_to(root):
            problems += missing_pages(root, lines)
        for at, what in sorted(problems):
            print(f"{name}:{at + 1}: {what}")
        findings += len(problems)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
