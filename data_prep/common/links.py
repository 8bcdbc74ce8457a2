"""Symbolic links from one dataset to the files of another, or to anybody's."""

import os
from pathlib import Path


def link(target: Path, place: Path) -> None:
    """Makes `place` a link to `target`, atomically, also where it is one already.

    Relative where both lie below one folder other than the root, so that this folder can be moved or mounted
    elsewhere; else absolute.
    """
    target, place = _real_folder(target), _real_folder(place)
    text = os.path.relpath(target, place.parent) if _together(target, place) else str(target)
    if place.is_symlink() and str(place.readlink()) == text:
        return
    temporary = place.with_name(f".link-{os.urandom(6).hex()}")
    temporary.symlink_to(text)
    temporary.replace(place)


def _together(target: Path, place: Path) -> bool:
    return os.path.commonpath([target, place]) != os.path.sep


def _real_folder(path: Path) -> Path:
    """The path without links in its folder, as a relative link is followed from there; its last part as it is."""
    return path.parent.resolve() / path.name
