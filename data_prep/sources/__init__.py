"""Where images come from: one file per kind of source."""

from data_prep.sources.opening import open_sources

__all__ = ["open_sources"]
