"""A verified checkpoint's state into an engine. Each rank reads what it owns; nothing is gathered to be cut again."""

from dataclasses import replace
from typing import Any

from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.manifest import CheckpointManifest
from pipeline.checkpoint.state import slices_to_restore
from pipeline.optim.masters import publish, set_optimizer_step


def load(engine: Any, reader: TensorReader, manifest: CheckpointManifest) -> set[str]:
    """Fills the fp32 weights and what the optimizer keeps of them, then sets the working weights to them.

    Every rank calls it, before the first step.

    Returns:
        The kinds that the engine has and the checkpoint does not; they stay as they were.
    """
    stored = {key.partition("/")[0] for key in manifest.tensors}
    slices = slices_to_restore(engine)
    reader.restore(
        replace(part, tensors={kind: values for kind, values in part.tensors.items() if kind in stored})
        for part in slices
    )
    set_optimizer_step(engine, manifest.optimizer_step)
    publish(engine)
    return {kind for part in slices for kind in part.tensors} - stored
