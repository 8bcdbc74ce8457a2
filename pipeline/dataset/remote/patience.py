"""Patience with what is asked over a network.

An attempt has a time limit; a failed one is followed by another after a random pause that grows (exponential backoff
with full jitter, so that a thousand tasks do not return all at once). What is certain to fail again is not repeated.
"""

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.remote.urls import public

Result = TypeVar("Result")
_BAD_CREDENTIALS: Final = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed")
_NO_CREDENTIALS: Final = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")


@dataclass(frozen=True)
class Patience:
    """How long a URL is asked again. The pause before attempt n is a random part of `pause_s` * 2**n."""

    attempts: int = 8
    seconds: float = 120.0  # for all attempts together
    pause_s: float = 0.25
    longest_pause_s: float = 15.0

    @property
    def silence_s(self) -> float:
        """An attempt has failed after so many seconds without a byte."""
        return self.seconds / 6

    @classmethod
    def ours(cls) -> "Patience":
        """The default, or with the seconds of VITSTREAM_RETRY_SECONDS. Raises UsageError."""
        text = os.environ.get("VITSTREAM_RETRY_SECONDS")
        if text is None:
            return cls()
        if not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text):
            raise UsageError(f"VITSTREAM_RETRY_SECONDS={text!r}: expected a number of seconds")
        return cls(seconds=float(text))


class Refused(Exception):
    """A definite answer: asking again would not change it. The message is the reason, without the URL."""


class Unexpected(Exception):
    """An answer that cannot be right; another attempt may get a better one."""


def patiently(url: str, once: Callable[[], Result]) -> Result:
    """What `once()` returns, tried until it does not raise.

    Raises:
        Refused: a definite answer.
        UsageError: the user has to do something first.
        WorkFailed: our patience has ended.
    """
    patience = Patience.ours()
    start, reason = time.monotonic(), ""
    for attempt in range(patience.attempts):
        if attempt:
            pause = random.uniform(0, min(patience.longest_pause_s, patience.pause_s * 2**attempt))
            if time.monotonic() - start + pause > patience.seconds:
                break
            time.sleep(pause)
        try:
            return once()
        except (Refused, UsageError):
            raise
        except Exception as error:  # of half a dozen libraries, each with exceptions of its own
            reason = _judge(error)
    asked = f"asked {attempt + 1} times" if attempt else "asked once"
    raise WorkFailed(f"{public(url)}: does not answer ({reason}; {asked}); run the same command again to continue")


def _judge(error: Exception) -> str:
    """Why an attempt failed, in words without the URL. Raises Refused or UsageError where it will fail again."""
    code = error_code(error)
    kind = type(error).__name__
    if kind in _NO_CREDENTIALS:
        raise UsageError("no AWS credentials: set AWS_PROFILE, or FSSPEC_S3_ANON=true for a public bucket") from None
    if isinstance(error, FileNotFoundError):
        raise Refused("does not exist")
    if code in _BAD_CREDENTIALS:
        raise WorkFailed(f"the credentials are refused ({code}): renew them and run the same command again to continue")
    if isinstance(error, PermissionError):
        raise Refused("access denied")
    if "Timeout" in kind or isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, Unexpected):
        return str(error)
    return code or getattr(getattr(error, "os_error", error), "strerror", None) or kind


def error_code(error: Exception) -> str:
    """S3's own code for what went wrong, or ""."""
    response: Any = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
