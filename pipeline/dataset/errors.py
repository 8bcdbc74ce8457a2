"""The two ways in which a verb ends badly, each one line for the user. Exit codes are part of the contract."""


class UsageError(Exception):
    """Wrong usage or input: the message names the file or key at fault and the fix. Exit code 2."""

    exit_code = 2


class WorkFailed(Exception):
    """The input was understood, the work failed; what was done is kept. Exit code 1."""

    exit_code = 1


class StoppedResumable(Exception):
    """Stopped on request with everything saved: the same command goes on. Exit code 3."""

    exit_code = 3
