"""Weights & Biases. Torch-free; its library is loaded when it is opened.

What was sent cannot be taken back, and W&B's own process writes it down seconds later, so a kill may lose what it was
given last. Hence only what it has had for longer than that counts as sent, and what is behind it is sent again, with
the same numbers (a step that is done again is the same to the last bit) and at the same place in W&B's own count of
lines, so that its server drops what it has.
"""

import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.config_sinks import Wandb
from pipeline.sinks.sink import BEGIN, Place

_KEPT_AFTER_S: Final = 30.0  # twice the interval at which its process writes to the disk
_START_S, _END_S = 60.0, 10.0  # that training waits for it at most


class WeightsAndBiases:
    """One W&B run for all attempts. Its x axis is our own step."""

    name = "wandb"

    def __init__(self, section: Wandb, run: Path, config: dict[str, Any]) -> None:
        self._section, self._path, self._config = section, run, config
        self._id = secrets.token_hex(4)
        self._sent = self._newest = BEGIN  # for certain; and the last line that it was given
        self._given: deque[tuple[float, Place]] = deque()  # after `_sent`, and when

    def begin(self, kept: Mapping[str, Any], first_step: int) -> Place:
        import wandb

        section = self._section
        mode = section.mode or os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not wandb.login(prompt=False):
            raise ValueError("it has no key: set WANDB_API_KEY, or call `wandb login` once")
        if kept.get("to") == self._to:
            step, evaluated = kept["sent"]
            self._id, self._sent = kept["id"], (step, evaluated)
            self._newest = self._sent
        settings = wandb.Settings(  # nothing of what it would like to look at besides, and no waiting without end
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            init_timeout=_START_S,
            finish_timeout=_END_S,
        )
        self._run = wandb.init(
            project=section.project,
            entity=section.entity,
            name=section.name or self._path.resolve().name,
            mode=mode,
            id=self._id,
            resume="allow",
            dir=str(self._path),
            config=self._config,
            settings=settings,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return self._sent

    def write(self, place: Place, time: float | None, values: dict[str, float]) -> None:
        if place > self._newest:
            self._run.log({"step": place[0], **values}, step=2 * place[0] + place[1], commit=True)
            self._newest = place

    def flush(self) -> None:
        """It has a process of its own, which sends."""
        self._given.append((time.monotonic(), self._newest))
        while self._given and time.monotonic() - self._given[0][0] > _KEPT_AFTER_S:
            self._sent = self._given.popleft()[1]

    def keep(self) -> dict[str, Any]:
        return {"to": self._to, "id": self._id, "sent": self._sent}

    def close(self) -> None:
        began = time.monotonic()
        self._run.finish()
        if time.monotonic() - began < _END_S:
            self._sent = self._newest

    @property
    def _to(self) -> str:
        return f"{self._section.entity or ''}/{self._section.project}"
