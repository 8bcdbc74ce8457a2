"""env.json: with what a run was last started. Torch-free."""

import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

COMMIT_FILE: Final = ".git_commit"  # beside the packages, in a copy of a checkout
_LIBRARIES = ("vitstream", "torch", "deepspeed", "numpy", "simplejpeg", "opencv-python-headless", "pyarrow")


def environment_facts(device: str) -> dict[str, str]:
    """Versions, hardware and, in a checkout, the git commit."""
    facts = {"python": platform.python_version(), "hardware": platform.machine(), "device": device}
    return facts | {name: version(name) for name in _LIBRARIES} | _git_commit()


def code_version() -> dict[str, str]:
    """`version` of this package and, in a checkout, its `git_commit`."""
    return {"version": version("vitstream")} | _git_commit()


def git_commit() -> str | None:
    """Of this code: of the checkout that it is, or was copied from."""
    checkout = Path(__file__).parent.parent.parent
    with suppress(OSError, ValueError):
        return (checkout / COMMIT_FILE).read_text().strip()
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_commit() -> dict[str, str]:
    return {"git_commit": commit} if (commit := git_commit()) else {}
