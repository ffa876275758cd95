#!/usr/bin/env python3
"""A small Hugging Face hub on loopback that behaves, or misbehaves in one of many ways.

By hand: `scripts/hub_server.py tests/fixtures/models/gpt2 --mode half-body`, then in another
terminal
`HF_ENDPOINT=http://127.0.0.1:PORT lapidary run --model someone/tiny --tokens 1,2,3 --capture logits`.
`scripts/check_hub.py` runs the program with every mode. Needs only Python's standard library.

Every repository has the files of the given folder. Weight files are answered like the hub's large
files: with a redirect to another host (`localhost` on another port), `X-Linked-Etag` (SHA-256) and
`X-Linked-Size`. The endpoint itself sends other files. Their ETag is the SHA-1 of a git blob.
"""

import argparse
import hashlib
import json
import socket
import threading
import time
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".npz", ".pt", ".parquet")

# Each mode, and a regular expression for the line that the program must end in. The misbehaviour
# concerns the file `target` alone, or the list of files where the mode begins with `listing`.
MODES = {
    "etag-escapes": "E[Tt]ag: found",
    "etag-absolute": "E[Tt]ag: found",
    "etag-long": "E[Tt]ag: found",
    "etag-missing": "ETag: found none",
    "commit-escapes": "X-Repo-Commit: found",
    "commit-dots": "X-Repo-Commit: found",
    "commit-missing": "X-Repo-Commit: found none",
    "redirect-nowhere": "redirect without a Location",
    "redirect-itself": "redirect in a circle",
    "redirect-endless": "more than 10",
    "redirect-file": "no address",
    "redirect-bytes": "no address",
    "half-body": "bytes, expected",
    "short-body": "bytes, expected|SHA-1",
    "long-body": "bytes, expected|SHA-1",
    "other-body": "SHA-(1|256).* of what came is",
    "length-huge": "9223372036854775807 bytes, expected",
    "length-word": "content-length",
    "length-negative": "content-length",
    "range-other": "Content-Range: found",
    "compressed": "not HTTP as expected",
    "status-400": "400",
    "status-401": "HF_TOKEN",
    "status-403": "HF_TOKEN",
    "status-404": "404",
    "status-429": "429",
    "status-500": "500",
    "status-503": "503",
    "hang": "nothing came for 1 s",
    "hang-body": "nothing came for 1 s",
    "close": "the connection broke",
    "not-http": "not HTTP as expected",
    "headers-endless": "too big",
}
LISTING_MODES = {
    "listing-escapes": "expected a path below",
    "listing-absolute": "expected a path below",
    "listing-no-json": "JSON",
    "listing-deep": "JSON",
    "listing-endless": "bytes",
    "listing-commit-escapes": "expected a commit",
    "listing-status-401": "HF_TOKEN",
    "listing-status-404": "404",
    "listing-status-500": "500",
    "listing-hang": "nothing came for 1 s",
    "listing-redirect-itself": "redirect",
    "listing-redirect-nowhere": "redirect",
}


class Hub:
    """The endpoint and a second host for large files."""

    def __init__(self, files, mode="good", target=None, listed=None):
        self.files = {name: bytes(data) for name, data in files.items()}
        self.mode, self.target = mode, target
        self.listed = listed if listed is not None else sorted(self.files)
        self.requests = []  # (host, path, headers)
        self.sockets = []
        self.endpoint = "http://127.0.0.1:%d" % self._listen("hub")
        self.storage = "http://localhost:%d" % self._listen("storage")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for listening in self.sockets:
            listening.close()

    def tokens_elsewhere(self):
        """Requests with an Authorization header that came to the host of large files."""
        return [path for host, path, headers in self.requests if host == "storage" and "authorization" in headers]

    def _listen(self, host):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        self.sockets.append(listening)
        threading.Thread(target=self._accept, args=(listening, host), daemon=True).start()
        return listening.getsockname()[1]

    def _accept(self, listening, host):
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, host), daemon=True).start()

    def _serve(self, connection, host):
        with connection:
            try:
                self._answer(connection, host)
            except OSError:
                pass  # The client has closed the connection.

    def _answer(self, connection, host):
        stream = connection.makefile("rb")
        request = stream.readline().decode("latin-1").split(" ")
        if len(request) < 2:
            return
        headers = {}
        while line := stream.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        method, path = request[0], request[1]
        self.requests.append((host, path, headers))
        reply = Reply(connection, method)
        if path.startswith("/api/"):
            return self._list(reply, path)
        if host == "hub" and "/resolve/" in path:
            name = path.split("?")[0].split("/resolve/", 1)[1].split("/", 1)[1]
            return self._file(reply, path, name, headers)
        if host == "hub" and path.startswith("/again/"):
            return reply.head(302, {"Location": "/again/%d" % (int(path.rsplit("/", 1)[1]) + 1), "Content-Length": "0"})
        if path.startswith("/stored/"):
            name = path.split("/stored/", 1)[1]
            return self._body(reply, name, headers, {"ETag": '"%s"' % hashlib.md5(self.files[name]).hexdigest()})
        reply.head(404, {"Content-Length": "0"})

    def _list(self, reply, path):
        mode = self.mode
        names = list(self.listed)
        sha = COMMIT
        if mode == "listing-escapes":
            names.append("../../../escaped.safetensors")
        elif mode == "listing-absolute":
            names.append("/tmp/escaped.safetensors")
        elif mode == "listing-commit-escapes":
            sha = "../../../escaped"
        elif mode == "listing-no-json":
            return reply.whole(200, b"<html>Sign in to this network</html>")
        elif mode == "listing-deep":
            return reply.whole(200, b'{"siblings":' + b"[" * 200_000)
        elif mode == "listing-endless":
            reply.head(200, {"Transfer-Encoding": "chunked"})
            for _ in range(512):  # 512 MiB
                reply.send(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
            return
        elif mode.startswith("listing-status-"):
            return reply.whole(int(mode.rsplit("-", 1)[1]), b'{"error":"no"}')
        elif mode == "listing-hang":
            time.sleep(600)
        elif mode == "listing-redirect-itself":
            return reply.head(307, {"Location": path, "Content-Length": "0"})
        elif mode == "listing-redirect-nowhere":
            return reply.head(307, {"Content-Length": "0"})
        listing = {"sha": sha, "siblings": [{"rfilename": name} for name in names]}
        reply.whole(200, json.dumps(listing).encode())

    def _file(self, reply, path, name, headers):
        if name not in self.files:
            return reply.head(404, {"X-Repo-Commit": COMMIT, "X-Error-Code": "EntryNotFound", "Content-Length": "0"})
        data, mode = self.files[name], self.mode if name == self.target else "good"
        large = name.endswith(LARGE)
        etag = hashlib.sha256(data).hexdigest() if large else git_blob(data)
        fields = {"X-Repo-Commit": COMMIT, "X-Linked-Etag" if large else "ETag": '"%s"' % etag}
        etag_field = "X-Linked-Etag" if large else "ETag"
        if large:
            fields["X-Linked-Size"] = str(len(data))
        if mode == "etag-escapes":
            fields[etag_field] = '"../../../../escaped"'
        elif mode == "etag-absolute":
            fields[etag_field] = '"/tmp/escaped-%d"' % len(data)
        elif mode == "etag-long":
            fields[etag_field] = '"%s"' % ("a" * 5000)
        elif mode == "etag-missing":
            del fields[etag_field]
        elif mode == "commit-escapes":
            fields["X-Repo-Commit"] = "../../../escaped"
        elif mode == "commit-dots":
            fields["X-Repo-Commit"] = ".."
        elif mode == "commit-missing":
            del fields["X-Repo-Commit"]
        elif mode == "redirect-nowhere":
            return reply.head(302, fields | {"Content-Length": "0"})
        elif mode == "redirect-itself":
            return reply.head(302, fields | {"Location": self.endpoint + path, "Content-Length": "0"})
        elif mode == "redirect-endless":
            return reply.head(302, fields | {"Location": "/again/0", "Content-Length": "0"})
        elif mode == "redirect-file":
            return reply.head(302, fields | {"Location": "file:///etc/passwd", "Content-Length": "0"})
        elif mode == "redirect-bytes":
            return reply.head(302, fields | {"Location": "http://\xff\xfe:port/[", "Content-Length": "0"})
        elif mode.startswith("status-"):
            return reply.whole(int(mode.rsplit("-", 1)[1]), b'{"error":"no"}', {"X-Repo-Commit": COMMIT})
        elif mode == "hang":
            time.sleep(600)
        elif mode == "close":
            return
        elif mode == "not-http":
            return reply.send(b"SSH-2.0-OpenSSH_9.6\r\n" + b"x" * 4096)
        elif mode == "headers-endless":
            reply.send(b"HTTP/1.1 200 OK\r\n")
            for number in range(1 << 20):
                reply.send(b"X-%d: %s\r\n" % (number, b"x" * 1024))
            return
        if large:
            return reply.head(302, fields | {"Location": f"{self.storage}/stored/{name}", "Content-Length": "0"})
        self._body(reply, name, headers, fields)

    def _body(self, reply, name, headers, fields):
        data, mode = self.files[name], self.mode if name == self.target else "good"
        start, status = 0, 200
        fields = dict(fields)
        if (asked := headers.get("range", "")).startswith("bytes=") and data:
            first, _, last = asked[len("bytes=") :].partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            if start >= len(data):
                return reply.head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            status, data = 206, data[start : end + 1]
            fields["Content-Range"] = f"bytes {start}-{end}/{len(self.files[name])}"
        length = len(data)
        if mode == "half-body":
            data = data[: length // 2]
        elif mode == "short-body":
            data, length = data[:-3], length - 3
        elif mode == "long-body":
            data, length = data + b"more", length + 4
        elif mode == "other-body":
            data = bytes(byte ^ 1 for byte in data)
        elif mode == "length-huge":
            length = (1 << 63) - 1
        elif mode == "length-word":
            length = "plenty"
        elif mode == "length-negative":
            length = -1
        elif mode == "range-other":
            status = 206
            fields["Content-Range"] = f"bytes 7-{length + 6}/{length + 7}"
        elif mode == "compressed":
            fields["Content-Encoding"] = "gzip"
        reply.head(status, fields | {"Content-Length": str(length), "Accept-Ranges": "bytes"})
        if mode == "hang-body":
            reply.send(data[: len(data) // 2])
            time.sleep(600)
        reply.body(data)


class Reply:
    def __init__(self, connection, method):
        self.connection, self.method = connection, method

    def send(self, data):
        self.connection.sendall(data)

    def head(self, status, fields):
        lines = [f"HTTP/1.1 {status} Answer", *(f"{name}: {value}" for name, value in fields.items()), "Connection: close"]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def body(self, data):
        if self.method != "HEAD":
            self.send(data)

    def whole(self, status, data, fields=None):
        self.head(status, (fields or {}) | {"Content-Length": str(len(data)), "Content-Type": "application/json"})
        self.body(data)


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def folder_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="the files of every repository")
    parser.add_argument("--mode", default="good", choices=["good", *MODES, *LISTING_MODES])
    parser.add_argument("--target", default="model.safetensors", help="the file that the misbehaviour concerns")
    arguments = parser.parse_args()
    with Hub(folder_files(arguments.folder), arguments.mode, arguments.target) as hub:
        print(f"HF_ENDPOINT={hub.endpoint}", flush=True)
        seen = 0
        while True:
            time.sleep(0.2)
            for host, path, headers in hub.requests[seen:]:
                token = " with a token" if "authorization" in headers else ""
                print(f"{host:>8} {path}{token}", flush=True)
                seen += 1


if __name__ == "__main__":
    main()
