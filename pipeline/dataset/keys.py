"""Keys name samples; their 64-bit hashes, summed, prove which samples were read.

A key is 24 hex digits of the hash of the source's relative path: no dots (WebDataset cuts names at the first
dot), the same in every subset and re-sharding. The ledger adds xxh3-64 hashes of keys modulo 2**64: addition
commutes, so ranks and workers may add in any order, and one sample too many or too few changes the sum.
"""

import re
from collections.abc import Iterable

import xxhash

KEY_DIGITS = 24
MASK64 = (1 << 64) - 1
_IS_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")


def sample_key(relative_path: str) -> str:
    """The key of a source file: 24 hex digits of xxh3-128 over its path relative to the source, '/'-separated.

    Names that are no valid UTF-8 (surrogates from the file system) keep their bytes.
    """
    return xxhash.xxh3_128_hexdigest(relative_path.encode("utf-8", "surrogateescape"))[:KEY_DIGITS]


def own_key(container: str, name: str) -> str:
    """The key of a sample that lies in a tar or MDS shard already, called `container` (its file name, no folders).

    Args:
        container: the shard's file name.
        name: a member's path, or any name for a sample that is its own within the shard.

    The sample's own name is the path up to the first dot of its last part, as webdataset cuts it. Where that part is a
    key already, as in our own shards, it is kept: a sample is the same sample wherever it is packed.
    """
    own = sample_name(name)
    last = own.rpartition("/")[2]
    return last if is_key(last) else sample_key(f"{container}/{own}")


def sample_name(member: str) -> str:
    """A tar member's path up to the first dot of its last part: `./a/b.seg.png` and `a/b.cls` are of sample `a/b`."""
    while member.startswith("./"):
        member = member[2:]
    folder, slash, last = member.rpartition("/")
    return folder + slash + last.partition(".")[0]


def is_key(text: str) -> bool:
    """Whether it has the form of a key."""
    return _IS_KEY.fullmatch(text) is not None


def key_hash(key: str) -> int:
    """xxh3-64 of a key, in [0, 2**64)."""
    return xxhash.xxh3_64_intdigest(key.encode())


def key_sum(keys: Iterable[str]) -> int:
    """Sum of key hashes modulo 2**64."""
    return sum(map(key_hash, keys)) & MASK64


def keyed_hash(key: str, seed: int) -> int:
    """xxh3-64 of a key under a seed: the shuffle and the train/val split of `shard` sort and cut by it."""
    return xxhash.xxh3_64_intdigest(key.encode(), seed=seed & MASK64)


def hex64(value: int) -> str:
    """The way a 64-bit hash is written in JSON: 16 hex digits (JSON numbers lose bits above 2**53)."""
    return f"{value & MASK64:016x}"


def as_int64(value: int) -> int:
    """The two's complement reading of a 64-bit hash: tensors add int64 modulo 2**64 just as well."""
    value &= MASK64
    return value - 2**64 if value >> 63 else value


def from_int64(value: int) -> int:
    """Inverse of `as_int64`."""
    return value & MASK64
