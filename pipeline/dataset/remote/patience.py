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
_SILENCE: Final = "no answer in time"


@dataclass(frozen=True)
class Patience:
    """How long a URL is asked again. The pause before attempt n is a random part of `pause_s` * 2**n."""

    attempts: int = 8
    seconds: float = 120.0  # for all attempts together
    pause_s: float = 0.25
    longest_pause_s: float = 15.0

    @property
    def silence_s(self) -> float:
        """An attempt has failed after so many seconds without a byte. With little patience: half of it, up to 3 s, as
        long as a first connection may take."""
        return max(self.seconds / 6, min(self.seconds / 2, 3.0))

    @classmethod
    def ours(cls) -> "Patience":
        """The default, or with the seconds of VITSTREAM_RETRY_SECONDS. Raises UsageError."""
        seconds = _asked_for()
        return cls() if seconds is None else cls(seconds=seconds)

    @classmethod
    def lasting(cls, seconds: float) -> "Patience":
        """As many attempts as `seconds` allow, or those of VITSTREAM_RETRY_SECONDS. Raises UsageError."""
        asked = _asked_for()
        return cls(attempts=10**6, seconds=seconds if asked is None else asked)


def _asked_for() -> float | None:
    text = os.environ.get("VITSTREAM_RETRY_SECONDS")
    if text is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text):
        raise UsageError(f"VITSTREAM_RETRY_SECONDS={text!r}: expected a number of seconds")
    return None if text is None else float(text)


class Refused(Exception):
    """A definite answer: asking again would not change it. The message is the reason, without the URL."""


class Missing(Refused):
    """There is no such object."""

    def __init__(self) -> None:
        super().__init__("does not exist")


class Unexpected(Exception):
    """An answer that cannot be right; another attempt may get a better one."""


class NoAnswer(Exception):
    """Our patience has ended. `reason` is why the last attempt failed; where it had no answer, one before it."""

    def __init__(self, reason: str, attempts: int, seconds: float) -> None:
        self.reason = reason
        self.asked = "asked once" if attempts == 1 else f"asked {attempts} times"
        super().__init__(f"{reason} ({self.asked} in {seconds:.0f} s)")


def patiently(url: str, once: Callable[[], Result]) -> Result:
    """What `once()` returns, tried until it does not raise.

    Raises:
        Refused: a definite answer.
        UsageError: the user has to do something first.
        WorkFailed: our patience has ended.
    """
    try:
        return persist(once, Patience.ours())
    except NoAnswer as error:
        message = f"{public(url)}: does not answer ({error.reason}; {error.asked})"
        raise WorkFailed(f"{message}; run the same command again to continue") from None


def persist(
    once: Callable[[], Result], patience: Patience, again: Callable[[], None] = lambda: None, reason: str = ""
) -> Result:
    """The same with a patience of its own; `again` is called before every attempt but the first.

    `reason`: why it failed earlier. That there was no answer tells less than what an earlier answer has said.

    Raises:
        Refused: a definite answer.
        UsageError, WorkFailed: the user has to do something first.
        NoAnswer: our patience has ended.
    """
    start = time.monotonic()
    for attempt in range(patience.attempts):
        if attempt:
            pause = random.uniform(0, min(patience.longest_pause_s, patience.pause_s * 2 ** min(attempt, 30)))
            if time.monotonic() - start + pause > patience.seconds:
                break
            time.sleep(pause)
            again()
        try:
            return once()
        except (Refused, UsageError):
            raise
        except Exception as error:  # of half a dozen libraries, each with exceptions of its own
            seen = _judge(error)
            reason = reason if reason and seen == _SILENCE else seen
        done = attempt + 1
    raise NoAnswer(reason, done, time.monotonic() - start)


def _judge(error: Exception) -> str:
    """Why an attempt failed, in words without the URL. Raises Refused or UsageError where it will fail again."""
    code = error_code(error)
    kind = type(error).__name__
    if kind in _NO_CREDENTIALS:
        raise UsageError("no AWS credentials: set AWS_PROFILE, or FSSPEC_S3_ANON=true for a public bucket") from None
    if isinstance(error, FileNotFoundError):
        raise Missing
    if code in _BAD_CREDENTIALS:
        raise WorkFailed(f"the credentials are refused ({code}): renew them and run the same command again to continue")
    if isinstance(error, PermissionError):
        raise Refused("access denied")
    if "Timeout" in kind or isinstance(error, TimeoutError):
        return _SILENCE
    if isinstance(error, Unexpected):
        return str(error)
    return code or getattr(getattr(error, "os_error", error), "strerror", None) or kind


def error_code(error: Exception) -> str:
    """S3's own code for what went wrong, or ""."""
    response: Any = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
