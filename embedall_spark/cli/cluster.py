"""The command that clusters a table of vectors."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import typer
from pyspark.sql import functions as F

from embedall_spark import config as configs
from embedall_spark import files, schemas, tables
from embedall_spark.cli.shared import console, options, provenance, table_snapshot
from embedall_spark.errors import ConfigError
from embedall_spark.search import title_lookup
from embedall_spark.sources import metadata
from embedall_spark.sources.metadata import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import DataFrame, SparkSession


_MOST_SHOWN = 10_000  # members of all clusters together


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("cluster")(_cluster)


def _cluster(
    table: str = options.TABLE,
    k: int = typer.Option(..., "-k", min=2, help="How many clusters."),
    output: str | None = typer.Option(
        None, "--output", help="Table to replace by id, cluster and distance.", metavar="TABLE"
    ),
    n: int = typer.Option(10, "-n", min=1, max=1000, help="How many members of each to show, nearest first."),
    seed: int = typer.Option(1, "--seed", help="Of the clusters' starts."),
    names: str | None = typer.Option(
        None,
        "--names",
        help="File (.csv, .tsv, .json, .parquet) or table of titles and labels; unset: the table's name with "
        "_metadata, where that is a table.",
        metavar="TABLE_OR_FILE",
    ),
    id_column: str = options.ID_COLUMN,
    title: str | None = typer.Option(None, "--title-column", help="With --names: the column of titles; unset: title."),
    label: str | None = typer.Option(
        None, "--label-column", help="With --names: the column of labels, to tell purity and NMI."
    ),
    montage: str | None = typer.Option(None, "--montage", help="Write the members' pictures as a PNG to this file."),
    images: str | None = typer.Option(
        None, "--images", help="With --montage: the folder of the pictures; unset: where the table's run had them from."
    ),
    pattern: str = typer.Option("{id}", "--image-pattern", help="With --images: path below it, such as {id}.jpg."),
    master: str | None = options.MASTER,
) -> None:
    """Cluster a table by k-means over its unit vectors; show each cluster's size and the members at its centre."""
    if k * n > _MOST_SHOWN:
        raise ConfigError(f"-k {k} -n {n}: at most {_MOST_SHOWN:,} members are shown; ask for fewer of each (-n)")
    if images is not None and montage is None:
        raise ConfigError("--images: pictures are shown with --montage FILE")
    if "{id}" not in pattern:
        raise ConfigError(f"--image-pattern {pattern}: need {{id}} in it, such as {{id}}.jpg")
    known = _known(names, id_column, title, label)
    # Imported here: what pyspark.ml and pictures need takes a second, which other commands need not wait.
    from embedall_spark.cluster import cluster_montage, kmeans, label_agreement

    spark, vectors = table_snapshot.open_table(table, master)
    run_id = f"cluster-{uuid.uuid4().hex[:12]}"
    if output is not None:
        tables.check_writable(spark, output, schemas.CLUSTERS, "overwrite", run_id, 0, None)
    pictures = provenance.pictures(spark, table, images, pattern) if montage is not None else None
    about = _about(spark, table, known)
    found = kmeans.fit(vectors, k, seed).persist()
    if output is not None:
        version = _write(spark, found, output, run_id, {"table": table, "k": k, "seed": seed})
    figures = label_agreement.purity_nmi(found, about) if about is not None else {}
    nearest = kmeans.nearest(found, n).orderBy("cluster", "rank").collect()
    sizes = {row["cluster"]: row["count"] for row in found.groupBy("cluster").count().collect()}
    called = title_lookup.titles_by_id(about, [row["id"] for row in nearest]) if about is not None else {}
    members = {at: [row["id"] for row in nearest if row["cluster"] == at] for at in sorted(sizes)}
    rows = [(f"{at}", f"{sizes[at]:,}", ", ".join(called.get(name, name) for name in members[at])) for at in members]
    console.table([("cluster", "ids", "nearest to its centre"), *rows])
    if figures:
        typer.echo(", ".join(f"{name.rpartition('/')[2]} {value:.4f}" for name, value in figures.items()))
    drawn = {}
    if montage is not None and pictures is not None:
        drawn = {f"clusters_{k}.png": cluster_montage.draw(members, sizes, *pictures, called)}
        files.write_bytes(montage, drawn[f"clusters_{k}.png"])
        typer.echo(f"{montage}: a montage of {console.count(len(nearest), 'member')}")
    if output is not None:
        typer.echo(f"{output}: version {version}, {console.count(sum(sizes.values()), 'row')}")
    if figures or drawn:
        renamed = {name.replace("clusters/", f"clusters_{k}/"): value for name, value in figures.items()}
        provenance.log_to_producer(spark, table, renamed, drawn)


def _known(names: str | None, id_column: str, title: str | None, label: str | None) -> Names | None:
    """Return where titles and labels are, checked before Spark starts."""
    if names is None:
        return None
    shown_as = title if title or label else "title"
    known = configs.parse(Names, {"path": names, "id": id_column, "label": label, "title": shown_as})
    metadata.check(known)
    return known


def _about(spark: SparkSession, table: str, known: Names | None) -> DataFrame | None:
    """Return id, label and title, as asked for or as a run has left them beside its table."""
    if known is not None:
        return metadata.read(spark, known)
    beside = provenance.metadata(spark, table)
    return None if beside is None else tables.read(spark, beside).select("id", "label", "title")


def _write(spark: SparkSession, found: DataFrame, output: str, run_id: str, facts: Mapping[str, object]) -> int:
    return tables.write(
        spark,
        found.withColumn("run_id", F.lit(run_id)),
        output,
        schemas.CLUSTERS,
        mode="overwrite",
        run_id=run_id,
        comment=f"Clusters of {facts['table']}",
        metadata={"kind": "clusters", **facts},
    )
