"""`vitstream submit RUN.yaml --dry-run`: the same as bash, to look at, to change, to run. Torch-free.

As a program, this is what that bash begins with: it makes the snapshot of code and configuration.
"""

import json
import sys
from pathlib import Path

from pipeline.cluster import sbatch
from pipeline.cluster.chain_plan import ChainPlan, Request, plan_chain
from pipeline.cluster.snapshot import snapshot
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.names import one_line
from pipeline.run.directory import RunDirectory


def as_bash(plan: ChainPlan) -> list[str]:
    """Lines of bash that do the same as `submit`; the script that is submitted is among them, as comments."""
    script, quote = sbatch.script("train.sbatch"), sbatch.quote
    lines = [f"# {script}:", *(f"#   {line}".rstrip() for line in script.read_text().splitlines())]
    lines += ["# job.json:", *(f"#   {line}" for line in json.dumps(plan.job.to_json(), indent=1).splitlines())]
    python = sbatch.environment()["VITSTREAM_PYTHON"]
    lines += [f"cd -- {quote(str(Path.cwd()))}"]
    variables = {"VITSTREAM_PYTHON": python, **plan.variables}
    lines += [f"export {name}={quote(value)}" for name, value in variables.items()]
    words = [python, "-P", "-m", "pipeline.cluster.dry_run", plan.submission.path.name, *plan.request.words()]
    lines += ["# the snapshot of code and configuration:", " ".join(map(quote, words))]
    target = plan.submission
    queued = " ".join(map(quote, ["sbatch", "--parsable", *plan.options, str(target.script), str(target.job_file)]))
    record = f'echo "${{job%%;*}}" >> {quote(str(target.path / "jobs"))}'
    lines += [f"for _ in {{1..{plan.estimate.chain}}}; do", f"  job=$({queued})", f"  {record}", "done"]
    return lines


def make_snapshot(number: str, request: Request) -> None:
    """RUN/submit/NUMBER.

    Raises:
        UsageError: something has changed since the dry run.
        WorkFailed: it cannot be written.
    """
    plan = plan_chain(request)
    if plan.submission.path.name != number:
        raise UsageError(f"{plan.submission.path}: comes next, not {number}: make the dry run again")
    RunDirectory(Path(plan.job.run_dir)).create()
    snapshot(plan.submission, plan.job, plan.config)


if __name__ == "__main__":
    try:
        make_snapshot(sys.argv[1], Request.of(sys.argv[2:]))
    except (UsageError, WorkFailed) as failure:
        print(f"vitstream: {one_line(str(failure))}", file=sys.stderr)
        sys.exit(failure.exit_code)
