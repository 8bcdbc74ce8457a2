"""Finds where the host would wait for the device, on a machine that has none.

What lies on the device is known by its memory: tensors that are named at the start, and whatever is computed from those
(ledger rows, ballots and counts stay on the host, and may be read). A value of theirs that comes to Python is a wait.
Not seen: copies to the CPU by `.to`, and torch.cuda.synchronize, which are none here. Those are found on a GPU.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_OPS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2")
_METHODS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__)
_NOT_TO_BLAME = (str(Path(torch.__file__).parent), __file__)


def on_device(tensors: Iterable[torch.Tensor]) -> None:
    """Marks their memory."""
    for tensor in tensors:
        tensor.untyped_storage().is_on_device = True


def _is_on_device(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and getattr(value.untyped_storage(), "is_on_device", False)


class Watch(TorchDispatchMode):
    """Within it, `waits` collects the places that wait, as FILE:FUNCTION."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._methods = _Methods(self)

    def __enter__(self) -> "Watch":
        self._methods.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs))
        result = op(*args, **(kwargs or {}))
        if any(map(_is_on_device, given)):
            name = op._schema.name.rpartition("::")[2]
            by_mask = name.startswith("index") and any(
                isinstance(each, torch.Tensor) and each.dtype is torch.bool for each in given[1:]
            )
            if name in _OPS or by_mask:
                self.note(name)
            written = op._schema.is_mutable or name.endswith("_")
            tensors = [each for each in tree_leaves(result) + (given if written else []) if _is_plain(each)]
            on_device(tensors)
        return result

    def note(self, what: str) -> None:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.startswith(_NOT_TO_BLAME):
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        self.waits.append(f"{path.parent.name}/{path.name}:{frame.f_code.co_name} {what}")


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


class _Methods(TorchFunctionMode):
    """Methods that read a CPU tensor's memory without an operation."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _METHODS and _is_on_device(args[0]):
            self._watch.note(function.__name__)
        return function(*args, **(kwargs or {}))
