"""RUN/published.json: which checkpoint was published last, told outside of the folder that may go missing. Torch-free.

It chooses nothing: by it a start tells a run that begins from one whose checkpoints have gone.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.dataset.errors import UsageError
from pipeline.dataset.files import read_regular, write_json

_NAME: Final = "published.json"


@dataclass(frozen=True)
class PublishedFile:
    path: Path

    @classmethod
    def of(cls, run: Path) -> "PublishedFile":
        return cls(run / _NAME)

    def write(self, step: int) -> None:
        """Rank 0 only. Raises OSError."""
        write_json(self.path, {"step": step})

    def read(self) -> int | None:
        """The step, or None where nothing was published yet, or by a vitstream that did not tell.

        Raises:
            UsageError: it is not what was written.
            OSError: it cannot be read.
        """
        try:
            return int(json.loads(read_regular(self.path))["step"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{self.path}: is not what was written: remove it, if the checkpoints are there") from None
