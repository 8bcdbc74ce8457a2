"""The real command line, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def vitstream(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `vitstream ARGUMENTS` to its end; `environment` is added to ours."""
    env = {"PYTHONPATH": str(CHECKOUT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        cwd=cwd or CHECKOUT,
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "SLURM_PROCID")} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, and one line on stderr that has all `parts` in it."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("vitstream: ") and len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr
