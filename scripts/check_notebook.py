#!/usr/bin/env python3
"""Runs the code cells of docs/notebooks/feature-tables.ipynb in order on a run's folder.

    scripts/check_notebook.py RUN [--write] [--notebook FILE]

RUN needs the feature tables with codes.parquet, and labels.parquet:

    lapidary quickstart --out RUN
    lapidary features RUN --codes
    lapidary label RUN

The script fails if a cell raises an exception or a warning, if a text cell has a broken link or is
too wide, or if the stored outputs are incomplete, too large or contain an absolute path. With
--write, it stores the new outputs in the notebook.

Cells are run by `exec` in this process, so that no Jupyter package is needed. As in Jupyter, a cell
shows what it prints, the value of its last line, and its Matplotlib figures. Magic commands do not
work.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import re
import sys
import traceback
import warnings
from pathlib import Path

import check_text
import matplotlib.pyplot as plt

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs/notebooks/feature-tables.ipynb"
MOST_BYTES = 600_000
# An absolute path. Tokens of a text may contain slashes, so only usual first folders are matched.
PATH = re.compile(r"(?<![\w.])/(home|root|tmp|work|mnt|data|opt|usr|var|Users|private)/|\b[A-Z]:\\")


def lines(text):
    """A text as the list of lines that notebooks store."""
    return text.splitlines(keepends=True)


class Cell:
    """Runs one cell and collects its outputs."""

    def __init__(self, source, number, variables):
        self.source, self.number, self.variables = source, number, variables
        self.outputs, self.printed = [], io.StringIO()

    def add(self, kind, data, **more):
        self.flush()
        self.outputs.append({"output_type": kind, "metadata": {}, "data": data} | more)

    def flush(self):
        """Stores what was printed so far."""
        if text := self.printed.getvalue():
            self.outputs.append({"output_type": "stream", "name": "stdout", "text": lines(text)})
        self.printed.seek(0)
        self.printed.truncate()

    def show_figures(self, *_, **__):
        """Stores the open figures, as Jupyter's `plt.show` does."""
        for number in plt.get_fignums():
            figure, file = plt.figure(number), io.BytesIO()
            figure.savefig(file, format="png", bbox_inches="tight", metadata={"Software": None})
            png = base64.b64encode(file.getvalue()).decode() + "\n"
            width, height = figure.get_size_inches()
            self.add("display_data", {"image/png": png, "text/plain": [f"<Figure of {width:g} x {height:g} inches>"]})
            plt.close(figure)

    def show(self, value):
        data = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        self.add("execute_result", data, execution_count=self.number)

    def run(self):
        name = f"<cell {self.number}>"
        tree = ast.parse(self.source, name)
        last = tree.body[-1] if tree.body else None
        value = None
        if isinstance(last, ast.Expr) and not self.source.rstrip().endswith(";"):
            tree.body.pop()
            value = compile(ast.Expression(last.value), name, "eval")
        plt.show = self.show_figures
        with contextlib.redirect_stdout(self.printed):
            exec(compile(tree, name, "exec"), self.variables)
            result = eval(value, self.variables) if value else None
        if result is not None:
            self.show(result)
        self.show_figures()
        self.flush()
        return self.outputs


def run(notebook):
    """The outputs of each code cell."""
    variables = {"__name__": "__main__"}
    outputs = []
    for number, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), 1):
        source = "".join(cell["source"])
        try:
            outputs.append(Cell(source, number, variables).run())
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = [1, *(frame.lineno for frame in frames if frame.filename == f"<cell {number}>")][-1]
            line = source.splitlines()[place - 1].strip()
            sys.exit(f"cell {number} ({cell['id']}), line {place}: {line}\n{type(error).__name__}: {error}")
    return outputs


def texts(outputs):
    """All texts of the outputs of a cell."""
    for output in outputs:
        yield "".join(output.get("text", []))
        for kind, data in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield "".join(data)


def problems(path, notebook, ran):
    """What is wrong with the notebook and its stored outputs. `ran`: the outputs of this run."""
    if path.stat().st_size > MOST_BYTES:
        yield f"found {path.stat().st_size} bytes, expected at most {MOST_BYTES}"
    number = 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).split("\n")
        if cell["cell_type"] == "markdown":
            found = [*check_text.broken_links(path, source), *check_text.too_wide(path.with_suffix(".md"), source, [])]
            yield from (f"cell {cell['id']}: {what}" for _, what in found)
            continue
        number += 1
        stored, new = cell["outputs"], ran[number - 1]
        if cell["execution_count"] != number:
            yield f"cell {cell['id']}: stored as number {cell['execution_count']}, expected {number}; run with --write"
        if [sorted(o.get("data", [])) for o in stored] != [sorted(o.get("data", [])) for o in new]:
            yield f"cell {cell['id']}: the stored outputs are of other kinds than those of this run; run with --write"
        for text in texts(stored):
            if found := PATH.search(text):
                yield f"cell {cell['id']}: an output has the absolute path {text[found.start():][:60]!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, with tables, codes and labels")
    parser.add_argument("--write", action="store_true", help="store the outputs in the notebook")
    parser.add_argument("--notebook", type=Path, default=NOTEBOOK, help="default: %(default)s")
    arguments = parser.parse_args()
    os.environ["LAPIDARY_RUN"] = str(arguments.run)
    warnings.simplefilter("error")
    plt.switch_backend("agg")
    notebook = json.loads(arguments.notebook.read_text())
    outputs = run(notebook)
    if arguments.write:
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, (cell, new) in enumerate(zip(code, outputs), 1):
            cell["execution_count"], cell["outputs"] = number, new
        arguments.notebook.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    wrong = list(problems(arguments.notebook, notebook, outputs))
    if wrong:
        sys.exit("\n".join(f"{arguments.notebook.name}: {what}" for what in wrong))
    size = arguments.notebook.stat().st_size
    print(f"{arguments.notebook.name}: {len(outputs)} code cells ran on {arguments.run}; the notebook has {size} bytes")


if __name__ == "__main__":
    main()
