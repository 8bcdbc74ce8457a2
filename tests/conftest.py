"""What tests have measured is said at the end, whichever worker ran them; and what holds for all tests."""

import os
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # that an example takes long there says nothing
settings.load_profile("shared machine")

# Two pytest workers on two cores: more threads only wait for each other, and all add up in another order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SEEN = "seen"


# What takes longest begins first, so that no worker is left alone with it (--dist loadfile, --no-loadscope-reorder);
# one cluster at a time, as far as that goes.
_LONGEST = (
    "tests/slurm/test_train",
    "tests/faults/test_soak_sample",
    "tests/faults/",
    "tests/slurm/",
    "tests/data_prep/",
    "tests/checkpoint/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(_LONGEST) if item.nodeid.startswith(start)), len(_LONGEST))

    items.sort(key=place)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says a line at the end of everything: a figure that was seen, say."""
    return lambda line: record_property(_SEEN, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed")
    lines = [line for report in reports for name, line in report.user_properties if name == _SEEN]
    if lines:
        terminalreporter.write_sep("=", "seen")
        for line in lines:
            terminalreporter.write_line(line)
