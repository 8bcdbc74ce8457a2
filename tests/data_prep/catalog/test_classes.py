"""Names, numbers and lists become ids, or are refused by name."""

import pytest

from data_prep.catalog.classes import read_class_list
from pipeline.dataset.errors import UsageError
from tests.data_prep.catalog.listed import ListSource, planned

pytestmark = pytest.mark.fast


def source(*labels: list[str], **attributes) -> ListSource:
    rows = tuple({"path": f"{n}.jpg", "labels": list(names), "bytes": 1} for n, names in enumerate(labels))
    return ListSource(rows, **attributes)


def ids(*sources, **more):
    images, classes = planned(*sources, **more)
    return {image.path: image.labels for image in images["all"]}, classes


def test_names_are_numbered_in_the_order_of_their_bytes():
    labels, classes = ids(source(["b"], ["ä"], ["a"], ["B"]))
    assert classes.names == ("B", "a", "b", "ä") and classes.labels == "single"
    assert labels == {"0.jpg": (2,), "1.jpg": (3,), "2.jpg": (1,), "3.jpg": (0,)}


def test_numbers_are_ids_and_not_names():
    labels, classes = ids(source(["10"], ["2"], numbered=True))
    assert classes.names == tuple(map(str, range(11))) and labels == {"0.jpg": (10,), "1.jpg": (2,)}
    labels, classes = ids(source(["1"], ["0"], numbered=True, class_names=("1", "0")))  # names that look like ids
    assert classes.names == ("1", "0") and labels == {"0.jpg": (1,), "1.jpg": (0,)}


def test_several_labels_make_all_of_it_multi():
    labels, classes = ids(source(["a", "c"], ["b"], [], multi=True))
    assert classes.labels == "multi" and labels == {"0.jpg": (0, 2), "1.jpg": (1,), "2.jpg": ()}


def test_a_list_decides_ids_and_keeps_classes_that_no_image_has():
    labels, classes = ids(source(["dog"], ["cat"]), classes=("dog", "cow", "cat"))
    assert classes.names == ("dog", "cow", "cat") and labels == {"0.jpg": (0,), "1.jpg": (2,)}


@pytest.mark.parametrize(
    ("labels", "attributes", "classes", "said"),
    [
        (
            (["dog"], ["cta"], ["cta"]),
            {},
            ("cat", "dog"),
            r"'1.jpg': label 'cta' is not in the list of --classes.*2 such",
        ),
        ((["0"], ["7"]), {"numbered": True}, ("cat", "dog"), "'1.jpg': label '7' is not in the list"),
        ((["0"], ["-1"]), {"numbered": True}, ("cat", "dog"), "'1.jpg': label '-1' is not in the list"),
        ((["0"], ["-1"]), {"numbered": True}, None, "'1.jpg': label '-1' is no number from 0"),
        ((["0"], ["99999999999"]), {"numbered": True}, None, "'1.jpg': label 99999999999 would make"),
        ((["0"], ["5"]), {"numbered": True, "class_names": ("a",)}, None, "not in the source's own class list"),
        ((["a"], []), {}, None, "'1.jpg': has no label"),
    ],
)
def test_labels_that_are_refused(labels, attributes, classes, said):
    with pytest.raises(UsageError, match=said):
        ids(source(*labels, **attributes), classes=classes)


def test_what_is_filtered_out_is_not_looked_at():
    labels, _ = ids(source(["dog"], ["cta"]), classes=("cat", "dog"), where="label != 'cta'")
    assert labels == {"0.jpg": (1,)}


def test_numbers_here_and_names_there_are_refused():
    with pytest.raises(UsageError, match="some SOURCEs have numbers for labels and some have names"):
        ids(source(["a"]), ListSource(({"path": "x.jpg", "labels": ["1"], "bytes": 1},), numbered=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\na\n", "'a' stands in lines 1 and 3"),
        (b"", "empty"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_class_lists_that_are_none(tmp_path, text, said):
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(UsageError, match=rf"--classes .*classes.txt: .*{said}"):
        read_class_list(tmp_path / "classes.txt")


def test_class_lists(tmp_path):
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\r\ndog, wild\r\nnaïve\r\n\r\n".encode())
    assert read_class_list(tmp_path / "classes.txt") == ("cat", "dog, wild", "naïve")
