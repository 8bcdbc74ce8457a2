"""Hosts are blamed for what hosts do, with the evidence, and left after the second time."""

import pytest

from pipeline.cluster.blame import BlameLedger
from pipeline.run.verdict import Verdict

pytestmark = pytest.mark.fast


def verdict(cause, host="node1"):
    return Verdict(cause, 3, host, "step", 12, True, f"rank 3 on {host}: {cause}")


def test_twice_is_enough(tmp_path):
    ledger = BlameLedger.of(tmp_path)
    assert ledger.read() == [] and ledger.hosts_to_exclude() == []
    assert ledger.add(0, 7, verdict("hang"))
    assert ledger.add(0, 7, verdict("hang"))  # the same attempt, judged again
    assert ledger.hosts_to_exclude() == []
    assert ledger.add(1, 7, verdict("node lost", "node1,node2"))
    assert ledger.hosts_to_exclude() == ["node1"]
    assert ledger.add(2, 8, verdict("killed", "node2"))
    assert ledger.hosts_to_exclude() == ["node1", "node2"]
    (first, *_) = ledger.read()
    assert (first.attempt, first.job, first.rank, first.phase, first.step) == (0, 7, 3, "step", 12)
    assert first.evidence == "rank 3 on node1: hang"


def test_what_is_no_hosts_fault(tmp_path):
    ledger = BlameLedger.of(tmp_path)
    for number, cause in enumerate(("exception", "out of memory", "data", "signal", "finished", "usage")):
        assert not ledger.add(number, 7, verdict(cause))
    assert not ledger.add(9, 7, Verdict("killed", None, None, "step", None, True, "ended without a word"))
    assert ledger.read() == [] and not ledger.path.exists()


def test_a_torn_line_is_passed_over(tmp_path):
    ledger = BlameLedger.of(tmp_path)
    ledger.add(0, 7, verdict("hang"))
    with ledger.path.open("ab") as file:
        file.write(b'{"time": 1, "att\n{"another": "form"}\n{"to')
    ledger.add(1, None, verdict("hang"))
    assert [entry.attempt for entry in ledger.read()] == [0, 1]
