"""A verified checkpoint's state into an engine. Each rank reads what it owns; nothing is gathered to be cut again."""

from dataclasses import replace
from typing import Any

from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.manifest import CheckpointManifest
from pipeline.checkpoint.state import slices_to_restore
from pipeline.optim.ema import AVERAGE
from pipeline.optim.masters import moments, publish, set_optimizer_step


def load(engine: Any, reader: TensorReader, manifest: CheckpointManifest) -> set[str]:
    """Fills the fp32 weights and what the optimizer keeps of them, then sets the working weights to them.

    Every rank calls it, before the first step.

    Returns:
        The kinds that the engine has and the checkpoint does not; they stay as they were. Moments begin at zero, and
        then so does the optimizer's count of its steps.
    """
    stored = {key.partition("/")[0] for key in manifest.tensors}
    slices = slices_to_restore(engine)
    reader.restore(
        replace(part, tensors={kind: values for kind, values in part.tensors.items() if kind in stored})
        for part in slices
    )
    set_optimizer_step(engine, manifest.optimizer_step if stored.issuperset(moments(engine)) else 0)
    publish(engine)
    return {kind for part in slices for kind in part.tensors} - stored


def begun(lacking: set[str]) -> list[str]:
    """What is said of the kinds that `load` did not find, a line each."""
    moments = [f"that checkpoint has no {kind}: it begins at zero" for kind in sorted(lacking - {AVERAGE})]
    average = ["ema: that checkpoint has no average: it begins as the weights are there"]
    return moments + (average if AVERAGE in lacking else [])
