"""`submit RUN.yaml` up to sbatch: what is refused, what is asked for, and that every word arrives as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cluster import chain, submit
from pipeline.cluster.chain_plan import ChainPlan, Request, plan_chain, refuse_full_disk
from pipeline.cluster.dry_run import as_bash
from pipeline.cluster.job import read_job
from pipeline.config import load_config
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.run.directory import RunDirectory
from pipeline.run.stop_file import StopOrder
from tests.cluster.fake import Fake
from tests.datasets import make_dataset
from tests.runs import one_line, vitstream, write_run

SLURM = {"nodes": 2, "tasks_per_node": 2, "time": "10", "mem": "2G"}
# Any name that Linux can have.
names = st.binary(min_size=1, max_size=60).filter(lambda n: n not in (b".", b"..") and not set(n) & set(b"/\0"))
ODD = [
    "a b",
    "'",
    '"',
    "$(touch never)",
    "`touch never`",
    "\n;touch never",
    "*",
    "%j",
    "-x",
    "é\u2028",
    "x" * 200,
    "\\",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train"
    make_dataset(path, 40, shards=1, size=(40, 40))
    return path


@pytest.fixture
def run(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITSTREAM_SITE", str(tmp_path / "site.yaml"))
    (tmp_path / "site.yaml").write_text("")
    return write_run(tmp_path / "run.yaml", data, slurm=SLURM, schedule={"warmup_steps": 0})


def order_at(run: Path, folder: str) -> ChainPlan:
    return plan_chain(Request(run, (f"run_dir={json.dumps(folder)}",)))


def test_a_chain_is_queued_with_what_the_run_asks_for(run: Path, slurm: Fake, tmp_path: Path) -> None:
    (tmp_path / "setup.sh").touch()
    site = (
        f"partition: gpu\nmem: 1G\nsetup: {tmp_path}/setup.sh\npython: /venv/python\noptions: [--reservation=spring]\n"
    )
    (tmp_path / "site.yaml").write_text(site)
    slurm.says("sbatch", 'env | grep ^VITSTREAM_ | sort > "${0%/*}/environment"; echo "$((++i))42;cluster"')
    order = plan_chain(Request(run))
    done = submit.submit(order)
    tried, *queued = slurm.calls("sbatch")
    assert tried[0] == "--test-only" and not [word for word in tried if "dependency" in word]
    assert len(queued) == 3 and done.jobs == (142, 142, 142) and order.submission.jobs() == [142] * 3
    folder = tmp_path / "run" / "submit" / "000"
    assert (
        queued[0]
        == queued[2]
        == [
            *("--parsable", "--reservation=spring", "--nodes=2", "--ntasks-per-node=2", "--mem=2G", "--time=10"),
            *("--partition=gpu", f"--job-name={chain.chain_name(tmp_path / 'run')}", f"--output={folder}/job-%j.log"),
            *(f"--chdir={tmp_path}/run", "--signal=B:USR1@120", "--dependency=singleton", "--kill-on-invalid-dep=yes"),
            *("--open-mode=append", "--no-requeue", "--export=ALL"),
            *(f"{folder}/code/pipeline/slurm/train.sbatch", f"{folder}/job.json"),
        ]
    )
    variables = dict(line.split("=", 1) for line in (slurm.folder / "environment").read_text().splitlines())
    assert variables["VITSTREAM_CODE"] == f"{folder}/code" and variables["VITSTREAM_SETUP"] == f"{tmp_path}/setup.sh"
    assert variables["VITSTREAM_PYTHON"] == sys.executable
    job = read_job(folder / "job.json")
    assert (job.python, job.nodes, job.tasks_per_node, job.lead_s) == ("/venv/python", 2, 2, 120)
    assert load_config(folder / "config.yaml").run_dir == tmp_path / "run"


@pytest.mark.parametrize("name", ODD)
def test_odd_names_arrive_or_are_refused_by_name(run: Path, slurm: Fake, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    try:
        order = order_at(run, str(folder))
    except UsageError as error:
        assert ("run_dir" in str(error) and not name.isprintable()) or "\\" in name
        return
    submit.submit(order)
    assert slurm.calls("sbatch")[1][-2:] == [str(order.submission.script), str(order.submission.job_file)]
    assert f"--chdir={folder}" in slurm.calls("sbatch")[1]
    assert read_job(order.submission.job_file).run_dir == str(folder)
    assert not list(Path.cwd().glob("never")) and not list(tmp_path.rglob("never"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",))), max_size=3))
def test_the_bash_of_a_dry_run_says_exactly_the_same(
    run: Path, slurm: Fake, tmp_path: Path, name: bytes, overrides: list[str]
) -> None:
    slurm.forget()
    slurm.says("python", "")
    order = plan_chain(Request(run))
    folder = tmp_path / "odd" / os.fsdecode(name)
    request = Request(Path(os.fsdecode(name)), tuple(overrides), 7, True, False)
    odd = ChainPlan(
        **(vars(order) | {"request": request, "submission": type(order.submission)(folder / "submit" / "000")})
    )
    odd.submission.path.mkdir(parents=True, exist_ok=True)
    try:
        expected = odd.options
    except UsageError:
        return
    (real, sys.executable) = (sys.executable, str(slurm.folder / "python"))
    try:
        lines = as_bash(odd)
    finally:
        sys.executable = real
    text = "\n".join(lines)
    assert all(line.isprintable() for line in lines)
    done = subprocess.run(["bash", "-eu"], input=text, text=True, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert (
        slurm.calls("sbatch")
        == [["--parsable", *expected, str(odd.submission.script), str(odd.submission.job_file)]] * order.estimate.chain
    )
    [made] = slurm.calls("python")
    assert made[:4] == ["-P", "-m", "pipeline.cluster.dry_run", "000"] and Request.of(made[4:]) == request
    assert len(odd.submission.jobs()) == 3
    (odd.submission.path / "jobs").unlink()


@pytest.mark.fast
@given(names, st.lists(st.text()), st.none() | st.integers(1, 10**6), st.booleans(), st.booleans())
def test_a_request_survives_as_words(name: bytes, overrides: list[str], after: int | None, a: bool, b: bool) -> None:
    request = Request(Path(os.fsdecode(name)), tuple(overrides), after, a, b)
    assert Request.of(request.words()) == request


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch_size=3"], ["batch_size", "4 ranks"]),
        (["slurm.nodes=0"], ["slurm.nodes"]),
        (["slurm.mem=lots"], ["slurm.mem"]),
        (["slurm.partition='a;id'"], ["slurm.partition"]),
        (["slurm.nodelist=n1"], ["slurm.nodelist", "unknown key"]),
        (["slurm.gpus_per_node=4"], ["slurm", "tasks_per_node"]),
        (["slurm.time='3'"], ["slurm.time", "too short", "120 s"]),
        (["slurm.mem=1M"], ["loader"]),
        (["data.train=nowhere"], ["nowhere"]),
        (["model.init=nowhere"], ["nowhere"]),
        (["zero=zero9"], ["zero9"]),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    run: Path, slurm: Fake, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        submit.submit(plan_chain(Request(run, tuple(overrides))))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert slurm.calls("sbatch") == [] and not run.with_suffix("").exists()


def test_data_that_another_job_makes_may_be_missing(run: Path, slurm: Fake, tmp_path: Path) -> None:
    order = plan_chain(Request(run, (f"data.train={tmp_path}/later",), after=7))
    assert "later is not there yet" in order.notes[0] and order.estimate.chain == 3 and order.estimate.lead_s == 120
    slurm.says("scontrol", "echo JobId=7 JobName=prep JobState=PENDING")
    submit.submit(order)
    assert "--dependency=afterok:7,singleton" in slurm.calls("sbatch")[1]
    with pytest.raises(UsageError, match="batch_size"):
        plan_chain(Request(run, ("batch_size=3",), after=7))


def test_a_chain_that_is_there_is_not_doubled(run: Path, slurm: Fake, tmp_path: Path) -> None:
    name = chain.chain_name(tmp_path / "run")
    slurm.queue(f"7|RUNNING|None|N/A|9:00|n1|{name}", f"8|PENDING|Dependency|N/A|10:00||{name}")
    with pytest.raises(UsageError, match=r"job 7 \(RUNNING\), job 8 \(PENDING\).*vitstream stop"):
        submit.submit(plan_chain(Request(run)))
    slurm.queue(f"7|COMPLETED|None|N/A|9:00|n1|{name}", f"8|CANCELLED|None|N/A|9:00|n1|{name}")
    submit.submit(plan_chain(Request(run)))


def test_a_run_on_a_machine_is_not_doubled(run: Path, slurm: Fake, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.run.directory import RunDirectory\n"
        "run = RunDirectory(Path(sys.argv[1])); run.create(); run.own(); run.sign('host-1'); print(flush=True); input()"
    )
    holder = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        with pytest.raises(UsageError, match=r"in use by process .* on host-1"):
            submit.submit(plan_chain(Request(run)))
        process.communicate("\n")


def test_a_stop_that_nobody_has_obeyed_is_named(run: Path, slurm: Fake, tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").create()
    RunDirectory(tmp_path / "run").stop_file.write(StopOrder())
    with pytest.raises(UsageError, match="STOP: is there"):
        submit.submit(plan_chain(Request(run)))


def test_slurms_refusal_leaves_nothing_behind(run: Path, slurm: Fake, tmp_path: Path) -> None:
    slurm.says("sbatch", '[[ $1 == --test-only ]] && exit 0; echo "sbatch: error: no" >&2; exit 1')
    with pytest.raises(WorkFailed, match=r"sbatch: no$"):
        submit.submit(plan_chain(Request(run)))
    assert list((tmp_path / "run" / "submit").iterdir()) == [] and slurm.calls("scancel") == []
    slurm.says("sbatch", 'echo "sbatch: error: invalid partition" >&2; exit 1')
    with pytest.raises(WorkFailed, match="invalid partition"):
        submit.submit(order_at(run, str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


def test_a_limit_on_queued_jobs_cancels_those_before(run: Path, slurm: Fake) -> None:
    limited = (
        "[[ $1 == --test-only ]] && exit 0; [[ -e ${0%/*}/one ]] && { echo limit >&2; exit 1; }\n"
        "touch ${0%/*}/one; echo 9"
    )
    slurm.says("sbatch", limited)
    with pytest.raises(WorkFailed, match=r"limit; it took 1 of 3 jobs.*slurm.chain"):
        submit.submit(plan_chain(Request(run)))
    assert slurm.calls("scancel") == [["9"]]


def test_nodes_that_are_down_are_waited_for(run: Path, slurm: Fake) -> None:
    busy = (
        "[[ $1 == --test-only ]] && { echo 'allocation failure: Nodes down, drained or reserved' >&2; exit 1; }; echo 9"
    )
    slurm.says("sbatch", busy)
    assert submit.submit(plan_chain(Request(run))).jobs == (9, 9, 9)


def test_what_is_perhaps_not_meant_is_a_note(run: Path) -> None:
    assert "slurm.cpus_per_task is not set" in plan_chain(Request(run)).notes[0]
    assert plan_chain(Request(run, ("slurm.cpus_per_task=2",))).notes == ()
    assert "1 for a rank" in plan_chain(Request(run, ("slurm.cpus_per_task=1",))).notes[0]
    assert plan_chain(Request(run, ("loader.workers=0",))).notes == ()


def test_room_on_the_disk_is_looked_for(tmp_path: Path) -> None:
    refuse_full_disk(RunDirectory(tmp_path / "a" / "b"), 1)
    with pytest.raises(UsageError, match="run_dir: checkpoints take"):
        refuse_full_disk(RunDirectory(tmp_path / "a" / "b"), 2**60)


def test_without_slurm_it_is_one_line_and_a_dry_run_works(run: Path, tmp_path: Path) -> None:
    site = {"VITSTREAM_SITE": str(tmp_path / "site.yaml")}
    one_line(vitstream("submit", run, PATH="/nowhere", **site), "no SLURM here", "vitstream train", "--dry-run")
    done = vitstream("submit", run, "--dry-run", "--json", PATH="/nowhere", **site)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["chain"] == chain.chain_name(tmp_path / "run") and told["estimate"]["chain"] == 3
    subprocess.run(["bash", "-n"], input="\n".join(told["bash"]), text=True, check=True)
    assert not (tmp_path / "run").exists()


def test_no_secret_of_a_url_is_shown(run: Path, slurm: Fake, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("checkpoint: {copy_to: 's3://key:SECRET@bucket/x'}\n")
    run.write_text(f"extends: base.yaml\n{run.read_text()}")
    order = plan_chain(Request(run))
    assert "SECRET" in order.config.to_yaml()
    submit.submit(order)
    shown = [*submit.as_lines(order), json.dumps(submit.to_json(order)), *as_bash(order)]
    shown += [word for call in slurm.calls("sbatch") for word in call]
    assert not [line for line in shown if "SECRET" in line]
    holds = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
    assert holds == [order.submission.config] and holds[0].stat().st_mode & 0o077 == 0
