"""Configuration errors name the key's path, what was found and what is allowed; all before Spark starts."""

import os

import pytest
import yaml

from embedall_spark import config, config_help, kinds
from embedall_spark.errors import ConfigError
from embedall_spark.kinds.words import Config

REQUIRED = {"input": {"path": "x"}, "output": {"table": "y"}}


def write(path, data):
    path.write_text(yaml.safe_dump(data))
    return path


def test_yaml_and_overrides(tmp_path):
    path = write(tmp_path / "c.yaml", {**REQUIRED, "train": {"epochs": 3}})
    actual = config.load(Config, path, ["train.vector_size=50", "output.mode=error", "evaluate.similarity=[a, b]"])
    assert (actual.train.epochs, actual.train.vector_size) == (3, 50)
    assert actual.output.mode == "error"
    # What a run reads is kept as an absolute path, so that it is found again from another folder.
    assert actual.evaluate.similarity == [os.path.abspath("a"), os.path.abspath("b")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.vectr_size=3",
            r"train\.vectr_size: unknown key \(known: method, vector_size, .*\); did you mean vector_size\?",
        ),
        ("trian.epochs=3", r"trian: unknown key \(known: input, output, .*\); did you mean train\?"),
        ("train.epochs=many", r"train\.epochs: found 'many': input should be a valid integer"),
        ("train.epochs=0", r"train\.epochs: found 0: input should be greater than or equal to 1"),
        ("output.mode=replace", r"output\.mode: found 'replace': input should be 'overwrite', 'error' or 'append'"),
        ("train.min_alpha=0.5", r"min_alpha must not be above alpha, got 0\.5 > 0\.025"),
        ("train.epochs", r"--set train\.epochs: need a\.b=value"),
        ("input.path.x=1", r"--set input\.path\.x=1: input\.path is a value, not a section"),
        ("train.negative=0", r"negative=0 leaves nothing to train by; set train\.hs=1, or train\.negative above 0"),
        (
            "train={sg: 0, workers: 2}",
            r"workers=2 is for skip-gram with either negative sampling or hs=1, and for GloVe; .*workers=1",
        ),
        ("train={hs: 1, negative: 0, context: true}", r"context=true needs negative sampling"),
        ("train.until={metric: analogy}", r"train\.until\.metric is analogy, which needs evaluate\.analogies"),
        ("train.alpha=.nan", r"train\.alpha: found nan: input should be a finite number"),
        ("train.epochs=yes", r"train\.epochs: found True: yes, no, on, off, true and false are truth values"),
        (
            "tokens.pattern=[a-z]",
            r"tokens\.pattern: found \['a-z'\]: .* put text that YAML would read otherwise into quotes",
        ),
        ("tokens.pattern=[a-z]+", r"--set tokens\.pattern=\[a-z\]\+: not YAML .*quote text for YAML"),
        ("tokens.pattern=#tag", r"--set tokens\.pattern=#tag: # begins a comment in YAML; quote the text"),
        ("output.table=", r"output\.table: found None: input should be a valid string"),
        ("output.table=' '", r"output\.table: found ' ': is empty; give a path, a URI or a table"),
    ],
)
def test_a_wrong_key_or_value_says_where_and_what_is_allowed(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        config.load(Config, write(tmp_path / "c.yaml", REQUIRED), [override])


def test_a_required_key_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"input\.path: required, but not given; .* --set a\.b=VALUE"):
        config.load(Config, write(tmp_path / "c.yaml", {**REQUIRED, "input": {}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epochs: 3}\nx: 1\ntrain: {}", r"the key train stands twice, in lines 1 and 3; join them into one"),
        ("train:\n  epochs: 3\n  epochs: 4", r"the key epochs stands twice, in lines 2 and 3"),
        ("a: [", "is not YAML"),
        ("- a", "need a mapping of keys to values, found list"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content, message):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        config.load(Config, tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
        config.load(Config, tmp_path / "absent.yaml")


def test_what_is_dumped_is_read_back(tmp_path):
    actual = config.parse(Config, REQUIRED)
    (tmp_path / "c.yaml").write_text(config.dump(actual))
    assert config.load(Config, tmp_path / "c.yaml") == actual


def test_the_template_is_a_configuration_with_every_option(tmp_path):
    options = list(config_help.options(Config))
    (tmp_path / "c.yaml").write_text(config_help.template(options))
    actual = config.load(Config, tmp_path / "c.yaml", ["input.path=x", "output.table=y"])
    assert actual == config.parse(Config, REQUIRED)
    assert all(option.description for option in options)
    assert {"train.negative", "tokens.lower", "evaluate.gates", "train.until"} <= {option.path for option in options}


@pytest.mark.parametrize("name", kinds.names())
def test_every_kind_has_a_template_that_can_be_read(name):
    actual = yaml.safe_load(config_help.template(config_help.options(kinds.load(name).Config)).replace("???", "x"))
    assert actual["output"]["table"] == "x"
    if name == "latent":
        assert (actual["fit"]["k"], actual["fit"]["power"]) == ([64], [0.0, 1.0, 2.0])


def test_the_shipped_configurations_are_valid():
    from embedall_spark import session

    for name in ("words.yaml", "demo-words.yaml"):
        config.load(Config, session.conf_file(name))
    assert config.load(Config, session.conf_file("words.yaml")).train.vector_size == 300


def test_identity_leaves_out_what_a_run_may_change():
    one = config.identity(config.parse(Config, REQUIRED))
    other = config.identity(config.parse(Config, {**REQUIRED, "train": {"workers": 4, "threads": 2}}))
    assert one == other
    assert one != config.identity(config.parse(Config, {**REQUIRED, "train": {"epochs": 4}}))


@pytest.mark.parametrize(
    ("table", "folder"),
    [("a/b/words", "a/b"), ("words", "."), ("/words", "/"), ("s3://b/words/", "s3://b"), ("c.s.t", None)],
)
def test_the_folder_of_a_table(table, folder):
    assert config.Output(table=table).folder == folder
