"""Extras, versions, and the files for Kubernetes: what they name exists, and Spark's own client reads the templates."""

from __future__ import annotations

import re
import tomllib
from types import SimpleNamespace

import pytest
import yaml
from doc_blocks import ROOT, blocks
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from embedall_spark import cluster_slots, config, devices, doctor, extras, session
from embedall_spark.cli.shared import failure
from embedall_spark.errors import ConfigError, SetupError
from embedall_spark.images import backbones
from embedall_spark.kinds import images

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
HOME = ROOT / "deploy" / "kubernetes"
DOCKERFILE = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (HOME / "Dockerfile").read_text(), flags=re.MULTILINE))
STEPS = [line.split(None, 1) for line in DOCKERFILE.splitlines() if line]
GUIDE = ROOT / "docs" / "guide" / "packaging.md"


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name.startswith("torch") else object())


@pytest.fixture
def spark_settings():
    """A session with a local master, of which nothing else is asked."""
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, default=None: {"spark.master": "local[2]"}.get(key)))


def closure(*names):
    """The requirements of some extras and of the extras that they bring."""
    for name in names:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][name]):
            if requirement.name == PROJECT["name"]:
                yield from closure(*requirement.extras)
            else:
                yield requirement.name


def test_torch_comes_with_the_extras_that_errors_name():
    assert not {"torch", "torchvision"} & {Requirement(one).name for one in PROJECT["dependencies"]}
    assert set(closure("torch")) == {"torch"}
    for name in ("images", "onnx", "timm", "open-clip", "demo"):
        assert {"torch", "torchvision"} <= set(closure(name)), name
    for packages in (extras.TORCH, extras.IMAGES):
        assert all(package in closure(extra) for package, extra in packages.items())
    table = GUIDE.read_text().split("## Extras")[1].split("\n## ")[0]
    documented = set(re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE))))
    assert documented >= PROJECT["optional-dependencies"].keys() - {"dev", "onnx", "timm", "open-clip", "package"}
    every = {Requirement(one).name for one in PROJECT["dependencies"]} | set(closure(*PROJECT["optional-dependencies"]))
    assert {canonicalize_name(name) for name in every} <= PINS.keys()


def test_tasks_that_lack_a_package_are_told_with_their_host(monkeypatch, caplog, spark_settings):
    monkeypatch.setattr(cluster_slots, "problems", lambda _, look: [("far", look())])
    with monkeypatch.context() as patch:
        patch.setattr(extras, "find_spec", lambda _: None)
        extras.check_hosts(spark_settings, extras.TORCH, "fit.refine")
        patch.setattr(cluster_slots, "local", lambda _: None)
        with pytest.raises(ConfigError, match=r"fit\.refine needs torch, .* host far lacks; pip install .*, or ship"):
            extras.check_hosts(spark_settings, extras.TORCH, "fit.refine")
    # Where nothing has asked before.
    assert failure.explain(Exception("in a task: ModuleNotFoundError: No module named 'onnx.helper'")) == 1
    assert "the Python of Spark's tasks lacks onnx: install it on every host" in caplog.text


def test_what_needs_torch_says_so_and_auto_does_without(no_torch, monkeypatch, spark_settings):
    with pytest.raises(ConfigError, match=r"train\.workers=2 needs torch, .*'embedall_spark\[torch\]' on every host"):
        extras.check(extras.TORCH, "train.workers=2")
    pictures = config.parse(images.Config, {"input": {"path": "pictures"}, "output": {"table": "output/images"}})
    with pytest.raises(ConfigError, match=r"network efficientnet_lite0 needs torch, .*'embedall_spark\[images\]'"):
        images.check(pictures)
    with pytest.raises(ConfigError, match=r"network resnet18 needs torch, .*'embedall_spark\[images\]'"):
        backbones.load(backbones.BackboneConfig(name="resnet18"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert devices.kind_of_training(spark_settings, "auto") == "cpu"
    assert "embedall_spark[torch]" in devices.problem("cuda:0")
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor.gpu() == "none (not needed)"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    with pytest.raises(SetupError, match=r"NVIDIA driver, and torch is not installed; pip install"):
        doctor.gpu()


def test_the_image_has_the_versions_and_paths_of_the_project():
    arguments = dict(one.split("=", 1) for step, one in STEPS if step == "ARG")
    version, _, java = re.fullmatch(
        r"apache/spark:([\d.]+)-(scala2\.13)-java(\d+)-\w+", arguments["SPARK_IMAGE"]
    ).groups()
    assert version == PINS["pyspark"]
    (python,) = (re.match(r"python:([\d.]+)-", one)[1] for step, one in STEPS if step == "FROM" and "python" in one)
    assert python in SpecifierSet(PROJECT["requires-python"])
    assert int(java) in session.JAVA_VERSIONS and f"openjdk-{java}-jre" in DOCKERFILE
    assert set(arguments["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    copied = [one.split() for step, one in STEPS if step == "COPY" and "--from" not in one]
    made = {"dist/embedall_spark-*.whl"}  # by make wheel
    assert all((ROOT / name).exists() or name in made for *names, _ in copied for name in names)
    targets = {name: target for *names, target in copied for name in names}
    (install,) = (one for step, one in STEPS if step == "RUN" and "pip install" in one)
    assert f"-c {targets['constraints.txt']}constraints.txt" in install
    assert f"{targets['dist/embedall_spark-*.whl']}embedall_spark-*.whl" in install
    (settings,) = (dict(re.findall(r"(\w+)=(\S+)", one)) for step, one in STEPS if step == "ENV")
    prefix = re.search(r"python -m venv (\S+)", install)[1]
    assert settings["PYSPARK_PYTHON"] == settings["PYSPARK_DRIVER_PYTHON"] == f"{prefix}/bin/python"
    assert any(one.endswith(f" {settings['SPARK_HOME']}") for step, one in STEPS if step == "COPY")
    # The job that the guide submits is in the image.
    (job,) = re.findall(r"local://(\S+)", GUIDE.read_text())
    assert (ROOT / "jobs" / job.removeprefix(f"{targets['jobs']}/")).is_file()


def test_the_guide_ships_what_make_package_writes():
    makefile = (ROOT / "Makefile").read_text()
    assert "--output $(DIST)/environment.tar.gz" in makefile
    text = "".join(block.body for block in blocks(GUIDE))
    assert set(re.findall(r"--archives (\S+)", text)) == {"dist/environment.tar.gz#environment"}
    assert set(re.findall(r"PYTHON=(\./\S+)", text)) == {"./environment/bin/python"}
    user = dict(STEPS)["USER"]
    assert yaml.safe_load((HOME / "pod.yaml").read_text())["spec"]["securityContext"]["runAsUser"] == int(user)


def unknown(bean, name):
    """Fields of a template that Kubernetes' model does not know, which it keeps aside."""
    return {f"{name}.{field}" for field in bean.getAdditionalProperties()}


@pytest.mark.slow
def test_spark_reads_the_templates(spark):
    models = spark._jvm.io.fabric8.kubernetes
    read = models.client.utils.Serialization.unmarshal
    pod = read((HOME / "pod.yaml").read_text(), models.api.model.Pod._java_lang_class)
    policy = read(
        (HOME / "network-policy.yaml").read_text(), models.api.model.networking.v1.NetworkPolicy._java_lang_class
    )
    (container,), (volume,) = pod.getSpec().getContainers(), pod.getSpec().getVolumes()
    beans = [pod, pod.getMetadata(), pod.getSpec(), pod.getSpec().getSecurityContext(), container, volume]
    beans += [
        *container.getVolumeMounts(),
        volume.getEmptyDir(),
        policy,
        policy.getSpec(),
        *policy.getSpec().getIngress(),
    ]
    assert not set().union(*(unknown(bean, bean.getClass().getSimpleName()) for bean in beans))
    # Spark takes volumes of this name as local disks.
    assert [mount.getName() for mount in container.getVolumeMounts()] == [volume.getName()]
    assert volume.getName().startswith("spark-local-dir-")
    labels = dict(pod.getMetadata().getLabels())
    (rule,) = policy.getSpec().getIngress()
    selectors = [policy.getSpec().getPodSelector(), *(peer.getPodSelector() for peer in rule.getFrom())]
    assert all(dict(one.getMatchLabels()) == labels for one in selectors)
