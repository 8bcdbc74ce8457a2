"""Keyed permutations of [0, n) in closed form: no table, invertible, about half a microsecond per element.

A Feistel network on pairs (l, r) with 0 <= l < a, 0 <= r < b, where a = ceil(sqrt(n)) and b = ceil(n / a). Each
round adds a keyed hash of one half to the other, modulo that half's range, so every round, and the whole, is a
bijection of [0, a*b) (the generalised Feistel cipher of Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
CT-RSA 2002). Values that land in [n, a*b) are sent through again until they do not ("cycle walking", ibid.):
a*b - n < a, so that is rare, and following a cycle of a bijection back into the set keeps it a bijection.
"""

import numpy as np

from pipeline.data.keyed import mix64

ROUNDS = 8
_ROUND_KEYS = mix64(np.arange(1, ROUNDS + 1, dtype=np.uint64))
_ONE = np.uint64(1)
_SPREAD = np.uint64(0xD1342543DE82EF95)  # odd, so that multiplying by it loses nothing


def permute(x: np.ndarray, n: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Image of `x` under the permutation of [0, n) named by `key`; int64 in and out; all three broadcast."""
    return _walk(x, n, key, range(ROUNDS), forward=True)


def unpermute(y: np.ndarray, n: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Inverse of `permute`."""
    return _walk(y, n, key, reversed(range(ROUNDS)), forward=False)


def _walk(x: np.ndarray, n: np.ndarray, key: np.ndarray, rounds: range, forward: bool) -> np.ndarray:
    x, n, key = (np.asarray(value).astype(np.uint64) for value in (x, n, key))
    if not x.shape == n.shape == key.shape:
        x, n, key = np.broadcast_arrays(x, n, key)
    rounds = list(rounds)
    with np.errstate(over="ignore"):
        result = _network(x, n, key, rounds, forward)
        while (outside := result >= n).any():
            result[outside] = _network(result[outside], n[outside], key[outside], rounds, forward)
    return result.astype(np.int64)


def _network(x: np.ndarray, n: np.ndarray, key: np.ndarray, rounds: list[int], forward: bool) -> np.ndarray:
    """uint64 throughout."""
    a = np.ceil(np.sqrt(n)).astype(np.uint64)
    b = (n + a - _ONE) // a
    left, right = np.divmod(x, b)
    for number in rounds:
        half, bound = (right, a) if number % 2 == 0 else (left, b)
        moved = mix64((key ^ _ROUND_KEYS[number]) + half * _SPREAD) % bound
        if not forward:
            moved = bound - moved
        if number % 2 == 0:
            left = (left + moved) % bound
        else:
            right = (right + moved) % bound
    return left * b + right
