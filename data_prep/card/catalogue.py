"""A dataset's numbers by SQL over its catalogue, samples.parquet: out of core, whatever its size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np

from data_prep.card.distribution import Distribution, coarse_sql
from data_prep.card.tally import Tally
from data_prep.catalog.samples import CATALOGUE_NAME
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import open_regular
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.names import escape

MEMORY_LIMIT: Final = "1GB"
_ASPECT: Final = "1000 * width::BIGINT // height"


@dataclass(frozen=True)
class Duplicates:
    """Images that have the same bytes as another's.

    `groups`: how many different images are there more than once; `redundant`: how many would go if each were there
    once; `across`: how many of the groups lie in more than one of the datasets, as in train and in val.
    """

    groups: int
    redundant: int
    across: int


def has_catalogue(dataset: Path, manifest: Manifest) -> bool:
    """Whether there is one. One that the manifest names, and that is missing, counts: reading it says so."""
    return any(file.name == CATALOGUE_NAME for file in manifest.files) or (dataset / CATALOGUE_NAME).exists()


def tally(dataset: Path, manifest: Manifest, spill: Path) -> Tally:
    """Counts the catalogue's rows. Raises WorkFailed where it is damaged or does not fit the manifest."""
    with _reading([dataset], spill) as rows:
        ((images, smallest, *orientations),) = rows(
            "SELECT count(*), min(least(width, height)), count(*) FILTER (width > height),"
            " count(*) FILTER (width = height), count(*) FILTER (width < height) FROM samples"
        )
        if images != manifest.samples or (smallest or 0) < 1:
            raise damaged(dataset, f"{images:,} rows, {manifest.samples:,} samples, least side {smallest} pixels")
        distinct = "labels" if manifest.labels == "single" else "list_distinct(labels)"
        per_image = rows(f"SELECT len({distinct}), count(*) FROM samples GROUP BY 1 ORDER BY 1")
        return Tally(
            _classes(dataset, manifest, rows(f"SELECT unnest({distinct}), count(*) FROM samples GROUP BY 1")),
            images,
            dict(per_image),
            *(_distribution(rows, value) for value in ("width", "height", _ASPECT, "size")),
            *orientations,
        )


def duplicates(datasets: list[Path], spill: Path) -> Duplicates:
    """Images of equal bytes, by hash and size, in all of these catalogues together. Raises WorkFailed."""
    with _reading(datasets, spill) as rows:
        ((groups, redundant, across),) = rows(
            "SELECT count(*), coalesce(sum(n) - count(*), 0)::BIGINT, count(*) FILTER (several) FROM ("
            " SELECT count(*) AS n, min(filename) <> max(filename) AS several FROM ("
            "  SELECT ('0x' || hash)::UBIGINT AS number, size, filename FROM samples)"
            " GROUP BY number, size HAVING count(*) > 1)"
        )
    return Duplicates(groups, redundant, across)


def damaged(dataset: Path, why: str) -> WorkFailed:
    """What to say of a dataset that contradicts itself."""
    return WorkFailed(f"{dataset}: cannot be counted ({why}); see: vitstream verify {dataset}")


@contextmanager
def _reading(datasets: list[Path], spill: Path) -> Iterator[Any]:
    """Yields what runs a query over the view `samples`."""
    connection = duckdb.connect(":memory:")
    files = []
    try:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute("SET temp_directory = $1", [str(spill)])
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET enable_progress_bar = false")
        files += [open_regular(dataset / CATALOGUE_NAME) for dataset in datasets]
        # Not by their names, which DuckDB takes only as UTF-8, and in which it reads `*`, `?` and `[` as patterns.
        names = [f"/proc/self/fd/{file.fileno()}" for file in files]
        connection.read_parquet(names, filename=True).create_view("samples")
        yield lambda query: connection.execute(query).fetchall()
    except duckdb.OutOfMemoryException as error:
        raise WorkFailed(f"{spill}: counting needs more room ({_first_line(error)}); give another --out") from None
    except (duckdb.Error, OSError) as error:
        raise damaged(datasets[0], f"{CATALOGUE_NAME}: {_first_line(error)}") from None
    finally:
        connection.close()
        for file in files:
            file.close()


def _distribution(rows: Any, value: str) -> Distribution:
    counted = dict(rows(f"SELECT {coarse_sql(f'({value})::BIGINT')}, count(*) FROM samples GROUP BY 1 ORDER BY 1"))
    ((least, most, total),) = rows(f"SELECT min({value}), max({value}), sum({value})::BIGINT FROM samples")
    return Distribution(counted, least, most, total)


def _classes(dataset: Path, manifest: Manifest, counted: list[tuple[int, int]]) -> np.ndarray:
    classes = np.zeros(len(manifest.classes), np.int64)
    for label, count in counted:
        if not 0 <= label < len(classes):
            raise damaged(dataset, f"label {label} of {len(classes):,} classes")
        classes[label] = count
    return classes


def _first_line(error: Exception) -> str:
    return escape((str(error).strip() or type(error).__name__).splitlines()[0])
