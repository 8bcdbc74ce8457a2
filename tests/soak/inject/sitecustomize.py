"""On PYTHONPATH of a run's ranks: one of them does what FAULT says, in the phase and at the step that it says.

Python imports this by its name, in every process. FAULT is JSON: {"rank", "phase", "step", "what"}; `what` is one of
`Fault`'s methods and an argument, as in "exit 7". The product knows nothing of it.
"""

import ctypes
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

_MOMENT_S = 0.5  # in a phase, so that the rank has told of it: it does so five times a second at most


class Fault:
    """What is to happen, once."""

    def __init__(self, rank: int, phase: str, step: int, what: str) -> None:
        self.rank, self.phase, self.step, self.what = rank, phase, step, what
        self.done = False

    def here(self, phase: str, step: int) -> None:
        """It happens here, if it is to."""
        if not self.done and phase == self.phase and step >= self.step:
            self.done = True
            name, _, argument = self.what.partition(" ")
            time.sleep(_MOMENT_S)
            getattr(self, name)(argument)

    def exit(self, code: str) -> None:
        os._exit(int(code))

    def signal(self, name: str) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.2)

    def fail(self, kind: str) -> None:
        import torch

        raise {
            "RuntimeError": RuntimeError("Connection closed by peer"),
            "ValueError": ValueError("a value\nof two lines"),
            "KeyError": KeyError("nothing of this name"),
            "OSError": OSError(5, "Input/output error"),
            "AssertionError": AssertionError(),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "SystemExit": SystemExit(7),
            "MemoryError": MemoryError(),
            "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        }[kind]

    def allocate(self, how: str) -> None:
        """More than there is: of the address space, which is the only limit that a process can set itself."""
        import torch

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**27,) * 2)
        kept = []
        while True:
            kept.append(torch.ones(2**24) if how == "tensors" else bytearray(2**26))

    def sleep(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def spin(self, seconds: str) -> None:
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            pass

    def hold(self, seconds: str) -> None:
        """Sleeps in C with the interpreter's lock, as a library that hangs does: no other thread of Python's runs."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # one would wake it
        ctypes.PyDLL(None).sleep(int(seconds))


def arm(train: object, fault: Fault) -> None:
    """Lays it into pipeline.train, which has just been imported."""

    def before(owner: object, name: str, where: object) -> None:
        original = getattr(owner, name)

        def also(*args: object, **kwargs: object) -> object:
            fault.here(*where(*args, **kwargs))
            return original(*args, **kwargs)

        setattr(owner, name, also)

    before(train.Trainer, "_build", lambda *_: ("setup", fault.step))
    before(train, "train_step", lambda *args: ("step", args[6]))
    before(train.Agreement, "take", lambda self, _l, _n, _a, step: (self._stop.phase, step + 1))
    before(train.Saver, "save", lambda self, _s, facts, *_: ("save", facts["step"]))


class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name != "pipeline.train":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        original = spec.loader.exec_module

        def exec_module(module: object) -> None:
            original(module)
            arm(module, Fault(**json.loads(os.environ["FAULT"])))

        spec.loader.exec_module = exec_module
        return spec


if "FAULT" in os.environ:
    ours = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
    if ours == str(json.loads(os.environ["FAULT"])["rank"]):
        sys.meta_path.insert(0, Hook())
