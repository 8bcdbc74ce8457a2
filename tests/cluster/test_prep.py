"""`submit --prep` up to sbatch: what is asked for, and that the arguments arrive as they are. The rest: tests/slurm."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster.prep import Prep
from pipeline.cluster.sbatch import Resources, file_pattern, quote, script
from pipeline.dataset.errors import UsageError
from tests.runs import COMMAND, one_line, vitstream

# Any argument that Linux can pass: all bytes but NUL.
words = st.lists(st.binary(max_size=12).filter(lambda word: b"\0" not in word).map(os.fsdecode), max_size=6)
ODD = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$(touch /tmp/never)",
    "`id`",
    "\n;id",
    "*",
    "~",
    "!!",
    "\\",
    "--",
    "-x",
    "\udcff",
    "é\u2028",
]


def prep(*arguments: str, out: str = "data", **changes: object) -> Prep:
    values = {"max_rejects": None, "tasks": 3, "concurrent": None, "logs": Path("/tmp/logs")} | changes
    return Prep(arguments, out, resources=Resources("1:00:00", 2, "2G"), **values)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory) -> Path:
    """In the place of Python: writes down the arguments that it is given."""
    path = tmp_path_factory.mktemp("recorder") / "python"
    path.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "${0%/*}/arguments"\n')
    path.chmod(0o755)
    return path


def passed_on(recorder: Path, *arguments: str, **environment: str) -> list[str]:
    """What prep.sbatch, given `arguments`, gives to Python."""
    environment = {"SLURM_JOB_ID": "7", "VITSTREAM_PYTHON": str(recorder), "PATH": os.environ["PATH"]} | environment
    done = subprocess.run(["bash", script("prep.sbatch"), *arguments], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    return os.fsdecode((recorder.parent / "arguments").read_bytes()).split("\0")[:-1]


@settings(max_examples=60, deadline=None)
@given(words)
def test_what_reaches_shard_is_exactly_what_was_given(recorder: Path, arguments: list[str]) -> None:
    array = {"ID": "2", "MIN": "0", "MAX": "4", "COUNT": "5"}
    task = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()} | {"SLURM_ARRAY_JOB_ID": "6"}
    _, stream, shard, _ = prep(*arguments).jobs()
    own = ["-P", "-m", "pipeline.cli", "shard", "--workers", "4", "--task", "2/5"]
    assert passed_on(recorder, *shard.command, SLURM_CPUS_PER_TASK="4", **task) == [*own, *arguments]
    seen = passed_on(recorder, *stream.command, SLURM_CPUS_PER_TASK="4", **task)
    assert seen == [*own, "--stop-after=stream", *arguments]


@pytest.mark.parametrize("word", ODD)
def test_odd_names_arrive_at_finalize_and_through_a_shell(recorder: Path, word: str) -> None:
    finalize = prep(out=word, max_rejects=word).jobs()[-1]
    own = ["-P", "-m", "pipeline.cli", "finalize", f"--max-rejects={word}", "--"]
    assert passed_on(recorder, *finalize.command) == [*own, word]
    assert_quoted([word])


@settings(max_examples=60, deadline=None)
@given(words)
def test_quoted_for_bash_a_word_stays_what_it_is(arguments: list[str]) -> None:
    assert_quoted(arguments)


def assert_quoted(arguments: list[str]) -> None:
    line = " ".join(map(quote, arguments))
    assert line.isprintable()
    line.encode()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line} end"], capture_output=True, check=True)
    assert os.fsdecode(done.stdout).split("\0")[:-1] == [*arguments, "end"]


def test_an_array_that_is_not_whole_is_refused(recorder: Path) -> None:
    task = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "2"}
    task |= {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("MIN", "2"), ("MAX", "4"), ("COUNT", "2"))}
    environment = {"SLURM_JOB_ID": "7", "VITSTREAM_PYTHON": str(recorder), "PATH": os.environ["PATH"]} | task
    done = subprocess.run(
        ["bash", script("prep.sbatch"), "shard", "x"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "0-N, whole" in done.stderr and "6_2" in done.stderr


@pytest.mark.fast
def test_the_chain_waits_for_the_right_ends() -> None:
    chain = prep("photos", "--out", "data", concurrent=2, logs=Path("/logs/100%"))
    jobs = {job.name: chain.options(job, {"plan": 1, "stream": 2, "shard": 3}) for job in chain.jobs()}
    assert list(jobs) == ["plan", "stream", "shard", "finalize"]
    assert not [option for option in jobs["plan"] if option.startswith(("--array", "--dependency"))]
    assert {"--array=0-2%2", "--dependency=afterok:1", "--kill-on-invalid-dep=yes"} <= set(jobs["stream"])
    assert {"--array=0-2%2", "--dependency=afterok:1,afterany:2"} <= set(jobs["shard"])
    assert "--dependency=afterany:3" in jobs["finalize"]
    assert "--output=/logs/100%%/%x-%A_%a.log" in jobs["shard"] and "--output=/logs/100%%/%x-%j.log" in jobs["plan"]
    assert {"--time=1:00:00", "--cpus-per-task=2", "--mem=2G", "--export=ALL"} <= set(jobs["finalize"])
    assert not [option for option in jobs["plan"] if option.startswith(("--partition", "--account"))]


@pytest.mark.fast
@pytest.mark.parametrize("time", ["90", "4:00", "4:00:00", "1-12", "1-12:30", "1-12:30:00"])
def test_times_of_every_form_are_taken(time: str) -> None:
    assert f"--time={time}" in Resources(time, 1, "500M", "cpu,long", "me@here").options()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("time", value) for value in ("", "1h", "1:2:3:4", "4:00:00\n", "-1", "१:00")),
        *(("mem", value) for value in ("8GB", "8 G", "lots", "-8G", "")),
        *(("partition", value) for value in ("a b", "--wrap=id", "a;id", "$(id)", "", ",", "a\n#SBATCH -p b")),
        *(("account", value) for value in ("a b", "-x", "a,b", "")),
    ],
)
def test_a_value_that_is_not_of_slurms_form_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"--{name} "):
        Resources(**{"time": "1:00:00", "cpus_per_task": 1, "mem": "1G", name: value})


@pytest.mark.fast
@pytest.mark.parametrize("folder", ["/a\\b", "/a\nb", "/\udcff"])
def test_a_folder_of_logs_that_slurm_would_garble_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="--logs"):
        file_pattern(Path(folder))


def test_a_dry_run_is_bash_and_needs_no_slurm(tmp_path: Path) -> None:
    done = vitstream("submit", "--prep", "--dry-run", "--", *ODD[1:5], "--out", "da ta", cwd=tmp_path, PATH="/nowhere")
    assert done.returncode == 0, done.stderr
    assert all(f"#   {line}".rstrip() in done.stdout for line in script("prep.sbatch").read_text().splitlines())
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    assert done.stdout.count("\nfinalize=$(sbatch ") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run.yaml"], ["no SLURM here", "vitstream train"]),
        (["run.yaml", "--tasks", "3"], ["--tasks", "--prep"]),
        (["--prep", "--set", "seed=1", "--", "x", "--out", "d"], ["--set", "not for --prep"]),
        (["a.yaml", "b.yaml", "--dry-run"], ["one RUN.yaml"]),
        (["--prep", "--", "x", "--out", "d", "--task", "1/2"], ["--task"]),
        (["--prep", "--", "x", "--out", "d", "--stop-after", "plan"], ["--stop-after"]),
        (["--prep", "--time", "1 h", "--", "x", "--out", "d"], ["--time"]),
        (["--prep", "--", "x", "--out", "d"], ["sbatch: not found", "--dry-run"]),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    one_line(vitstream("submit", *arguments, cwd=tmp_path, PATH=str(Path(COMMAND[0]).parent)), *words)


@pytest.mark.parametrize("wrong", ["--sizee=3", "--size=big", None])
def test_what_shard_would_refuse_is_refused_before_it_is_submitted(wrong: str | None) -> None:
    done = vitstream("submit", "--prep", "--dry-run", "--", "x", *([wrong, "--out", "d"] if wrong else []))
    assert done.returncode == 2 and "Traceback" not in done.stderr and (wrong or "--out").split("=")[0] in done.stderr
