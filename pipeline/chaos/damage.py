"""Ways in which a checkpoint's files come to harm. Each takes the newest checkpoint and an older one, and returns the
file that whoever finds it has to name."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

Damage = Callable[[Path, Path, random.Random], Path]


def flip_bits(newest: Path, older: Path, chance: random.Random) -> Path:
    """One to three of a file's, near each other."""
    path = _file(newest, chance)
    data, at = bytearray(path.read_bytes()), chance.randrange(path.stat().st_size)
    for place in {min(len(data) - 1, at + chance.randrange(64)) for _ in range(chance.randint(1, 3))}:
        data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return path


def zero_block(newest: Path, older: Path, chance: random.Random) -> Path:
    """A block that is not zero already."""
    path = _file(newest, chance)
    data = bytearray(path.read_bytes())
    at = chance.choice([place for place in range(0, len(data), 97) if data[place]])
    length = min(chance.choice((1, 512, 4096, 2**20)), len(data) - at)
    data[at : at + length] = bytes(length)
    path.write_bytes(data)
    return path


def truncate(newest: Path, older: Path, chance: random.Random) -> Path:
    """By a byte, or by more."""
    path = _file(newest, chance)
    os.truncate(path, chance.choice((path.stat().st_size - 1, chance.randrange(path.stat().st_size))))
    return path


def append(newest: Path, older: Path, chance: random.Random) -> Path:
    """A byte, or several."""
    path = _file(newest, chance)
    with path.open("ab") as file:
        file.write(chance.choice((b"\0", b"\n", chance.randbytes(chance.randint(1, 5000)))))
    return path


def empty(newest: Path, older: Path, chance: random.Random) -> Path:
    """As after a crash of a file system that had not written it yet."""
    path = _file(newest, chance)
    path.write_bytes(b"")
    return path


def delete(newest: Path, older: Path, chance: random.Random) -> Path:
    """A file that is gone."""
    path = _file(newest, chance)
    path.unlink()
    return path


def stale_file(newest: Path, older: Path, chance: random.Random) -> Path:
    """What an older checkpoint has in its place."""
    path = _file(newest, chance)
    shutil.copy2(older / path.name, path)
    return path


DAMAGES: Final[dict[str, Damage]] = {
    each.__name__: each for each in (flip_bits, zero_block, truncate, append, empty, delete, stale_file)
}


def _file(checkpoint: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(path for path in checkpoint.iterdir() if path.is_file()))
