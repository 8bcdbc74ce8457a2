"""slurm/*.sbatch: sound bash, what they refuse, and that nothing of the environment ends up in them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.sbatch import script

SCRIPTS = ("prep.sbatch", "train.sbatch")


@pytest.mark.parametrize("name", SCRIPTS)
def test_sound_bash(name: str) -> None:
    subprocess.run(["bash", "-n", script(name)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here; `make slurm` installs it, as root on Debian")
    subprocess.run(["shellcheck", script(name)], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_outside_of_a_job_or_without_a_word_it_says_so(name: str) -> None:
    outside = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(["bash", script(name), "x"], env=outside, capture_output=True, text=True)
    assert done.returncode and "submit this file with sbatch" in done.stderr
    done = subprocess.run(["bash", script(name)], env=outside | {"SLURM_JOB_ID": "7"}, capture_output=True, text=True)
    assert done.returncode and "see the head of this file" in done.stderr


def supervised(setup: Path | None, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """train.sbatch, which is to become the supervisor: an interpreter that says what it was given, in its place."""
    told = {"VITSTREAM_SETUP": str(setup)} if setup else {}
    environment = {"SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]} | told | variables
    return subprocess.run(
        ["bash", script("train.sbatch"), *words], env=environment, capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    body = (
        "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('PYTHONPATH'), os.environ.get('SITE')]))"
    )
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_setup_is_sourced_and_words_arrive_as_they_are(recorder: Path, tmp_path: Path) -> None:
    setup, hostile = tmp_path / "set up $(x).sh", 'it\'s a "run" $(touch pwned)\nwith é'
    setup.write_text("echo $UNSET; export SITE='of the site'\n")
    done = supervised(setup, hostile, VITSTREAM_PYTHON=str(recorder), VITSTREAM_CODE="/co de")
    assert done.returncode == 0, done.stderr
    words, path, site = json.loads(done.stdout.splitlines()[-1])
    assert words == ["-P", "-m", "pipeline.cluster.supervise", hostile]
    assert (path, site) == ("/co de", "of the site")
    assert not Path("pwned").exists()


def test_a_setup_that_fails_ends_it(recorder: Path, tmp_path: Path) -> None:
    setup = tmp_path / "setup.sh"
    setup.write_text("false\n")
    done = supervised(setup, "x", VITSTREAM_PYTHON=str(recorder))
    assert done.returncode == 2 and "setup.sh failed" in done.stderr and not done.stdout
