"""What a node's cache of whole shards does for a run: arithmetic, torch-free."""

from dataclasses import dataclass

from pipeline.config import Config
from pipeline.data.corpus import Corpus
from pipeline.dataset.errors import UsageError
from pipeline.dataset.quantities import human_bytes


@dataclass(frozen=True)
class CachePlan:
    """What data.cache does."""

    bytes: int
    holds: float  # share of the data
    fetched: int  # bytes from afar in the whole run, by all nodes
    fetched_without: int  # the same without a cache


def cache_plan(config: Config, corpus: Corpus, without: int, nodes: int) -> CachePlan | None:
    """Of `nodes` that would fetch `without` bytes in all without a cache; None where there is none.

    A shard stays once it is in the cache, until that is full; the others are read by ranges, each by who needs it.

    So a node that caches fetches what it holds once, its own share or not, and without a cache its share every epoch.

    Raises:
        UsageError: it has not room for one shard.
    """
    if config.data.cache is None:
        return None
    room, largest = config.data.cache.bytes, max(s.bytes for m in corpus.members for s in m.manifest.shards)
    if room < largest:
        raise UsageError(
            f"data.cache.bytes: {human_bytes(room)} are less than a shard, the largest of which has "
            f"{human_bytes(largest)}: raise it, or leave data.cache out"
        )
    holds = min(room, sum(member.cacheable_bytes for member in corpus.members)) / corpus.bytes
    fetched = round(nodes * holds * corpus.bytes + (1 - holds) * without)
    return CachePlan(room, holds, fetched, without)
