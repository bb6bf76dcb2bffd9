"""A web server on loopback that misbehaves on request, and writes down what it was asked and what it sent."""

import ssl
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    """Unquoted, as in `LocalServer.contents`."""
    target: str
    """As it stood in the request."""
    range: str | None
    sent: int
    """Bytes of the file's content in the answer."""


class LocalServer:
    """Serves `contents` (path: bytes). `faults` (path: list) are used up, one a request; after them all is well.

    A fault is a status code, or
        ("cut", n): the connection ends after n bytes of the answer
        ("silent", n): nothing comes after n bytes
        ("content", data): these bytes in the place of the file's
        "no range": the whole file, whatever was asked
        "wrong range": from the first byte on, labelled as a part
        "no length": the whole file without its size
        "endless": as "no length", and a byte more
    A path that nobody knows is answered 404. `meeting` (a threading.Barrier): every answer waits there first.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.faults: dict[str, list] = defaultdict(list)
        self.asked: list[Asked] = []
        self.meeting: threading.Barrier | None = None
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.url = ""

    def requests(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def next_fault(self, path: str):
        with self.lock:
            return self.faults[path].pop(0) if self.faults[path] else None


class _Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        site: LocalServer = self.server.site
        path = unquote(urlsplit(self.path).path).lstrip("/")
        fault, wanted = site.next_fault(path), self.headers.get("Range")
        status, headers, body = _answer(site.contents.get(path), fault, wanted)
        # Before a byte goes out: who has the answer may look at once.
        with site.lock:
            site.asked.append(Asked(path, self.path, wanted, len(body)))
        if site.meeting:
            site.meeting.wait()
        if status >= 400:
            self.send_error(status)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)
            self.wfile.flush()
        if isinstance(fault, tuple) and fault[0] == "silent":
            site.closing.wait(30)

    def log_message(self, *_) -> None:
        pass


def _answer(content: bytes | None, fault, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    if isinstance(fault, int) or content is None:
        return fault or 404, {}, b""
    kind, value = fault if isinstance(fault, tuple) else (fault, None)
    if kind == "content":
        content = value
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and kind != "no range" else None
    if start is not None and start >= len(content):
        return 416, {}, b""
    if start is not None and kind == "wrong range":
        start = 0
    body, headers = content[start or 0 :], {}
    if start is not None:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    if kind not in ("no length", "endless"):
        headers["Content-Length"] = str(len(body))
    if kind in ("cut", "silent"):
        body = body[:value]
    if kind == "endless":
        body += b"\n"
    return 200 if start is None else 206, headers, body


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        # A client that went away is what some tests are about.
        pass


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[LocalServer]:
    """A server on a free port, for the length of the block; over TLS with a certificate and its key in one file."""
    site = LocalServer()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.site = site
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    site.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}/pub"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
