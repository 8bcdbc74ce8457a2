"""What is said of holes, when they are too many, and which of them a rerun repeats."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.corpus import fit_order
from pipeline.data.ledger import Account
from pipeline.data.order import Order
from pipeline.data.sample import Hole
from pipeline.dataset.errors import UsageError
from pipeline.run.holes import MOST_KEPT, MOST_SAID, Holes, hole_line, known_holes, short, to_repeat
from pipeline.run.metrics import JsonLines
from tests.data.test_ledger import corpus_of

pytestmark = pytest.mark.fast
FILE = Path("runs/x/holes.jsonl")
CORPUS = corpus_of(100)
GONE = "cannot read: No such file or directory"


def line(
    sample: int, shard: int = 0, cause: str = GONE, epoch: int = 0, step: int = 1, offset: int = 512, corpus=CORPUS
):
    hole = Hole(sample, f"key-{sample}", 0, f"shard-{shard:06d}.tar", offset, cause)
    return hole_line({"step": step, "data": short(corpus.fingerprint)}, (0, epoch), hole, corpus, 0)


def test_holes_of_one_kind_are_one_line() -> None:
    holes = Holes(FILE)
    (said,) = holes.add([line(n) for n in range(40)])
    assert said == (
        f"hole: shard-000000.tar: {GONE}; 40 samples so far, the first is key-0 at offset 512; "
        "all are in runs/x/holes.jsonl"
    )
    assert holes.add([line(41), line(42)]) == []
    (other,) = holes.add([line(50, cause="empty file"), line(43)])
    assert "empty file; 1 sample so far, key-50 at" in other
    holes.keep([])
    assert holes.known == {}


def test_a_flood_of_kinds_is_summed_up() -> None:
    said = Holes(FILE).add([line(n, shard=n) for n in range(90)] + [line(99)])
    assert len(said) == MOST_SAID + 1
    assert said[0].startswith("hole: shard-000000.tar:") and "2 samples so far" in said[0]
    assert said[-1] == "holes: 82 samples more, of 82 shards; all are in runs/x/holes.jsonl"


def test_a_shard_whose_index_is_unreachable_has_no_key_to_name() -> None:
    keyless = line(7, offset=-1) | {"key": ""}
    assert "1 sample so far, sample 7; all" in Holes(FILE).add([keyless])[0]


def test_the_datasets_of_a_list_are_told_apart() -> None:
    corpus = corpus_of(10, 10)
    said = Holes(FILE).add([line(9, corpus=corpus), line(10, corpus=corpus)])
    assert [text.partition("; ")[0] for text in said] == [f"hole: data/{n}: shard-000000.tar: {GONE}" for n in range(2)]


def test_too_many_is_a_rate_and_names_the_main_cause() -> None:
    holes = Holes(FILE)
    holes.add([line(n) for n in range(3)] + [line(5, cause="empty file")])
    assert holes.too_many(40_000, 1e-4) is None
    why = holes.too_many(39_999, 1e-4)
    assert why and "4 of 39,999 samples could not be read (0.0001, data.max_hole_rate allows 0.0001)" in why
    assert f"3 of shard-000000.tar: {GONE}; 1 have 1 other causes or shards" in why and "\n" not in why
    assert Holes(FILE).too_many(10, 0.0) is None


def test_what_an_earlier_attempt_knew_counts_not_again() -> None:
    holes = Holes.of(FILE, [(0, 0, n, GONE) for n in range(5)])
    assert holes.add([line(n) for n in range(5)]) == [] and holes.fresh == 0
    assert len(holes.add([line(5)])) == 1 and holes.fresh == 1


# -- what a rerun repeats --------------------------------------------------------------------------------------


def written(tmp_path: Path, lines: list[dict]) -> Path:
    file = JsonLines(tmp_path / "holes.jsonl")
    file.add(lines)
    file.sync()
    file.close()
    return tmp_path / "holes.jsonl"


def known(path: Path, consumed: int, checkpoint=None, corpus=CORPUS) -> list:
    order = fit_order(corpus, 10, seed=3)
    return known_holes(order, corpus.fingerprint, consumed, checkpoint or {}, path)


def test_those_after_the_checkpoint_are_repeated_with_their_cause(tmp_path: Path) -> None:
    order = fit_order(CORPUS, 10, seed=3)
    ids = order.at(np.arange(300))[1].tolist()
    lines = [
        line(ids[n], epoch=n // 100, step=n // 10 + 1, cause=f"cause {n}") for n in (20, 95, 105, 149, 150, 151, 260)
    ]
    found = known(written(tmp_path, lines), consumed=150)
    assert [cause for *_, cause in found] == [f"cause {n}" for n in (105, 149, 150, 151, 260)], "epoch 0 is over"
    holes = Holes.of(FILE, found)
    repeated = to_repeat(order, 150, holes.known)
    assert repeated == {(n // 100, ids[n]): f"cause {n}" for n in (150, 151, 260)}
    assert known(tmp_path / "holes.jsonl", 300) == [] and known(tmp_path / "missing", 0) == []
    assert to_repeat(order, 0, {}) == {}


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path: Path) -> None:
    holes = Holes(FILE)
    holes.add([line(1), line(2), line(3, cause="empty file"), line(4, epoch=1)])
    body = json.loads(json.dumps(holes.to_json()))
    again = Holes.of(FILE, known(tmp_path / "missing", 50, body))
    assert again.known == holes.known
    assert Holes.of(FILE, known(tmp_path / "missing", 100, body)).known == {Account(0, 1): {4: GONE}}


def test_a_checkpoint_lists_no_more_than_it_may() -> None:
    holes = Holes.of(FILE, [(0, epoch, n, GONE) for epoch in range(2) for n in range(MOST_KEPT - 5)])
    listed = holes.to_json()
    assert {name: len(causes[GONE]) for name, causes in listed.items()} == {"0:1": MOST_KEPT - 5, "0:0": 5}


def test_other_lines_are_left_out(tmp_path: Path) -> None:
    hole = Hole(3, "key", 0, "shard-000000.tar", 0, GONE)
    path = written(
        tmp_path,
        [
            {"step": 1, "epoch": 0, "key": "of an older version", "shard": "s", "offset": 0, "cause": "c"},
            hole_line({"eval": "val", "step": 1}, (0, 0), hole, CORPUS, 0),
            line(4, corpus=corpus_of(101)),
            line(5),
        ],
    )
    with path.open("ab") as file:
        file.write(json.dumps(line(6)).encode()[:-3])  # torn by a kill
    assert known(path, 0) == [[0, 0, 5, GONE]]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, [line(4), line(5)])
    path.write_bytes(path.read_bytes().replace(b'"cause": "cannot', b'"cause": cannot', 1))
    with pytest.raises(UsageError, match=r"holes.jsonl: line 1 is damaged"):
        known(path, 0)


def test_a_long_runs_file_is_read_in_no_time(tmp_path: Path) -> None:
    """14 epochs with a tenth of a per mille of 100 million each: 40 MB, of which the last epoch matters."""
    corpus = corpus_of(100)
    text = json.dumps(line(1, epoch=7)).encode() + b"\n"
    path = tmp_path / "holes.jsonl"
    path.write_bytes(text.replace(b'"epoch": 7', b'"epoch": 0') * 139_990 + text * 10)
    order = Order.fit(100, 10, 3)
    began = time.perf_counter()
    assert len(known_holes(order, corpus.fingerprint, 700, {}, path)) == 1
    assert time.perf_counter() - began < 3.0  # 0.15 s on an idle machine
