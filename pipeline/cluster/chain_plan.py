"""A chain that can be queued: all that can be known on a login node is checked here, and nothing is written.

Torch-free.
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.checkpoint.manifest import published, step_of
from pipeline.cluster import chain, sbatch
from pipeline.cluster.estimate import Estimate, estimate
from pipeline.cluster.forms import seconds_of
from pipeline.cluster.job import JobFile, Submission, next_submission
from pipeline.cluster.site import Site, load_site
from pipeline.config import Config, load_config
from pipeline.config_slurm import Slurm
from pipeline.data.corpus import Corpus, not_cached
from pipeline.dataset.errors import UsageError
from pipeline.dataset.location import Location
from pipeline.dataset.quantities import human_bytes
from pipeline.launch.machines import Machines
from pipeline.launch.plan import Plan, make_plan
from pipeline.launch.preflight import check_start, newest_checkpoint, open_data
from pipeline.run.directory import RunDirectory
from pipeline.run.measured import measured

_MEM_UNITS: Final = {"K": 2**10, "M": 2**20, "": 2**20, "G": 2**30, "T": 2**40}  # as sbatch reads --mem
_MANIFESTS: Final = ("dataset.json", "index.json")  # of a dataset, and of an MDS folder


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    run_yaml: Path
    overrides: tuple[str, ...] = ()
    after: int | None = None  # a job that has to end well first
    accept_changes: bool = False
    from_scratch: bool = False

    def words(self) -> list[str]:
        """As arguments of a command."""
        words = [word for each in self.overrides for word in ("--set", each)]
        words += [] if self.after is None else ["--after", str(self.after)]
        words += ["--accept-changes"] if self.accept_changes else []
        words += ["--from-scratch"] if self.from_scratch else []
        return [*words, "--", str(self.run_yaml)]

    @classmethod
    def of(cls, words: list[str]) -> "Request":
        """From what `words` gave."""
        given = iter(words[:-2])
        pairs = [(word, next(given) if word in ("--set", "--after") else "") for word in given]
        after = next((int(value) for word, value in pairs if word == "--after"), None)
        flags = {word for word, _ in pairs}
        overrides = tuple(value for word, value in pairs if word == "--set")
        return cls(Path(words[-1]), overrides, after, "--accept-changes" in flags, "--from-scratch" in flags)


@dataclass(frozen=True)
class ChainPlan:
    """A chain that can be queued."""

    request: Request
    config: Config
    slurm: Slurm  # completed by the site
    site: Site
    job: JobFile
    submission: Submission  # that does not exist yet
    estimate: Estimate
    notes: tuple[str, ...]

    @property
    def options(self) -> list[str]:
        return chain.options(self.job, self.slurm, self.site, self.submission, self.request.after)

    @property
    def variables(self) -> dict[str, str]:
        return chain.environment(self.submission, self.site)

    @property
    def gpu_hours(self) -> float | None:
        if self.estimate.hours is None or self.slurm.gpus_per_node is None:
            return None
        return self.estimate.hours * self.slurm.nodes * self.slurm.gpus_per_node


def plan_chain(request: Request) -> ChainPlan:
    """Checks configuration, data, room on the disk, and what the run was before. Writes nothing.

    Raises:
        UsageError: what is wrong, and the fix.
    """
    config, site = load_config(request.run_yaml, request.overrides), load_site()
    slurm = site.complete(config.slurm or Slurm())
    ranks = slurm.nodes * slurm.tasks
    run = RunDirectory(config.run_dir.absolute())
    corpus, notes = _data(config, ranks, request, run)
    speed = measured(run)
    plan = _plan(config, corpus, slurm) if corpus is not None else None
    done = 0 if request.from_scratch else max(map(step_of, published(run.checkpoints)), default=0)
    expected = estimate(
        plan=plan,
        total_steps=_total_steps(config, corpus, plan),
        done=done,
        measured=speed,
        ranks=ranks,
        nodes=slurm.nodes,
        has_gpus=slurm.gpus_per_node is not None,
        limit_s=seconds_of(slurm.time),
        asked_chain=slurm.chain,
    )
    if plan is not None:
        refuse_full_disk(run, plan.saving.most or 0)
        notes += plan.warnings
    notes += _doubts(slurm, config, expected)
    if expected.lead_s * 2 > (seconds_of(slurm.time) or sys.maxsize):
        raise UsageError(
            f"slurm.time: {slurm.time} is too short: its last {expected.lead_s} s are for saving "
            f"({expected.lead_from}); take at least {-(-2 * expected.lead_s // 60)} minutes"
        )
    job = _job(run, slurm, site, request, expected.lead_s)
    plan = ChainPlan(request, config, slurm, site, job, next_submission(run.path), expected, tuple(notes))
    sbatch.file_pattern(plan.submission.path, "take another run_dir")
    return plan


def _doubts(slurm: Slurm, config: Config, expected: Estimate) -> list[str]:
    """What will work, and is perhaps not meant."""
    found, needed = [], config.loader.workers + 1
    if expected.steps == 0:
        found.append("nothing is left to train; raise steps or epochs to go on")
    if slurm.cpus_per_task is None and needed > 1:
        found.append(
            f"slurm.cpus_per_task is not set: SLURM gives a rank one core where the site does not say otherwise, and "
            f"it has {config.loader.workers} loader.workers; {needed} would do"
        )
    elif slurm.cpus_per_task is not None and slurm.cpus_per_task < needed:
        found.append(f"slurm.cpus_per_task: {slurm.cpus_per_task} for a rank and its {needed - 1} loader.workers")
    return found


def _job(run: RunDirectory, slurm: Slurm, site: Site, request: Request, lead_s: int) -> JobFile:
    return JobFile(
        run_dir=str(run.path),
        config="config.yaml",
        python=site.python or sys.executable,
        container=site.container,
        nodes=slurm.nodes,
        tasks_per_node=slurm.tasks,
        gpus_per_node=slurm.gpus_per_node,
        cpus_per_task=slurm.cpus_per_task,
        lead_s=lead_s,
        chain=chain.chain_name(run.path),
        attempts=slurm.attempts,
        without_progress=slurm.without_progress,
        accept_changes=request.accept_changes,
        from_scratch=request.from_scratch,
    )


def refuse_full_disk(run: RunDirectory, most: int) -> None:
    """Raises UsageError where a run's checkpoints, of at most so many bytes, do not fit on the run's file system."""
    there = next(path for path in (run.path, *run.path.parents) if path.is_dir())
    status = os.statvfs(there)
    free = status.f_bavail * status.f_frsize
    held = sum(file.stat().st_size for path in published(run.checkpoints) for file in path.glob("*") if file.is_file())
    if most - held > free:
        raise UsageError(
            f"run_dir: checkpoints take {human_bytes(most)}, and on the disk of {there} {human_bytes(free)} are free: "
            "lower checkpoint.keep_last, or take another run_dir"
        )


def _data(config: Config, ranks: int, request: Request, run: RunDirectory) -> tuple[Corpus | None, list[str]]:
    """The data that is trained on, and what one might expect and will not get.

    None where a job that comes first has still to make it.
    """
    try:
        train, val = open_data(config, ranks)
    except UsageError as error:
        if request.after is None or (missing := _missing(config)) is None:
            raise
        return None, [f"{missing} is not there yet: neither data nor plan were checked ({error})"]
    newest = None if request.from_scratch else newest_checkpoint(config, run, train, request.accept_changes)
    if newest is None:
        check_start(config)
    if config.data.cache is None or config.loader.name == "mosaic":
        return train, []
    return train, not_cached([*train.members, *filter(None, [val])])


def _missing(config: Config) -> str | None:
    """A dataset's folder that is not there, or has no manifest yet."""
    train = config.data.train if isinstance(config.data.train, tuple) else (config.data.train,)
    places = [getattr(each, "path", each) if not isinstance(each, str | Path) else each for each in train]
    for place in [*places, *filter(None, [config.data.val])]:
        location = Location.of(place)
        if not location.is_remote and not any((location.path / name).is_file() for name in _MANIFESTS):
            return str(location)
    return None


def _plan(config: Config, corpus: Corpus, slurm: Slurm) -> Plan | None:
    """None where the order is another loader's. Raises UsageError where the run cannot work."""
    if config.loader.name == "mosaic":
        return None
    memory = None
    if slurm.mem is not None and (found := re.fullmatch(r"(\d+)([KMGT]?)", slurm.mem)):
        memory = int(found[1]) * _MEM_UNITS[found[2]] or None  # 0: all that a node has
    return make_plan(config, corpus, Machines(slurm.nodes, slurm.tasks, memory, None))


def _total_steps(config: Config, corpus: Corpus | None, plan: Plan | None) -> int | None:
    if config.steps is not None:
        return config.steps
    if plan is not None:
        return plan.length.steps
    return None if corpus is None else -(-config.total_samples(corpus.samples) // config.batch_size)
