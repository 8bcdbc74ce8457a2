"""Damage is found and named by file and bytes; files that were never ours are refused before any library sees them."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint.manifest import Damaged
from pipeline.checkpoint.verify import verify
from tests.checkpoint.conftest import NAMES
from tests.checkpoint.test_manifest import manifest

pytestmark = pytest.mark.fast


def change(path, at, count=1):
    data = bytearray(path.read_bytes())
    data[at : at + count] = bytes(byte ^ 1 for byte in data[at : at + count])
    path.write_bytes(data)


def test_what_is_sound_verifies(checkpoint):
    assert verify(checkpoint).step == 7


@pytest.mark.parametrize(
    ("at", "count", "words"),
    [
        (0, 1, "bytes 0 to 63 are not what was written"),
        (130, 1, "bytes 128 to 191 are not what was written"),
        (127, 2, "bytes 64 to 191 are not what was written"),
    ],
)
def test_changed_bytes_are_named(checkpoint, at, count, words):
    change(checkpoint / NAMES[1], at, count)
    with pytest.raises(Damaged, match=f"{NAMES[1]}: {words}"):
        verify(checkpoint)


def test_many_places_are_counted(checkpoint):
    change(checkpoint / NAMES[0], 0)
    for block in (2, 4):
        change(checkpoint / NAMES[0], 64 * block)
    with pytest.raises(Damaged, match="bytes 0 to 63, 128 to 191, 256 to"):
        verify(checkpoint)


def test_other_damage_is_named(checkpoint):
    path, size = checkpoint / NAMES[1], (checkpoint / NAMES[1]).stat().st_size
    os.truncate(path, size - 3)
    with pytest.raises(Damaged, match=rf"{NAMES[1]}: {size - 3:,} bytes, not {size:,}"):
        verify(checkpoint)
    path.unlink()
    with pytest.raises(Damaged, match=f"{NAMES[1]}: missing"):
        verify(checkpoint)
    path.mkdir()
    with pytest.raises(Damaged, match=NAMES[1]):
        verify(checkpoint)


def test_a_renamed_folder_is_damage(checkpoint):
    other = checkpoint.rename(checkpoint.with_name("step-00000008"))
    with pytest.raises(Damaged, match=r"manifest\.json: is of step 7"):
        verify(other)


def test_an_older_manifest_without_blocks_still_counts(checkpoint):
    body = verify(checkpoint)
    old = [{key: file[key] for key in ("name", "bytes", "sha256")} for file in body.files]
    manifest(files=old, shapes=body.shapes, tensors=body.tensors).write(checkpoint)
    assert verify(checkpoint).files == old
    change(checkpoint / NAMES[0], 70)
    with pytest.raises(Damaged, match="its bytes do not have the SHA-256 that the manifest states"):
        verify(checkpoint)


# -- files of the right hash that were never ours --------------------------------------------------------------


def forged(checkpoint, content: bytes):
    """The checkpoint with this content in its second file, all hashes as they should be."""
    made = verify(checkpoint)
    entry = {"name": NAMES[1], "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / NAMES[1]).write_bytes(content)
    manifest(files=[made.files[0], entry], shapes=made.shapes, tensors=made.tensors).write(checkpoint)
    return checkpoint


def with_header(header, data=bytes(200)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(**changes):
    return {"weight/a": {"dtype": "F32", "shape": [50], "data_offsets": [0, 200]} | changes}


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/vitstream-bomb",)


def pickled() -> bytes:
    import pickle

    return pickle.dumps(Bomb()) + bytes(300)


def zipped(folder) -> bytes:
    """As torch.save writes."""
    torch.save({"bomb": Bomb()}, folder / "bomb.pt")
    return (folder / "bomb.pt").read_bytes()


HOSTILE = {
    "a pickle": lambda folder: pickled(),
    "torch's zip of pickles": zipped,
    "a header of petabytes": lambda folder: (10**15).to_bytes(8, "little") + bytes(400),
    "a header beyond the file": lambda folder: (500).to_bytes(8, "little") + bytes(400),
    "a header of 2**64": lambda folder: b"\xff" * 8 + bytes(400),
    "a header that is no JSON": lambda folder: (9).to_bytes(8, "little") + b"\x00" * 9 + bytes(400),
    "a header that is nested without end": lambda folder: (10**5).to_bytes(8, "little") + b"[" * 10**5 + bytes(9),
    "a header that is a list": lambda folder: with_header([1]),
    "no such tensor": lambda folder: with_header({"weight/b": {}}),
    "a tensor of petabytes": lambda folder: with_header(tensor(shape=[10**15], data_offsets=[0, 4 * 10**15])),
    "a tensor beyond the file": lambda folder: with_header(tensor(data_offsets=[8, 208])),
    "a tensor that runs backwards": lambda folder: with_header(tensor(data_offsets=[200, 0])),
    "a shorter tensor": lambda folder: with_header(tensor(data_offsets=[0, 196])),
    "another type": lambda folder: with_header(tensor(dtype="F16")),
    "a shape of petabytes": lambda folder: with_header(tensor(shape=[10**15])),
    "a hole before it": lambda folder: with_header(tensor(data_offsets=[8, 208]), bytes(208)),
    "something behind it": lambda folder: with_header(tensor(), bytes(208)),
    "one tensor more": lambda folder: with_header(
        tensor() | {"b": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}
    ),
    "offsets that are none": lambda folder: with_header(tensor(data_offsets="ab")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_that_were_never_ours_are_refused_and_nothing_is_run(checkpoint, tmp_path, kind):
    bomb = Path("/tmp/vitstream-bomb")
    bomb.unlink(missing_ok=True)
    with pytest.raises(Damaged, match=NAMES[1]) as refused:
        verify(forged(checkpoint, HOSTILE[kind](tmp_path)))
    assert "\n" not in str(refused.value)
    assert not bomb.exists()


def test_what_is_forged_well_is_a_checkpoint(checkpoint):
    """So the refusals above are of what is in the files, not of how they were forged."""
    verify(forged(checkpoint, with_header(tensor())))
