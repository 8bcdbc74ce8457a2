"""What cannot be read now, and what another version wrote, is no damage: it is refused, and nothing is renamed."""

import json
import re
import resource
import shutil

import pytest

from pipeline.checkpoint.listing import listed
from pipeline.checkpoint.manifest import read_checkpoint_manifest, step_name
from pipeline.checkpoint.verify import verify
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.run.directory import RunDirectory
from tests.checkpoint.conftest import NAMES
from tests.checkpoint.test_manifest import FILE, manifest, sealed
from tests.ranks import run_ranks


def unreadable(path):
    """A file at which reading ends in an error that is not "no such file", for root too: a link to itself."""
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.fast
@pytest.mark.parametrize("name", ["manifest.json", NAMES[1]])
def test_an_error_at_reading_is_no_damage(checkpoint, name):
    unreadable(checkpoint / name)
    with pytest.raises(WorkFailed, match=rf"{name}: cannot be read now \(Too many levels of symbolic links\)"):
        verify(checkpoint)


@pytest.mark.fast
def test_too_many_open_files_are_no_damage(checkpoint):
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
    try:
        with pytest.raises(WorkFailed, match=r"manifest\.json: cannot be read now \(Too many open files\)"):
            verify(checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))
    verify(checkpoint)


# -- two ranks that see different things -----------------------------------------------------------------------

CASES = {
    "late": lambda first, second: (second / NAMES[1]).unlink(),
    "late-manifest": lambda first, second: (second / "manifest.json").unlink(),
    "unreadable": lambda first, second: unreadable(second / NAMES[1]),
    "unreadable-first": lambda first, second: unreadable(first / NAMES[0]),
    "gone": lambda first, second: [(each / NAMES[1]).unlink() for each in (first, second)],
    "short": lambda first, second: (second / NAMES[1]).write_bytes(b""),
    "other": lambda first, second: [sealed(each, version=2) for each in (first, second)],
}
OUTCOMES = {
    "late": ("WorkFailed", ("missing (seen by rank 1", "rank 0 sees it")),
    "late-manifest": ("WorkFailed", ("manifest.json: missing (seen by rank 1", "rank 0 sees it")),
    "unreadable": ("WorkFailed", ("cannot be read now", "seen by rank 1")),
    "unreadable-first": ("WorkFailed", (NAMES[0], "cannot be read now")),
    "gone": ("UsageError", ("none verifies",)),
    "short": ("UsageError", ("none verifies",)),
    "other": ("UsageError", ("format version 2", "format version 1")),
}


@pytest.fixture(scope="module")
def outcomes(sound, tmp_path_factory):
    """(case -> what each of two ranks came to, the folder)."""
    folder = tmp_path_factory.mktemp("choose")
    for case, hurt in CASES.items():
        hurt(*(shutil.copytree(sound, folder / f"{case}-{rank}" / sound.name) for rank in (0, 1)))
    ended = run_ranks("tests.checkpoint.choose_rank", (folder, *CASES), 2)
    said = [[json.loads(line) for line in said.splitlines()] for said in ended.said]
    assert [len(lines) for lines in said] == [len(CASES)] * 2
    return dict(zip(CASES, zip(*said, strict=True), strict=True)), folder


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_come_to_the_same_and_rename_only_what_is_damaged(outcomes, sound, case):
    folder = outcomes[1]
    first, second = ([kind, re.sub(rf"{case}-\d", case, line)] for kind, line in outcomes[0][case])
    kind, words = OUTCOMES[case]
    assert first == second and first[0] == kind and "\n" not in first[1]
    assert all(word in first[1] for word in words), first
    damaged = case in ("gone", "short")
    assert [path.name for path in (folder / f"{case}-0").iterdir()] == [sound.name + ".damaged-001" * damaged]


# -- another format --------------------------------------------------------------------------------------------


@pytest.mark.fast
@pytest.mark.parametrize("change", [{"version": 2}, {"shards": 3}, {"version": 2, "files": "elsewhere"}])
def test_another_format_is_refused_by_name(checkpoint, change):
    sealed(checkpoint, **change, code={"version": "9.1"})
    with pytest.raises(UsageError, match=r"manifest\.json: is of format version .* by vitstream 9\.1; .* version 1"):
        read_checkpoint_manifest(checkpoint)


@pytest.mark.fast
def test_the_list_shows_what_it_cannot_read(checkpoint, tmp_path):
    run = tmp_path / "run"
    for step, hurt in ((1, lambda path: sealed(path, version=2)), (2, lambda path: unreadable(path / "manifest.json"))):
        path = run / "checkpoints" / step_name(step)
        path.mkdir(parents=True)
        manifest(step=step, files=[{"name": FILE, "bytes": 100, "sha256": "a" * 64}]).write(path)
        hurt(path)
    assert [(entry.state, bool(entry.problem)) for entry in listed(RunDirectory(run))] == [("unknown", True)] * 2
