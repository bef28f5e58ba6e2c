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
from embedall_spark.sources import metadata as metadata_source
from embedall_spark.sources.metadata import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import DataFrame, SparkSession


_MAX_SHOWN = 10_000  # members of all clusters together


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
    seed: int = typer.Option(1, "--seed", help="Random seed of the initial centers."),
    names: str | None = options.NAMES,
    id_column: str = options.ID_COLUMN,
    title: str | None = options.TITLE_COLUMN,
    label: str | None = typer.Option(
        None, "--label-column", help="With --names: the column of labels, to compute purity and NMI."
    ),
    montage: str | None = typer.Option(None, "--montage", help="Write the members' pictures as a PNG to this file."),
    images: str | None = typer.Option(
        None, "--images", help="With --montage: the folder of the pictures; unset: where the table's run read them."
    ),
    pattern: str = typer.Option("{id}", "--image-pattern", help="With --images: path below it, such as {id}.jpg."),
    master: str | None = options.MASTER,
) -> None:
    """Cluster a table by k-means over its unit vectors; show each cluster's size and the members at its center."""
    if k * n > _MAX_SHOWN:
        raise ConfigError(f"-k {k} -n {n}: at most {_MAX_SHOWN:,} members can be shown; lower -n")
    if images is not None and montage is None:
        raise ConfigError("--images: pictures are shown with --montage FILE; give that too")
    if "{id}" not in pattern:
        raise ConfigError(f"--image-pattern {pattern}: need {{id}} in it, such as {{id}}.jpg")
    metadata_config = _metadata_config(names, id_column, title, label)
    # Imported here: pyspark.ml and the libraries of pictures take a second, which other commands need not wait.
    from embedall_spark.cluster import cluster_montage, kmeans, label_agreement

    spark, vectors = table_snapshot.open_table(table, master)
    run_id = f"cluster-{uuid.uuid4().hex[:12]}"
    if output is not None:
        tables.check_writable(spark, output, schemas.CLUSTERS, "overwrite", run_id, 0, None)
    pictures = provenance.pictures(spark, table, images, pattern) if montage is not None else None
    metadata = _metadata(spark, table, metadata_config)
    assignments = kmeans.fit(vectors, k, seed).persist()
    if output is not None:
        version = _write(spark, assignments, output, run_id, {"table": table, "k": k, "seed": seed})
    figures = label_agreement.purity_nmi(assignments, metadata) if metadata is not None else {}
    nearest = kmeans.nearest(assignments, n).orderBy("cluster", "rank").collect()
    sizes = {row["cluster"]: row["count"] for row in assignments.groupBy("cluster").count().collect()}
    titles = _titles(metadata, [row["id"] for row in nearest])
    members = {cluster: [row["id"] for row in nearest if row["cluster"] == cluster] for cluster in sorted(sizes)}
    rows = [
        (f"{cluster}", f"{sizes[cluster]:,}", ", ".join(_name(name, titles) for name in ids))
        for cluster, ids in members.items()
    ]
    console.table([("cluster", "ids", "nearest to its center"), *rows])
    if figures:
        typer.echo(", ".join(f"{name.rpartition('/')[2]} {value:.4f}" for name, value in figures.items()))
    plots = {}
    if montage is not None and pictures is not None:
        plots = {f"clusters_{k}.png": cluster_montage.draw(members, sizes, *pictures, titles)}
        files.write_bytes(montage, plots[f"clusters_{k}.png"])
        typer.echo(f"{montage}: a montage of {console.count(len(nearest), 'member')}")
    if output is not None:
        typer.echo(f"{output}: version {version}, {console.count(sum(sizes.values()), 'row')}")
    if figures or plots:
        renamed = {name.replace("clusters/", f"clusters_{k}/"): value for name, value in figures.items()}
        provenance.log_to_producer(spark, table, renamed, plots)


def _metadata_config(names: str | None, id_column: str, title: str | None, label: str | None) -> Names | None:
    """Return where titles and labels are, checked before Spark starts."""
    if names is None:
        return None
    title_column = title if title or label else "title"
    config = configs.parse(Names, {"path": names, "id": id_column, "label": label, "title": title_column})
    metadata_source.check(config)
    return config


def _metadata(spark: SparkSession, table: str, config: Names | None) -> DataFrame | None:
    """Return id, label and title, from --names or from the table that a run wrote beside its own."""
    if config is not None:
        return metadata_source.read(spark, config)
    name = provenance.metadata(spark, table)
    return None if name is None else tables.read(spark, name).select("id", "label", "title")


def _titles(metadata: DataFrame | None, ids: list[str]) -> dict[str, str]:
    """Return the titles of those ids that have one."""
    values = metadata_source.metadata_by_id(metadata, ids, ["title"]) if metadata is not None else {}
    return {name: fields["title"] for name, fields in values.items() if fields}


def _name(identity: str, titles: Mapping[str, str]) -> str:
    return f"{titles[identity]} [{identity}]" if identity in titles else identity


def _write(spark: SparkSession, clusters: DataFrame, output: str, run_id: str, source: Mapping[str, object]) -> int:
    return tables.write(
        spark,
        clusters.withColumn("run_id", F.lit(run_id)),
        output,
        schemas.CLUSTERS,
        mode="overwrite",
        run_id=run_id,
        comment=f"Clusters of {source['table']}",
        metadata={"kind": "clusters", **source},
    )
