#!/usr/bin/env python3
"""Which modules import each other in a circle, crate by crate.

    scripts/check_modules.py              # exit status 1 and the circles, if there are any
    scripts/check_modules.py --edges sae  # what each module of a crate imports

An import is a path that begins with `crate` or `super`. Tests, comments and imports for
documentation alone do not count, and neither do those between a module and its own children.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def modules(source):
    """Each module of the crate whose sources are in this folder, as (its path, its file)."""
    found = {}
    for file in sorted(source.rglob("*.rs")):
        path = file.relative_to(source).with_suffix("").parts
        if any("tests" in part for part in path):
            continue
        if path[-1] == "mod":
            path = path[:-1]
        found[() if path in [("lib",), ("main",)] else path] = file
    return found


def code(file):
    """The text of a file without its tests and comments."""
    text = file.read_text().split("#[cfg(test)]")[0]
    text = re.sub(r"//.*", "", text)
    return re.sub(r"#\[cfg\(doc\)\]\s*use [^;]*;", "", text)


def tree(text, at, before):
    """The paths of the import that begins there, such as `a::{b, c::d}`, and where it ends."""
    word = re.compile(r"\w+").match(text, at)
    if word:
        before, at = [*before, word[0]], word.end()
        return tree(text, at + 2, before) if text.startswith("::", at) else ([before], at)
    if not text.startswith("{", at):
        return [before], at
    found, at = [], re.compile(r"\s*").match(text, at + 1).end()
    while at < len(text) and text[at] != "}":
        inner, at = tree(text, at, before)
        found += inner
        # Past ` as name` and the comma.
        at = re.compile(r"[^,}]*,?\s*").match(text, at).end()
    return found, at + 1


def paths(text, module):
    """The paths from the root of the crate that a module names."""
    for start in re.finditer(r"(?<!::)\b(?:crate|super)::", text):
        for path in tree(text, start.start(), [])[0]:
            base = [] if path[0] == "crate" else list(module[:-1])
            path = path[1:]
            while path[:1] == ["super"]:
                base, path = base[:-1], path[1:]
            yield tuple(base + path)


def imports(source):
    """For each module the modules that it imports, without its ancestors and descendants."""
    known = modules(source)
    edges = {}
    for module, file in known.items():
        edges[module] = set()
        for path in paths(code(file), module):
            ends = (path[:end] for end in range(len(path), 0, -1))
            target = next((end for end in ends if end in known), module)
            related = target == module[: len(target)] or module == target[: len(module)]
            if not related:
                edges[module].add(target)
    return edges


def circles(edges):
    """Groups of modules of which each reaches every other."""
    reached = {}
    for module in edges:
        seen, todo = set(), [module]
        while todo:
            for target in edges[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        reached[module] = seen
    groups = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in edges
        if module in reached[module]
    }
    return sorted(sorted(group) for group in groups)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--edges", metavar="CRATE", help="print what each module of this crate imports")
    arguments = parser.parse_args()
    sources = {folder.parent.name: folder for folder in sorted(ROOT.glob("crates/*/src"))}
    sources["kernels"] = ROOT / "kernels" / "src"
    if arguments.edges:
        if arguments.edges not in sources:
            sys.exit(f"--edges: found `{arguments.edges}`, expected one of {', '.join(sources)}")
        for module, targets in imports(sources[arguments.edges]).items():
            for target in sorted(targets):
                print("::".join(module) or "(root)", "->", "::".join(target))
        return
    wrong = 0
    for name, source in sources.items():
        edges = imports(source)
        if not edges:
            sys.exit(f"no modules found in {source}")
        for circle in circles(edges):
            wrong += 1
            print(f"{name}: these modules import each other: {', '.join('::'.join(m) for m in circle)}")
    print(f"check_modules: {len(sources)} crates, {wrong} circles")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
