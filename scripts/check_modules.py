#!/usr/bin/env python3
"""Which modules import each other in a circle, crate by crate.

    scripts/check_modules.py              # exit status 1 and the circles, if there are any
    scripts/check_modules.py --edges sae  # what each module of a crate imports

An import is a path that begins with `crate`, `super` or `self`, in a `use` or elsewhere. A name that
a module only re-exports counts as an import of the module that has it. Tests and imports for
documentation do not count, and neither do imports between a module and its own descendants.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAIRS = {"{": "}", "[": "]", "(": ")"}
# Comments, texts and characters: what looks like code in them is none.
NO_CODE = re.compile(
    r"//[^\n]*"
    r"|/\*.*?\*/"
    r'|\bb?r(#*)".*?"\1'
    r'|b?"(?:\\.|[^"\\])*"'
    r"|b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])'",
    re.DOTALL,
)


def end_of(text, at):
    """Where the bracket that opens there has been closed."""
    opening, closing, depth = text[at], PAIRS[text[at]], 0
    for place in range(at, len(text)):
        depth += (text[place] == opening) - (text[place] == closing)
        if depth == 0:
            return place + 1
    return len(text)


def end_of_item(text, at):
    """Where the item that begins there ends, with the attributes before it."""
    while at < len(text) and text[at] not in ";,}":
        if text[at] not in PAIRS:
            at += 1
            continue
        is_body = text[at] == "{"
        at = end_of(text, at)
        if is_body and not text[at:].lstrip().startswith(";"):
            return at
    return at + (text[at : at + 1] != "}")


def code(file):
    """The text of a file without comments, literals, and what is only for tests or documentation."""
    text = NO_CODE.sub(" 0 ", file.read_text())
    while found := re.search(r"#\[cfg\((?:test|doc)\)\]", text):
        text = text[: found.start()] + text[end_of_item(text, found.end()) :]
    return text


def modules(source):
    """Each module of the crate whose sources are in this folder, with its file."""
    found = {}
    for file in sorted(source.rglob("*.rs")):
        path = file.relative_to(source).with_suffix("").parts
        if any("tests" in part for part in path):
            continue
        if path[-1] == "mod":
            path = path[:-1]
        found[() if path in [("lib",), ("main",)] else path] = file
    return found


def bodies(module, text):
    """The text of a module, and of those that stand within it as `mod name { … }`."""
    while found := re.search(r"\bmod\s+(\w+)\s*\{", text):
        end = end_of(text, found.end() - 1)
        yield from bodies((*module, found[1]), text[found.end() : end - 1])
        text = text[: found.start()] + text[end:]
    yield module, text


def names(tree, before=()):
    """What a `use` brings in, as (path, name)."""
    head, brace, inner = tree.partition("{")
    parts = [*before, *(part.strip() for part in head.split("::") if part.strip())]
    if brace:
        inner, depth, item = inner[: inner.rfind("}")], 0, ""
        for letter in inner + ",":
            depth += (letter == "{") - (letter == "}")
            if letter == "," and depth == 0:
                yield from names(item, parts) if item.strip() else ()
                item = ""
            else:
                item += letter
        return
    last, _, name = parts[-1].partition(" as ")
    path = parts[:-1] if last == "self" and len(parts) > 1 else [*parts[:-1], last]
    yield tuple(path), name.strip() or path[-1]


class Crate:
    """The modules of a crate and what they import."""

    def __init__(self, source):
        self.files = modules(source)
        # What each module calls what, by `use`; and all paths that it has, from the root of the
        # crate.
        self.called, self.paths = {}, {}
        for module, file in self.files.items():
            for inner, text in bodies(module, code(file)):
                self.read(module, inner, text)

    def read(self, module, inner, text):
        for tree in re.findall(r"\buse\s+([^;]+);", text):
            for path, name in names(tree):
                whole = self.whole(path, inner)
                if whole is None:
                    continue
                if name == "*":
                    whole = whole[:-1]
                else:
                    self.called.setdefault(inner, {})[name] = whole
                self.paths.setdefault(module, set()).add(whole)
        text = re.sub(r"\buse\s+[^;]+;", "", text)
        for path in re.findall(r"(?<![\w:])(?:crate|super|self)(?:::\w+)+", text):
            self.paths.setdefault(module, set()).add(self.whole(path.split("::"), inner))

    def whole(self, path, module):
        """A path from the root of the crate; None if it is of another one."""
        if path[0] == "crate":
            return tuple(path[1:])
        if path[0] in ("super", "self"):
            path = path[1:] if path[0] == "self" else path
            up = next((at for at, part in enumerate(path) if part != "super"), len(path))
            return (*module[: len(module) - up], *path[up:])
        return (*module, *path) if (*module, path[0]) in self.files else None

    def home(self, path, seen=()):
        """The module that has what a path names, wherever it is re-exported."""
        if path in self.files or path in seen:
            return path if path in self.files else None
        for end in range(len(path) - 1, -1, -1):
            if path[:end] in self.files:
                elsewhere = self.called.get(path[:end], {}).get(path[end])
                found = elsewhere and self.home((*elsewhere, *path[end + 1 :]), (*seen, path))
                return path[:end] if found is None else found
        return None

    def imports(self):
        """For each module the modules that it imports, without its ancestors and descendants."""
        found = {}
        for module in self.files:
            targets = {self.home(path) for path in self.paths.get(module, ())} - {None}
            found[module] = {t for t in targets if t != module[: len(t)] and module != t[: len(module)]}
        return found


def circles(imports):
    """Groups of modules of which each reaches every other."""
    reached = {}
    for module in imports:
        seen, todo = set(), [module]
        while todo:
            for target in imports[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        reached[module] = seen
    groups = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in imports
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
        for module, targets in Crate(sources[arguments.edges]).imports().items():
            for target in sorted(targets):
                print("::".join(module) or "(root)", "->", "::".join(target))
        return
    wrong = 0
    for name, source in sources.items():
        imports = Crate(source).imports()
        if not imports:
            sys.exit(f"no modules found in {source}")
        for circle in circles(imports):
            wrong += 1
            print(f"{name}: these modules import each other: {', '.join('::'.join(m) for m in circle)}")
    print(f"check_modules: {len(sources)} crates, {wrong} circles")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
