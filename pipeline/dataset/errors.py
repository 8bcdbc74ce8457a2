"""The ways in which a verb ends other than well, each one line for the user. Exit codes are part of the contract."""


class UsageError(Exception):
    """Wrong usage or input: the message names the file or key at fault and the fix. Exit code 2."""

    exit_code = 2


class WorkFailed(Exception):
    """The input was understood, the work failed; what was done is kept. Exit code 1.

    `cause` and `resumable` are for a run's verdict (run/verdict.py).
    """

    exit_code = 1

    def __init__(self, message: str, cause: str = "exception", resumable: bool = True) -> None:
        super().__init__(message)
        self.cause, self.resumable = cause, resumable


class StoppedResumable(Exception):
    """Stopped on request with everything saved: the same command goes on. Exit code 3.

    `cause` and `phase` are for a run's verdict (run/verdict.py).
    """

    exit_code = 3

    def __init__(self, message: str, cause: str = "signal", phase: str = "step") -> None:
        super().__init__(message)
        self.cause, self.phase = cause, phase
