"""A slice of training tried again after a worker was lost in it, once there are slots for all workers again."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from embedall_spark.errors import ResourceError, WorkerLost
from embedall_spark.train import worker_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedall_spark.train.config import TrainConfig

T = TypeVar("T")
log = logging.getLogger(__name__)

_PAUSE = 5.0
_RESUME = "Start the run again: it resumes from its last checkpoint"


def call(attempt: Callable[[], T], check: Callable[[], None], config: TrainConfig, pause: float = _PAUSE) -> T:
    """Return what ``attempt`` returns; where it loses a worker, try again up to ``config.retries`` times.

    Args:
        attempt: trains the slice.
        check: raises ResourceError as long as the cluster has no place for all workers.
        config: its ``timeout`` bounds the wait for a replacement, too.
        pause: seconds between two checks.

    Raises:
        ResourceError: there was no replacement in time.
        WorkerLost: a worker was lost in the last try.
    """
    tries = 0
    while True:
        try:
            return attempt()
        except WorkerLost as error:
            # Spark tries a single worker's task again by itself.
            if tries == config.retries or worker_errors.was_tried_again(error.__cause__):
                raise WorkerLost(f"{error}. {_RESUME}") from error.__cause__
            tries += 1
            log.warning("training: %s. Trying the slice again (train.retries: %d of %d)", error, tries, config.retries)
        _wait(check, config.timeout, pause)


def _wait(check: Callable[[], None], timeout: int, pause: float) -> None:
    """Return once the cluster has a place for all workers.

    Raises:
        ResourceError: it had none within ``timeout`` seconds.
    """
    until = time.monotonic() + timeout
    while True:
        try:
            return check()
        except (ResourceError, WorkerLost) as error:
            # A host that is gone still has slots until Spark notices, and the check itself may be lost there.
            if time.monotonic() + pause > until:
                raise ResourceError(
                    f"{error}. There was no replacement for the lost worker within train.timeout={timeout} s. {_RESUME}"
                ) from error
            log.info("training: waiting for a replacement of the lost worker: %s", error)
        time.sleep(pause)
