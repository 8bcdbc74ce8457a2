"""Fixtures of this folder."""

from tests.cluster.fake import slurm  # noqa: F401
