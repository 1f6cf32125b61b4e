"""How a rank starts, fails and ends: one message, one exit code, and a note for whoever launched it."""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from xtuner.errors import OutOfMemory, StoppedAndSaved, StoppedNotSaved, TrainingFailed, XTunerError
from xtuner.run.failure import RankFailure, leave_note
from xtuner.run.rank_place import own_place
from xtuner.run.status import mark_ended
from xtuner.run.text import describe_error
from xtuner.v1.config import TrainerConfig
from xtuner.v1.train.signals import ignore_stop_signals

# Ranks meet the same mistake at the same time; the others wait this long for the first to say it.
_LET_FIRST_SPEAK_S = 5.0


def run_as_rank(app: Callable[[], None]) -> None:
    """Run the command line `app`; end the process with the exit code of the error tree."""
    try:
        app()
    except XTunerError as error:
        fail(error, step=0)


def train_and_exit(config: TrainerConfig) -> None:
    """Train `config` as this rank and end the process.

    Nothing is fetched from the network: models are local directories here, and a Hub that is down or slow must
    not stop a run.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from xtuner.v1.train.trainer import Trainer  # torch takes seconds; the flags are valid by now

    trainer: Trainer | None = None
    try:
        try:
            trainer = Trainer(config)
            trainer.fit()
        finally:
            # A signal that came while a collective was waiting is raised here at the latest.
            ignore_stop_signals()
    except Exception as error:
        step = trainer.step if trainer else 0
        if trainer:
            trainer.report_end(error)
        fail(error, step=step)
    sys.stderr.flush()
    sys.stdout.flush()
    # Not through the interpreter's exit: destructors of gloo's threads abort the process there now and then
    # ("terminate called without an active exception"), and torchrun would call a finished run failed.
    os._exit(0)


def fail(error: Exception, *, step: int) -> NoReturn:
    """Say `error` once, leave a note for the launcher of this machine and for others, and end the process at once.

    At once: leaving through the interpreter would run collectives that wait for ranks which are gone.
    """
    _note_failure(error, step)
    is_shared_mistake = isinstance(error, XTunerError) and not isinstance(error, TrainingFailed | StoppedNotSaved)
    if is_shared_mistake and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_LET_FIRST_SPEAK_S)
    elif isinstance(error, XTunerError):
        print(describe_error(error), file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(error.exit_code if isinstance(error, XTunerError) else TrainingFailed.exit_code)


def _note_failure(error: Exception, step: int) -> None:
    known = error if isinstance(error, XTunerError) else TrainingFailed(str(error))
    failure = RankFailure(
        rank=int(os.environ.get("RANK", "0")),
        step=step,
        time=time.time(),
        exit_code=known.exit_code,
        message=str(error),
        hint=known.hint,
        traceback="".join(traceback.format_exception(error)),
        host=socket.gethostname(),
        # What the launcher needs to find options that fit.
        needed_gib=known.needed_gib if isinstance(known, OutOfMemory) else None,
        num_ranks=int(os.environ.get("WORLD_SIZE", "1")),
        num_local_ranks=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    places = [Path(path)] if (path := os.environ.get("TORCHELASTIC_ERROR_FILE")) else []
    place = own_place()
    if place and not isinstance(error, StoppedAndSaved):
        places.append(place.run_dir.failure_note(failure.rank))
    leave_note(failure, type(error).__name__, *places)
    if place and failure.rank == 0:
        # For what ended it before it could train; else its status tells the end already.
        with suppress(OSError):
            mark_ended(place.run_dir, failure.message, failure.exit_code)
