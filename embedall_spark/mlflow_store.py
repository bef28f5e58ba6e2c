"""A new SQLite store of MLflow, copied from an empty one: MLflow migrates each new store through its whole history."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from embedall_spark import credentials, user_cache

log = logging.getLogger(__name__)

_SCHEME = "sqlite:///"


def prepare(uri: str) -> None:
    """Put an empty store where the SQLite file of ``uri`` does not exist; MLflow makes it where that fails."""
    file = Path(uri.removeprefix(_SCHEME))
    if not uri.startswith(_SCHEME) or file.exists():
        return
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        template = _template()
        if template is None:
            return
        shutil.copyfile(template, part)
        _move_default_experiment(part, file.parent)
        # A link is refused where another run was faster; a rename would replace what it has recorded meanwhile.
        os.link(part, file)
    except FileExistsError:
        pass
    except (OSError, sqlite3.Error) as error:
        log.debug("the empty MLflow store could not be copied: %s", error)
    finally:
        part.unlink(missing_ok=True)


def _template() -> Path | None:
    """Return the file of an empty store of this MLflow, which the first call makes; None without a cache folder."""
    import mlflow

    folder = user_cache.folder("mlflow")
    if folder is None:
        return None
    template = folder / f"empty-{mlflow.__version__}.db"
    if not template.exists():
        part = folder / f"{uuid.uuid4().hex}.part"
        try:
            client: Any = mlflow.MlflowClient(tracking_uri=f"{_SCHEME}{part}")
            client.search_experiments(max_results=1)
            part.replace(template)
        finally:
            part.unlink(missing_ok=True)
    return template


def _move_default_experiment(store: Path, folder: Path) -> None:
    """Let the experiment that every store has put its files beside the store, not where the template was made."""
    with closing(sqlite3.connect(store)) as connection, connection:
        location = (folder / "mlruns" / "0").as_uri()
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", [location])


def without_password(uri: str) -> str:
    """Return the address of a store as it may be shown."""
    return credentials.mask(re.sub(r"://[^/@]*@", "://", uri))


def short(error: Exception) -> str:
    """Return an error of the store in one line, without a password."""
    return without_password(" ".join(str(error).split())[:300]) or type(error).__name__
