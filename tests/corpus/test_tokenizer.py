# ruff: noqa: RUF001
"""The tokenizer against a slow reference that looks at one character at a time."""

import itertools
import random
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest

from embedall_spark.config import parse
from embedall_spark.corpus import short_text, word_scanner  # noqa: F401  (the scanner is used once it is loaded)
from embedall_spark.corpus.tokenizer import Reject, TokensConfig, tokenize
from embedall_spark.errors import ConfigError
from embedall_spark.randomness import mix

CLOSING = "".join(re.escape(chr(c)) for c in range(0x110000) if unicodedata.category(chr(c)) in ("Pe", "Pf"))
JOINERS = "'\u2019-\u2010\u2011\u00ad\u200c\u200d"


def batch(texts, problems=None, origins=None):
    raw = pa.array([text.encode() if isinstance(text, str) else text for text in texts], pa.binary())
    # As Spark does it: called a string, whatever the bytes are.
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), raw.null_count)
    count = len(texts)
    return pa.record_batch(
        {
            "id": pa.array([1000 + i for i in range(count)], pa.int64()),
            "text": text,
            "origin": pa.array(origins or [f"file{i}" for i in range(count)], pa.string()),
            "problem": pa.array(problems or [None] * count, pa.string()),
        }
    )


def run(texts, **options):
    sequences, rejects = tokenize(batch(texts), TokensConfig(**options))
    tokens = sequences.tokens
    tokens.validate(full=True)
    bounds = sequences.offsets
    assert bounds[0] == 0 and bounds[-1] == len(tokens) and len(bounds) == len(sequences.ids) + 1
    assert (np.diff(bounds) > 0).all()
    return [tokens[a:b].to_pylist() for a, b in itertools.pairwise(bounds)], sequences.ids.tolist(), rejects


def words_of(text, options):
    """The rule, a character at a time."""
    if options.get("split") == "whitespace":
        actual = text.split()
    else:
        kind = [("J" if c in JOINERS else unicodedata.category(c)[0]) for c in text]
        actual, current = [], ""
        for i, char in enumerate(text):
            starts = kind[i] in "LN"
            joins = kind[i] == "J" and i + 1 < len(text) and kind[i + 1] in "LN"
            if starts or (current and (kind[i] == "M" or joins)):
                current += char
            elif current:
                actual.append(current)
                current = ""
        actual += [current] if current else []
    return [word for word in actual if len(word) >= options.get("min_length", 1)]


def sentences_of(text):
    """The rule for sentences as a regular expression."""
    always = "\u3002\uff01\uff1f\n\r\v\f\u0085\u2028\u2029"
    end = rf"[.!?\u2026](?:[.!?\u2026\"'{CLOSING}])*(?=\s)|[{always}]"
    at, actual = 0, []
    for match in re.finditer(end, text):
        actual.append(text[at : match.end()])
        at = match.end()
    return [*actual, text[at:]]


TEXTS = {
    "it's a well-known 'quote' - O\u2019Neil\u2019s": "it's a well-known quote o\u2019neil\u2019s",
    "rock'n'roll'": "rock'n'roll",
    "snake_case and word--word a-": "snake case and word word a",
    "Съешь ещё этих мягких французских БУЛОК": "съешь ещё этих мягких французских булок",
    "안녕하세요 세계, 대한민국!": "안녕하세요 세계 대한민국",
    "हिन्दी में क्षत्रिय": "हिन्दी में क्षत्रिय",
    "क\u094d\u200dष می\u200cخواهم": "क\u094d\u200dष می\u200cخواهم",
    "Cafe\u0301 naïve A\u030angstro\u0308m": "cafe\u0301 naïve a\u030angstro\u0308m",
    "I \u2764\ufe0f 👨\u200d👩\u200d👧 you 🎉2024🎉": "i you 2024",
    "3.14 B2B x² Ⅷ": "3 14 b2b x² ⅷ",
    "ΟΔΟΣ STRASSE ẞ": "οδοσ strasse ß",
    "東京都、京都。": "東京都 京都",
}


@pytest.mark.parametrize("text", TEXTS)
def test_words_of_many_scripts(text):
    assert run([text])[0] == [TEXTS[text].split()]


def _random_text(rng):
    pools = [
        "abcXYZ019",
        " \t\n\u00a0",
        ".!?\u2026,;\"')]\u00bb\u3002\uff01",
        JOINERS + "_",
        "éßЖя한글\u0301\u094d\u20e3मी𝒜😀\ufe0f",
    ]
    pools.append(
        "".join(chr(c) for c in (rng.randrange(0x20, 0x110000) for _ in range(20)) if not 0xD800 <= c < 0xE000)
    )
    return "".join(rng.choice(rng.choices(pools, [8, 3, 2, 3, 3, 1])[0]) for _ in range(rng.randrange(60)))


@pytest.mark.parametrize("split", ["unicode", "whitespace"])
@pytest.mark.parametrize("boundaries", ["document", "sentence"])
@pytest.mark.parametrize("min_length", [1, 3])
def test_random_text_splits_as_the_reference_does(split, boundaries, min_length):
    rng = random.Random(7)
    texts = [_random_text(rng) for _ in range(3000)]
    options = {"split": split, "boundaries": boundaries, "min_length": min_length}
    expected = []
    for text in texts:
        parts = sentences_of(text) if boundaries == "sentence" else [text]
        expected += [words for part in parts if (words := words_of(part, options))]
    assert run(texts, lower=False, **options)[0] == expected


@pytest.mark.parametrize("split", ["unicode", "whitespace"])
@pytest.mark.parametrize("min_length", [1, 3])
def test_short_texts_split_as_the_reference_does(split, min_length):
    rng = random.Random(8)
    for text in [*TEXTS, *(_random_text(rng) for _ in range(3000))]:
        expected = words_of(text, {"split": split, "min_length": min_length})
        assert short_text.words(text, split == "whitespace", min_length) == expected


def test_a_sliced_batch_is_read_from_its_own_rows():
    sliced = batch(["zero", "one two", "three", "four"]).slice(1, 2)
    sequences, rejects = tokenize(sliced, TokensConfig())
    assert sequences.tokens.to_pylist() == ["one", "two", "three"]
    assert sequences.ids.tolist() == [1001, 1002] and not rejects


def test_sentences_end_where_the_rule_says():
    text = 'Dr. No paid 3.14 "today." He left (really?) Then... silence\nnew line。次です！終わり'
    actual, ids, _ = run([text, "One. Two."], boundaries="sentence")
    assert [" ".join(words) for words in actual] == [
        "dr", "no paid 3 14 today", "he left really", "then", "silence", "new line", "次です", "終わり", "one", "two",
    ]  # fmt: skip
    assert ids == [1000, *[_signed(mix(1000, k)) for k in range(1, 8)], 1001, _signed(mix(1001, 1))]


def _signed(value):
    return value - (1 << 64) if value >= 1 << 63 else value


def test_ids_do_not_depend_on_the_batches():
    texts = [f"first {i}. second {i}. ! . third" for i in range(50)]
    config = TokensConfig(boundaries="sentence", max_sequence_length=2)
    whole = batch(texts)
    parts = [tokenize(whole.slice(start, 7), config)[0] for start in range(0, 50, 7)]
    assert np.array_equal(np.concatenate([part.ids for part in parts]), tokenize(whole, config)[0].ids)
    assert len(set(tokenize(whole, config)[0].ids.tolist())) == 150


def test_long_sequences_are_cut_into_several():
    actual, ids, _ = run(["a b c d e f g", "h", "i j k"], max_sequence_length=3)
    assert actual == [["a", "b", "c"], ["d", "e", "f"], ["g"], ["h"], ["i", "j", "k"]]
    assert ids == [1000, _signed(mix(1000, 1)), _signed(mix(1000, 2)), 1001, 1002]


def test_a_pattern_finds_what_findall_finds():
    texts = ["#Spark and #Delta, no tag", "nothing", "x #a"]
    actual, ids, rejects = run(texts, split="regex", pattern=r"#(\w+)", lower=False)
    assert actual == [["Spark", "Delta"], ["a"]] and ids == [1000, 1002]
    assert rejects == [Reject("file1", "no token", "nothing")]
    assert run(texts, split="regex", pattern=r"#(\w*)", min_length=2)[0] == [["spark", "delta"]]
    assert run(["a b. c d"], split="regex", pattern=r"\w", boundaries="sentence")[0] == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "regex", "pattern": "(a"}, "is not a Python regular expression"),
        ({"split": "regex", "pattern": "(a)(b)"}, "has 2 groups"),
        ({"split": "regex"}, "pattern goes with split: regex"),
        ({"pattern": "a"}, "pattern goes with split: regex"),
        ({"min_length": 0}, "min_length"),
        ({"split": "words"}, "split"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(TokensConfig, options)


def test_bad_rows_are_refused_and_good_ones_kept():
    texts = [
        "good one",
        b"bad \xff bytes",
        "",
        " \t\n",
        "?! ...",
        None,
        None,
        b"\xed\xa0\x80 surrogate",
        "good two",
    ]
    problems = [None] * 6 + ["not JSON: {oops"] + [None] * 2
    sequences, rejects = tokenize(batch(texts, problems), TokensConfig())
    assert sequences.tokens.to_pylist() == ["good", "one", "good", "two"]
    assert sequences.ids.tolist() == [1000, 1008]
    assert rejects == [
        Reject("file1", "broken UTF-8", "bad \ufffd bytes"),
        Reject("file2", "empty document", None),
        Reject("file3", "empty document", " \t\n"),
        Reject("file4", "no token", "?! ..."),
        Reject("file5", "null", None),
        Reject("file6", "not JSON", "{oops"),
        Reject("file7", "broken UTF-8", "\ufffd\ufffd\ufffd surrogate"),
    ]


def test_a_record_is_the_first_200_characters():
    (reject,) = tokenize(batch([("😀" * 300).encode() + b"\xff"]), TokensConfig())[1]
    assert reject.reason == "broken UTF-8" and reject.record == "😀" * 200


@pytest.mark.parametrize("texts", [[], [None], [""], ["", "", "a", ""]])
@pytest.mark.parametrize("boundaries", ["document", "sentence"])
def test_batches_with_little_in_them(texts, boundaries):
    actual, _, rejects = run(texts, boundaries=boundaries)
    assert actual == ([["a"]] if "a" in texts else []) and len(rejects) == len(texts) - len(actual)


def test_large_strings_are_read_too():
    plain = batch(["one two"])
    large = plain.set_column(1, "text", plain.column("text").cast(pa.large_string()))
    assert tokenize(large, TokensConfig())[0].tokens.to_pylist() == ["one", "two"]
