"""One cluster for all tests in here, and what comes of the same work where nothing happens to it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.datasets import make_dataset
from tests.images import write_photo
from tests.runs import train, vitstream
from tests.slurm import runs
from tests.slurm.cluster import Cluster, why_not

OPTIONS = ["--reencode", "--shard-size", "1MB", "--val-fraction", "0.1"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes of four CPUs and two GPUs that compute nothing. Its folder, unlike pytest's, is open to everybody."""
    if (reason := why_not()) is not None:
        pytest.skip(f"no SLURM cluster: {reason}")
    with TemporaryDirectory(prefix="vitstream-slurm-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with Cluster(Path(folder) / "slurm", nodes=3, gpus=2) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """180 photos that take a while, in a folder whose name would not survive a careless script."""
    folder = tmp_path_factory.mktemp("source") / "my 'photos' $(date)\n;*"
    for number in range(6):
        first = folder / "class-0" / f"{number}.jpg"
        write_photo(first, 1600, 1200, seed=number, quality=92)
        for copy in range(1, 30):
            path = folder / f"class-{copy % 4}" / f"{number}-{copy}.jpg"
            path.parent.mkdir(exist_ok=True)
            os.link(first, path)
    return folder


@pytest.fixture(scope="session")
def undisturbed(photos: Path, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    done = vitstream("shard", photos, "--out", out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return digests(out)


def digests(out: Path, besides: str = "") -> dict[str, str]:
    """SHA-256 of every file, but for those of the folder `besides`, which may go meanwhile."""
    kept = [path for path in out.iterdir() if path.name != besides]
    files = sorted(path for top in kept for path in (top, *top.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A folder that everybody may read, unlike pytest's."""
    with TemporaryDirectory(prefix="vitstream-public-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def images(public: Path) -> Path:
    """A DATASET of 352 small images."""
    make_dataset(public / "images", 352, size=(40, 32))
    return public / "images"


@pytest.fixture(scope="session")
def undisturbed_runs(images: Path, tmp_path_factory) -> Callable[[int], list[tuple]]:
    """Number of ranks -> what each step is where nothing happens, and no SLURM is near."""

    @lru_cache
    def undisturbed_run(ranks: int) -> list[tuple]:
        run = runs.write(tmp_path_factory.mktemp("whole") / "run.yaml", images)
        train(run, ranks)
        return runs.told(run)

    return undisturbed_run
