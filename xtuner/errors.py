"""What can go wrong, as one tree; the class carries the exit code, the instance the way out.

    XTunerError              1  never raised itself
    ├── UsageError           2  the command line or the config file is wrong
    ├── ModelError           3  the model directory cannot be trained
    ├── DataError            4  the data cannot be trained on
    ├── EnvironmentFault     5  this machine: permissions, ports, disk, devices
    ├── TrainingFailed       6  the run died
    │   └── OutOfMemory      6  of a lack of memory
    ├── StoppedAndSaved      7  a signal ended the run, its state is on disk
    ├── StoppedNotSaved      8  a signal ended the run, its state is lost
    └── WorkDirInUse         9  another run owns the work dir

Anything else that escapes is our own bug and keeps its traceback.
"""

from typing import ClassVar


class XTunerError(Exception):
    """A mistake a user can fix: `str(error)` says what and the value, `error.hint` says what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(XTunerError):
    """The command line or the config file is wrong."""

    exit_code = 2


class ModelError(XTunerError):
    """The model directory cannot be trained."""

    exit_code = 3


class DataError(XTunerError):
    """The data cannot be trained on."""

    exit_code = 4


class EnvironmentFault(XTunerError):
    """This machine is in the way: permissions, ports, disk space, devices."""

    exit_code = 5


class TrainingFailed(XTunerError):
    """The run died."""

    exit_code = 6


class OutOfMemory(TrainingFailed):
    """A rank had not enough memory: it had or asked for `needed_gib` GiB in all."""

    def __init__(self, message: str, *, hint: str = "", needed_gib: float) -> None:
        super().__init__(message, hint=hint)
        self.needed_gib = needed_gib


class StoppedAndSaved(XTunerError):
    """A signal ended the run; its state is on disk."""

    exit_code = 7


class StoppedNotSaved(XTunerError):
    """A signal ended the run; its state is lost."""

    exit_code = 8


class WorkDirInUse(XTunerError):
    """Another run owns the work dir."""

    exit_code = 9


def error_for_exit_code(exit_code: int, message: str, *, hint: str = "") -> XTunerError:
    """The error whose class carries `exit_code`; `TrainingFailed` for a code outside the table."""
    for error_class in XTunerError.__subclasses__():
        if error_class.exit_code == exit_code:
            return error_class(message, hint=hint)
    return TrainingFailed(message, hint=hint)
