"""Random numbers without a generator: hashes of (seed, what, where), the same on every rank, worker and attempt.

A hash of integers is the splitmix64 finaliser (Steele, Lea, Flood 2014) applied once per integer. Everything here
is vectorised over numpy arrays and broadcasts.
"""

import numpy as np

from pipeline.dataset.keys import MASK64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def mix64(x: np.ndarray) -> np.ndarray:
    """uint64 -> uint64 bijection in which every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def keyed(*parts: int | np.ndarray) -> np.ndarray:
    """uint64 hash of a tuple of integers (arrays broadcast). Order matters."""
    with np.errstate(over="ignore"):
        hashed = np.zeros(1, np.uint64)
        for part in parts:
            word = np.uint64(part & MASK64) if isinstance(part, int) else part.astype(np.uint64)
            hashed = mix64((hashed + _GOLDEN) ^ mix64(word + _GOLDEN))
        return hashed


def uniform(key: np.ndarray, draws: int) -> np.ndarray:
    """float64 [len(key), draws] in [0, 1): independent numbers for each key."""
    words = keyed(key[:, None], np.arange(draws, dtype=np.uint64)[None, :])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
