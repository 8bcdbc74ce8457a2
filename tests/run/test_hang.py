"""Which rank hangs, where all are in the same step: their stacks say which of them does not wait for the others."""

import pytest

from pipeline.run.beat import Beat
from pipeline.run.hang import record_hang
from pipeline.run.stacks import is_in_a_collective, stacks_file
from pipeline.run.watchdog import Late

pytestmark = pytest.mark.fast

HEART = (
    'Thread 0x1 (most recent call first):\n  File "/x/threading.py", line 331 in wait\n  File "/x/beat.py" in _live\n'
)
OURS = 'Current thread 0x2 (most recent call first):\n{}  File "/x/pipeline/rank.py", line 67 in run_rank\n'
WAITS = OURS.format('  File "/v/torch/distributed/distributed_c10d.py", line 3 in all_reduce\n')
SPINS = OURS.format('  File "/x/model.py", line 3 in forward\n')


def beat(rank, step=7, phase="step"):
    return Beat(rank, f"node{rank}", 100 + rank, phase, step, 5, 0.0, 0.0, False, False, {})


def hang(tmp_path, stacks, late=0, silent=False, beats=None):
    def dump():
        for rank, text in enumerate(stacks):
            stacks_file(tmp_path, rank).parent.mkdir(exist_ok=True)
            stacks_file(tmp_path, rank).write_text(text)

    found = Late(late, f"node{late}", 100 + late, "step", 7, 12.0, silent, 4.0)
    beats = beats or {rank: beat(rank) for rank in range(len(stacks))}
    return record_hang(tmp_path, found, beats, lambda each: f"process {each.pid}", dump)


def test_the_one_that_is_in_no_collective(tmp_path):
    verdict = hang(tmp_path, [f"{HEART}\n{WAITS}", f"{HEART}\n{SPINS}", WAITS])
    assert (verdict.rank, verdict.host) == (1, "node1") and "rank 1 on node1 (process 101) hangs" in verdict.message
    assert is_in_a_collective(tmp_path, 0) and not is_in_a_collective(tmp_path, 1)
    assert is_in_a_collective(tmp_path, 9) is None


@pytest.mark.parametrize("stacks", [[WAITS, WAITS], [SPINS, SPINS], ["", SPINS], [f"{SPINS}\n{WAITS}", WAITS]])
def test_else_it_stays_as_it_is(tmp_path, stacks):
    assert hang(tmp_path, stacks).rank == 0


def test_silence_says_more_and_another_step_nothing(tmp_path):
    assert hang(tmp_path, [WAITS, SPINS], silent=True).rank == 0
    assert hang(tmp_path, [WAITS, SPINS], beats={0: beat(0), 1: beat(1, step=6)}).rank == 0
