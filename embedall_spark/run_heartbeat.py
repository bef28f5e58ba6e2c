"""A sign of life of a run's driver, by which a second start tells a driver that lives from one that was killed."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedall_spark import files
from embedall_spark.errors import AlreadyRunning

if TYPE_CHECKING:
    from embedall_spark.config import IfRunning

log = logging.getLogger(__name__)

SECONDS = 15.0
"""Between two signs of life."""
SILENCE = 60.0
"""A driver that has been silent for so many seconds is taken for dead."""
_POLL_SECONDS = 3.0


class Heartbeat:
    """Writes a small file into the run's folder again and again, from a thread, until it is stopped."""

    def __init__(self, folder: str, token: str) -> None:
        """``token`` is the driver's own, in the run's manifest."""
        self._file = _file(folder, token)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Give the first sign of life, and go on."""
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """End it and remove the file."""
        self._ended.set()
        self._thread.join(SECONDS)
        try:
            files.delete(self._file)
        except OSError as error:
            log.debug("the heartbeat could not be removed: %s", error)

    def _beat(self) -> None:
        while not self._ended.wait(SECONDS):
            try:
                self._write()
            except OSError as error:
                # The storage may answer the next one; who waits takes this driver for dead only after several.
                log.debug("the heartbeat could not be written: %s", error)

    def _write(self) -> None:
        process = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        files.write_bytes(self._file, json.dumps({**process, "time": time.time()}).encode())


def is_recent(folder: str, token: str) -> bool:
    """Return whether a run's last sign of life is younger than SILENCE; asks no more than once."""
    beat = _read(folder, token)
    return beat is not None and time.time() - beat["time"] < SILENCE


def driver(folder: str, token: str) -> str | None:
    """Return which process drives a run, None if none does.

    A process of this host is looked up. Of one on another host, the next sign of life is waited for, or that SILENCE
    has passed since the last one; clocks of hosts must not differ by more.
    """
    first = beat = _read(folder, token)
    while beat is not None and time.time() - beat["time"] < SILENCE:
        name = f"process {beat['pid']} on {beat['host']}"
        if beat["host"] == socket.gethostname() and beat["started"] is not None:
            return name if _started(beat["pid"]) == beat["started"] else None
        if beat != first:
            return name
        time.sleep(_POLL_SECONDS)
        beat = _read(folder, token)
    return None


def settle(folder: str, run_id: str, token: str, if_running: IfRunning) -> None:
    """Return once a run has no driver, or may be taken over from the one that it has.

    Raises:
        AlreadyRunning: it has one, and ``if_running`` is stop.
    """
    waiting = False
    while if_running != "replace" and (process := driver(folder, token)) is not None:
        if if_running == "stop":
            raise AlreadyRunning(
                f"run {run_id} is running already, in {process}; wait for its end, stop it, or set output.if_running: "
                "wait starts when it has ended, replace takes the run over"
            )
        if not waiting:
            log.info("run %s is running already, in %s; waiting for its end", run_id, process)
            waiting = True
        time.sleep(_POLL_SECONDS)
    # What a killed driver has left.
    files.delete(_file(folder, token))


def _file(folder: str, token: str) -> str:
    # A driver that was superseded may still write.
    return f"{folder}/heartbeat-{token}.json"


def _read(folder: str, token: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(files.read_bytes(_file(folder, token))))
    except (FileNotFoundError, ValueError):
        return None


def _started(pid: int) -> str | None:
    """Return when a process of this host was started, which tells it from others of its number; None if unknown."""
    try:
        # The command's name stands in brackets and may hold anything; field 22 is the time (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        return None
