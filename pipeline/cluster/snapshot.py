"""A queued run starts the code and the configuration that it was submitted with, whatever is edited meanwhile.

Torch-free.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

import pipeline
from pipeline.cluster.job import JOB_FILE, JobFile, Submission
from pipeline.config import Config
from pipeline.config_model import FOREIGN, SHIPPED
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import write_private
from pipeline.launch.template import template_names
from pipeline.run.environment import COMMIT_FILE, git_commit

_PACKAGES: Final = ("pipeline", "data_prep")
_INSIDE: Final = ("ds_configs", "slurm")  # of pipeline/, as in a wheel; in a checkout they lie beside it


def snapshot(submission: Submission, job: JobFile, config: Config) -> None:
    """Makes RUN/submit/NNN, whole or not at all.

    Raises:
        UsageError: somebody else has made it meanwhile.
        WorkFailed: it cannot be written.
    """
    target = submission.path
    aside = target.with_name(f".{target.name}.tmp-{os.urandom(6).hex()}")
    try:
        aside.mkdir(parents=True)
        _copy_code(aside / "code")
        write_private(aside / job.config, with_absolute_paths(config).to_yaml().encode())
        job.write(aside / JOB_FILE)
        if target.exists():
            raise FileExistsError
        aside.rename(target)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if target.exists():
            raise UsageError(f"{target}: was made by another `vitstream submit` just now") from None
        if isinstance(error, OSError):
            raise WorkFailed(f"{target}: cannot be written ({error.strerror})") from None
        raise


def with_absolute_paths(config: Config) -> Config:
    """The same run, from any working directory."""
    tree = _absolute(config.model_dump())
    if config.zero not in template_names():
        tree["zero"] = os.fspath(Path(config.zero).absolute())
    if (folder := config.model.foreign) is not None and folder.parent != SHIPPED:
        tree["model"]["name"] = f"{FOREIGN}{folder.absolute()}"
    return Config.model_validate(tree)


def _absolute(value: Any) -> Any:
    match value:
        case Path():
            return value.absolute()
        case BaseModel():
            return _absolute(value.model_dump())
        case dict():
            return {key: _absolute(each) for key, each in value.items()}
        case list() | tuple():
            return [_absolute(each) for each in value]
    return value


def _copy_code(to: Path) -> None:
    """The packages, as the wheel has them. Raises OSError."""
    here = Path(pipeline.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in _PACKAGES:
        shutil.copytree(here.parent / package, to / package, ignore=ignore)
    for folder in _INSIDE:
        if not (to / "pipeline" / folder).is_dir():
            shutil.copytree(here.parent / folder, to / "pipeline" / folder, ignore=ignore)
    if commit := git_commit():
        (to / COMMIT_FILE).write_text(commit)
