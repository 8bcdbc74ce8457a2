"""Keys, their sums, and files that are whole or not there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.files import atomic_file, canonical_json, write_json
from pipeline.dataset.keys import MASK64, as_int64, from_int64, hex64, key_hash, key_sum, keyed_hash, sample_key

pytestmark = pytest.mark.fast

KEYS = st.lists(st.text("0123456789abcdef", min_size=24, max_size=24))


def test_keys_are_what_they_were():
    """Written down: another library, version or machine must give the same, or no dataset could be extended."""
    assert sample_key("class-00/photo-00000.jpg") == "a940f019d14b03000abd89de"
    assert hex64(key_hash("0" * 24)) == "718a8c6f1c74ce05"
    assert hex64(keyed_hash("0" * 24, 1)) == "28803729085f1842"


@given(st.text(st.characters(codec="utf-8")))
def test_keys_have_no_dots_and_depend_on_every_character(path):
    assert len(sample_key(path)) == 24 and set(sample_key(path)) <= set("0123456789abcdef")
    assert sample_key(path) != sample_key(path + "x")


def test_names_that_are_no_utf8_have_keys_of_their_own():
    names = [b"caf\xe9".decode("utf-8", "surrogateescape"), "café", "caf"]
    assert len({sample_key(name) for name in names}) == 3


@given(KEYS, st.randoms())
def test_a_sum_does_not_depend_on_order_or_grouping_and_notices_one_key(keys, random):
    total = key_sum(keys)
    shuffled = random.sample(keys, len(keys))
    middle = len(keys) // 2
    assert total == (key_sum(shuffled[:middle]) + key_sum(shuffled[middle:])) & MASK64
    assert total != key_sum([*keys, "0" * 24])


@given(st.integers(0, MASK64))
def test_64_bits_survive_tensors_and_json(value):
    assert from_int64(as_int64(value)) == value and -(2**63) <= as_int64(value) < 2**63
    assert int(hex64(value), 16) == value and len(hex64(value)) == 16


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b'{\n "old": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_canonical_json_is_one_byte_string():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == b'{"a":"\\u00e9","b":1}'
