"""A manifest that is not byte for byte what was written is refused, and says why."""

import pytest

from pipeline.checkpoint.manifest import CheckpointManifest, Damaged, published, read_checkpoint_manifest, step_name

pytestmark = pytest.mark.fast


def manifest(**changes) -> CheckpointManifest:
    facts = {
        "step": 7,
        "optimizer_step": 7,
        "consumed": 224,
        "world_size": 2,
        "zero_stage": 1,
        "precision": "fp32",
        "config": {"seed": 0},
        "config_hash": "c" * 64,
        "parent": None,
        "data": {"fingerprint": "f" * 64, "order": {}, "ledger": {}},
        "files": [{"name": "rank-00000.safetensors", "bytes": 10, "sha256": "a" * 64}],
        "shapes": {"norm.bias": [4]},
        "tensors": {"weight/norm.bias": [["rank-00000.safetensors", "weight/norm.bias", 0, 4]]},
    }
    return CheckpointManifest(**(facts | changes))


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
    manifest(files=[{"name": name, "bytes": 10, "sha256": "a" * 64}]).write(tmp_path)
    with pytest.raises(Damaged, match="not a plain name"):
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
