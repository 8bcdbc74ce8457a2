"""What a run fetches over a network: its columns in metrics.jsonl, and a line at each epoch's end. Torch-free."""

from collections.abc import Iterable
from typing import Any, Final

from pipeline.data.corpus import Corpus
from pipeline.dataset.quantities import human_bytes
from pipeline.dataset.remote.traffic import Fetched

NAMES: Final = tuple(f"remote_{name}" for name in Fetched._fields)  # remote_requests, remote_bytes, remote_retries


def columns(fetched: Iterable[int]) -> dict[str, int]:
    """As a line of metrics.jsonl has them."""
    return dict(zip(NAMES, fetched, strict=True))


class Afar:
    """Adds up what came since it last told."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.samples, self.fetched = 0, Fetched()

    def add(self, samples: int, lines: Iterable[dict[str, Any]]) -> None:
        """Takes a flush's lines of metrics.jsonl, which are of so many samples."""
        self.samples += samples
        self.fetched = Fetched.total([self.fetched, *([line[name] for name in NAMES] for line in lines)])

    def told(self) -> str:
        """Says it, and starts anew."""
        requests, size, retries = self.fetched
        samples = max(1, self.samples)
        say = f"fetched for {self.samples:,} samples: "
        if requests:
            say += f"{human_bytes(size)} in {requests:,} requests ({human_bytes(round(size / samples))} and "
            say += f"{requests / samples:.3g} requests per sample{self._held()})"
            say += f", {retries:,} of them repeated" if retries else ""
        else:
            say += "nothing, the cache has it all"
        self.samples, self.fetched = 0, Fetched()
        return say

    def _held(self) -> str:
        """What there is to fetch, where it is the same for every sample."""
        if self.corpus.parts > 1 or not all(member.location.is_remote for member in self.corpus.members):
            return ""
        return f"; its shards hold {human_bytes(round(self.corpus.bytes / self.corpus.samples))}"
