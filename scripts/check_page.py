#!/usr/bin/env python3
"""Uses report.html, the page of `lapidary serve` and that of `lapidary compare` in headless Chromium,
as a reader would.

    scripts/check_page.py --lapidary target/debug/lapidary out seed1 [--chromium PROGRAM] [--pictures FOLDER]

`out` is the folder of a run with dictionary, tables, labels.parquet and report.html, and `seed1` that
of another run, with dictionary and tables. They are only read. Needs the package playwright (in
requirements.txt) and Chromium; nothing is downloaded.

Each page is opened 1280 and 390 pixels wide, light and dark. Then the same is done, in light only,
with the latents of the run repeated up to 100,000. The script searches, sorts, scrolls, opens
latents, types a text and steers. It fails if a page shows something else than what was asked for,
if anything is wider than the window, if numbers in a chart overlap, or if the console has a warning
or an error. With --pictures, it writes a PNG file of each state.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy
import polars
from playwright.sync_api import Error, Page, Playwright, expect, sync_playwright
from safetensors.numpy import load_file, save_file

SIZES = [(1280, 900), (390, 844)]
SCHEMES = ["light", "dark"]
MANY = 100_000
# The texts of a chart that cover one another.
OVERLAPS = """svgs => svgs.flatMap(svg => {
    const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    return texts.flatMap(([a, p], at) => texts.slice(at + 1).filter(([b, q]) =>
        Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1
    ).map(([b]) => `${a} / ${b}`));
})"""
# Seconds in which anything must be shown; CI has two cores and runs a debug build.
PATIENCE = 60
# The word is in the embedded text, and so in labels, tokens and contexts of the quickstart.
WORD = "war"
MARKUP = "<b>Mexico</b>"
TEXT = f"The {WORD} with {MARKUP} is over, and the people of the United States are at peace."


def demand(holds, what):
    if not holds:
        raise SystemExit(f"check_page: expected {what}")


def spaced(number):
    """The number as the pages write it: thousands are separated by thin spaces."""
    return f"{number:,}".replace(",", "\u2009")


# ---- the same run with 100,000 latents


def enlarge_tables(source, target):
    """Repeats the rows of all latents, with new numbers, in row groups such as Lapidary writes."""
    target.mkdir()
    latents = polars.read_parquet(source / "features.parquet").height
    for name in ["features", "examples", "histograms", "coactivations"]:
        table = polars.read_parquet(source / f"{name}.parquet")
        ids = [column for column in ("feature_id", "partner_id") if column in table.columns]
        copies = [
            table.with_columns((polars.col(ids) + first).cast(polars.UInt32)) for first in range(0, MANY, latents)
        ]
        table = polars.concat(copies).filter(polars.all_horizontal(polars.col(ids) < MANY))
        rows = max(256, min(65_536, table.height // 40))
        metadata = polars.read_parquet_metadata(source / f"{name}.parquet")
        path = target / f"{name}.parquet"
        table.write_parquet(path, row_group_size=rows, metadata={"lapidary": metadata["lapidary"]})


def enlarge_dictionary(source, target):
    """Repeats the latents of a dictionary in SAELens's layout."""
    target.mkdir()
    weights = load_file(source / "sae_weights.safetensors")
    latents, width = weights["W_dec"].shape
    of = numpy.arange(MANY) % latents
    axes = {name: [axis for axis, size in enumerate(w.shape) if size == latents] for name, w in weights.items()}
    demand(latents != width and all(len(found) < 2 for found in axes.values()), "weights with one axis of latents")
    for name, found in axes.items():
        for axis in found:
            weights[name] = numpy.ascontiguousarray(weights[name].take(of, axis=axis))
    save_file(weights, target / "sae_weights.safetensors")
    config = json.loads((source / "cfg.json").read_text())
    config["d_sae"] = MANY
    (target / "cfg.json").write_text(json.dumps(config))


def enlarge_report(source, target):
    """Repeats the latents in the data of the page, one context each: real reports are as large."""
    before, data, after = re.split(r'(?<=id="data">)(.*?)(?=</script)', source.read_text(), maxsplit=1, flags=re.DOTALL)
    data = json.loads(data)
    features = data["features"]
    latents = len(features["id"])
    of = [at % latents for at in range(MANY)]
    for name, column in features.items():
        if isinstance(column, list) and len(column) == latents:
            features[name] = [column[at] for at in of]
    features["id"] = list(range(MANY))
    data["contexts"] = [data["contexts"][at][:1] for at in of]
    target.write_text(before + json.dumps(data, separators=(",", ":")) + after)


def enlarge_comparison(source, target):
    """Repeats the latents and pairs in the data of the page of a comparison, one context each."""
    before, data, after = re.split(r'(?<=id="data">)(.*?)(?=</script)', source.read_text(), maxsplit=1, flags=re.DOTALL)
    data = json.loads(data)
    latents = data["dictionaries"][0]["latents"]
    for dictionary in data["dictionaries"]:
        demand(dictionary["latents"] == latents, f"{latents} latents in each dictionary, found {dictionary['latents']}")
        dictionary["latents"] = MANY
    of = [at % latents for at in range(MANY)]
    for side in data["sides"]:
        for name, column in side.items():
            side[name] = [column[at][:1] if name == "contexts" else column[at] for at in of]
    pairs, copies = data["pairs"], range(MANY // latents)
    for matching in data["matchings"]:
        matching["latents"] *= len(copies)
        matching["counts"] = [count * len(copies) for count in matching["counts"]]
    for name in ["method", "cosine", "correlation"]:
        pairs[name] = pairs[name] * len(copies)
    for name in ["a", "b"]:
        pairs[name] = [latent + copy * latents for copy in copies for latent in pairs[name]]
    target.write_text(before + json.dumps(data, separators=(",", ":")) + after)


# ---- what the pages have in common


class Reader:
    """One page at one size, with what is done on both pages."""

    def __init__(self, page: Page, name: str, pictures: Path | None):
        self.page = page
        self.name = name
        self.pictures = pictures
        self.width = page.viewport_size["width"]
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning", "assert") and self.errors.append(message.text))
        self.search = page.locator("#search")
        self.found = page.locator("#found")
        self.list = page.locator("#list")
        self.rows = page.locator(".row:not(.waiting)")
        self.chosen = page.locator(".row.on .id")
        self.heading = page.locator("#detail h2")
        self.detail = page.locator("#detail")

    def open(self, url):
        """Opens a latent's link and waits until it is drawn."""
        self.page.goto("about:blank")
        self.page.goto(url)
        expect(self.heading).to_have_text(re.compile("^Feature "))
        expect(self.page.locator("#detail .fires")).to_be_visible()

    def looks_right(self, state, whole=False):
        """Nothing may be wider than the window or cover other text; no error may be in the console."""
        widest = self.page.locator("html").evaluate("html => html.scrollWidth")
        demand(widest <= self.width, f"{self.name}, {state}: a width of at most {self.width} pixels, found {widest}")
        overlaps = self.page.locator("svg").evaluate_all(OVERLAPS)
        demand(not overlaps, f"{self.name}, {state}: texts of charts side by side, found {overlaps}")
        demand(not self.errors, f"{self.name}, {state}: no errors in the console, found {self.errors}")
        if self.pictures:
            self.page.screenshot(path=self.pictures / f"{self.name}-{state}.png", full_page=whole)

    def ids(self):
        return [int(text) for text in self.rows.locator(".id").all_inner_texts()]

    def starts_with(self, latent):
        expect(self.rows.locator(".id").first).to_have_text(str(latent))

    def shows(self, latent):
        """The latent is the one in the address, in the list, and beside it."""
        expect(self.heading).to_have_text(f"Feature {latent}")
        expect(self.page).to_have_url(re.compile(f"#feature={latent}$"))
        expect(self.chosen).to_have_text(str(latent))

    def clear_search(self):
        self.search.press("Escape")
        expect(self.search).to_have_value("")
        expect(self.list).to_be_focused()

    def follow_link(self, latent):
        self.page.locator("html").evaluate("(_, latent) => { location.hash = `#feature=${latent}` }", latent)


def check_theme(reader, scheme):
    """The page follows the system, and its button switches."""
    other = {"light": "dark", "dark": "light"}[scheme]
    root, button = reader.page.locator("html"), reader.page.locator("#theme")

    def grey():
        colour = reader.page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    for wanted in [scheme, other, scheme]:
        expect(root).to_have_attribute("data-theme", wanted)
        demand((grey() > 128) == (wanted == "light"), f"{reader.name}: a {wanted} page, found a background of grey {grey():.0f}")
        button.click()
    expect(root).to_have_attribute("data-theme", other)
    button.click()


def check_search(reader, latents, latest):
    """A word, a number, a word that nothing has; with the keys that lead to and from the search."""
    reader.page.locator("#hide-dead").uncheck()
    expect(reader.found).to_have_text(f"{spaced(latents)} features")
    reader.list.focus()
    reader.page.keyboard.press("/")
    expect(reader.search).to_be_focused()
    started = time.monotonic()
    reader.page.keyboard.type(WORD)
    expect(reader.found).to_have_text(re.compile(f"^[\\d\u2009]+ of {spaced(latents)} features$"))
    print(f"  {reader.name}: {reader.found.inner_text()} for `{WORD}`, {1000 * (time.monotonic() - started):.0f} ms", flush=True)
    first = reader.ids()[0]
    reader.page.keyboard.press("Enter")
    reader.shows(first)
    expect(reader.detail).to_contain_text(re.compile(WORD, re.IGNORECASE))
    reader.list.focus()
    second = reader.ids()[1]
    reader.page.keyboard.press("j")
    reader.shows(second)
    reader.page.keyboard.press("k")
    reader.shows(first)
    reader.looks_right("search")
    reader.search.fill("no such token anywhere")
    expect(reader.page.locator(".empty")).to_have_text("Nothing matches.")
    reader.search.fill(str(latest))
    reader.starts_with(latest)
    reader.rows.first.click()
    reader.shows(latest)
    reader.clear_search()
    expect(reader.found).to_have_text(f"{spaced(latents)} features")


def check_orders(reader, features, names):
    """Each order begins with a latent that the tables have first, too."""
    for value, (column, descending) in names.items():
        reader.page.locator("#sort").select_option(value)
        best = features.filter(polars.col(column) == (features[column].max() if descending else features[column].min()))
        reader.starts_with(best["feature_id"].min())
    reader.page.locator("#sort").select_option("id")
    reader.starts_with(0)


def check_list(reader, latents):
    """The list is drawn where it is scrolled to, and nowhere else."""
    expect(reader.list).to_have_js_property("scrollTop", 0)
    reader.list.evaluate("list => { list.scrollTop = list.scrollHeight }")
    expect(reader.rows.locator(".id").last).to_have_text(str(latents - 1))
    expect(reader.page.locator(".row.waiting")).to_have_count(0)
    seen = reader.rows.count()
    reader.rows.last.click()
    reader.shows(latents - 1)
    reader.list.evaluate("list => { list.scrollTop = 0 }")
    reader.starts_with(0)
    for rows in [seen, reader.rows.count()]:
        demand(5 < rows < 60, f"{reader.name}: only the rows that can be seen, found {rows}")


def check_histogram(reader):
    """A bar of the histogram of firing rates lists its latents."""
    bars = reader.page.locator("#histogram .bar-group")
    expect(bars.nth(3)).to_be_attached()
    all_found = reader.found.inner_text()
    heights = [float(bar.locator(".bar-rect").get_attribute("height")) for bar in bars.all()]
    highest = bars.nth(heights.index(max(heights)))
    wanted = highest.locator("title").text_content().split(" ")[0]
    highest.locator(".bar-hit").click()
    expect(reader.found).to_have_text(re.compile(f"^{wanted} of "))
    reader.page.locator("#range").click()
    expect(reader.found).to_have_text(all_found)


# ---- the two pages


def check_parts(reader, features, labels):
    """A latent has its labels with their scores, a histogram, and links to other latents."""
    page = reader.page
    latent = labels.filter(polars.col("clamping").is_not_null())["feature_id"][0]
    reader.follow_link(latent)
    reader.shows(latent)
    for label in labels.filter(polars.col("feature_id") == latent).iter_rows(named=True):
        line = page.locator(".label-line", has_text=label["method"])
        expect(line).to_contain_text("detection")
        expect(line).to_contain_text("clamping")
        expect(line.locator(".name")).to_contain_text(label["label"].strip().split(" | ")[0].strip())
    expect(page.locator(".activation-chart .bar-rect").first).to_be_attached()
    lists = page.locator("#detail .columns").last.locator("h3")
    expect(lists).to_have_text(["Fires together with", "Similar decoder row"])
    nearest = features.filter(polars.col("feature_id") == latent)["nearest"][0][0]["feature_id"]
    link = page.locator("#detail .columns").last.locator(".up").last.locator(".related").first
    expect(link).to_have_attribute("href", f"#feature={nearest}")
    link.press("Enter")
    reader.shows(nearest)
    # The latent with the best label is first.
    page.locator("#sort").select_option("label")
    best = labels.filter(polars.col("detection") == labels["detection"].max())["feature_id"].min()
    reader.starts_with(best)
    page.locator("#sort").select_option("id")


def check_report(reader, path, latents, features):
    url = path.resolve().as_uri()
    reader.open(url)
    expect(reader.page.locator("#curves .card").first).to_be_visible()
    reader.looks_right("top")
    check_search(reader, latents, latents - 1)
    check_list(reader, latents)
    check_orders(reader, features, {"frequent": ("firing_count", True), "rare": ("firing_count", False), "max": ("max_activation", True)})
    check_histogram(reader)
    reader.follow_link(3)
    reader.shows(3)
    demand(reader.page.locator(".context .t").count() > 20, f"{reader.name}: contexts of latent 3")
    check_parts(reader, features, polars.read_parquet(path.parent / "labels.parquet"))
    reader.open(f"{url}#feature={latents - 2}")
    reader.shows(latents - 2)
    reader.looks_right("latent", whole=True)


def check_served(reader, url, latents, features):
    page = reader.page
    reader.open(url)
    reader.looks_right("top")
    # Contexts are read in the background; until then, the search says that it lacks them.
    deadline = time.monotonic() + PATIENCE
    while page.request.get(f"{url}api/dictionary").json()["contexts_missing"]:
        demand(time.monotonic() < deadline, f"{reader.name}: contexts read within {PATIENCE} s")
        time.sleep(0.1)
    check_search(reader, latents, latents - 1)
    check_list(reader, latents)
    check_orders(reader, features, {"density": ("firing_count", True), "rarest": ("firing_count", False), "max_activation": ("max_activation", True)})

    reader.follow_link(3)
    reader.shows(3)
    # A latent that there is not. The browser itself writes its status to the console.
    reader.follow_link(2**32 - 1)
    expect(page.locator("#detail .problem")).to_be_visible()
    demand(reader.errors and all("status of 404" in error for error in reader.errors), f"{reader.name}: one answer 404, found {reader.errors}")
    reader.errors.clear()
    reader.open(f"{url}#feature={latents - 2}")
    reader.shows(latents - 2)
    demand(page.locator(".context .t").count() > 20, f"{reader.name}: contexts of latent {latents - 2}")
    related = page.locator(".related").first
    partner = int(re.search(r"\d+$", related.get_attribute("href"))[0])
    related.press("Enter")  # a click could meet another one, if the page moves meanwhile
    reader.shows(partner)
    reader.looks_right("latent", whole=True)

    about = page.locator("#about summary")
    about.click()
    check_histogram(reader)
    about.scroll_into_view_if_needed()
    reader.looks_right("about")
    about.click()
    check_text(reader)
    check_steering(reader)


def check_comparison(reader, path, pairs):
    """The page of a comparison: its orders, a bar, the search, and a link to a pair with both latents."""
    page = reader.page
    url = path.resolve().as_uri()
    heading, first = page.locator("#detail h2").first, reader.rows.first
    page.goto(url)
    expect(heading).to_be_visible()
    expect(page.locator("#matchings")).to_contain_text("shuffled")
    reader.looks_right("top")
    page.locator("#hide-dead").uncheck()
    for kind, by in [("bipartite", "cosine"), ("greedy", "correlation")]:
        page.locator("#method").select_option(label=f"{by}, {kind}")
        of_method = pairs.filter(polars.col("method") == f"{kind}-{by}")
        expect(reader.found).to_have_text(f"{spaced(of_method.height)} pairs")
        for order, best in [("most", of_method[by].max()), ("least", of_method[by].min())]:
            page.locator("#sort").select_option(order)
            shown = float(first.locator(".figure.own").evaluate("figure => figure.lastChild.textContent").replace("\u2212", "-"))
            demand(abs(shown - best) < 0.01, f"{reader.name}: {by} {best:.3f} first, found {shown}")
    all_found = reader.found.inner_text()
    page.locator("#histogram-method button", has_text=f"{by}, {kind}").click()
    bars = page.locator("#histogram .bar-group:has(.bar-rect)")
    heights = [float(bar.locator(".bar-rect").first.get_attribute("height")) for bar in bars.all()]
    highest = bars.nth(heights.index(max(heights)))
    wanted = re.match(r"[\d\u2009]+", highest.get_attribute("aria-label"))[0]
    highest.locator(".bar-hit").click()
    expect(reader.found).to_have_text(f"{wanted} of {all_found}")
    page.locator("#range").click()
    expect(reader.found).to_have_text(all_found)
    # A pair whose link is opened, and found again by its number.
    pair = of_method.row(of_method.height // 2, named=True)
    a, b = pair["feature_a"], pair["feature_b"]
    page.goto("about:blank")
    page.goto(f"{url}#pair={a}-{b}")
    expect(heading).to_have_text(f"a{a} and b{b}")
    demand(page.locator("#detail .context .t").count() > 20, f"{reader.name}: contexts of both latents")
    reader.looks_right("pair", whole=True)
    started = time.monotonic()
    reader.search.fill(f"a{a}")
    expect(first.locator(".id").first).to_have_text(f"a{a}")
    print(f"  {reader.name}: {reader.found.inner_text()} for a{a}, {1000 * (time.monotonic() - started):.0f} ms", flush=True)
    reader.clear_search()
    reader.list.evaluate("list => { list.scrollTop = list.scrollHeight }")
    at_the_end = "() => [...document.querySelectorAll('.row')].some(row => parseFloat(row.style.top) > document.getElementById('list').scrollHeight - 100)"
    page.wait_for_function(at_the_end)
    demand(5 < reader.rows.count() < 60, f"{reader.name}: only the rows that can be seen, found {reader.rows.count()}")
    last = reader.rows.last.locator(".id").all_inner_texts()
    reader.rows.last.click()
    expect(heading).to_have_text(f"{last[0]} and {last[1]}")


def check_text(reader):
    """Typed text: its tokens, with markup that must stay text; a token's strongest latent is opened."""
    page = reader.page
    page.locator("#text").fill(TEXT)
    page.locator("#text").press("Enter")
    tokens = page.locator("#text-result .text .t")
    expect(page.locator("#text-result .text")).to_have_text(TEXT)
    expect(page.locator("#text-result .text b")).to_have_count(0)
    demand(tokens.count() > 10, f"{reader.name}: more than 10 tokens, found {tokens.count()}")
    token = tokens.get_by_text(WORD, exact=True)
    strongest = int(re.search(r"  (\d+): ", token.get_attribute("title"))[1])
    token.click()
    expect(reader.heading).to_have_text(f"Feature {strongest}")
    expect(page.locator("#text-result .link-chip.on").first).to_contain_text(str(strongest))
    expect(page.locator("#text-result")).to_contain_text(f"shaded by feature {strongest}")
    expect(token).to_have_css("background-color", re.compile(r"rgba\(.*0\.\d+\)"))
    page.locator("#text").scroll_into_view_if_needed()
    reader.looks_right("text")


def check_steering(reader):
    """Two continuations; without strength, they are the same."""
    page = reader.page
    texts = page.locator(".outcomes .text")
    for strength, same in [("3", False), ("0", True)]:
        page.get_by_label("Strength").fill(strength)
        page.get_by_label("Tokens").fill("12")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("button", name="Generate")).to_be_enabled()
        expect(texts).to_have_count(2)
        steered, plain = texts.all_inner_texts()
        demand(len(plain) > len("My fellow citizens"), f"{reader.name}: a continuation, found {plain!r}")
        demand((steered == plain) == same, f"{reader.name}: strength {strength}: texts that {'agree' if same else 'differ'}, found {steered!r} and {plain!r}")
    page.locator(".steer").scroll_into_view_if_needed()
    reader.looks_right("steer")


@contextmanager
def served(lapidary, folder):
    """The address of `lapidary serve`, which ends afterwards."""
    command = [lapidary, "-q", "serve", folder, "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        demand(url.startswith("http://127.0.0.1:"), f"an address on the first line, found {url!r}")
        yield url
        demand(server.poll() is None, "a server that still runs")
    finally:
        server.terminate()
        server.wait(30)


def check_run(playwright: Playwright, arguments, folder, compared, name, schemes):
    """The pages of a run and of its comparison, at each size, in each colour scheme."""
    features = polars.read_parquet(folder / "features" / "features.parquet")
    latents = features.height
    pairs = polars.read_parquet(compared.with_suffix(".parquet"))
    options = {"executable_path": arguments.chromium, "args": ["--disable-gpu", "--no-sandbox"]}
    with served(arguments.lapidary, folder) as url, playwright.chromium.launch(**options) as browser:
        pages = [
            ("report", lambda reader: check_report(reader, folder / "report.html", latents, features)),
            ("serve", lambda reader: check_served(reader, url, latents, features)),
            ("compare", lambda reader: check_comparison(reader, compared, pairs)),
        ]
        for (width, height), scheme in [(size, scheme) for size in SIZES for scheme in schemes]:
            phone = width < 800
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, is_mobile=phone, has_touch=phone, reduced_motion="reduce")
            context.set_default_timeout(1000 * PATIENCE)
            for which, check in pages:
                reader = Reader(context.new_page(), f"{which}-{name}-{width}-{scheme}", arguments.pictures)
                check(reader)
                check_theme(reader, scheme)
                reader.looks_right("end")
                reader.page.close()
            context.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with dictionary, tables, labels.parquet and report.html")
    parser.add_argument("other", type=Path, help="folder of another run, with which it is compared")
    parser.add_argument("--lapidary", type=Path, required=True, help="the program")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"),
                        help="the browser's program; default: chromium on the path, else google-chrome")
    parser.add_argument("--pictures", type=Path, help="folder for PNG files")
    arguments = parser.parse_args()
    demand(arguments.chromium, "chromium or google-chrome on the path, or --chromium PROGRAM")
    arguments.lapidary = arguments.lapidary.resolve()
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=1000 * PATIENCE)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        compared = Path(scratch) / "pairs.html"
        command = [arguments.lapidary, "-q", "compare", arguments.run, arguments.other, "--tokens", "20000", "--device", "cpu"]
        subprocess.run([*command, "--out", compared.with_suffix(".parquet")], check=True, stdout=subprocess.DEVNULL)
        check_run(playwright, arguments, arguments.run, compared, "run", SCHEMES)
        print(f"check_page: the run is right, {time.monotonic() - started:.0f} s", flush=True)
        large = Path(scratch) / "large"
        large.mkdir()
        enlarge_tables(arguments.run / "features", large / "features")
        enlarge_dictionary(arguments.run / "dictionary", large / "dictionary")
        enlarge_report(arguments.run / "report.html", large / "report.html")
        shutil.copy(arguments.run / "labels.parquet", large / "labels.parquet")
        enlarge_comparison(compared, large / "pairs.html")
        pairs = polars.read_parquet(compared.with_suffix(".parquet"))
        latents = polars.read_parquet(arguments.run / "features" / "features.parquet").height
        ids = ["feature_a", "feature_b"]
        copies = [pairs.with_columns((polars.col(ids) + first).cast(polars.UInt32)) for first in range(0, MANY - latents + 1, latents)]
        polars.concat(copies).write_parquet(large / "pairs.parquet")
        print(f"check_page: made {MANY} latents, {time.monotonic() - started:.0f} s", flush=True)
        check_run(playwright, arguments, large, large / "pairs.html", "large", SCHEMES[:1])
    print(f"check_page: all pages do what they should, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, Error) as error:
        sys.exit(f"check_page: {error}")
