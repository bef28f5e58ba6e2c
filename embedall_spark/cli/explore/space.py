"""A table as the page shows it: answers to questions, titles, pictures, and a map in two dimensions."""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedall_spark import delta_files, files, table_cache
from embedall_spark.cli.shared import provenance, search_output, table_snapshot
from embedall_spark.cli.shared.table_snapshot import TableSnapshot
from embedall_spark.errors import BadData, ConfigError, EmbedallError, NeedsSpark, UnknownId
from embedall_spark.search import condition, exact, title_lookup
from embedall_spark.vectors import row_array, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedall_spark.cli.shared.provenance import LatentTable
    from embedall_spark.images.backbones import BackboneConfig
    from embedall_spark.search.local_table import LocalTable

    Chip = dict[str, Any]

MAX_POINTS = 100_000
_CLUSTERS, _MAX_LABELS = 12, 200
_SAMPLE = 20_000  # rows that the map's axes and clusters are computed from
_EDGE = 160  # pixels of a picture
_MAX_DROPPED = 100


@dataclass
class Space:
    """A table, opened without Spark."""

    name: str
    snapshot: TableSnapshot
    vectors: LocalTable
    metadata: pa.Table | None
    latent: LatentTable | None
    stored_map: pa.Table | None
    """MAP, if its run has stored one."""
    pictures_dropped: dict[str, bytes]
    """Pictures that were dropped on the page, by the digest of their bytes; the page's tables share them."""

    @functools.cached_property
    def titles(self) -> pa.Table | None:
        """Id and title, if there are titles."""
        return search_output.titles_of(self.metadata, "title")

    @functools.cached_property
    def title_of(self) -> dict[str, str]:
        """The title of each id that has one."""
        return {} if self.titles is None else dict(zip(*(column.to_pylist() for column in self.titles), strict=True))

    @functools.cached_property
    def kinds(self) -> list[str]:
        """The kinds of the rows."""
        return sorted(self.vectors.columns["kind"].unique().to_pylist())

    @functools.cached_property
    def pictures(self) -> tuple[dict[str, str], Any]:
        """The paths of the pictures by id, and the limits of what is decoded."""
        try:
            return provenance.picture_paths(self.snapshot.name, self.latent)
        except EmbedallError:
            return {}, None

    @functools.cached_property
    def text_network(self) -> BackboneConfig | None:
        """The network of a table of pictures whose text side finds them."""
        return provenance.text_network(None, self.snapshot.name) if self.latent is None else None

    @property
    def takes_text(self) -> bool:
        """Whether words that are no row are a query too."""
        return self.text_network is not None if self.latent is None else self.latent.model.takes_text

    def about(self) -> dict[str, Any]:
        """Return what the page says of the table."""
        return {
            "name": self.name,
            "rows": len(self.vectors),
            "dimension": self.vectors.dimension,
            "kinds": self.kinds,
            "text": self.takes_text,
            "columns": [] if self.metadata is None else self.metadata.column_names,
        }

    def ask(self, chips: list[Chip], where: str, kind: str, n: int) -> list[dict[str, Any]]:
        """Return the rows nearest to a sum of rows, texts and pictures, each with its sign.

        Raises:
            UnknownId: an id or a word is not in the table.
            ConfigError: the sum is zero, or a condition is beyond what is evaluated without Spark.
        """
        parts = [float(chip.get("sign", 1)) * self._vector(chip) for chip in chips]
        if not parts:
            raise ConfigError("there is nothing to search by")
        query = np.stack(parts).sum(axis=0, dtype=np.float32)
        if not np.abs(query).max() > 1e-6:
            raise ConfigError("these cancel each other out; leave some of them out")
        rows = self.vectors if not kind else self.vectors.of_kind(kind)
        if where.strip():
            try:
                rows = condition.where(rows, where, self.metadata)  # type: ignore[assignment]
            except NeedsSpark as reason:
                raise ConfigError(f"{reason}; on this page compare columns with values") from None
        exclude = [{str(chip["id"]) for chip in chips if "id" in chip}]
        [hits] = exact.top_k(rows, query[None], n, exclude=exclude, same_table=True)
        return [self.card(name) | {"score": round(score, 3)} for name, score in hits]

    def card(self, name: str) -> dict[str, Any]:
        """Return what the page shows of a row."""
        kind, title = exact.kind_of(self.vectors, name), self.title_of.get(name)
        return {"id": name, "title": title or name, "kind": kind, "picture": name in self.pictures[0]}

    def resolve(self, text: str) -> Chip:
        """Return the chip of what a user typed: a row, or in a latent table words."""
        resolved = title_lookup.resolve(self.vectors, self.titles, [text])
        if resolved.ids:
            name = resolved.ids[text]
            return {"id": name, "title": self.title_of.get(name) or name}
        if not self.takes_text:
            raise title_lookup.unknown(self.vectors, self.titles, resolved)
        self._text(text)
        return {"text": text, "title": text}

    def drop(self, content: bytes) -> Chip:
        """Return the chip of a picture, and ``words`` that are suggested for it."""
        digest = hashlib.sha256(content).hexdigest()[:16]
        vector, length = self._embed(content)
        words = []
        if self.latent is not None and self.latent.model.text is not None:
            words = [word for word, _ in self.latent.model.suggest_words(vector, length)[:8]]
        self.pictures_dropped[digest] = content
        if len(self.pictures_dropped) > _MAX_DROPPED:
            self.pictures_dropped.pop(next(iter(self.pictures_dropped)))
        return {"drop": digest, "title": "picture", "words": words}

    def _embed(self, content: bytes) -> tuple[NDArray[np.float32], float]:
        """Return the unit vector of a picture, as the table's were made, and its length before."""
        # Imported here: it takes seconds.
        from embedall_spark.images import featurize

        made_of = self.snapshot.name if self.latent is None else self.latent.left_table
        config = provenance.image_config_of(None, made_of, "a table of pictures")
        vector = featurize.featurize_one(content, config.backbone, config.featurize, config.input.limits)
        return (unit(vector[None])[0], 1.0) if self.latent is None else self.latent.model.project_left(vector)

    def picture(self, name: str) -> bytes | None:
        """Return a small picture of a row as PNG; None if there is none that can be used."""
        from embedall_spark.images.decode import BadImage, decode

        paths, limits = self.pictures
        if name not in paths:
            return None
        try:
            image = decode(files.read_bytes(paths[name]), limits)
        except (OSError, BadImage):
            return None
        image.thumbnail((_EDGE, _EDGE))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()

    @functools.cached_property
    def points(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows on the map, the most frequent ones, and their places, float32 [n, 2], from -1 to 1.

        The places are columns x and y of the metadata, where every row on the map has them, else those that the run has
        stored (``output.map``), else PCA of unit vectors.
        """
        counts = self.vectors.columns["count"].fill_null(0).to_numpy()
        rows = np.sort(np.argsort(-counts, kind="stable")[:MAX_POINTS])
        for table in (self.metadata, self.stored_map):
            places = self._known_places(rows, table)
            if places is not None:
                return rows, _centered(places)
        sample = unit(self.vectors.vectors[rows[:: max(1, len(rows) // _SAMPLE)]]).astype(np.float64)
        mean = sample.mean(axis=0) if len(sample) else np.zeros(self.vectors.dimension)
        _, axes = np.linalg.eigh(np.cov(sample, rowvar=False, bias=True) if len(sample) else np.eye(len(mean)))
        parts = [
            (unit(self.vectors.vectors[part]) - mean) @ axes[:, [-1, -2]]
            for part in np.array_split(rows, max(1, len(rows) // _SAMPLE))
        ]
        return rows, _centered(np.concatenate(parts))

    def _known_places(self, rows: NDArray[np.int64], table: pa.Table | None) -> NDArray[np.float64] | None:
        """Return the coordinates that a table has for some rows, float64 [n, 2]; None if any has none."""
        if table is None or not {"x", "y"} <= set(table.column_names):
            return None
        ids = self.vectors.columns["id"].take(row_array(rows))
        known = table.take(pc.index_in(ids, table["id"].combine_chunks()))
        try:
            places = np.stack([known[name].cast(pa.float64()).fill_null(np.nan).to_numpy() for name in "xy"], axis=1)
        except pa.ArrowException:
            return None
        return places if np.isfinite(places).all() else None

    @functools.cached_property
    def colors(self) -> dict[str, tuple[list[str], NDArray[np.uint8]]]:
        """Ways to color the map: names of the groups, and the group of each point."""
        from sklearn.cluster import MiniBatchKMeans

        rows, _ = self.points
        units = unit(self.vectors.vectors[rows])
        clusters = min(_CLUSTERS, len(rows))
        fitted = MiniBatchKMeans(clusters, n_init=1, random_state=1).fit(units[:: max(1, len(rows) // _SAMPLE)])
        ways = {"cluster": ([f"cluster {i}" for i in range(clusters)], fitted.predict(units).astype(np.uint8))}
        kinds = self.vectors.columns["kind"].to_pylist()
        ways["kind"] = _codes([kinds[row] for row in rows])
        if self.metadata is not None and "label" in self.metadata.column_names:
            label_of = dict(zip(self.metadata["id"].to_pylist(), self.metadata["label"].to_pylist(), strict=True))
            labels = [str(label_of.get(self.vectors.columns["id"][row].as_py())) for row in rows.tolist()]
            if 1 < len(set(labels)) <= _MAX_LABELS:
                ways["label"] = _codes(labels)
        return ways

    def _vector(self, chip: Chip) -> NDArray[np.float32]:
        """Return the unit vector of a chip, float32 [d]."""
        if "drop" in chip:
            if (content := self.pictures_dropped.get(str(chip["drop"]))) is None:
                raise BadData("this picture is gone; drop it again")
            return self._embed(content)[0]
        if "text" in chip:
            return self._text(str(chip["text"]))
        name = str(chip.get("id"))
        found = exact.require_vectors(self.vectors, [name])
        exact.require_directions(found)
        vector: NDArray[np.float32] = unit(found[name][None])[0]
        return vector

    def _text(self, text: str) -> NDArray[np.float32]:
        if self.latent is not None:
            return provenance.project_text(None, self.latent, text)
        if self.text_network is None:
            raise UnknownId(f"{text!r} is not in {self.name}, which was not made of titles or words")
        vector: NDArray[np.float32] = unit(provenance.embed_text(self.text_network, text)[None])[0]
        return vector


def open_space(name: str, limit: float, pictures_dropped: dict[str, bytes] | None = None) -> Space:
    """Return a table, or with ``NAME@VERSION`` a version of it.

    Raises:
        ConfigError: it cannot be read without Spark.
        TableError: there is no such table.
    """
    table, mark, version = name.rpartition("@")
    path, number = (table, int(version)) if mark and version.isdecimal() else (name, None)
    try:
        opened = delta_files.open_version(path, number)
        snapshot = TableSnapshot(None, path, table_cache.vectors(opened, limit), opened.version, limit=limit)
        metadata = search_output.beside(snapshot)
        stored_map = table_snapshot.stored_map(snapshot)
    except NeedsSpark as reason:
        raise ConfigError(f"{name}: cannot be explored, since the page reads tables without Spark: {reason}") from None
    assert metadata is None or isinstance(metadata, pa.Table)
    assert stored_map is None or isinstance(stored_map, pa.Table)
    if not len(snapshot.vectors):  # type: ignore[arg-type]
        raise ConfigError(f"{name}: the table has no rows to show")
    latent = provenance.latent_table(None, path)
    dropped = {} if pictures_dropped is None else pictures_dropped
    return Space(name, snapshot, snapshot.vectors, metadata, latent, stored_map, dropped)  # type: ignore[arg-type]


def _centered(places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return places moved and scaled so that they fill the range from -1 to 1."""
    places = places - (places.min(axis=0) + places.max(axis=0)) / 2
    return (places / (np.abs(places).max() or 1)).astype(np.float32)


def _codes(values: list[str]) -> tuple[list[str], NDArray[np.uint8]]:
    names, codes = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    return names.tolist(), np.minimum(codes, 255).astype(np.uint8)
