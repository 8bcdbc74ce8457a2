"""What became of a submission's attempts: whose they are, how they ended, and whether they came further."""

import json
from dataclasses import asdict

import pytest

from pipeline.cluster.history import AttemptFacts, has_begun_anew, history
from pipeline.run.directory import RunDirectory
from pipeline.run.verdict import Verdict

pytestmark = pytest.mark.fast

FACTS = AttemptFacts(7, 0, ("node1", "node2"), 4, 1.5, None, "000")


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def attempt(run, published, cause="exception", job=7, submit="000"):
    path = run.attempt(run.new_attempt())
    AttemptFacts(job, 0, ("node1",), 1, 1.5, published, submit).write(path)
    if cause:
        Verdict(cause, 0, "node1", "step", 3, True, cause).write(path)


def test_facts_come_back(run):
    path = run.attempt(run.new_attempt())
    assert AttemptFacts.read(path) is None
    FACTS.write(path)
    assert AttemptFacts.read(path) == FACTS
    assert [FACTS.host_of(rank) for rank in (0, 3, 4, 7, 8)] == ["node1", "node1", "node2", "node2", None]
    for damaged in (
        '{"job": 7}',
        "[]",
        json.dumps(asdict(FACTS) | {"job": [7]}),
        json.dumps(asdict(FACTS) | {"hosts": [5]}),
    ):
        (path / "attempt.json").write_text(damaged)
        assert AttemptFacts.read(path) is None


def test_progress_is_a_checkpoint_that_was_not_there_before(run):
    attempt(run, published=None)
    attempt(run, published=None)
    attempt(run, published=5)
    run.published_file.write(5)
    assert [ended.progressed for ended in history(run, "000", 7)] == [False, True, False]
    run.published_file.write(10)
    assert [ended.progressed for ended in history(run, "000", 7)] == [False, True, True]
    attempt(run, published=10, cause=None)  # under way
    assert [ended.progressed for ended in history(run, "000", 7)] == [False, True, True]


def test_others_do_not_count(run):
    run.new_attempt()  # on one machine
    attempt(run, None, submit="000")
    attempt(run, None, submit=None, job=9)
    attempt(run, None, submit="001", job=10)
    assert [ended.number for ended in history(run, "000", 7)] == [1]
    assert [ended.number for ended in history(run, None, 9)] == [2]
    assert history(run, None, 11) == []


def test_a_run_from_scratch_has_begun_once_what_was_there_is_set_aside(run):
    def begun():
        return has_begun_anew(run, history(run, "000", 7))

    run.create()
    run.published_file.write(5)
    assert not begun()
    attempt(run, published=5)  # died early
    assert not begun()
    attempt(run, published=5)
    run.set_aside(1)
    assert begun()
    run.published_file.write(5)
    attempt(run, published=5)
    assert begun()


def test_a_run_from_scratch_where_nothing_was_has_begun_once_something_is(run):
    run.create()
    attempt(run, published=None)
    assert not has_begun_anew(run, history(run, "000", 7))
    run.published_file.write(5)
    assert has_begun_anew(run, history(run, "000", 7))
