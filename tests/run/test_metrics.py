"""Append-only JSON lines: torn ends, repeated steps, numbers that JSON does not have."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.run.metrics import JsonLines, cut_torn_line, has_evaluation, read_lines, read_steps
from tests.runs import CHECKOUT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def append(file: JsonLines | Path, objects: list[dict]) -> None:
    lines = JsonLines(file) if isinstance(file, Path) else file
    lines.add(objects)
    lines.sync()


@pytest.mark.fast
def test_what_a_full_disk_refuses_is_written_whole_later(path: Path) -> None:
    """The kernel's file size limit stands for the full disk: a write beyond it is short, the next one fails."""
    lines = JsonLines(path)
    append(lines, [{"step": 1}])
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, old[1]))
        lines.add([{"step": 2}, {"step": 3}])
        with pytest.raises(OSError):
            lines.sync()
        assert [line["step"] for line in read_lines(path)] == [1] and path.read_bytes().endswith(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    append(lines, [{"step": 4}])
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3, 4]


@pytest.mark.fast
@pytest.mark.parametrize("torn", [b"", b"{", b'{"step": 3, "loss": 0.1', b"x" * 5_000, b"x" * 4_096, b"\xff\xfe"])
def test_a_new_attempt_cuts_a_torn_last_line(path: Path, torn: bytes) -> None:
    whole = b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(whole + torn)
    assert [line["step"] for line in read_lines(path)] == [1, 2]  # readers need no cut
    lines = JsonLines(path)
    assert path.read_bytes() == whole
    append(lines, [{"step": 3}])
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]


@pytest.mark.fast
@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.integers(0, 9_000), max_size=4), torn=st.integers(0, 9_000))
def test_cutting_keeps_all_whole_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[int], torn: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "lines"
    whole = b"".join(b"y" * length + b"\n" for length in lines)
    path.write_bytes(whole + b"z" * torn)
    cut_torn_line(path)
    assert path.read_bytes() == whole
    cut_torn_line(path)
    assert path.read_bytes() == whole


@pytest.mark.fast
def test_a_missing_file_is_made_and_reads_as_empty(path: Path) -> None:
    assert list(read_lines(path)) == [] and read_steps(path) == {}
    append(path, [])
    assert path.read_bytes() == b""


@pytest.mark.fast
def test_of_a_repeated_step_the_last_line_counts(path: Path) -> None:
    lines = JsonLines(path)
    append(lines, [{"step": n, "attempt": 0} for n in (1, 2, 3)])
    append(lines, [{"step": 2, "eval": {"accuracy": 0.5}}])
    lines.close()
    append(path, [{"step": n, "attempt": 1} for n in (2, 3, 4)])
    steps = read_steps(path)
    assert {step: line["attempt"] for step, line in steps.items()} == {1: 0, 2: 1, 3: 1, 4: 1}
    assert not any("eval" in line for line in steps.values())


@pytest.mark.fast
def test_an_evaluation_is_of_the_steps_before_it(path: Path) -> None:
    assert not has_evaluation(path, 2)
    append(path, [{"step": n, "epoch": 0} for n in (1, 2)] + [{"eval": "val", "step": 2, "consumed": 8}])
    assert has_evaluation(path, 2) and not has_evaluation(path, 1)
    append(path, [{"step": n, "epoch": 0} for n in (2, 12, 20)] + [{"eval": "val", "step": 12, "consumed": 48}])
    assert not has_evaluation(path, 2), "that step was done again"
    assert has_evaluation(path, 12)


@pytest.mark.fast
def test_numbers_that_are_not_finite_are_valid_json(path: Path) -> None:
    append(path, [{"step": 1, "loss": math.nan, "grad_norm": math.inf, "lr": -math.inf, "mfu": None}])

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    (line,) = [json.loads(text, parse_constant=refuse) for text in path.read_text().splitlines()]
    assert line == {"step": 1, "loss": "nan", "grad_norm": "inf", "lr": "-inf", "mfu": None}
    assert math.isnan(float(line["loss"])) and float(line["grad_norm"]) == math.inf


def test_a_writer_killed_at_any_moment_leaves_lines_that_go_on(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.run.metrics import JsonLines\n"
        "lines = JsonLines(Path(sys.argv[1])); start = int(sys.argv[2])\n"
        "for n in range(start, 10**9):\n"
        "    lines.add([{'step': n, 'padding': 'x' * 3000}]); lines.sync()\n"
        "    if n == start + 50: print('going', flush=True)\n"
    )
    for _ in range(3):
        start = max(read_steps(path), default=0) + 1
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(start)], cwd=CHECKOUT, stdout=subprocess.PIPE
        ) as writer:
            writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
    steps = list(read_steps(path))
    assert len(steps) >= 150 and steps == list(range(1, len(steps) + 1))
