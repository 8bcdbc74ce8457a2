"""What a user may say of how SOURCE is to be read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceOptions:
    """Columns of tables, by name; where none is given, the usual names are looked for."""

    labels: tuple[str, ...] = ()  # one or several columns of labels
    image: str | None = None  # of paths, URLs or bytes
    key: str | None = None  # of names that identify an image, instead of its path
