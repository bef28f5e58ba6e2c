"""Configuration: frozen pydantic models from YAML; an error names the key's path and what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from pydantic_core import PydanticUndefined

from embedall_spark import files
from embedall_spark.errors import ConfigError

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Section(BaseModel):
    """Base of every part of a configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Section)

# A run may go on with other values of such options: they do not change what it has made so far.
MOVABLE: JsonDict = {"movable": True}


class Output(Section):
    """Where the vectors of a run go, and where it keeps its work."""

    table: str = Field(description="table of vectors: a path or URI, or catalog.schema.table")
    mode: Literal["overwrite", "error", "append"] = Field(
        "overwrite",
        description="when the table exists: replace it in one commit, stop, or add to it",
        json_schema_extra=MOVABLE,
    )
    rejects: str | None = Field(
        None, description="table of refused rows; unset: the table's name with _rejects", json_schema_extra=MOVABLE
    )
    max_reject_share: float = Field(
        0.01, ge=0, le=1, description="stop where a larger share of the rows is refused", json_schema_extra=MOVABLE
    )
    run_root: str | None = Field(
        None,
        description="folder of the runs' stages and checkpoints, shared by all hosts; unset: .runs beside the table",
    )
    experiment: str | None = Field(
        None, description="MLflow experiment; unset: embedall/KIND", json_schema_extra=MOVABLE
    )

    @property
    def folder(self) -> str | None:
        """The folder that the table lies in; None where it is named in a catalog."""
        if not files.is_path(self.table):
            return None
        return self.table.rstrip("/").rpartition("/")[0] or ("/" if self.table.startswith("/") else ".")


class MergedOutput(Output):
    """Where vectors go of things that are embedded one by one, so that only what has changed need be."""

    mode: Literal["merge", "overwrite", "error", "append"] = Field(  # type: ignore[assignment]
        "merge",
        description="when the table exists: embed and write only what is new or has changed, replace it in one commit, "
        "stop, or add to it",
    )
    remove_vanished: bool = Field(
        False,
        description="with mode merge: delete rows whose thing is no longer in the input",
        json_schema_extra=MOVABLE,
    )

    @property
    def merges(self) -> bool:
        """Whether rows that have not changed stay as they are."""
        return self.mode == "merge"


class Option(typing.NamedTuple):
    """One leaf of a configuration, for help texts."""

    path: str
    kind: str
    default: str
    description: str


def load(cls: type[S], path: str | Path | None, overrides: Sequence[str] = ()) -> S:
    """Return the configuration in a YAML file with ``a.b=value`` overrides applied.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed; names each key's path.
    """
    data = _read(Path(path)) if path is not None else {}
    for override in overrides:
        _set(data, override)
    return parse(cls, data)


def parse(cls: type[S], data: dict[str, Any]) -> S:
    """Return ``data`` as a checked configuration.

    Raises:
        ConfigError: a key or value is not allowed.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, problem) for problem in error.errors())) from None


def options(cls: type[Section], prefix: str = "") -> Iterator[Option]:
    """Yield every leaf option of a configuration with its type, default and description."""
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from options(field.annotation, f"{prefix}{name}.")
            continue
        about, section = field.description or "", _section(field.annotation)
        if section is not None:
            # It may be left out as a whole, so that its keys have defaults only where it is given.
            about += "; ".join(f" {part.path} ({part.default}): {part.description}" for part in options(section))
        required = field.default is PydanticUndefined and field.default_factory is None
        value = field.get_default(call_default_factory=True)
        # On one line, as it stands behind its key in a template.
        default = "required" if required else yaml.safe_dump(value, default_flow_style=True, width=1000)
        kind = getattr(field.annotation, "__name__", "") if isinstance(field.annotation, type) else ""
        kind = kind or str(field.annotation).replace("typing.", "").replace("NoneType", "None")
        yield Option(f"{prefix}{name}", kind, default.removesuffix("...\n").strip(), about)


def dump(config: Section) -> str:
    """Return the whole configuration, defaults included, as YAML that load() reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def template(found: Iterable[Option]) -> str:
    """Return options as a YAML file to start from: every key with its default, and its meaning as a comment."""
    lines: list[str] = []
    before: list[str] = []
    for option in found:
        *sections, name = option.path.split(".")
        for depth, section in enumerate(sections):
            if before[: depth + 1] != sections[: depth + 1]:
                lines.append(f"{'  ' * depth}{section}:")
        before = sections
        indent = "  " * len(sections)
        required = option.default == "required"
        value = "???  # required" if required else option.default
        lines += [f"{indent}# {option.description}", f"{indent}{name}: {value}"]
    return "\n".join(lines)


def identity(config: Section, prefix: str = "") -> dict[str, Any]:
    """Return every option by its path, without those that a run may change when it goes on (``movable``)."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value, extra = getattr(config, name), field.json_schema_extra
        if isinstance(value, Section):
            found |= identity(value, f"{prefix}{name}.")
        elif not (isinstance(extra, dict) and extra.get("movable")):
            found[prefix + name] = value
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give --config an existing YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: need a mapping of keys to values, found {type(data).__name__}")
    return data


def _set(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: need a.b=value")
    *parents, leaf = path.split(".")
    for at, parent in enumerate(parents):
        # A section that the file leaves empty is null in YAML.
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {'.'.join(parents[: at + 1])} is a value, not a section")
    try:
        data[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        data[leaf] = text


def _section(annotation: Any) -> type[Section] | None:
    """Return the section that an annotation holds, also where it may be None."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _explain(cls: type[Section], problem: Any) -> str:
    keys = [str(part) for part in problem["loc"]]
    path = ".".join(keys) or "configuration"
    if problem["type"] == "extra_forbidden":
        known = _known(cls, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{path}: unknown key (known: {', '.join(known)}){hint}"
    if problem["type"] == "missing":
        return f"{path}: required, but not given; set it in a YAML file (--config FILE), or a key with --set a.b=VALUE"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}: found {problem['input']!r}: {message[:1].lower()}{message[1:]}"


def _known(cls: type[Section], keys: list[str]) -> list[str]:
    for key in keys:
        field = cls.model_fields.get(key)
        section = _section(field.annotation) if field else None
        if section is None:
            break
        cls = section
    return list(cls.model_fields)
