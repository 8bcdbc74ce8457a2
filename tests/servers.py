"""Servers on loopback for the tests: S3 (moto speaks it), and a proxy before it that fails as networks do."""

import http.client
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

FAULTS = ("500", "503", "stall", "reset", "truncated", "shortened", "silence")
_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "date", "server", "keep-alive")


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of an S3; its account is that of `environment`. Within a process all have the same buckets."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def environment(endpoint: str) -> dict[str, str]:
    """What makes any S3 client talk to it."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def fill(endpoint: str, bucket: str, objects: dict[str, bytes]) -> None:
    """Makes a bucket with these objects."""
    values = environment(endpoint)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region_name=values["AWS_DEFAULT_REGION"],
    )
    client.create_bucket(Bucket=bucket)
    for key, data in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=data, ACL="public-read")


class Flaky:
    """A proxy that forwards requests, and spoils a share of them.

    Args:
        upstream: where to.
        rate: share of the requests that are spoiled.
        seed: of which, and how. Which request comes when depends on threads, so runs differ all the same.
        stall_s: how long a stalled answer takes.
        faults: which may happen.
        only: a part of the path of the requests that may be spoiled.
        pace: bytes of a body per second; as fast as it goes where it is 0.
    """

    def __init__(
        self,
        upstream: str,
        rate: float,
        seed: int,
        stall_s: float = 60.0,
        faults: tuple[str, ...] = FAULTS,
        only: str = "",
        pace: float = 0,
    ) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.rate, self.stall_s, self.faults, self.only, self.pace = rate, stall_s, faults, only, pace
        self.done: Counter[str] = Counter()  # requests, by fault or as "fine"
        self.sent: Counter[str] = Counter()  # bytes of bodies, by path
        self.asked: list[tuple[str, str]] = []  # path and range of every request
        self._random, self._lock = random.Random(seed), threading.Lock()

    def fault(self, path: str) -> str | None:
        """What is done to the next request."""
        with self._lock:
            spoiled = self._random.random() < self.rate and self.only in path
            fault = self._random.choice(self.faults) if spoiled else None
            self.done[fault or "fine"] += 1
            return fault

    def count(self, path: str, size: int) -> None:
        """So many bytes were sent."""
        with self._lock:
            self.sent[path.partition("?")[0]] += size

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its URL."""
        server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"flaky": self}))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    flaky: Flaky
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.flaky.asked.append((self.path.partition("?")[0], self.headers.get("Range", "")))
        fault = self.flaky.fault(self.path)
        if fault in ("500", "503"):
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault in ("stall", "silence", "reset"):
            self._break(fault)
            return
        status, headers, body = self._forward(sent)
        if fault == "shortened" and self.command == "GET":  # and nothing gives it away
            body = body[: len(body) // 2]
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        if fault == "truncated":
            body = body[: len(body) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self._send(body)

    do_HEAD = do_PUT = do_DELETE = do_GET

    def _send(self, body: bytes) -> None:
        step = max(1, int(self.flaky.pace / 20)) if self.flaky.pace else len(body)
        for at in range(0, len(body), step or 1):
            self.wfile.write(body[at : at + step])
            self.flaky.count(self.path, len(body[at : at + step]))
            if self.flaky.pace:
                time.sleep(1 / 20)

    def _forward(self, sent: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.flaky.upstream, timeout=30)
        try:
            connection.request(self.command, self.path, sent or None, dict(self.headers))
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _break(self, how: str) -> None:
        self.close_connection = True
        if how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if how == "stall":  # half an answer, and then nothing
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nxxx")
            self.wfile.flush()
        time.sleep(self.flaky.stall_s)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def dead_server() -> Iterator[str]:
    """A URL at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def silent_server() -> Iterator[str]:
    """A URL at which connections are taken, and never answered."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def child_environment(endpoint: str, **more: str) -> dict[str, str]:
    """For a process that talks to it."""
    return os.environ | environment(endpoint) | more


class Folder:
    """A folder behind HTTP, by ranges; from when it is told to, it lets whoever wants a shard wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waiting = 0  # requests, up to now, that were left without an answer
        self._flows = threading.Event()
        self._flows.set()

    def stall(self) -> None:
        """From now on, no shard's bytes come."""
        self._flows.clear()

    def flow(self) -> None:
        """They do again, also those that are waited for."""
        self._flows.set()

    def pass_by(self, path: Path) -> None:
        """Waits, where it must."""
        if path.suffix == ".tar" and not self._flows.is_set():
            self.waiting += 1
            self._flows.wait()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its URL."""
        server = _Server(("127.0.0.1", 0), type("Handler", (_FolderHandler,), {"served": self}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            self.flow()
            server.shutdown()
            server.server_close()


class _FolderHandler(BaseHTTPRequestHandler):
    served: Folder
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.served.folder / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.served.pass_by(path)
        body, status = path.read_bytes(), 200
        if spanned := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(spanned[1]), min(int(spanned[2] or len(body)), len(body) - 1)
            whole, body, status = len(body), body[first : last + 1], 206
        self.send_response(status)
        if spanned:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):  # who asked has been killed
                self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass
