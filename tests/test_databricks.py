"""The Databricks bundle: each file by Databricks' own models, and what its jobs call by the command that they call.

Databricks itself is not here: what its platform does with a valid bundle is not tested.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import Mock

import pytest
import yaml
from cli_runner import embedall
from databricks.bundles.core import Variable
from databricks.bundles.jobs import ClusterSpec, Job
from doc_blocks import ROOT
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from PIL import Image
from pyspark.errors.exceptions.connect import AnalysisException

from embedall_spark import (
    cli,
    cluster_slots,
    config,
    devices,
    kinds,
    mlflow_models,
    path_checks,
    pipeline,
    publication,
    session,
    table_merge,
)
from embedall_spark.errors import ConfigError, SetupError

HOME = ROOT / "deploy" / "databricks"
BUNDLE = yaml.safe_load((HOME / "databricks.yml").read_text())
FILES = sorted(HOME.glob(BUNDLE["include"][0]))
JOBS = {
    name: (file, job) for file in FILES for name, job in yaml.safe_load(file.read_text())["resources"]["jobs"].items()
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = pytest.mark.parametrize("target", ["dev", "prod"])
every_job = pytest.mark.parametrize("name", JOBS)


def resolve(text, target, job):
    """A text of the bundle as a task of one target gets it."""
    values = {f"var.{name}": variable.get("default") for name, variable in BUNDLE["variables"].items()}
    values |= {f"var.{name}": value for name, value in BUNDLE["targets"][target]["variables"].items()}
    values |= {"workspace.file_path": str(HOME), "job.run_id": "812345678901234"}
    values |= {f"job.parameters.{one['name']}": one["default"] for one in job.get("parameters", [])}

    def value(match):
        assert match[1] in values and values[match[1]] is not None, match[0]
        return str(values[match[1]])

    for _ in range(2):  # a job's parameters have variables in their defaults
        text = re.sub(r"\$\{([a-z_.]+)\}|\{\{([a-z_.]+)\}\}", lambda m: value(m if m[1] else (m[0], m[2])), text)
    return text


def arguments(task, target, job):
    return [resolve(part, target, job) for part in task["python_wheel_task"]["parameters"]]


@every_job
def test_jobs_are_what_databricks_takes(name):
    file, job = JOBS[name]
    model = Job.from_dict(job)
    clusters = {cluster.job_cluster_key for cluster in model.job_clusters}
    tasks = {task.task_key: task for task in model.tasks}
    assert len(tasks) == len(model.tasks)
    assert {task.job_cluster_key for task in model.tasks} == clusters
    assert all(isinstance(cluster.new_cluster, Variable) for cluster in model.job_clusters)
    for task in model.tasks:
        assert all(other.task_key in tasks for other in task.depends_on)
        wheel = next(library.whl for library in task.libraries if library.whl is not None)
        # Relative to the file; make wheel writes to dist.
        assert (file.parent / wheel).resolve() == (ROOT / "dist" / "*.whl").resolve()
        if task.spark_python_task is not None:
            assert (file.parent / task.spark_python_task.python_file).resolve().is_file()
        else:
            assert task.python_wheel_task.package_name == PROJECT["name"]
            assert PROJECT["scripts"][task.python_wheel_task.entry_point] == "embedall_spark.cli:main"


@every_job
def test_libraries_are_those_of_the_extras(name):
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    declared = {one.replace(" ", "") for one in [*PROJECT["dependencies"], *extras]}
    for task in JOBS[name][1]["tasks"]:
        for library in task["libraries"]:
            assert library.get("pypi", {}).get("package") in {None, *declared}


def test_the_bundle_and_its_targets():
    assert BUNDLE.keys() == {"bundle", "include", "artifacts", "variables", "targets"}
    assert JOBS.keys() == {*kinds.names(), "night"}
    (wheel,) = BUNDLE["artifacts"].values()
    assert (HOME / wheel["path"]).resolve() == ROOT
    target = wheel["build"].removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {name: target["mode"] for name, target in BUNDLE["targets"].items()} == {
        "dev": "development", "prod": "production",
    }  # fmt: skip
    for target in BUNDLE["targets"].values():
        assert target["variables"].keys() <= BUNDLE["variables"].keys()


@pytest.mark.parametrize("name", ["cpu_cluster", "gpu_cluster"])
def test_clusters(name):
    cluster = ClusterSpec.from_dict(BUNDLE["variables"][name]["default"])
    settings = cluster.spark_conf
    # A fixed size, and none of the settings about which a session warns.
    assert cluster.autoscale is None and cluster.num_workers
    assert settings.items() <= session._RECOMMENDED.items()
    assert session._RECOMMENDED.keys() - settings.keys() == {"spark.dynamicAllocation.enabled"}


@TARGETS
@pytest.mark.parametrize("kind", kinds.names())
def test_the_job_of_a_kind_calls_its_command(kind, target):
    job = JOBS[kind][1]
    (task,) = job["tasks"]
    name, *rest = arguments(task, target, job)
    assert name == kind
    options = cli.load(kind).make_context(kind, rest).params
    path_checks.check_run_id(options["run_id"])
    assert options["run_id"] == "812345678901234"
    overrides = [f"input.path={options['source']}", f"output.table={options['table']}", *options["overrides"]]
    parsed = config.load(kinds.load(kind).Config, None, overrides)
    kinds.load(kind).check(parsed)
    catalog = {"dev": "dev", "prod": "main"}[target]
    assert parsed.output.table == f"{catalog}.embeddings.{kind}"
    assert parsed.output.run_root == f"/Volumes/{catalog}/embeddings/runs"


@TARGETS
def test_the_night_has_a_task_for_each_step_of_its_pipeline(target, monkeypatch):
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job = JOBS["night"][1]
    assert [task["task_key"] for task in job["tasks"]] == ["ingest", "words", "images", "latent", "evaluate", "publish"]
    for task in job["tasks"][1:]:
        name, *rest = arguments(task, target, job)
        options = cli.load(name).make_context(name, rest).params
        steps = pipeline.load(options["file"], options["overrides"])
        (step,) = pipeline.select(steps, options["step"])
        assert (name, step.name) == ("pipeline", task["task_key"])
        before = {one["task_key"] for one in task["depends_on"]} - {"ingest"}
        assert before == set(step.depends_on)
        assert step.table.startswith({"dev": "dev.embeddings.", "prod": "main.embeddings."}[target])
        if step.run == pipeline.PUBLISH:
            publication.check(step.config, step.config.candidate, step.config.to)
        elif step.run == "latent":
            mlflow_models.check_name("output.registered_model", step.config.output.registered_model)
    ingested = [
        resolve(part, target, job).partition("=")[0] for part in job["tasks"][0]["spark_python_task"]["parameters"]
    ]
    first, second = (
        next(step.config.input.path for step in steps if step.name == name) for name in ("words", "images")
    )
    assert ingested == [first, second]


@pytest.fixture(scope="module")
def landing(tmp_path_factory):
    """The volume of what comes in: documents, and pictures of three categories with their titles."""
    folder = tmp_path_factory.mktemp("landing")
    for name in ("documents", "products", "pictures"):
        (folder / name).mkdir()
    texts = ["red circle and green circle", "blue square and red square"] * 20
    (folder / "documents" / "one.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = ["file,title,category"]
    for number in range(24):
        color = ("red", "green", "blue")[number % 3]
        Image.new("RGB", (32 + number, 32), color).save(folder / "pictures" / f"{number}.png")
        rows.append(f"{number}.png,{color} {('circle', 'square')[number % 2]},{color}")
    (folder / "products" / "one.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.slow
def test_the_night_runs_here(spark, own_store, landing, tmp_path, monkeypatch):
    """The workflow's ingestion and its pipeline file, with a folder in place of volumes and tiny models."""
    monkeypatch.syspath_prepend(HOME)
    import ingest

    job, schema = JOBS["night"][1], "spark_catalog.night"
    values = {"catalog": "spark_catalog", "schema": "night", "landing": str(landing)}
    job = job | {"parameters": [{"name": name, "default": value} for name, value in values.items()]}
    sources = [resolve(part, "dev", job) for part in job["tasks"][0]["spark_python_task"]["parameters"]]
    options = [f"steps.{name}.output.run_root={tmp_path}/runs" for name in ("words", "images", "latent")]
    options += [f"steps.evaluate.run_root={tmp_path}/runs", f"steps.images.input.root={landing}/pictures"]
    options += ["steps.words.train={vector_size: 4, epochs: 1, threads: 1}", "steps.words.evaluate={map_words: 0}"]
    options += [
        "steps.images.evaluate={map_images: 0}",
        "steps.latent.fit={k: 2, power: [1], regularisation: [[1, 1]]}",
    ]
    options += ["steps.latent.evaluate={map_ids: 0, heat_pairs: 0, examples: 0}"]
    spark.sql("CREATE SCHEMA night")
    try:
        ingest.main(sources)
        # A file is read once.
        (landing / "documents" / "two.json").write_text('{"text": "new red circle"}\n')
        ingest.main(sources[:1])
        assert spark.table(f"{schema}.documents").count() == 41
        assert spark.sql(f"DESCRIBE HISTORY {schema}.documents").count() == 2
        parameters = ["parameters.catalog=spark_catalog", "parameters.schema=night", *options]
        done = embedall("pipeline", HOME / "pipeline.yaml", *(part for text in parameters for part in ("--set", text)))
        assert done.code == 0, done.log
        assert {step["status"] for step in done.summary["steps"].values()} == {"done"}
        counts = {name: spark.table(f"{schema}.{name}").count() for name in ("words", "images", "words_published")}
        assert counts["images"] == 24
        assert counts["words"] == counts["words_published"] > 4
        assert spark.table(f"{schema}.latent").where("kind = 'images'").count() == 24
    finally:
        spark.sql("DROP SCHEMA night CASCADE")
    with pytest.raises(ValueError, match=r"need one of \.json, \.csv"):
        ingest.main([f"{schema}.texts={landing}/*.txt"])


def test_a_model_in_unity_catalog_has_three_names(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DATABRICKS_RUNTIME_VERSION"):
        monkeypatch.delenv(name, raising=False)
    mlflow_models.check_name("output.registered_model", "shop")
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    assert cluster_slots.on_databricks()
    mlflow_models.check_name("output.registered_model", "main.embeddings.shop")
    for name in ("shop", "embeddings.shop", "main..shop"):
        with pytest.raises(ConfigError, match=r"catalog\.schema\.model"):
            mlflow_models.check_name("output.registered_model", name)
    table = config.parse(publication.gates.Publication, {"registered_model": "main.embeddings.words"})
    with pytest.raises(ConfigError, match="only models with a signature"):
        publication.check(table, "main.a.words", "main.a.words_published")
    # The registry of the workspace takes any name.
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks")
    mlflow_models.check_name("output.registered_model", "shop")
    publication.check(table, "main.a.words", "main.a.words_published")


class Serverless:
    """The settings of serverless compute: it hides all but a few, whatever default it is given."""

    shown: ClassVar = {"spark.sql.shuffle.partitions": "auto"}

    def get(self, key, default=None):
        if key not in self.shown:
            raise AnalysisException(f"[CONFIG_NOT_AVAILABLE] {key}", errorClass="CONFIG_NOT_AVAILABLE")
        return self.shown[key]

    def set(self, key, value):
        self.get(key)


def test_settings_that_serverless_compute_hides(monkeypatch, caplog):
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    spark = SimpleNamespace(conf=Serverless(), version="4.1.0")
    assert cluster_slots.setting(spark, "spark.executor.cores") is None
    assert cluster_slots.number(spark, "spark.executor.cores", 1) == 1
    assert cluster_slots.shuffle_partitions(spark) == 200
    assert cluster_slots.local(spark) is None
    assert devices.threads(spark) == 1
    assert devices.kind_of_training(spark, "auto") == "cpu"
    session.check(spark)
    assert not caplog.records
    with pytest.raises(SetupError, match="use a cluster"), table_merge.commit_options(spark, app="run"):
        pass
    monkeypatch.setattr(spark.conf, "get", Mock(side_effect=AnalysisException("broken", errorClass="OTHER")))
    with pytest.raises(AnalysisException):
        cluster_slots.setting(spark, "spark.executor.cores")


def test_no_setting_is_read_past_the_function_that_survives_serverless():
    for file in (ROOT / "embedall_spark").rglob("*.py"):
        found = re.findall(r"\bconf\.get\(|\bsparkContext\b", file.read_text())
        assert len(found) == (file.name == "cluster_slots.py"), file


@pytest.mark.parametrize("code", ["RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"])
def test_a_registered_model_that_is_there_is_no_error(code):
    """A workspace's registry answers with one code, Unity Catalog's with the other."""
    refuses = Mock(side_effect=MlflowException("exists", error_code=getattr(databricks_pb2, code)))
    model = SimpleNamespace(source="models:/m-1", version="7")
    client = SimpleNamespace(
        create_registered_model=refuses, tracking_uri="databricks", search_model_versions=lambda _: [model]
    )
    assert mlflow_models.register(client, "run", "main.a.shop", "models:/m-1") == "models:/main.a.shop/7"
    assert refuses.called


def test_a_job_that_succeeds_ends_without_system_exit():
    """Databricks takes any SystemExit for a failure, that of code 0 as well."""
    script = "import sys\nfrom embedall_spark.cli import main\nmain(['version'])\nprint('went on')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("went on\n")
    for job in (ROOT / "jobs").glob("*.py"):
        assert "exit" not in job.read_text(), job.name
