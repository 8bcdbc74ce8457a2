"""Ways in which a file comes to harm, and may have to be found out. Torch-free."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

Damage = Callable[[Path, random.Random], None]


def flip_bits(path: Path, chance: random.Random) -> None:
    """One to three of them, near each other."""
    data, at = bytearray(path.read_bytes()), chance.randrange(path.stat().st_size)
    for place in {min(len(data) - 1, at + chance.randrange(64)) for _ in range(chance.randint(1, 3))}:
        data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def zero_block(path: Path, chance: random.Random) -> None:
    """A block that is not zero already."""
    data = bytearray(path.read_bytes())
    at = chance.choice([place for place in range(0, len(data), 97) if data[place]])
    length = min(chance.choice((1, 512, 4096, 2**20)), len(data) - at)
    data[at : at + length] = bytes(length)
    path.write_bytes(data)


def overwrite(path: Path, chance: random.Random) -> None:
    """A block of noise."""
    data, length = bytearray(path.read_bytes()), chance.choice((16, 512, 4096))
    at = chance.randrange(max(1, len(data) - length))
    data[at : at + length] = chance.randbytes(len(data[at : at + length]))
    path.write_bytes(data)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.choice((path.stat().st_size - 1, chance.randrange(path.stat().st_size))))


def append(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.choice((b"\0", b"\n", b" ", chance.randbytes(chance.randint(1, 5000)))))


def empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def replace_by_no_file(path: Path, chance: random.Random) -> None:
    """By a folder, a pipe, a link to nowhere or to a device."""
    path.unlink()
    match chance.choice(("folder", "pipe", "nowhere", "device")):
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "nowhere":
            path.symlink_to("nowhere")
        case "device":
            path.symlink_to("/dev/zero")


DAMAGES: Final[dict[str, Damage]] = {
    each.__name__: each
    for each in (flip_bits, zero_block, overwrite, truncate, append, empty, delete, replace_by_no_file)
}
