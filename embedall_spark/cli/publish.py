"""The commands for tables that others read: publish, history, rollback, diff."""

from __future__ import annotations

import getpass

import typer

from embedall_spark import config as configs
from embedall_spark import files, publication, published_beside, session, table_versions
from embedall_spark.cli.shared import console, options, provenance, table_snapshot
from embedall_spark.errors import BadData, ConfigError, NeedsSpark
from embedall_spark.publish import comparison, procrustes
from embedall_spark.publish.drift import Drift
from embedall_spark.publish.gates import Publication

PUBLISHED = typer.Argument(help="Table that others read: a path or URI, or catalog.schema.table.", metavar="TABLE")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("publish")(_publish)
    app.command("history")(_history)
    app.command("rollback")(_rollback)
    app.command("diff")(_diff)


def _publish(
    candidate: str = typer.Argument(help="Table of vectors that a run has written.", metavar="CANDIDATE"),
    to: str = typer.Option(..., "--to", help="Table that others read; made if it does not exist.", metavar="TABLE"),
    config: str | None = typer.Option(None, "--config", help="YAML file with the sections gates and evaluate."),
    overrides: list[str] = typer.Option(
        [], "--set", help="A key of the YAML, such as gates.max_lost=0.2; may be repeated."
    ),
    new_space: bool = typer.Option(
        False, "--new-space", help="Do not rotate: what was computed from earlier versions is not comparable any more."
    ),
    again: bool = typer.Option(False, "--again", help="Publish a candidate also if it was published and rolled back."),
    master: str | None = options.MASTER,
) -> None:
    """Rotate a table onto the published one, measure both, and replace the published one or hold the new one back."""
    chosen = configs.load(Publication, config, overrides)
    publication.check(chosen, candidate, to)
    spark = session.get("embedall publish", master=master)
    result = publication.publish(spark, candidate, to, chosen, new_space=new_space, again=again)
    if result.repeated:
        typer.echo(f"{to}: version {result.version} is this candidate already; nothing to do")
        return
    if result.drift is not None:
        _show(result.drift, result.rotation)
    pictures = result.pictures(f"{candidate} beside the version before of {to}")
    provenance.log_to_producer(spark, candidate, result.metrics, pictures)
    typer.echo(f"{to}: version {result.version}")
    if result.drift is not None:
        typer.echo(f"{to}_drift: each id's cosine to its vector before")


def _history(table: str = PUBLISHED, n: int = options.K, master: str | None = options.MASTER) -> None:
    """List the versions of a table: when, by whom, from what, and how far it moved."""
    try:
        commits = table_versions.versions(None, table)
    except NeedsSpark:
        commits = table_versions.versions(session.get("embedall history", master=master), table)
    rows: list[tuple[str, ...]] = [("version", "when", "what", "by", "rows", "overlap", "lost")]
    for commit in commits[:n]:
        moved = [commit.get(f"publish/{name}") for name in ("overlap_10", "lost_share")]
        rows.append((
            str(commit["version"]), f"{commit['timestamp']:%Y-%m-%d %H:%M}", _what(commit),
            str(commit.get("user", "-")), "-" if commit["rows"] is None else f"{commit['rows']:,}",
            *("-" if value is None else f"{value:.3f}" for value in moved),
        ))  # fmt: skip
    console.table(rows)


def _what(commit: table_versions.Version) -> str:
    """Return what a commit did, in a few words."""
    if table_versions.RESTORED in commit:
        return f"rolled back to version {commit[table_versions.RESTORED]}"
    if "candidate" in commit:
        return f"published {commit['candidate']} version {commit['candidate_version']}"
    return str(commit.get("run_id", commit["operation"].lower()))


def _rollback(
    table: str = PUBLISHED,
    to: int = typer.Option(..., "--to", min=0, help="Version to go back to; embedall history shows them."),
    master: str | None = options.MASTER,
) -> None:
    """Make an earlier version of a table its latest one, and of the tables beside it."""
    spark = session.get("embedall rollback", master=master)
    version = published_beside.roll_back(spark, table, to, getpass.getuser())
    typer.echo(f"{table}: version {version} is version {to} again")


def _diff(
    before: str = typer.Argument(help="Table of vectors.", metavar="BEFORE"),
    after: str | None = typer.Argument(None, help="Another one; unset: the same, in another version.", metavar="AFTER"),
    before_version: int | None = typer.Option(
        None, "--before-version", min=0, help="Version of the first; unset: latest."
    ),
    after_version: int | None = typer.Option(
        None, "--after-version", min=0, help="Version of the second; unset: latest."
    ),
    picture: str | None = typer.Option(None, "--picture", help="Write the drift as a PNG to this file."),
    master: str | None = options.MASTER,
) -> None:
    """Compare two tables, or two versions of one, after the best rotation; of two seeds: the noise of a retrain."""
    if after is None and before_version == after_version:
        raise ConfigError("give two tables, or one table and --before-version N")
    spark = session.get("embedall diff", master=master)
    old = table_snapshot.read_vectors(spark, before, before_version)
    new = table_snapshot.read_vectors(spark, after or before, after_version)
    with comparison.compare(new, old) as change:
        _show(change.drift, change.rotation)
    if picture is not None:
        files.write_bytes(picture, publication.picture(change.drift, f"{after or before} beside {before}"))
        typer.echo(f"{picture}: a picture of the drift")


def _show(drift: Drift, rotation: procrustes.Rotation | None) -> None:
    """Print what readers will notice."""
    if not drift.shared:
        raise BadData("the tables share no id")
    low, middle, high = drift.quartiles
    rows = [
        ("ids", f"{drift.shared:,} shared, {drift.new:,} new, {drift.lost:,} lost ({drift.lost_share:.1%})"),
        ("cosine to the vector before", f"quartiles {low:.3f}, {middle:.3f}, {high:.3f}"),
        ("neighbors that stay, of 10", f"{drift.overlap:.3f} (standard error {drift.overlap_error:.3f})"),
        ("moved most", ", ".join(f"{name} {cosine:.2f}" for name, cosine in drift.moved)),
    ]
    if rotation is not None:
        rows.insert(1, ("rotation", f"fits {rotation.anchors:,} shared ids with a mean cosine of {rotation.fit:.3f}"))
    console.table([("what", "figure"), *rows])
