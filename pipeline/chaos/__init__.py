"""Faults on purpose: what `vitstream chaos` and the project's own fault matrices do to runs.

moments.py   the moments of a checkpoint's life at which something may happen
family.py    the processes of a run under way, as the operating system shows them
kills.py     SIGKILL at such moments, then the same command again
stops.py     signals at any moment, then the same command again
damage.py    ways in which a checkpoint's files come to harm
mutations.py whether they are found, and what is taken instead
small.py     a small run of a user's own configuration
trial.py     all of it, beside a run that nobody disturbs
report.py    what the command prints
"""
