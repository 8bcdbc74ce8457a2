"""TensorBoard's event files. Torch-free until it is opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.sinks.sink import Place


class TensorBoard:
    """Each attempt has an event file of its own, which begins by taking back what earlier ones say of its steps."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent = self._last = 0  # the last steps that are in the file, and that are given

    def begin(self, kept: Mapping[str, Any], first_step: int) -> Place:
        from torch.utils.tensorboard import SummaryWriter

        known = kept.get("folder") == str(self._folder) and any(self._folder.glob("events.out.tfevents.*"))
        self._sent = self._last = min(kept["sent"], first_step) if known else 0
        self._writer = SummaryWriter(str(self._folder), purge_step=self._sent)  # all from this step on
        return self._sent - 1, 1

    def write(self, place: Place, time: float | None, values: dict[str, float]) -> None:
        step, _ = place
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time)
        self._last = step

    def flush(self) -> None:
        self._writer.flush()
        self._sent = self._last

    def keep(self) -> dict[str, Any]:
        return {"folder": str(self._folder), "sent": self._sent}

    def close(self) -> None:
        self._writer.close()
