"""Configuration: frozen pydantic models from YAML; an error names the key's path and what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.config import JsonDict

from embedall_spark import credentials, files, filesystems
from embedall_spark.errors import ConfigError

if typing.TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


class Section(BaseModel):
    """Base of every part of a configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse credentials, and ``epochs: yes``, which YAML reads as a truth value and pydantic would take for 1."""
        assert info.field_name is not None
        values = value if isinstance(value, list) else [value]
        if any(isinstance(part, bool) for part in values) and not _allows_bool(cls, info.field_name):
            raise ValueError("yes, no, on, off, true and false are truth values in YAML, and this key takes none")
        for part in values:
            if isinstance(part, str) and (problem := credentials.problem(part)) is not None:
                raise ValueError(problem)
        return value


S = TypeVar("S", bound=Section)

# A resumed run may have other values of such options: they do not change what it has computed so far.
MOVABLE: JsonDict = {"movable": True}


def _absolute_table(name: str) -> str:
    table, version = files.table_and_version(name)
    return files.input_path(table) + ("" if version is None else f"@{version}")


InputPath = Annotated[str, AfterValidator(files.input_path)]
"""A path or glob that a run reads, made absolute, so that it is found again from another folder; a URI, or a table."""
TableVersion = Annotated[str, AfterValidator(_absolute_table)]
"""TABLE or TABLE@VERSION, a table that a run reads, as InputPath."""
OutputPath = Annotated[str, AfterValidator(files.expand_user)]
"""A path or URI that a run writes, ``~`` expanded; or a table."""


IfRunning = Literal["stop", "wait", "replace"]
"""What a second start of a run does while the first lives."""


class Output(Section):
    """Where the vectors of a run go, and where it keeps its work."""

    table: OutputPath = Field(description="table of vectors: a path or URI, or catalog.schema.table")
    mode: Literal["overwrite", "error", "append"] = Field(
        "overwrite",
        description="when the table exists: replace it in one commit, stop, or add to it",
        json_schema_extra=MOVABLE,
    )
    rejects: OutputPath | None = Field(
        None, description="table of refused rows; unset: the table's name with _rejects", json_schema_extra=MOVABLE
    )
    max_reject_share: float = Field(
        0.01, ge=0, le=1, description="stop where a larger share of the rows is refused", json_schema_extra=MOVABLE
    )
    if_running: IfRunning = Field(
        "stop",
        description="when another process works on the same run: stop with an error, wait for its end, or take the run "
        "over, so that the other stops",
        json_schema_extra=MOVABLE,
    )
    publish: OutputPath | None = Field(
        None,
        description="table that others read, to which the run's is published as by embedall publish; unset: none",
        json_schema_extra=MOVABLE,
    )
    publish_config: InputPath | None = Field(
        None,
        description="YAML file for output.publish, as for embedall publish --config; unset: the defaults",
        json_schema_extra=MOVABLE,
    )
    map: bool = Field(
        False,
        description="also write the place of every id on a map to the table's name with _map, where explore and export "
        "find it: t-SNE of the 3,000 most frequent ids, the others near those that they are nearest to",
        json_schema_extra=MOVABLE,
    )
    run_root: OutputPath | None = Field(
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
    """Where vectors go if each thing is embedded by itself, so that a rerun embeds only what is new or has changed."""

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
        """Whether unchanged rows of the table are kept as they are."""
        return self.mode == "merge"


def load(cls: type[S], path: str | Path | None, overrides: Sequence[str] = ()) -> S:
    """Return the configuration in a YAML file with ``a.b=value`` overrides applied.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not allowed; names each key's path.
    """
    return parse(cls, read(path, overrides))


def read(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the mapping in a YAML file with ``a.b=value`` overrides applied, unchecked.

    Raises:
        ConfigError: the file cannot be read.
    """
    data = _read(str(path)) if path is not None else {}
    for override in overrides:
        _set(data, override)
    return data


def parse(cls: type[S], data: dict[str, Any]) -> S:
    """Return ``data`` as a checked configuration.

    Raises:
        ConfigError: a key or value is not allowed.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, problem) for problem in error.errors())) from None


def paths(config: Section, kind: Any, prefix: str = "") -> dict[str, str]:
    """Return the values of all fields of a kind of path (InputPath or OutputPath) that are set, by the key's path."""
    values: dict[str, str] = {}
    for name, annotation in typing.get_type_hints(type(config), include_extras=True).items():
        value, key = getattr(config, name, None), f"{prefix}{name}"
        if isinstance(value, Section):
            values |= paths(value, kind, f"{key}.")
        elif annotation is kind or kind in typing.get_args(annotation):
            values |= {key: value} if isinstance(value, str) else {f"{key}.{i}": v for i, v in enumerate(value or ())}
    return values


def dump(config: Section) -> str:
    """Return the whole configuration, defaults included, as YAML that load() reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def identity(config: Section, prefix: str = "") -> dict[str, Any]:
    """Return every option by its path, except those that may change when a run is resumed (``movable``)."""
    values: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value, extra = getattr(config, name), field.json_schema_extra
        if isinstance(value, Section):
            values |= identity(value, f"{prefix}{name}.")
        elif not (isinstance(extra, dict) and extra.get("movable")):
            values[prefix + name] = value
    return values


def _read(path: str) -> dict[str, Any]:
    local = filesystems.local_path(path)
    try:
        content = files.read_bytes(path) if local is None else Path(local).read_bytes()
        data = yaml.load(content.decode("utf-8-sig"), _Loader)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror or error}); give --config an existing YAML file"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: need a mapping of keys to values, found {type(data).__name__}")
    return data


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice in a section is an error: YAML's own readers let the second one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise ConfigError(
                        f"the key {key.value} stands twice, in lines {lines[key.value]} and {line}; join them into one"
                    )
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def _set(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: need a.b=value")
    *parents, leaf = path.split(".")
    for depth, parent in enumerate(parents, 1):
        # A section that the file leaves empty is null in YAML.
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {'.'.join(parents[:depth])} is a value, not a section")
    try:
        data[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        if text.startswith(("[", "{")):
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"--set {override}: not YAML ({reason}); quote text for YAML: '{path}=\"{text}\"'"
            ) from None
        data[leaf] = text
    if data[leaf] is None and text.startswith("#"):
        raise ConfigError(f"--set {override}: # begins a comment in YAML; quote the text for YAML: '{path}=\"{text}\"'")


def _allows_bool(cls: type[Section], name: str) -> bool:
    """Tell whether a field's type has a place for a truth value, or for anything."""
    todo = [cls.model_fields[name].annotation]
    while todo:
        kind = todo.pop()
        if kind in (bool, Any, str) or typing.get_origin(kind) is Literal:
            return True  # pydantic itself refuses a truth value for text, and names the value
        todo += typing.get_args(kind)
    return False


def section_type(annotation: Any) -> type[Section] | None:
    """Return the Section class that an annotation names, alone or in a union with None; None if it names none."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _explain(cls: type[Section], problem: Any) -> str:
    keys = [str(part) for part in problem["loc"]]
    path = ".".join(keys) or "configuration"
    if problem["type"] == "extra_forbidden":
        known_keys = _keys(cls, keys[:-1])
        matches = difflib.get_close_matches(keys[-1], known_keys, n=1)
        hint = f"; did you mean {matches[0]}?" if matches else ""
        return f"{path}: unknown key (known: {', '.join(known_keys)}){hint}"
    if problem["type"] == "missing":
        return f"{path}: required, but not given; set it in a YAML file (--config FILE), or a key with --set a.b=VALUE"
    message = str(problem["msg"]).removeprefix("Value error, ")
    # YAML reads [a-z] as a list and #tag as a comment.
    hint = "; put text that YAML would read otherwise into quotes" if problem["type"] == "string_type" else ""
    return f"{path}: found {credentials.mask(repr(problem['input']))}: {message[:1].lower()}{message[1:]}{hint}"


def _keys(cls: type[Section], keys: list[str]) -> list[str]:
    for key in keys:
        field = cls.model_fields.get(key)
        section = section_type(field.annotation) if field else None
        if section is None:
            break
        cls = section
    return list(cls.model_fields)
