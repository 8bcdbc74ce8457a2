"""The site's file: found, typed, completed by the run's own words."""

from pathlib import Path

import pytest

from pipeline.cluster.site import Site, load_site, site_file
from pipeline.config_slurm import Slurm
from pipeline.dataset.errors import UsageError

pytestmark = pytest.mark.fast


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "site.yaml"


def test_a_whole_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "setup.sh").touch()
    file.write_text(
        f"partition: gpu\nmem: 8G\nsetup: {tmp_path}/setup.sh\npython: /venv/bin/python\n"
        "container: [apptainer, exec, --nv, /a.sif]\noptions: [--reservation=spring, --exclusive]\n"
    )
    site = load_site(file)
    assert site.container == ("apptainer", "exec", "--nv", "/a.sif") and site.setup == tmp_path / "setup.sh"
    completed = site.complete(Slurm(partition="own", nodes=3))
    assert (completed.partition, completed.mem, completed.nodes, completed.qos) == ("own", "8G", 3, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partiton: gpu", ["unknown key partiton", "did you mean partition?"]),
        ("partition: 'a b'", ["partition", "sinfo"]),
        ("mem: lots", ["mem"]),
        ("setup: setup.sh", ["setup", "whole path"]),
        ("setup: /nowhere/setup.sh", ["setup", "no file"]),
        ("python: python3", ["python", "whole path"]),
        ("container: apptainer exec", ["container"]),
        ("container: ['']", ["container", "empty word"]),
        ("[1]", ["mapping"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(file: Path, text: str, words: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        load_site(file)
    assert all(word in str(error.value) for word in [str(file), *words]) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "option",
    [
        *("--nodelist=n1", "--nodel=n1", "-w", "n1", "--array=1-2", "--wrap=id", "--requeue", "--sig=USR1", "--out=x"),
        *("--depend=after:1", "--gpus-per-task=1", "--export=NONE", "--chdir=/", "--", "", "--nodes=3", "--hel"),
    ],
)
def test_options_that_are_not_the_sites_to_say(option: str) -> None:
    with pytest.raises(ValueError, match="options"):
        Site(options=(option,))


def test_the_first_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VITSTREAM_SITE", raising=False)
    if not Path("/etc/vitstream/site.yaml").exists():
        assert site_file() is None and load_site() == Site()
    users = tmp_path / ".config" / "vitstream" / "site.yaml"
    users.parent.mkdir(parents=True)
    users.write_text("qos: low")
    assert site_file() == users and load_site().qos == "low"
    (tmp_path / "other.yaml").write_text("")
    monkeypatch.setenv("VITSTREAM_SITE", str(tmp_path / "other.yaml"))
    assert site_file() == tmp_path / "other.yaml" and load_site() == Site()
    monkeypatch.setenv("VITSTREAM_SITE", str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="VITSTREAM_SITE"):
        site_file()
