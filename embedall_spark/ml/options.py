"""Params generated from the configuration models, so that names, defaults and descriptions have one source."""

from __future__ import annotations

import difflib
import types
import typing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from pydantic_core import PydanticUndefined
from pyspark.ml.param import Param, Params, TypeConverters

from embedall_spark.config import Section, parse, section_type
from embedall_spark.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    S = TypeVar("S", bound=Section)
    C = TypeVar("C", bound="type[HasOptions]")

_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: TypeConverters.toBoolean,
    int: TypeConverters.toInt,
    float: TypeConverters.toFloat,
    str: TypeConverters.toString,
}


class HasOptions(Params):
    """Params of a stage; those that params_of() adds have the names, defaults and descriptions of a configuration."""

    _sections: ClassVar[dict[type[Section], tuple[str, ...]]] = {}

    run_root: Param[str] = Param(
        Params._dummy(),
        "run_root",
        "folder for stages, checkpoints and models that are not saved, shared by all hosts; unset: that in the "
        "environment variable SPARKML_TEMP_DFS_PATH, or with a local master a temporary one",
        typeConverter=TypeConverters.toString,
    )

    def __init__(self) -> None:
        super().__init__()
        for section, names in self._sections.items():
            fields = section.model_fields
            self._setDefault(
                **{name: fields[name].default for name in names if fields[name].default is not PydanticUndefined}
            )

    def setParams(self, **params: Any) -> Self:
        """Set params by their names; None leaves a param as it is.

        Raises:
            TypeError: there is no such param, or a value is of a wrong type.
        """
        known = [param.name for param in self.params]
        for name in params:
            if name not in known:
                matches = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {matches[0]}?" if matches else f" (known: {', '.join(known)})"
                raise TypeError(f"{type(self).__name__} has no param {name!r}{hint}")
        self._set(**params)
        return self

    def required(self, name: str) -> Any:
        """Return the value of a param that has no default.

        Raises:
            ConfigError: it is not set.
        """
        if not self.isDefined(name) or self.getOrDefault(name) is None:
            raise ConfigError(
                f"{type(self).__name__}: {name} is not set; give {name}=... or call set{_camel(name)}(...)"
            )
        return self.getOrDefault(name)

    def optional(self, name: str) -> Any:
        """Return the value of a param; None where it has neither a value nor a default."""
        return self.getOrDefault(name) if self.isDefined(name) else None

    def section(self, cls: type[S], **values: Any) -> S:
        """Return a section of the configuration: the params of its fields that are set, and ``values``.

        Raises:
            ConfigError: a value is out of range, or options contradict each other.
        """
        names = [name for name in self._sections.get(cls, ()) if self.isSet(name)]
        given = {name: self.getOrDefault(name) for name in names} | values
        return parse(cls, {name: value for name, value in given.items() if value is not None})

    def sections(self, **classes: type[Section]) -> dict[str, Any]:
        """Return the options that are set, by the names of their sections, as a configuration takes them.

        Raises:
            ConfigError: a value is out of range, or options contradict each other.
        """
        return {name: self.section(cls).model_dump(exclude_unset=True) for name, cls in classes.items()}


def params_of(
    section: type[Section],
    exclude: Collection[str] = (),
    include: Collection[str] | None = None,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[C], C]:
    """Build a class decorator that adds a param, ``getName`` and ``setName`` for each simple field of a section.

    ``notes`` has what is to be added to the descriptions of single fields.
    """

    def add(cls: C) -> C:
        names = []
        for name, field in section.model_fields.items():
            if name in exclude or (include is not None and name not in include) or section_type(field.annotation):
                continue
            converter = _converter(field.annotation)
            if converter is None:
                continue
            names.append(name)
            doc = "; ".join(filter(None, (field.description, notes.get(name))))
            setattr(cls, name, Param(Params._dummy(), name, doc, typeConverter=converter))
            setattr(cls, f"get{_camel(name)}", _getter(name))
            setattr(cls, f"set{_camel(name)}", _setter(name))
        cls._sections = {**cls._sections, section: tuple(names)}
        return cls

    return add


def accessors(*names: str) -> Callable[[C], C]:
    """Build a class decorator that adds ``getName`` and ``setName`` for params that the class has."""

    def add(cls: C) -> C:
        for name in names:
            setattr(cls, f"get{_camel(name)}", _getter(name))
            setattr(cls, f"set{_camel(name)}", _setter(name))
        return cls

    return add


def text_param(name: str, doc: str) -> Param[str]:
    """Return a param whose value is text, such as the name of a column."""
    return Param(Params._dummy(), name, doc, typeConverter=TypeConverters.toString)


def _camel(name: str) -> str:
    """Return a param's name as it stands in getters and setters: MaxFinalVocab of max_final_vocab."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _getter(name: str) -> Callable[[HasOptions], Any]:
    def get(self: HasOptions) -> Any:
        return self.getOrDefault(name)

    get.__doc__ = f"Return the value of {name} or its default value."
    return get


def _setter(name: str) -> Callable[[HasOptions, Any], HasOptions]:
    def set_(self: HasOptions, value: Any) -> HasOptions:
        return self._set(**{name: value})

    set_.__doc__ = f"Set the value of {name}."
    return set_


def _converter(annotation: Any) -> Callable[[Any], Any] | None:
    """Return the converter of a field's values; None where the field is not simple."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Literal:
        annotation = type(typing.get_args(annotation)[0])
    return _CONVERTERS.get(annotation)
