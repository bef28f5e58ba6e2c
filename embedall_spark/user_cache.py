"""Our own folder on this machine that outlives a run: compiled kernels, Spark's logs, Ivy's downloads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def folder(name: str) -> Path | None:
    """Return a folder that only this user can write, or None where there is no safe place for one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~").expanduser() / ".cache"
    for parent in (Path(home, "embedall"), Path(tempfile.gettempdir(), f"embedall-{os.getuid()}")):
        try:
            (parent / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        # What is cached there gets executed: a folder that another user has put there is none of ours.
        if all(map(is_own, (parent, parent / name))) and os.access(parent / name, os.W_OK):
            return parent / name
    return None


def is_own(path: Path) -> bool:
    """Tell whether a file or folder, and the link that may lead to it, belongs to this user."""
    return path.lstat().st_uid == path.stat().st_uid == os.getuid()
