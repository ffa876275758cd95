#!/usr/bin/env python3
"""Uses report.html and the page of `lapidary serve` in a browser without a window, as a reader would.

    scripts/check_page.py --lapidary target/debug/lapidary --run out [--chromium chromium] [--out FOLDER]

Needs Chromium, and Python's package websocket-client. Both pages are opened at a width of 1280 and of 390
pixels. The script searches, sorts, scrolls, opens a latent, types a text and steers. It fails if the page's console has an error,
if something is wider than the window, or if what is shown is not what was asked for. With --out, pictures are left in FOLDER.
`--url` checks a server that runs already in place of starting one.
"""

import argparse
import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

import websocket

SIZES = [(1280, 900), (390, 844)]


class Browser:
    """Chromium, spoken to over its DevTools protocol."""

    def __init__(self, program):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        options += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={self.profile.name}"]
        self.process = subprocess.Popen([program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = pathlib.Path(self.profile.name) / "DevToolsActivePort"
        wait(lambda: port_file.exists() and port_file.read_text().count("\n") >= 1, "Chromium's port", 60)
        port = port_file.read_text().split("\n")[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list"))
        page = next(page for page in pages if page["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], suppress_origin=True, timeout=120)
        self.number = 0
        self.errors = []
        for domain in ["Page", "Runtime", "Log"]:
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.note(message)

    def note(self, message):
        """Keeps what the console has of errors."""
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif message.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in parameters["args"]))
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"] + " " + parameters["entry"].get("url", ""))

    def js(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression, seconds=60):
        wait(lambda: self.js(expression), expression, seconds)

    def open(self, url, width, height, scheme="light"):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 800)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def key(self, key):
        for kind in ["keyDown", "keyUp"]:
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def picture(self, path, whole=False):
        if path is None:
            return
        clip = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            height = min(size["height"], 6000)
            clip = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1}}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"]))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
        self.profile.cleanup()


def wait(is_done, what, seconds):
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            raise SystemExit(f"check_page: waited {seconds} s for {what}")
        time.sleep(0.05)


def expect(found, what):
    if not found:
        raise SystemExit(f"check_page: expected {what}")


def fits(browser, width, what):
    """Nothing may be wider than the window."""
    found = browser.js("document.documentElement.scrollWidth")
    expect(found <= width, f"{what} to fit in {width} pixels, found {found}")


SELECTED = "(Number(/feature=(\\d+)/.exec(location.hash)?.[1] ?? -1))"
FIRST_ROW = "(document.querySelector('.row:not(.waiting) .id')?.textContent)"
HEADING = "(document.querySelector('#detail h2')?.textContent ?? '')"


def search(browser, text):
    browser.js("document.getElementById('search').focus(); document.getElementById('search').select()")
    browser.type(text)


def check_report(browser, path, folder):
    for width, height in SIZES:
        browser.open(path.resolve().as_uri(), width, height)
        browser.until(f"{HEADING}.startsWith('Feature ')")
        fits(browser, width, "report.html")
        browser.picture(folder and folder / f"report-{width}.png")
        all_found = browser.js("document.getElementById('found').textContent")
        search(browser, "war")
        browser.until(f"document.getElementById('found').textContent !== {json.dumps(all_found)}")
        expect(browser.js("document.querySelectorAll('.row').length") > 0, "rows for `war` in report.html")
        browser.js("document.getElementById('list').focus()")
        browser.key("j")
        browser.until(f"{SELECTED} >= 0")
        expect(browser.js("document.querySelectorAll('.context .t').length") > 20, "contexts in report.html")
        browser.js("document.getElementById('features').scrollIntoView()")
        browser.picture(folder and folder / f"report-feature-{width}.png")


def check_served(browser, url, folder):
    for width, height in SIZES:
        print(f"  {width} pixels", flush=True)
        browser.open(url, width, height)
        browser.until(f"{HEADING}.startsWith('Feature ') && document.querySelectorAll('#detail .fires').length > 0")
        fits(browser, width, "the served page")
        browser.picture(folder and folder / f"serve-{width}.png")

        # The list is loaded where it is scrolled to.
        browser.js("const list = document.getElementById('list'); list.scrollTop = list.scrollHeight / 2; undefined")
        browser.until("document.querySelectorAll('.row').length > 5 && !document.querySelector('.row.waiting')")
        browser.js("document.getElementById('list').scrollTop = 0; undefined")
        browser.until(f"{FIRST_ROW} === '0' || {FIRST_ROW} === '1'")

        # A search, and the keys.
        browser.key("/")
        expect(browser.js("document.activeElement.id") == "search", "/ to lead to the search")
        all_found = browser.js("document.getElementById('found').textContent")
        started = time.monotonic()
        browser.type("war")
        browser.until(f"document.getElementById('found').textContent !== {json.dumps(all_found)}")
        print(f"    search: {1000 * (time.monotonic() - started):.0f} ms")
        browser.key("Enter")
        browser.until(f"String({SELECTED}) === {FIRST_ROW} && {HEADING} === 'Feature ' + {FIRST_ROW}")
        first = browser.js(SELECTED)
        expect("war" in browser.js("document.getElementById('detail').textContent").lower(), "a latent about `war`")
        browser.js("document.getElementById('list').focus()")
        browser.key("j")
        browser.until(f"{SELECTED} !== {first} && {HEADING} === 'Feature ' + {SELECTED}")
        browser.key("k")
        browser.until(f"{SELECTED} === {first} && {HEADING} === 'Feature {first}'")
        browser.js("document.getElementById('features').scrollIntoView(); undefined")
        browser.picture(folder and folder / f"serve-search-{width}.png")
        browser.picture(folder and folder / f"serve-feature-{width}.png", whole=True)
        fits(browser, width, "a latent")

        # Another order.
        browser.js("const sort = document.getElementById('sort'); sort.value = 'max_activation'; sort.dispatchEvent(new Event('change')); undefined")
        browser.until(f"{FIRST_ROW} !== '{first}'")
        search(browser, "no such token anywhere")
        browser.until("document.querySelector('.empty') !== null")
        browser.key("Escape")
        browser.until("document.querySelectorAll('.row').length > 5")

        # A link.
        browser.js("location.hash = '#feature=3'")
        browser.until(f"{HEADING} === 'Feature 3'")
        browser.js("location.hash = '#feature=4294967295'")
        browser.until("document.querySelector('#detail .problem') !== null")
        expected = "the server responded with a status of 404"
        browser.errors = [error for error in browser.errors if expected not in error]
        browser.js("location.hash = '#feature=3'")
        browser.until(f"{HEADING} === 'Feature 3' && document.querySelector('#detail .problem') === null")

        # About the dictionary.
        browser.js("document.getElementById('about').open = true; scrollTo(0, 0); undefined")
        browser.until("document.querySelectorAll('#histogram .bar-rect').length > 3")
        browser.picture(folder and folder / f"serve-about-{width}.png")
        fits(browser, width, "the description")
        browser.js("document.getElementById('about').open = false; undefined")

        if browser.js("document.getElementById('text-form').hidden"):
            print("    no model: texts and steering are not checked")
            continue
        # A text, with markup that must stay text.
        browser.js("document.getElementById('text').focus()")
        browser.type("The war with <b>Mexico</b> is over, and the people of the United States are at peace.")
        browser.key("Enter")
        browser.until("document.querySelectorAll('#text-result .t').length > 10")
        expect("<b>Mexico</b>" in browser.js("document.querySelector('#text-result .text').textContent"), "markup to stay text")
        expect(browser.js("document.querySelector('#text-result b b') === null"), "no markup in tokens")
        browser.js("[...document.querySelectorAll('#text-result .t')].find((t) => t.textContent === 'war').click()")
        browser.until(f"document.querySelectorAll('#text-result .link-chip.on').length > 0 && {HEADING} === 'Feature ' + {SELECTED}")
        browser.js("scrollTo(0, 0); undefined")
        browser.picture(folder and folder / f"serve-text-{width}.png")
        fits(browser, width, "a text")

        # Steering.
        browser.js("document.querySelector('.steer form').requestSubmit()")
        browser.until("document.querySelectorAll('.outcomes .text').length === 2", 300)
        browser.js("document.querySelector('.steer').scrollIntoView(); undefined")
        browser.picture(folder and folder / f"serve-steer-{width}.png")
        fits(browser, width, "steering")

        browser.open(f"{url}#feature=3", width, height, "dark")
        browser.until(f"{HEADING} === 'Feature 3' && document.querySelectorAll('#detail .fires').length > 0")
        expect(browser.js("document.documentElement.dataset.theme") == "dark", "the dark theme")
        browser.picture(folder and folder / f"serve-dark-{width}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lapidary", type=pathlib.Path)
    parser.add_argument("--run", type=pathlib.Path, help="folder of a run with feature tables")
    parser.add_argument("--url", help="address of a server that runs already")
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--out", type=pathlib.Path, help="folder for pictures")
    arguments = parser.parse_args()
    if not arguments.url and not (arguments.lapidary and arguments.run):
        parser.error("give --lapidary and --run, or --url")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    server, browser = None, Browser(arguments.chromium)
    try:
        if arguments.run and (arguments.run / "report.html").exists():
            print("report.html", flush=True)
            check_report(browser, arguments.run / "report.html", arguments.out)
        url = arguments.url
        if not url:
            command = [arguments.lapidary.resolve(), "-q", "serve", arguments.run, "--device", "cpu"]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            url = server.stdout.readline().strip()
            expect(url.startswith("http://127.0.0.1:"), "an address on the first line")
        print(f"the served page, {url}", flush=True)
        check_served(browser, url, arguments.out)
    finally:
        browser.close()
        if server:
            server.terminate()
            server.wait(30)
    if browser.errors:
        sys.exit("check_page: errors in the console:\n  " + "\n  ".join(browser.errors))
    print("check_page: both pages do what they should")


if __name__ == "__main__":
    main()
