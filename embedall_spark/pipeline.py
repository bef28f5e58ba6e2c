"""A pipeline: several runs, and what is done with their tables, from one YAML file. Uses no Spark."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from embedall_spark import config as configs
from embedall_spark import kinds
from embedall_spark.config import InputPath, OutputPath, Section
from embedall_spark.errors import ConfigError
from embedall_spark.publish.gates import Publication
from embedall_spark.sources.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Summary = dict[str, Any]

PUBLISH, EVALUATE = "publish", "evaluate"
FAILED, NOT_RUN, STOPPED = "failed", "not run", "stopped"
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class PublishStep(Publication):
    """A step that publishes a table, as ``embedall publish`` does."""

    candidate: OutputPath = Field(description="table to publish")
    to: OutputPath = Field(description="table that others read; made if it does not exist")
    new_space: bool = Field(False, description="do not rotate")


class EvaluateStep(Section):
    """A step that measures a table, as ``embedall evaluate`` does."""

    table: OutputPath = Field(description="table of vectors")
    analogies: InputPath | None = Field(None, description="file in questions-words format")
    similarity: list[InputPath] = Field([], description="files of word pairs with human scores")
    restrict_vocab: int = Field(300_000, ge=1, description="analogies: only the so many most frequent ids")
    labels: Metadata | None = Field(None, description="where labels of the ids are. Keys:")
    floors: dict[str, float] = Field({}, description="least values of figures by name; below, the step fails")
    run_root: OutputPath | None = Field(
        None, description="folder that keeps what was measured; unset: .runs beside the table"
    )


class _File(Section):
    parameters: dict[str, str | int | float] = Field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = Field(min_length=1)


class Step(NamedTuple):
    """One step of a pipeline."""

    name: str
    run: str
    """A kind, publish or evaluate."""
    config: Any
    """Configuration of the kind, or PublishStep, or EvaluateStep."""
    table: str
    """The table that the step writes or measures: what ``${NAME}`` stands for in later steps."""
    depends_on: tuple[str, ...]
    """Names of earlier steps."""


def load(path: str, overrides: Sequence[str] = ()) -> list[Step]:
    """Return the steps of a pipeline file in their order, each with its checked configuration.

    A step has ``run``, maybe ``config`` (a YAML file of its kind) and ``depends_on``, and beside them the keys of its
    kind, which win over the file's. ``${NAME}`` is replaced by the parameter of that name, or by the table of an
    earlier step, and is a dependency, too.

    Args:
        path: the YAML file.
        overrides: ``parameters.NAME=VALUE`` or ``steps.NAME.KEY=VALUE``, as of ``--set``.

    Raises:
        ConfigError: a key or value is not allowed, or a step refers to none that stands before it.
    """
    data = configs.parse(_File, configs.read(path, overrides))
    if both := data.parameters.keys() & data.steps.keys():
        raise ConfigError(f"{path}: {min(both)} is the name of a parameter and of a step; rename one")
    steps: dict[str, Step] = {}
    for name, keys in data.steps.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"steps.{name}: a step's name has letters, digits, _ and - only; rename it")
        try:
            steps[name] = _step(name, keys, steps, data.parameters)
        except ConfigError as error:
            lines = str(error).splitlines()
            raise ConfigError("\n".join(f"{path}: steps.{name}.{line}" for line in lines)) from None
    return list(steps.values())


def select(steps: Iterable[Step], name: str | None) -> list[Step]:
    """Return all steps, or the one of a name; raises ConfigError if there is none."""
    chosen = [step for step in steps if name in (None, step.name)]
    if not chosen:
        raise ConfigError(f"--step {name}: no such step (steps: {', '.join(step.name for step in steps)})")
    return chosen


def published_as(step: Step, steps: Iterable[Step]) -> str | None:
    """Return the table to which one of the steps publishes a step's table; None if none does."""
    publications = [other.config for other in steps if isinstance(other.config, PublishStep)]
    return next((other.to for other in publications if other.candidate == step.table), None)


def run(
    steps: Iterable[Step],
    work: Callable[[Step, bool], Summary],
    explain: Callable[[BaseException], int],
) -> tuple[dict[str, Summary], int]:
    """Do steps in their order; return a summary for each, and the exit code of the first that failed, else 0.

    A step that depends on one that failed is not run; the others are. A signal ends the pipeline.

    Args:
        steps: the steps.
        work: does a step and returns its summary. The second argument says whether a step that it depends on has
            done, or in a dry run would do, something.
        explain: logs an error and returns its exit code.
    """
    results: dict[str, Summary] = {}
    code = 0
    stopped = False
    for step in steps:
        before = {name: results[name]["status"] for name in step.depends_on if name in results}
        failed = next((name for name, status in before.items() if status in (FAILED, NOT_RUN, STOPPED)), None)
        if stopped or failed is not None:
            reason = "the pipeline was stopped" if stopped else f"{failed}: {before[str(failed)]}"
            results[step.name] = {"status": NOT_RUN, "message": reason}
            continue
        try:
            results[step.name] = work(step, any(status != "unchanged" for status in before.values()))
        except (Exception, KeyboardInterrupt) as error:
            stopped = isinstance(error, KeyboardInterrupt)
            code = code or explain(error)
            status = STOPPED if stopped else FAILED
            results[step.name] = {"status": status, "error": type(error).__name__, "message": str(error)[:2000]}
    return results, code


def _step(name: str, keys: dict[str, Any], earlier: dict[str, Step], parameters: dict[str, Any]) -> Step:
    """Return a step from its keys in the file."""
    keys = dict(keys)
    action, after, file = keys.pop("run", None), keys.pop("depends_on", None) or [], keys.pop("config", None)
    models: dict[str, type[Section]] = {PUBLISH: PublishStep, EVALUATE: EvaluateStep}
    if action not in (*kinds.names(), *models):
        raise ConfigError(f"run: found {action!r}, need one of {', '.join([*kinds.names(), *models])}")
    if not isinstance(after, list) or any(not isinstance(other, str) for other in after):
        raise ConfigError(f"depends_on: found {after!r}, need a list of steps' names")
    if file is not None:
        keys = _merged(configs.read(_replaced(file, parameters)), keys)
    used: list[str] = [_earlier(other, earlier).name for other in after]
    resolved = _resolved(_replaced(keys, parameters), earlier, used)
    module = None if action in models else kinds.load(action)
    config: Any = configs.parse(module.Config if module is not None else models[action], resolved)
    if module is not None and not used:
        # Others are checked when it is their turn: they may read what an earlier step writes.
        module.check(config)
    if module is not None:
        table = config.output.table
    else:
        table = config.to if isinstance(config, PublishStep) else config.table
    return Step(name, action, config, table, tuple(dict.fromkeys(used)))


def _replaced(value: Any, parameters: dict[str, Any]) -> Any:
    """Return a value of the file with each ``${NAME}`` replaced that is a parameter; one alone keeps its type."""
    if isinstance(value, dict):
        return {key: _replaced(part, parameters) for key, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, parameters) for part in value]
    if not isinstance(value, str):
        return value
    alone = _REFERENCE.fullmatch(value)
    if alone is not None and alone[1] in parameters:
        return parameters[alone[1]]
    return _REFERENCE.sub(lambda reference: str(parameters.get(reference[1], reference[0])), value)


def _resolved(value: Any, earlier: dict[str, Step], used: list[str]) -> Any:
    """Return a value of the file with each ``${NAME}`` replaced by that step's table; append the names to ``used``."""
    if isinstance(value, dict):
        return {key: _resolved(part, earlier, used) for key, part in value.items()}
    if isinstance(value, list):
        return [_resolved(part, earlier, used) for part in value]
    if not isinstance(value, str):
        return value

    def table(reference: re.Match[str]) -> str:
        step = _earlier(reference[1], earlier)
        used.append(step.name)
        return step.table

    return _REFERENCE.sub(table, value)


def _earlier(name: str, earlier: dict[str, Step]) -> Step:
    if name not in earlier:
        matches = difflib.get_close_matches(name, earlier, n=1)
        hint = f"; did you mean {matches[0]}?" if matches else ""
        stands = ", ".join(earlier) or "none"
        raise ConfigError(f"refers to {name!r}, which is no step before this one (before it: {stands}){hint}")
    return earlier[name]


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return two configurations as one; values of the second one win."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
