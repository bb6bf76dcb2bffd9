"""A web server on loopback that fails on request and records every request and answer."""

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
    """The path as sent, still quoted."""
    range: str | None
    sent: int
    """Bytes of the file's content in the answer."""


class LocalServer:
    """Serves `contents` (path: bytes). `faults` (path: list) are used up, one per request; later requests succeed.

    A fault is a status code, or
        ("cut", n): the connection ends after n bytes of the answer
        ("silent", n): no data follow after n bytes
        ("content", data): these bytes instead of the file
        "no length": the whole file without Content-Length
        "endless": as "no length", with one extra byte
        "packed": labelled as gzip-encoded
    An unknown path is answered 404. `meeting` (a threading.Barrier): every answer waits for it.
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
        fault = site.next_fault(path)
        status, headers, body = _answer(site.contents.get(path), fault)
        # Recorded before any byte is sent: a client may read the record as soon as it has the answer.
        with site.lock:
            site.asked.append(Asked(path, self.path, self.headers.get("Range"), len(body)))
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


def _answer(content: bytes | None, fault) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    if isinstance(fault, int) or content is None:
        return fault or 404, {}, b""
    kind, value = fault if isinstance(fault, tuple) else (fault, None)
    if kind == "content":
        content = value
    body, headers = content, {}
    if kind not in ("no length", "endless"):
        headers["Content-Length"] = str(len(body))
    if kind == "packed":
        headers["Content-Encoding"] = "gzip"
    if kind in ("cut", "silent"):
        body = body[:value]
    if kind == "endless":
        body += b"\n"
    return 200, headers, body


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        # Some tests close the connection early.
        pass


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[LocalServer]:
    """A server on a free port within the `with` block; with TLS if a certificate file (with its key) is given."""
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
