"""What is the same for all runs of a cluster: a file of the site, or the user's. Torch-free. No secrets in it.

partition: gpu                      what RUN.yaml's `slurm` does not say
setup: /shared/vitstream/setup.sh   bash that every job sources first: modules, a virtual environment
python: /shared/venv/bin/python     of the ranks
container: [apptainer, exec, --nv, /shared/vitstream.sif]   words before it
options: [--reservation=spring]     further ones of sbatch
"""

import os
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError, ValidationInfo, field_validator

from pipeline.cluster.forms import checked
from pipeline.config_slurm import Slurm
from pipeline.config_tree import Section, explain
from pipeline.dataset.errors import UsageError

VARIABLE: Final = "VITSTREAM_SITE"
# Ours to say, as a chain stands on them. Or RUN.yaml's. Nodes are nobody's to choose: of a chain they come and go.
_TAKEN: Final = (
    *("array", "chdir", "clusters", "dependency", "error", "export", "export-file", "input", "job-name", "output"),
    *("kill-on-invalid-dep", "nodefile", "nodelist", "no-kill", "no-requeue", "open-mode", "parsable", "requeue"),
    *("signal", "test-only", "wait", "wrap", "gpus", "gpus-per-socket", "gpus-per-task", "gpus-per-node"),
    *("account", "constraint", "cpus-per-task", "mem", "nodes", "ntasks", "ntasks-per-node", "partition", "qos"),
    *("time", "time-min", "help", "usage", "version"),
)


class Site(Section):
    """All of it may be left out."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    mem: str | None = None
    setup: Path | None = None
    python: str | None = None
    container: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @field_validator("partition", "account", "qos", "constraint", "mem")
    @classmethod
    def _of_slurms_form(cls, value: str | None, info: ValidationInfo) -> str | None:
        return checked(str(info.field_name), value)

    @field_validator("setup")
    @classmethod
    def _to_be_sourced(cls, setup: Path | None) -> Path | None:
        if setup is not None and not (setup.is_absolute() and setup.is_file()):
            raise ValueError(f"{setup} is no file; name it by its whole path, which is the same on all nodes")
        return setup

    @field_validator("python")
    @classmethod
    def _to_be_run(cls, python: str | None) -> str | None:
        if python is not None and not Path(python).is_absolute():  # it may be inside of the container
            raise ValueError(f"{python!r} is no whole path")
        return python

    @field_validator("container")
    @classmethod
    def _words(cls, container: tuple[str, ...]) -> tuple[str, ...]:
        if any(not word or "\0" in word for word in container):
            raise ValueError("an empty word, or one with a NUL in it")
        return container

    @field_validator("options")
    @classmethod
    def _free(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            name = option.partition("=")[0].removeprefix("--")
            if not option.startswith("--") or not name or "\0" in option:
                raise ValueError(f"{option!r}: write options of sbatch as --NAME=VALUE")
            # sbatch takes beginnings of names, too
            if taken := next((each for each in _TAKEN if each.startswith(name)), None):
                raise ValueError(f"{option!r}: --{taken} is not the site's to say")
        return options

    def complete(self, slurm: Slurm) -> Slurm:
        """With this site's values where a run says nothing."""
        ours = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "mem")}
        return slurm.model_copy(update={name: ours[name] for name in ours if getattr(slurm, name) is None})


def site_file() -> Path | None:
    """The first that is there: $VITSTREAM_SITE, the user's, the machine's. Raises UsageError for a wrong variable."""
    if named := os.environ.get(VARIABLE):
        if not Path(named).exists():  # /dev/null: none
            raise UsageError(f"{VARIABLE}: {named} is not there")
        return Path(named)
    places = (Path("~/.config/vitstream/site.yaml"), Path("/etc/vitstream/site.yaml"))
    return next((path for path in (Path(os.path.expanduser(place)) for place in places) if path.is_file()), None)  # noqa: PTH111


def load_site(path: Path | None = None) -> Site:
    """What a site file says, by default that which is found; nothing where there is none.

    Raises:
        UsageError: one line that names the file and the key.
    """
    path = path or site_file()
    if path is None:
        return Site()
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{path}: not valid YAML") from None
    if not isinstance(tree, dict | None):
        raise UsageError(f"{path}: not a site's file (a mapping of keys); see docs/slurm.md for one")
    try:
        return Site.model_validate(tree or {})
    except ValidationError as error:
        raise UsageError(f"{path}: {explain(error, Site)}") from None
