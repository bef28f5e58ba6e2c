"""Writes configuration.md, the reference of all options, from the configuration models."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import TYPE_CHECKING

from embedall_spark import config, config_help, kinds
from embedall_spark.images import train_backbone
from embedall_spark.publish.gates import Publication

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

FILE = Path(__file__).with_suffix(".md")
_HEAD = """# Configuration

Every option of every kind. This file is generated: `python docs/configuration.py` writes it.
[Operations](guide/operations.md#configuration-files) says where options are set. An option with the mark ↻ may have
another value when a run is resumed. *none* means that the option is not set.
"""


def render() -> str:
    """Return the reference as Markdown; a section that several kinds share is described once."""
    titles = {name: kinds.load(name).Config for name in sorted(kinds.names(), reverse=True)}
    titles |= {"train-backbone": train_backbone.Config, "publish": Publication}
    parts, described = [_HEAD], dict[type[config.Section], str]()
    for title, model in titles.items():
        parts.append(f"## {title}\n")
        if rows := "\n".join(table(model, without=dict(sections(model)))):
            parts.append(f"| Option | Default | Meaning |\n|---|---|---|\n{rows}\n")
        for name, section in sections(model):
            if section in described:
                kind = described[section]
                parts.append(f"### {title}: `{name}`\n\nAs in [{kind}](#{kind}-{name}).\n")
                continue
            described[section] = title
            rows = "\n".join(table(section, f"{name}."))
            parts.append(f"### {title}: `{name}`\n\n| Option | Default | Meaning |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def sections(model: type[config.Section]) -> Iterator[tuple[str, type[config.Section]]]:
    """Yield the name and the model of each section of a configuration."""
    for name, field in model.model_fields.items():
        found = [part for part in (field.annotation, *typing.get_args(field.annotation)) if isinstance(part, type)]
        yield from ((name, part) for part in found if issubclass(part, config.Section))


def table(model: type[config.Section], prefix: str = "", without: Container[str] = ()) -> Iterator[str]:
    """Yield a row for each option below a section, but for inner sections of some names."""
    options, inner = {option.path: option for option in config_help.options(model)}, dict(sections(model))
    for name, field in model.model_fields.items():
        if name in without:
            continue
        if name in inner and name not in options:
            yield from table(inner[name], f"{prefix}{name}.")
            continue
        option, extra = options[name], field.json_schema_extra
        mark = " ↻" if isinstance(extra, dict) and extra.get("movable") else ""
        default = {"null": "*none*", "required": "*required*"}.get(option.default, f"`{option.default}`")
        # What stands behind "Keys:" are the options of an inner section, which get rows of their own.
        meaning = (field.description or "").removesuffix(" Keys:").rstrip(".;")
        yield f"| `{prefix}{name}`{mark} | {default} | {meaning} |".replace("'|'", "'\\|'")
        if name in inner:
            yield from table(inner[name], f"{prefix}{name}.")


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
