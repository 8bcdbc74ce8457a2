"""Fault matrices: long runs of random faults, of which the suite runs a seeded sample.

`python -m tests.soak` (make soak) runs them all, or goes on where it was stopped, and writes docs/faults.md.
One file per matrix; each has MATRIX: a name, what must hold, its trials, and a function that runs one.
"""
