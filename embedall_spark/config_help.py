"""Help texts of a configuration: its options with types, defaults and meanings, and a YAML file to start from."""

from __future__ import annotations

import typing

import yaml
from pydantic_core import PydanticUndefined

from embedall_spark.config import Section, section_type

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Option(typing.NamedTuple):
    """One leaf of a configuration, for help texts."""

    path: str
    kind: str
    default: str
    description: str


def options(cls: type[Section], prefix: str = "") -> Iterator[Option]:
    """Yield every leaf option of a configuration with its type, default and description."""
    annotations = typing.get_type_hints(cls)
    for name, field in cls.model_fields.items():
        annotation = annotations[name]
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from options(annotation, f"{prefix}{name}.")
            continue
        about, section = field.description or "", section_type(annotation)
        if section is not None:
            # It may be left out as a whole, so that its keys have defaults only where it is given.
            about += "; ".join(f" {part.path} ({part.default}): {part.description}" for part in options(section))
        required = field.default is PydanticUndefined and field.default_factory is None
        value = field.get_default(call_default_factory=True)
        # On one line, as it stands behind its key in a template.
        default = "required" if required else yaml.safe_dump(value, default_flow_style=True, width=1000)
        kind = getattr(annotation, "__name__", "") if isinstance(annotation, type) else ""
        kind = kind or str(annotation).replace("typing.", "").replace("NoneType", "None")
        yield Option(f"{prefix}{name}", kind, default.removesuffix("...\n").strip(), about)


def template(options: Iterable[Option]) -> str:
    """Return options as a YAML file to start from: every key with its default, and its meaning as a comment."""
    lines: list[str] = []
    previous: list[str] = []
    for option in options:
        *sections, name = option.path.split(".")
        for depth, section in enumerate(sections):
            if previous[: depth + 1] != sections[: depth + 1]:
                lines.append(f"{'  ' * depth}{section}:")
        previous = sections
        indent = "  " * len(sections)
        required = option.default == "required"
        value = "???  # required" if required else option.default
        lines += [f"{indent}# {option.description}", f"{indent}{name}: {value}"]
    return "\n".join(lines)
