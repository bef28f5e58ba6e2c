"""spark-submit as a scheduler calls it, on a standalone cluster of two hosts: every job, and what may go wrong."""

import json
import os
import re
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import standalone_cluster
import tiny_inputs
import yaml
from cli_runner import embedall
from processes import parent, wait_for
from standalone_cluster import ROOT, SMALL, task_hosts
from toy_corpus import TOPIC_OF, configure, documents, write
from vector_tables import bits

from embedall_spark import tables

pytestmark = pytest.mark.slow

OTHERS = ("sequences", "nodes", "images", "latent")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with standalone_cluster.cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def jars(spark):
    return standalone_cluster.delta_jars()


@pytest.fixture(scope="module")
def glob(tmp_path_factory):
    return write(tmp_path_factory.mktemp("corpus") / "corpus", documents(), files=2)


TRAIN = {"workers": 2, "context": True, "epochs": 2}


def kill_an_executor(process, local):
    """Kill the executor of one of the two workers of a run that have their windows and begin to train."""

    def training():
        spools = local.parent.glob("*/spark-*/*/*/embedall-*/spool/night-1/*-*")
        pids = [int(path.name.split("-")[0]) for path in spools]
        return process.poll() is not None or (len(pids) == 2 and pids)

    pids = wait_for(training)
    assert process.poll() is None, "the run ended before its training"
    # A worker is forked by the daemon of its executor.
    os.kill(parent(parent(pids[0])), signal.SIGKILL)


class Run(NamedTuple):
    """What one run of the application left."""

    output: str
    code: int
    hosts: dict[str, set[str]]
    """Those of its tasks, by the place in the code that has started them."""

    @property
    def summary(self):
        """The last line of the output."""
        return json.loads(self.output.splitlines()[-1])


def commands(folder, glob):
    """Return the runs of the application by name, each a script and its arguments."""
    configs = {
        name: configure(folder / name, glob, train=train)
        for name, train in (("apart", TRAIN), ("cluster", TRAIN), ("refused", {"workers": 3}))
    }
    (folder / "labels.csv").write_text("\n".join(["id,label", *(",".join(pair) for pair in TOPIC_OF.items())]))
    output = folder / "cluster" / "output"
    steps = {
        "words": {"run": "words", "config": configs["cluster"]},
        "publish": {"run": "publish", "candidate": "${words}", "to": f"{output}/published"},
        "evaluate": {"run": "evaluate", "table": "${publish}", "labels": {"path": f"{folder}/labels.csv"}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    return {
        "apart": ["words", "--config", configs["apart"], "--dry-run"],
        "words": ["words", "--run-id=night-1", f"--config={configs['cluster']}", f"--summary={folder}/summary.json"],
        **{kind: [kind, *tiny_inputs.arguments(kind, folder, output)] for kind in OTHERS},
        "pipeline": ["pipeline", f"{folder}/pipeline.yaml"],
        "refused": ["words", "--config", configs["refused"], "--dry-run"],
    }


@pytest.fixture(scope="module")
def submitted(cluster, jars, glob, tmp_path_factory):
    """One application, since its processes take longest, with all jobs.

    First a dry run while the hosts do not reach each other; after they do, a run of words that loses an executor, and
    the other jobs; at last a dry run of too many workers.
    """
    folder = tmp_path_factory.mktemp("submitted")
    tiny_inputs.write(folder)
    runs = commands(folder, glob)
    arguments = [json.dumps([f"{ROOT}/jobs/{job}.py", *rest]) for job, *rest in runs.values()]
    command = cluster.submit("--properties-file", ROOT / "conf" / "spark-standalone.conf", "--load-spark-defaults")
    command += [part for key, value in (SMALL | jars).items() for part in ("--conf", f"{key}={value}")]
    command += [f"{ROOT}/tests/run_script.py", arguments[0], f"wait {folder}/linked", *arguments[1:]]
    events = folder / "events"
    events.mkdir()
    site = {"eventLog.enabled": "true", "eventLog.dir": events.as_uri(), "eventLog.compress": "false"}
    site |= {"driver.memory": "16m"}
    text = "".join(f"spark.{key} {value}\n" for key, value in site.items())
    Path(cluster.environment["SPARK_CONF_DIR"], "spark-defaults.conf").write_text(text)
    log = (folder / "output.log").open("w+")
    process = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(1) as disturber:

        def disturb():
            wait_for(lambda: process.poll() is not None or "exit code" in Path(log.name).read_text())
            cluster.hosts.link()
            (folder / "linked").touch()
            kill_an_executor(process, cluster.hosts.folder)

        disturbed = disturber.submit(disturb)
        errors = process.communicate(timeout=900)[1]
    disturbed.result()
    text = Path(log.name).read_text()
    ends = re.findall(r"(?s)(.*?)exit code (\d+) (\S+) (\S+)\n", text)
    assert len(ends) == len(runs), f"{text[-3000:]}\n{errors[-5000:]}"
    hosts = task_hosts(events, [(float(begun), float(ended)) for *_, begun, ended in ends])
    done = {name: Run(end[0], int(end[1]), where) for name, end, where in zip(runs, ends, hosts, strict=True)}
    failed = {name for name, run in done.items() if run.code} - {"apart", "refused"}
    assert not failed, f"{failed}: {text[-3000:]}\n{errors[-5000:]}"
    return folder, process.returncode, done


def test_workers_that_do_not_reach_each_other_are_told_before_anything_else(cluster, submitted):
    hosts = cluster.hosts
    if hosts.missing:
        pytest.skip(hosts.missing)
    folder, _, runs = submitted
    run = runs["apart"]
    assert (run.code, run.summary["error"]) == (1, "ResourceError")
    for host, peer in (("one", hosts.two), ("two", hosts.one)):
        expected = rf"{host} has no address on a route to the others \({peer.address}\): .*unreachable"
        assert re.search(expected, run.output)
    assert "open these between the hosts of executors in firewalls, security groups and network policies" in run.output
    assert not (folder / "apart" / "output").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder for what this machine makes by itself, with one MLflow store."""
    return tmp_path_factory.mktemp("alone")


def test_words_on_two_workers(spark, submitted, glob, alone):
    folder, _, runs = submitted
    run = runs["words"]
    # An executor was killed in the training: the run has tried the slice again by itself.
    assert "training: a worker died in epoch 1 (" in run.output
    assert run.output.count("Trying the slice again (train.retries: 1 of 2)") == 1
    summary = run.summary
    assert summary == json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["run_id"], summary["rows"]) == ("done", "night-1", len(TOPIC_OF))
    saved = json.loads(Path(summary["folder"], "checkpoints", "0001-0000", "manifest.json").read_text())
    assert len(saved["reports"]) == 2
    assert all(report["sent_bytes"] > 0 for report in saved["reports"])
    # To the bit what one machine makes of it.
    here = embedall("words", "--config", configure(alone, glob, train=TRAIN))
    assert here.code == 0, here.log
    actual = tables.read(spark, summary["table"])
    assert bits(actual) == bits(tables.read(spark, here.summary["table"]))
    assert actual.where("size(context) = 20").count() == len(TOPIC_OF)


@pytest.mark.parametrize("kind", ["sequences", "nodes"])
def test_items_and_nodes_are_to_the_bit_those_of_one_machine(spark, submitted, alone, kind):
    folder, _, runs = submitted
    here = embedall(kind, *tiny_inputs.arguments(kind, folder, alone / "output"))
    assert here.code == 0, here.log
    actual = bits(tables.read(spark, runs[kind].summary["table"]))
    assert len(actual) == tiny_inputs.ROWS[kind]
    assert actual == bits(tables.read(spark, here.summary["table"]))


def test_pictures_are_nearest_to_those_of_their_color_and_to_its_word(spark, submitted):
    *_, runs = submitted
    images, latent = (bits(tables.read(spark, runs[kind].summary["table"])) for kind in ("images", "latent"))
    names = [f"{number}.png" for number in range(tiny_inputs.ROWS["images"])]
    assert images.keys() == set(names)
    colors = np.arange(len(names)) % len(tiny_inputs.COLORS)
    # All have length 1.
    matrix = np.stack([np.frombuffer(images[name], np.float32) for name in names])
    cosines = matrix @ matrix.T - 2 * np.eye(len(names))
    assert (colors[cosines.argmax(axis=1)] == colors).all()
    projected, words = (
        np.stack([np.frombuffer(latent[f"{kind}:{name}"], np.float32) for name in of])
        for kind, of in (("images", names), ("words", tiny_inputs.COLORS))
    )
    assert ((projected @ words.T).argmax(axis=1) == colors).all()


def test_a_pipeline_goes_on_from_the_jobs_before_it(submitted):
    *_, runs = submitted
    steps = runs["pipeline"].summary["steps"]
    assert [step["status"] for step in steps.values()] == ["unchanged", "done", "done"]
    assert steps["evaluate"]["metrics"]["purity/neighbours"] > 0.9


def test_every_job_has_tasks_on_both_hosts(cluster, submitted):
    *_, runs = submitted
    done = {name: run.hosts for name, run in runs.items() if run.code == 0}
    assert done.keys() == {path.stem for path in (ROOT / "jobs").glob("*.py")}
    for name, places in done.items():
        # What asks all hosts before a run does not count.
        found = set().union(*(hosts for place, hosts in places.items() if "cluster_slots.py" not in place))
        assert found == {cluster.hosts.one.address, cluster.hosts.two.address}, name


def test_a_cluster_with_too_few_slots_is_told_at_once(submitted):
    folder, code, runs = submitted
    run = runs["refused"]
    assert (code, run.code, run.summary["error"]) == (1, 1, "ResourceError")
    assert "train.workers=3 needs 3 task slots at once, but the cluster has fewer" in run.output
    assert not (folder / "refused" / "output").exists()


def test_spark_assigns_the_gpus_of_a_worker(cluster, tmp_path):
    settings = {
        "spark.driver.memory": "1g", "spark.executor.memory": "600m", "spark.executor.cores": 4,
        "spark.executor.resource.gpu.amount": 2, "spark.task.resource.gpu.amount": 0.5, "spark.ui.enabled": "false",
    }  # fmt: skip
    command = cluster.submit(*(part for key, value in settings.items() for part in ("--conf", f"{key}={value}")))
    done = subprocess.run(
        [*command, ROOT / "tests" / "devices_job.py", tmp_path],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)[-1])
    # Half a GPU each: four tasks at once, two on each.
    at_once = said["session"]["rows"]
    assert Counter(device for device, *_ in at_once) == {"cuda:0": 2, "cuda:1": 2}
    assert max(begun for _, begun, _ in at_once) < min(ended for *_, ended in at_once)
    assert said["session"]["threads"] == 1
    # A whole GPU each, by the stage's own profile: two at once, never two on the same.
    for device in ("cuda:0", "cuda:1"):
        spans = sorted((begun, ended) for name, begun, ended in said["stage"]["rows"] if name == device)
        assert spans
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert sum(name in ("cuda:0", "cuda:1") for name, *_ in said["stage"]["rows"]) == 4
    assert said["stage"]["threads"] == 2
    # The barrier tasks of a training have a GPU of their own each.
    assert said["training"] == ["cuda:0", "cuda:1"]


def test_a_packed_environment_without_torch_is_shipped_and_runs_words(cluster, jars, glob, tmp_path):
    """What make package writes: hosts have Spark and a Python, and nothing of this package."""
    subprocess.run(["make", "package", f"DIST={tmp_path}", "COMPILE="], cwd=ROOT, check=True, capture_output=True)
    (tmp_path / "job.py").write_bytes((ROOT / "tests" / "packaged_job.py").read_bytes())
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_bytes(b"nobody looks at it")
    config = configure(tmp_path / "run", glob, train={"epochs": 1})
    command = cluster.submit("--archives", f"{tmp_path}/environment.tar.gz#packed")
    command += ["--properties-file", ROOT / "conf" / "spark-standalone.conf", "--load-spark-defaults"]
    command += ["--conf", "spark.executorEnv.NUMBA_CACHE_DIR=./numba"]
    command += [part for key, value in (SMALL | jars).items() for part in ("--conf", f"{key}={value}")]
    command += [tmp_path / "job.py", tmp_path, "--config", config]
    pythons = {"PYSPARK_DRIVER_PYTHON": f"{tmp_path}/environment/bin/python", "PYSPARK_PYTHON": "./packed/bin/python"}
    done = subprocess.run(
        command, env=cluster.environment | pythons, cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert (lines[0]["status"], lines[0]["rows"]) == ("done", len(TOPIC_OF))
    seen = lines[-1]
    assert seen["codes"] == [2] * 4
    # spark-submit's own output has both streams of the driver.
    assert "train.workers=2 needs torch, which is not installed; pip install 'embedall_spark[torch]'" in done.stdout
    assert "efficientnet_lite0 needs torch, which is not installed; pip install 'embedall_spark[images]'" in done.stdout
    for user, extra in (("train.workers=2", "torch"), ("backbone.name: the network efficientnet_lite0", "images")):
        lacks = rf"{user} needs torch, which the Python of Spark's tasks on host \S+ lacks; .*{extra}\]' on every host"
        assert re.search(lacks, done.stdout)
    assert seen["driver"][0] == f"{tmp_path}/environment"
    for prefix, package, torch in seen["tasks"]:
        assert prefix.endswith("/packed") and package.startswith(f"{prefix}/lib/"), prefix
        assert torch == "None"
