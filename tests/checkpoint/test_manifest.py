"""A manifest that is not byte for byte what was written is refused, and says why."""

import hashlib
import json
import math
import os
import resource
from pathlib import Path

import pytest

from pipeline.checkpoint.manifest import CheckpointManifest, Damaged, published, read_checkpoint_manifest, step_name
from pipeline.dataset.files import canonical_json, render_json

pytestmark = pytest.mark.fast


def manifest(**changes) -> CheckpointManifest:
    facts = {
        "step": 7,
        "optimizer_step": 7,
        "consumed": 224,
        "world_size": 2,
        "zero_stage": 1,
        "precision": "fp32",
        "config": {"seed": 0, "batch_size": 32},
        "config_hash": "c" * 64,
        "parent": None,
        "data": {"fingerprint": "f" * 64, "order": {}, "ledger": {}},
        "files": [{"name": "rank-00000.safetensors", "bytes": 100, "sha256": "a" * 64}],
        "shapes": {"norm.bias": [4]},
        "tensors": {"weight/norm.bias": [["rank-00000.safetensors", "weight/norm.bias", 0, 4]]},
    }
    return CheckpointManifest(**(facts | changes))


def sealed(directory: Path, **changes) -> None:
    """Changes a manifest's fields, whatever they are, and makes its hash right again."""
    path = directory / "manifest.json"
    body = json.loads(path.read_bytes()) | changes
    del body["self_sha256"]
    path.write_bytes(render_json(body | {"self_sha256": hashlib.sha256(canonical_json(body)).hexdigest()}))


def test_what_is_written_is_read_back(tmp_path):
    manifest().write(tmp_path)
    assert read_checkpoint_manifest(tmp_path) == manifest()


def test_every_single_byte_counts(tmp_path):
    manifest().write(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(Damaged, match=r"manifest\.json"):
            read_checkpoint_manifest(tmp_path)
        path.write_bytes(whole[:position])
        with pytest.raises(Damaged, match=r"manifest\.json"):
            read_checkpoint_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b"])
def test_names_that_leave_the_folder_are_refused_even_with_a_right_hash(tmp_path, name):
    manifest(files=[{"name": name, "bytes": 100, "sha256": "a" * 64}]).write(tmp_path)
    with pytest.raises(Damaged, match="not a plain name"):
        read_checkpoint_manifest(tmp_path)


def pieces(*ranges):
    return {"weight/norm.bias": [[FILE, "weight/norm.bias", start, stop] for start, stop in ranges]}


FILE = "rank-00000.safetensors"
PETA = 10**15
IMPOSSIBLE = {
    "a shape of petabytes": ({"shapes": {"norm.bias": [PETA, 4]}}, "do not cover it exactly once"),
    "a shape and pieces of petabytes": (
        {"shapes": {"norm.bias": [PETA]}, "tensors": pieces((0, PETA))},
        r"of 100 bytes is to hold 4,000,000,000,000,000 bytes",
    ),
    "a shape below zero": ({"shapes": {"norm.bias": [-2, -2]}}, "shape"),
    "a shape of numbers that are none": ({"shapes": {"norm.bias": [4.0]}}, "shape"),
    "a gap": ({"tensors": pieces((0, 1), (2, 4))}, "exactly once"),
    "an overlap": ({"tensors": pieces((0, 3), (2, 4))}, "exactly once"),
    "pieces that run backwards": ({"tensors": pieces((0, 8), (8, 4))}, "exactly once"),
    "an unlisted file": ({"tensors": {"weight/norm.bias": [["b", "weight/norm.bias", 0, 4]]}}, "'b', which is not"),
    "a tensor of no parameter": ({"tensors": pieces((0, 4)) | {"weight/other": []}}, "other"),
    "a moment of some": (
        {"shapes": {"norm.bias": [4], "b": [1]}, "tensors": pieces((0, 4)) | {"exp_avg/b": [[FILE, "b", 0, 1]]}},
        "some of the parameters only",
    ),
    "a file twice": ({"files": [{"name": FILE, "bytes": 100, "sha256": "a" * 64}] * 2}, "lists a file twice"),
    "blocks of a petabyte": (
        {"files": [{"name": FILE, "bytes": 100, "sha256": "", "block_bytes": PETA, "blocks": ["a"]}]},
        "what it says of rank-00000",
    ),
    "too few blocks": (
        {"files": [{"name": FILE, "bytes": 100, "sha256": "", "block_bytes": 10, "blocks": ["a"]}]},
        "what it says of rank-00000",
    ),
    "a file of text bytes": ({"files": [{"name": FILE, "bytes": "100", "sha256": ""}]}, "what it says of rank-00000"),
    "a file of something else": ({"files": [{"name": FILE, "bytes": 100, "sha256": "", "pickle": 1}]}, "pickle"),
}


DATA = {"fingerprint": "f" * 64, "order": {}, "ledger": {}}
MISTYPED = {
    "a step of text": ({"step": "7"}, "step"),
    "a step that is true": ({"step": True}, "step"),
    "a key that is a list": (
        {"tensors": {"weight/norm.bias": [[FILE, ["a"], 0, 4]]}},
        r"tensors\.weight/norm\.bias\.0\.1",
    ),
    "offsets that are floats": ({"tensors": pieces((0, 4.0))}, r"tensors\.weight/norm\.bias\.0\.3"),
    "a piece of three": ({"tensors": {"weight/norm.bias": [[FILE, "a", 0]]}}, r"tensors\.weight/norm\.bias\.0\.3"),
    "data without order": ({"data": {"fingerprint": "", "ledger": {}}}, r"data\.order"),
    "data without ledger": ({"data": {"fingerprint": "", "order": {}}}, r"data\.ledger"),
    "data without fingerprint": ({"data": {"order": {}, "ledger": {}}}, r"data\.fingerprint"),
    "stretches of two": ({"data": DATA | {"stretches": [[0, 0]]}}, r"data\.stretches"),
    "a config without batch_size": ({"config": {"seed": 0}}, r"config\.batch_size"),
    "a config that is a list": ({"config": []}, "config"),
    "classes that are numbers": ({"classes": [1]}, r"classes\.0"),
    "losses of text": ({"losses": ["low"]}, r"losses\.0"),
    "shapes that are a list": ({"shapes": []}, "shapes"),
}


@pytest.mark.parametrize("claim", MISTYPED)
def test_fields_of_another_type_are_damage_in_one_line_even_with_a_right_hash(tmp_path, claim):
    manifest().write(tmp_path)
    read_checkpoint_manifest(tmp_path)
    changes, where = MISTYPED[claim]
    sealed(tmp_path, **changes)
    with pytest.raises(Damaged, match=rf"manifest\.json: {where}.*: ") as damage:
        read_checkpoint_manifest(tmp_path)
    assert "\n" not in str(damage.value)


def test_what_a_checkpoint_may_have_is_read(tmp_path):
    data = DATA | {
        "stretches": [[0, 0, 32], [3, 96, 16]],
        "holes": {"f": {"cause": [1, 2]}},
        "imported": {"samples": 4},
    }
    made = manifest(data=data, losses=[2, 1.5, math.inf, -math.inf], classes=["ant"], parent="step-00000001")
    made.write(tmp_path)
    assert read_checkpoint_manifest(tmp_path) == made


@pytest.mark.parametrize("claim", IMPOSSIBLE)
def test_what_cannot_be_is_refused_even_with_a_right_hash(tmp_path, claim):
    changes, words = IMPOSSIBLE[claim]
    manifest(**changes).write(tmp_path)
    with pytest.raises(Damaged, match=words):
        read_checkpoint_manifest(tmp_path)


def test_a_manifest_of_a_gigabyte_is_refused_and_not_read(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(10**9)  # a hole: nothing is on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Damaged, match="268,435,456 bytes are not a manifest"):
        read_checkpoint_manifest(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 2**10  # kilobytes


def test_a_manifest_that_is_no_file_or_endless_is_refused(tmp_path):
    path = tmp_path / "manifest.json"
    path.mkdir()
    with pytest.raises(Damaged, match="Is a directory"):
        read_checkpoint_manifest(tmp_path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(Damaged, match="not a regular file"):
        read_checkpoint_manifest(tmp_path)
    path.unlink()
    path.write_text("[" * 100_000)
    with pytest.raises(Damaged, match="not a readable manifest"):
        read_checkpoint_manifest(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"self_sha256": 1}', "\x00"])
def test_nonsense_is_damage_and_no_traceback(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(Damaged):
        read_checkpoint_manifest(tmp_path)


def test_only_published_names_count_and_numbers_sort(tmp_path):
    for name in (step_name(90), step_name(100_000_000), step_name(100), "step-00000200.tmp-000", "step-1", "notes"):
        (tmp_path / name).mkdir()
    names = [path.name for path in published(tmp_path)]
    assert names == ["step-00000090", "step-00000100", "step-100000000"]
    assert published(tmp_path / "nowhere") == []
