"""job.json and the folder of a submission: what is written is read, and nothing else is."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster.job import JobFile, Submission, next_submission, read_job, submissions
from pipeline.dataset.errors import UsageError

pytestmark = pytest.mark.fast
JOB = JobFile(
    "/runs/a", "config.yaml", "/venv/bin/python", (), 2, 4, None, None, 120, "vitstream-a-0", 50, 3, False, False
)
words = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)


@settings(max_examples=40)
@given(words, words, st.lists(words), st.integers(1, 99), st.none() | st.integers(1, 8), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory, name: str, python: str, container: list[str], nodes: int, gpus: int | None, scratch: bool
) -> None:
    path = tmp_path_factory.mktemp("job") / "job.json"
    job = JobFile(
        f"/runs/{name}", "config.yaml", python, tuple(container), nodes, 4, gpus, 2, 60, "a", 1, 1, False, scratch
    )
    job.write(path)
    assert read_job(path) == job and path.stat().st_mode & 0o777 == 0o600


def test_the_keys_are_those_agreed_on() -> None:
    assert list(JOB.to_json()) == [
        *("version", "run_dir", "config", "python", "container", "nodes", "tasks_per_node", "gpus_per_node"),
        *("cpus_per_task", "lead_s", "chain", "attempts", "without_progress", "accept_changes", "from_scratch"),
    ]
    assert JOB.ranks == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("nodes", value) for value in (0, -1, "2", 2.5, None, True)),
        *(("container", value) for value in ("a b", [1], None)),
        *(("chain", value) for value in ("", "a b", "x" * 65, "a\n")),
        *(("config", value) for value in ("../x", "", "/x")),
        *(("run_dir", value) for value in ("runs", "/a\0b")),
        *(("version", 2), ("from_scratch", "no"), ("unknown", 1), ("lead_s", "60")),
    ],
)
def test_another_value_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / "job.json").write_text(json.dumps(JOB.to_json() | {key: value}))
    with pytest.raises(UsageError, match=rf"job.json: .*{key}") as error:
        read_job(tmp_path / "job.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", [key for key in JOB.to_json() if key != "version"])
def test_a_missing_key_is_refused_by_name(tmp_path: Path, key: str) -> None:
    tree = JOB.to_json()
    del tree[key]
    (tmp_path / "job.json").write_text(json.dumps(tree))
    with pytest.raises(UsageError, match=key):
        read_job(tmp_path / "job.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "\xff"])
def test_what_is_no_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"job.json: [^\n]+$"):
        read_job(tmp_path / "job.json")
    with pytest.raises(UsageError, match="No such file"):
        read_job(tmp_path / "none.json")


def test_ids_are_appended_and_a_torn_line_is_none(tmp_path: Path) -> None:
    submission = Submission(tmp_path)
    assert submission.jobs() == []
    submission.add_job(7)
    submission.add_job(123)
    with (tmp_path / "jobs").open("a") as file:
        file.write("x\n9")
    assert submission.jobs() == [7, 123]


def test_submissions_are_counted(tmp_path: Path) -> None:
    assert submissions(tmp_path) == [] and next_submission(tmp_path).path == tmp_path / "submit" / "000"
    for name in ("000", "002", "1000", ".003.tmp-x", "x"):
        (tmp_path / "submit" / name).mkdir(parents=True)
    assert [each.path.name for each in submissions(tmp_path)] == ["000", "002", "1000"]
    assert next_submission(tmp_path).path.name == "1001"
