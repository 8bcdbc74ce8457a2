"""The most recently used of things that are dear to open, shared by threads."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class _Entry:
    """One of them, or room for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Any = None


class Recent(Generic[Value]):
    """At most `most` things. One that falls out is only let go: whoever uses it goes on, and it closes after that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` has returned for `key`; it is called by one thread while others that want the same wait.

        Raises:
            Exception: what `make` raises, to the one that called it; the next one tries again.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.value is None:
                try:
                    entry.value = make()
                except BaseException:
                    self.drop(key)  # it would take the place of another
                    raise
            return entry.value

    def peek(self, key: Hashable) -> Value | None:
        """What there is for `key` now; never waits."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.value

    def drop(self, key: Hashable) -> None:
        """Lets go of one."""
        with self._lock:
            self._entries.pop(key, None)
