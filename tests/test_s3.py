"""Every kind of job on S3: a server of this machine, hadoop-aws for Spark, and nothing but Spark's own settings."""

import io
import signal
from pathlib import Path

import jars
import numpy as np
import pytest
import s3_server
import yaml
from PIL import Image, ImageDraw
from processes import wait_for
from toy_corpus import documents

from embedall_spark import config, storage_probe
from embedall_spark.errors import SetupError
from embedall_spark.kinds import words

pytestmark = pytest.mark.slow

# Without the bundle of all of Amazon's services, which has 640 MB.
SDK = "2.29.52"
PACKAGES = [f"org.apache.hadoop:hadoop-aws:{jars.HADOOP}"]
PACKAGES += [f"software.amazon.awssdk:{name}:{SDK}" for name in ("s3", "s3-transfer-manager", "sts", "apache-client")]
LAKE = f"s3a://{s3_server.BUCKET}"
COLORS = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (20, 160, 60), "yellow": (230, 220, 40)}
SHAPES = ("disc", "square", "cross")


def picture(color, shape, seed):
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (64, 64), tuple(int(value) for value in random.integers(200, 256, 3)))
    pen, (x, y) = ImageDraw.Draw(image), random.integers(2, 22, 2)
    if shape == "cross":
        pen.line((x, y + 20, x + 40, y + 20), fill=COLORS[color], width=8)
        pen.line((x + 20, y, x + 20, y + 40), fill=COLORS[color], width=8)
    else:
        (pen.ellipse if shape == "disc" else pen.rectangle)((x, y, x + 40, y + 40), fill=COLORS[color])
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


class Lake:
    """The bucket, as one who was told nothing by Spark sees it."""

    def __init__(self, boto):
        self.boto = boto

    def put(self, key, content):
        self.boto.put_object(Bucket=s3_server.BUCKET, Key=key, Body=content)

    def get(self, key):
        return self.boto.get_object(Bucket=s3_server.BUCKET, Key=key)["Body"].read()

    def keys(self, prefix=""):
        pages = self.boto.get_paginator("list_objects_v2").paginate(Bucket=s3_server.BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def titles(count):
    """Return the rows of the table of so many pictures; names have what URIs and globs give another meaning."""
    facts = [(color, shape) for color in COLORS for shape in SHAPES] * 8
    return [(f"a b/{color} 100%20#{at}ü.png", f"{color} {shape}", (color, shape, at)) for at, (color, shape) in
            enumerate(facts[:count])]  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run of words that is killed; then it is resumed, and the other kinds run, in one process."""
    folder = tmp_path_factory.mktemp("s3")
    with s3_server.serving() as (endpoint, boto):
        lake = Lake(boto)
        for number, lines in enumerate((documents(300), documents(300, seed=6))):
            lake.put(f"corpus 100%/part {number}.txt", "\n".join(lines).encode())
            (folder / "corpus").mkdir(exist_ok=True)
            (folder / "corpus" / f"part {number}.txt").write_text("\n".join(lines), encoding="utf-8")
        train = {"vector_size": 20, "epochs": 6, "sample": 0, "threads": 1, "slice_tokens": 3000}
        settings = {"vocabulary": {"min_count": 2}, "train": train, "evaluate": {"map_words": 0}}
        on_lake = {"input": {"path": f"{LAKE}/corpus 100%/*.txt"}, "output": {"table": f"{LAKE}/out/words"}}
        lake.put("conf/words.yaml", yaml.safe_dump(on_lake | settings).encode())
        here = {"input": {"path": f"{folder}/corpus/*.txt"}, "output": {"table": f"{folder}/out/words"}}
        (folder / "words.yaml").write_text(yaml.safe_dump(here | settings))
        told = jars.properties(
            folder / "spark.conf", PACKAGES, s3_server.options(endpoint), excluded="software.amazon.awssdk:bundle"
        )
        night = ["words", "--config", f"{LAKE}/conf/words.yaml", "--run-id", "night+1", "--properties"]
        first = jars.start([[*night, told]], folder, folder / "first.log")
        saved = "out/.runs/night~2B1/checkpoints/"
        try:
            wait_for(
                lambda: any(key.endswith("/manifest.json") for key in lake.keys(saved)) or first.poll() is not None,
                seconds=240, pause=0.3,
            )  # fmt: skip
        finally:
            first.kill()
        if first.wait() != -signal.SIGKILL:
            jars.results(first, folder / "first.log")
        stage = next(key for key in lake.keys("out/.runs/") if "/stages/blocks" in key and key.endswith(".parquet"))
        lake.put(f"{stage.rpartition('/')[0]}/stray.parquet", lake.get(stage))
        for rows, name in ((40, "titles-1.csv"), (48, "titles-2.csv")):
            lines = ["file,title", *(f'"{file}",{title}' for file, title, _ in titles(rows))]
            lake.put(f"products/{name}", "\n".join(lines).encode())
        for file, _, facts in titles(48):
            lake.put(f"products/{file}", picture(*facts))
        lake.put(f"products/{titles(1)[0][0]}", picture("red", "disc", 99))
        options = ["format=csv", "location=file", "title=title"]
        images = [[
            "images", f"{LAKE}/products/titles-{number}.csv", f"{LAKE}/out/products", "--set", "output.mode=merge",
            "--set", "evaluate.map_images=0", *(part for text in options for part in ("--set", f"input.{text}")),
        ] for number in (1, 2)]  # fmt: skip
        # One try, and no pictures, which lie beside MLflow's store: what differs here is where tables and stages lie.
        options = ["fit.k=3", "fit.power=[1]", "fit.regularisation=[[1, 1]]", "split.validation=0.2", "split.test=0.2"]
        options += ["evaluate.map_ids=0", "evaluate.heat_pairs=0", "evaluate.examples=0"]
        latent = ["latent", f"{LAKE}/out/products", f"{LAKE}/out/latent", "--summary", f"{LAKE}/out/latent.json"]
        latent += [part for text in options for part in ("--set", text)]
        query = ["search", f"{LAKE}/out/products", "--image", f"{LAKE}/products/{titles(48)[47][0]}", "-n", 3]
        # From here on there are pictures.
        (folder / "torch.conf").write_text(f"{Path(told).read_text()}spark.python.daemon.module torch_daemon\n")
        commands = [
            [*night, folder / "torch.conf"], ["words", "--config", folder / "words.yaml"],
            ["bits", f"{LAKE}/out/words"], ["bits", f"{folder}/out/words"], *images, latent,
            [*query, "--html", f"{LAKE}/out/page 1.html", "--montage", f"{LAKE}/out/tiles.png"],
            ["search", f"{LAKE}/out/latent", "--text", "red disc", "-n", 3],
            ["clean", f"{LAKE}/out/.runs", "--keep", 0],
        ]  # fmt: skip
        said = jars.results(jars.start(commands, folder, folder / "second.log"), folder / "second.log")
        for result in said:
            assert result.get("code", 0) == 0, result["log"]
        names = ("words", "here", "bits", "bits here", "once", "twice", "latent", "search", "text", "clean")
        yield lake, dict(zip(names, said, strict=True)), folder, endpoint


def test_a_killed_run_is_resumed_and_strays_are_not_read(ran):
    _, said, _, _ = ran
    assert "resumed after attempt 1" in said["words"]["log"]
    assert "blocks: reused" in said["words"]["log"] and "train   0%" not in said["words"]["log"]
    assert len(said["bits"]["bits"]) > 50
    assert said["bits"] == said["bits here"]


def test_pictures_are_merged(ran):
    lake, said, _, _ = ran
    assert '"rows": 40' in said["once"]["output"] and '"rejected": 0' in said["once"]["output"]
    assert '"rows": 8' in said["twice"]["output"]
    assert lake.get("out/page 1.html").startswith(b"<!DOCTYPE html>")
    assert lake.get("out/tiles.png")[:4] == b"\x89PNG"
    assert b'"status": "done"' in lake.get("out/latent.json")
    assert "red disc" in said["text"]["output"]


def test_what_is_left(ran):
    lake, said, folder, _ = ran
    keys = lake.keys("out/")
    assert "1 run cleaned" not in said["clean"]["output"] and "runs cleaned" in said["clean"]["output"]
    assert not [key for key in keys if "/stages/" in key or "/checkpoints/" in key]
    assert not [key for key in keys if ".probe-" in key or key.endswith(".part")]
    assert "Uploads" not in lake.boto.list_multipart_uploads(Bucket=s3_server.BUCKET)
    for secret in (s3_server.SECRETS["secret.key"], s3_server.SECRETS["session.token"]):
        assert not [key for key in keys if secret.encode() in lake.get(key)]
        assert secret.encode() not in (folder / "mlflow.db").read_bytes()
        assert not [name for name in ("first.log", "second.log") if secret in (folder / name).read_text()]


def test_a_missing_jar_is_named(spark, ran, monkeypatch):
    *_, endpoint = ran
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(SetupError, match=rf"add org.apache.hadoop:hadoop-aws:{jars.HADOOP} to spark.jars.packages"):
        storage_probe.check(spark, f"{LAKE}/probed")
    named = {"input": {"path": "/in"}, "output": {"table": f"{LAKE}/out", "run_root": "/runs"}}
    with pytest.raises(SetupError, match=r"lacks the jar for s3a://"):
        storage_probe.check_jars(spark, config.parse(words.Config, named))
    with pytest.raises(SetupError, match=r"write s3a://, or set spark\.hadoop\.fs\.s3\.impl"):
        storage_probe.check(spark, f"s3://{s3_server.BUCKET}/probed")
