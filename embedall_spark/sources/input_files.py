"""The files that an input's path names: which are read, and which are left out and why. Uses no Spark."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.fs as pafs

from embedall_spark import files
from embedall_spark.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WILDCARD = re.compile(r"[*?\[{]")
BOOKKEEPING = "bookkeeping of Spark or Delta"
"""The reason for which nobody misses a file."""
_BOOKKEEPING = re.compile(
    r"\..+\.crc|_SUCCESS|_metadata|_common_metadata|_delta_log|_spark_metadata|_temporary|_(committed|started)_.+"
)

_AGAIN = "a link to what is read already"


class InputFile(NamedTuple):
    """A file that is read."""

    path: str
    """Absolute path or URI."""
    size: int
    """In bytes."""
    modified: int
    """Nanoseconds since 1970."""


class LeftOut(NamedTuple):
    """A file or folder that is not read."""

    path: str
    reason: str


def walk(path: str, names: re.Pattern[str] | None = None) -> Iterator[InputFile | LeftOut]:
    """Yield the files that a path names, folders searched to any depth, each file once.

    Left out, with a reason: names that begin with a dot, bookkeeping files of Spark and Delta, names that are not
    UTF-8, what may not be read, links to nothing, and links to what is read already.

    Args:
        path: a file, a folder, or a glob with Hadoop's wildcards; a path that is there is taken as it is written.
        names: what files' names must match in full; others count as not there.

    Raises:
        BadData: there is nothing at the path.
    """
    path = absolute(path).rstrip("/") or "/"
    root = folder_of(path)
    filesystem, base = files.resolve(root)
    if filesystem.get_file_info(base).type == pafs.FileType.NotFound:
        raise BadData(f"{path}: no such file or folder; correct the input's path")
    pattern = None if root == path else pattern_of(path)

    def matches(below: str) -> bool:
        name = (below or base).rpartition("/")[2]
        fits = names is None or names.fullmatch(name) is not None
        return fits and (pattern is None or pattern.fullmatch(f"{root.rstrip('/')}{below}") is not None)

    local = isinstance(filesystem, pafs.LocalFileSystem)
    for entry in _walk_local(base, matches) if local else _walk_remote(filesystem, base):
        below = entry.path.removeprefix(base.rstrip("/"))
        if matches(below) or (isinstance(entry, LeftOut) and pattern is None):
            yield entry if local else entry._replace(path=f"{root}{below}")


def list_files(path: str) -> list[InputFile]:
    """Return the files that a path names.

    Raises:
        BadData: there is none with anything in it; says what was left out.
    """
    entries = list(walk(path))
    if not entries:
        raise BadData(f"{path}: no such file, or a folder without files; correct the input's path")
    listed = [entry for entry in entries if isinstance(entry, InputFile)]
    if not any(file.size for file in listed):
        reasons = Counter(entry.reason for entry in entries if isinstance(entry, LeftOut))
        counts = ([f"{len(listed)} of 0 bytes"] if listed else []) + [f"{n}: {reason}" for reason, n in reasons.items()]
        raise BadData(f"{path}: need at least one file with content, found none ({'; '.join(counts)})")
    return listed


def ending_in(suffixes: list[str]) -> re.Pattern[str]:
    """Return what matches file names that end in one of some suffixes, in any case."""
    return re.compile(rf"(?is).*\.({'|'.join(re.escape(suffix.lstrip('.')) for suffix in suffixes)})")


def absolute(path: str) -> str:
    """Return a path from the root of the tree; a URI as it is, but for one of a local file."""
    if path.startswith("file:"):
        return files.resolve(path)[1]
    # The driver's own folder is what a relative path means, wherever Spark's JVM was started.
    return path if not files.is_local(path) or path.startswith("dbfs:") else os.path.abspath(path)


def folder_of(path: str) -> str:
    """Return the last folder before a glob's first wildcard; other paths are returned as they are."""
    wildcard = _WILDCARD.search(path)
    if wildcard is None or (files.is_local(path) and files.exists(path)):
        return path
    return path[: wildcard.start()].rpartition("/")[0] or "/"


def pattern_of(glob: str) -> re.Pattern[str]:
    """Return what matches the paths that one of Hadoop's globs names, and all that lies below them."""
    pieces = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
    text, depth = "", 0
    for part in re.findall(r"\\.|\[[^\]]+\]|.", glob, re.DOTALL):
        depth += (part == "{") - (part == "}")
        if part.startswith("[") and len(part) > 1:
            text += "[" + re.sub(r"^[!^]", "^", part[1:-1]).replace("\\", r"\\") + "]"
        elif part == "," and depth > 0:
            text += "|"
        else:
            text += pieces.get(part) or re.escape(part[-1])
    return re.compile(text + "(?:/.*)?", re.DOTALL)


def _excluded(name: str) -> str | None:
    """Return why a file or folder of this name is not read, None where it is."""
    if _BOOKKEEPING.fullmatch(name):
        return BOOKKEEPING
    if name.startswith("."):
        return "the name begins with a dot"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    return None


def _walk_local(base: str, matches: Callable[[str], bool]) -> Iterator[InputFile | LeftOut]:
    """Yield what is below a local folder; links are followed unless what they lead to is read by itself."""
    if os.path.isfile(base):
        yield _local_file(base)
        return
    root = os.path.realpath(base).rstrip("/")
    # By their real paths: the root, what links lead to, and the folders below it.
    visited = {root}
    linked: dict[str, str] = {}
    pending = [(base.rstrip("/"), root)]
    while pending:
        folder, real = pending.pop()
        if not os.access(folder or "/", os.R_OK | os.X_OK):
            yield LeftOut(folder, "no permission to read it")
            continue
        for entry in sorted(os.scandir(folder or "/"), key=lambda entry: entry.name):
            target = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
            if reason := _excluded(entry.name) or _problem(entry, target, root, visited, matches):
                yield LeftOut(os.fsencode(entry.path).decode("utf-8", "replace"), reason)
                continue
            if entry.is_symlink() or (os.path.isdir(target) and not target.startswith(f"{root}/")):
                visited.add(target)
            if os.path.isdir(target):
                pending.append((entry.path, target))
            elif entry.is_symlink():
                linked[target] = entry.path
            else:
                yield _local_file(entry.path)
    # A folder may have been linked after a file in it.
    for target, path in linked.items():
        yield LeftOut(path, _AGAIN) if _is_walked(target, root, visited, matches) else _local_file(path)


def _problem(
    entry: os.DirEntry[str], target: str, root: str, visited: set[str], matches: Callable[[str], bool]
) -> str | None:
    """Return why an entry whose real path is ``target`` is not read, None where it is."""
    if not entry.is_symlink():
        if os.path.isdir(target):
            return _AGAIN if target in visited else None
        return None if os.path.isfile(target) else "neither a file nor a folder"
    if not os.path.exists(target):
        return "a link to nothing"
    is_above = f"{root}/".startswith(f"{target.rstrip('/')}/")
    return _AGAIN if is_above or target in visited or _is_walked(target, root, visited, matches) else None


def _is_walked(target: str, root: str, visited: set[str], matches: Callable[[str], bool]) -> bool:
    """Tell whether a real path is met on the walk over some folders."""
    if os.path.isfile(target) and not matches(target.removeprefix(root)):
        return False
    parent, name = os.path.split(target)
    while name and not _excluded(name):
        if parent in visited:
            return True
        parent, name = os.path.split(parent)
    return False


def _walk_remote(filesystem: pafs.FileSystem, base: str) -> Iterator[InputFile | LeftOut]:
    root = filesystem.get_file_info(base)
    if root.is_file:
        yield InputFile(base, root.size, root.mtime_ns or 0)
    pending = [] if root.is_file else [base]
    while pending:
        entries = filesystem.get_file_info(pafs.FileSelector(pending.pop()))
        for entry in sorted(entries, key=lambda entry: entry.path):
            if reason := _excluded(entry.base_name):
                yield LeftOut(entry.path, reason)
            elif entry.is_file:
                yield InputFile(entry.path, entry.size, entry.mtime_ns or 0)
            else:
                pending.append(entry.path)


def _local_file(path: str) -> InputFile:
    status = os.stat(path)
    return InputFile(path, status.st_size, status.st_mtime_ns)
