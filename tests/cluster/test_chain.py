"""The chain's name, and what sbatch is asked for; jobs that run are in tests/slurm."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.chain import cancel_successors, chain_name, environment, options
from pipeline.cluster.job import JobFile, Submission
from pipeline.cluster.site import Site
from pipeline.config_slurm import Slurm
from pipeline.dataset.errors import UsageError

pytestmark = pytest.mark.fast
SUBMISSION = Submission(Path("/runs/100%/submit/000"))


def asked(slurm: Slurm, site: Site = Site(), after: int | None = None) -> list[str]:
    job = JobFile("/runs/100%", "config.yaml", "python", (), 2, 4, None, None, 90, "vitstream-x-0", 50, 3, False, False)
    return options(job, slurm, site, SUBMISSION, after)


@given(
    st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=300).filter(lambda n: n not in (".", ".."))
)
def test_a_name_is_slurms_whatever_the_folders_is(name: str) -> None:
    try:
        Path("/runs", name).resolve()
    except (OSError, UnicodeEncodeError):  # longer than a name may be, or not one of any file
        return
    assert re.fullmatch(r"vitstream-[A-Za-z0-9._-]{1,40}-[0-9a-f]{8}", chain_name(Path("/runs") / name))


def test_names_of_two_runs_differ_and_a_link_is_the_same_run(tmp_path: Path) -> None:
    assert chain_name(Path("/a/run")) != chain_name(Path("/b/run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert chain_name(tmp_path / "link") == chain_name(tmp_path / "run")
    assert chain_name(tmp_path / "run") == chain_name(tmp_path / "x" / ".." / "run")


def test_gpus_are_asked_for_per_node_and_nodes_are_never_named() -> None:
    found = asked(Slurm(nodes=2, gpus_per_node=8, cpus_per_task=4, mem="8G", time="1:00:00", partition="a,b"))
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=4", "--mem=8G"} <= set(found)
    assert {"--time=1:00:00", "--partition=a,b", "--signal=B:USR1@90", "--dependency=singleton"} <= set(found)
    assert {"--no-requeue", "--open-mode=append", "--output=/runs/100%%/submit/000/job-%j.log"} <= set(found)
    assert {"--kill-on-invalid-dep=yes", "--export=ALL", "--chdir=/runs/100%", "--job-name=vitstream-x-0"} <= set(found)
    assert not [each for each in found if each.startswith(("--gpus-per-task", "--nodelist", "--account", "--qos"))]


def test_what_a_run_does_not_say_is_not_asked_for() -> None:
    found = asked(Slurm(tasks_per_node=4))
    assert not [o for o in found if o.startswith(("--gpus", "--cpus", "--mem", "--partition", "--constraint"))]


def test_another_job_may_come_first() -> None:
    assert "--dependency=afterok:7,singleton" in asked(Slurm(), after=7)


def test_the_sites_options_come_before_ours() -> None:
    found = asked(Slurm(), Site(options=("--reservation=spring",)))
    assert found[0] == "--reservation=spring"


def test_the_set_up_is_named_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").touch()
    assert environment(SUBMISSION, Site()) == {"VITSTREAM_CODE": "/runs/100%/submit/000/code"}
    assert environment(SUBMISSION, Site(setup=tmp_path / "setup.sh"))["VITSTREAM_SETUP"] == str(tmp_path / "setup.sh")


@pytest.mark.parametrize("folder", ["/a\\b", "/a\nb", "/\udcff"])
def test_a_folder_that_slurm_would_garble_is_refused(folder: str) -> None:
    job = JobFile(folder, "config.yaml", "python", (), 2, 4, None, None, 90, "x", 50, 3, False, False)
    with pytest.raises(UsageError, match="run_dir"):
        options(job, Slurm(), Site(), Submission(Path(folder) / "submit" / "000"), None)


def test_only_what_waits_is_cancelled_as_not_needed(slurm, tmp_path: Path) -> None:
    name = chain_name(tmp_path)
    rest = f"None|N/A|10:00|node1|{name}"
    slurm.queue(f"7|RUNNING|{rest}", f"8|PENDING|{rest}", f"9|PENDING|{rest}", f"6|COMPLETED|{rest}")
    assert cancel_successors(tmp_path, but=9) == [8]
    assert slurm.calls("scancel") == [["--quiet", "--state=PENDING", "8"]]
    slurm.forget()
    assert cancel_successors(tmp_path, but=9, started=True) == [7, 8]
    assert slurm.calls("scancel") == [["--quiet", "7", "8"]]
