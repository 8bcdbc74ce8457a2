"""fsspec's file systems, and calls of theirs and ours in the thread in which their event loop runs."""

import os
import threading
from concurrent.futures import Future
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from pipeline.dataset.errors import UsageError
from pipeline.dataset.remote.urls import check_scheme, is_http, scheme_of

_EXTRAS: Final = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "http": "http"}
_CONNECTIONS: Final = 64
_lock = threading.Lock()  # or threads that begin together would open as many


def _unlock() -> None:
    global _lock
    _lock = threading.Lock()  # who held it is not in a forked process


os.register_at_fork(after_in_child=_unlock)


def filesystem(url: str, silence: float) -> Any:
    """fsspec's file system for a URL, one per process: connections do not survive a fork.

    `silence`: seconds without a byte after which a request to S3 has failed. Raises UsageError.
    """
    check_scheme(url)
    with _lock:
        return _opened("http" if is_http(url) else scheme_of(url), silence, os.getpid())


def start_get(url: str, offset: int, limit: int, silence: float) -> Future[bytes]:
    """Begins to read bytes [offset, offset + limit), or fewer where the object ends before. Raises UsageError."""
    if is_http(url):
        return start(url, "http", "get", offset, limit, silence, silence=silence)
    if scheme_of(url) == "s3":
        return start(url, "s3", "get", offset, limit, silence=silence)
    of = filesystem(url, silence)
    return _run(of._cat_file(url, start=offset, end=offset + limit), of.loop)


def start(url: str, module: str, what: str, *arguments: Any, silence: float) -> Future[Any]:
    """Begins a coroutine of pipeline.dataset.remote.MODULE."""
    of = filesystem(url, silence)  # first: it says what to install
    coroutine = getattr(import_module(f"pipeline.dataset.remote.{module}"), what)
    return _run(coroutine(of, url, *arguments), of.loop)


def result_of(call: Future[Any], timeout: float) -> Any:
    """What it returns. Raises TimeoutError, and the call is given up; what it raises."""
    try:
        return call.result(timeout)
    finally:
        call.cancel()


@lru_cache(maxsize=8)
def _opened(scheme: str, silence: float, _process: int) -> Any:
    import fsspec
    from fsspec.config import conf

    ours: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    theirs = conf.get(scheme, {})
    if scheme == "s3":
        limits = {"connect_timeout": silence, "read_timeout": silence, "max_pool_connections": _CONNECTIONS}
        ours["config_kwargs"] = theirs.get("config_kwargs", {}) | limits | {"retries": {"total_max_attempts": 1}}
    if scheme == "http":
        ours["client_kwargs"] = {"trust_env": True} | theirs.get("client_kwargs", {})
    try:
        opened = fsspec.filesystem(scheme, **ours)
    except ImportError:
        advice = f"pip install 'vitstream[{_EXTRAS[scheme]}]'"
        raise UsageError(f"{scheme}:// needs a package that is not installed: {advice}") from None
    opened.retries = 1  # ours are counted, and bounded in time
    return opened


def _run(coroutine: Any, loop: Any) -> Future[Any]:
    from asyncio import run_coroutine_threadsafe  # with all of asyncio and TLS, which local data does not need

    return run_coroutine_threadsafe(coroutine, loop)
