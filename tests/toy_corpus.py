"""A small corpus in four scripts whose topics are known."""

# ruff: noqa: RUF001

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

# Cyrillic; Hangul; Devanagari, whose vowels are combining marks; Latin letters with their accents apart.
TOPICS = {
    "water": "река озеро берег рыба лодка волна остров мост",
    "music": "песня голос скрипка мелодия оркестр ноты хор струна",
    "city": "도시 거리 시장 지하철 건물 공원 다리 신호등",
    "field": "खेत किसान बीज फसल मिट्टी पानी गाँव बैल",
    "food": "cafe\u0301 cre\u0300me pa\u0302te sale\u0301 fe\u0302te the\u0301 pure\u0301e gla\u0327on",
}


def _vocabulary(words: str) -> list[str]:
    """Return a topic's words, and compounds of them, so that there are enough for several workers."""
    base = words.split()
    return base + [base[at] + base[(at + step) % len(base)] for step in (1, 2) for at in range(len(base))]


TOPIC_OF = {word: topic for topic, words in TOPICS.items() for word in _vocabulary(words)}


def documents(count: int = 1500, words: int = 8, seed: int = 5) -> list[str]:
    """Return documents of one topic and about so many words each, with a capital letter and a full stop."""
    random = np.random.default_rng(seed)
    topics = [_vocabulary(words) for words in TOPICS.values()]
    drawn = [
        random.choice(topics[random.integers(len(topics))], random.integers(words // 2, words + 4))
        for _ in range(count)
    ]
    return [" ".join(words).capitalize() + "." for words in drawn]


def write(folder: Path, lines: list[str], files: int = 1) -> str:
    """Write a document per line into several files; return the glob that names them."""
    folder.mkdir(parents=True)
    for number in range(files):
        part = lines[number::files]
        (folder / f"part {number}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    return f"{folder}/*.txt"


def configure(folder: Path, glob: str, **sections: dict) -> str:
    """Write a configuration that trains in seconds; return its path."""
    usual = {
        "input": {"path": glob},
        "output": {"table": f"{folder}/output/words"},
        "vocabulary": {"min_count": 2},
        "train": {"vector_size": 20, "epochs": 8, "alpha": 0.05, "sample": 0, "threads": 1},
        "evaluate": {"map_words": 0},
    }
    for name, values in sections.items():
        usual[name] = usual.get(name, {}) | values
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "words.yaml"
    file.write_text(yaml.safe_dump(usual, allow_unicode=True), encoding="utf-8")
    return str(file)
