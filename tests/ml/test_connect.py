"""Everything of embedall_spark.ml through Spark Connect: a real server, and a client in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import tiny_inputs
from pyspark.errors import AnalysisException
from pyspark.sql import functions as F

from embedall_spark import cluster_slots, kinds, tables
from embedall_spark.errors import ConfigError
from embedall_spark.ml import Word2Vec, Word2VecModel, work_folder


@pytest.fixture(scope="module")
def server(spark):
    """The address of a server in the session's JVM."""
    java = spark._jvm.java.lang.Class.forName("org.apache.spark.SparkEnv").getMethod("get", None).invoke(None, None)
    java.conf().set("spark.connect.grpc.binding.port", "0")
    name = "org.apache.spark.sql.connect.service.SparkConnectService$"
    service = spark._jvm.java.lang.Class.forName(name).getField("MODULE$").get(None)
    service.start(spark.sparkContext._jsc.sc())
    yield f"sc://localhost:{service.localPort()}"


@pytest.mark.slow
def test_a_client_fits_saves_and_searches(spark, server, tmp_path):
    pytest.importorskip("grpc")
    tiny_inputs.write(tmp_path)
    environment = {**os.environ, "SPARK_REMOTE": server, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, Path(__file__).with_name("connect_client.py"), tmp_path]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert process.returncode == 0, process.stderr[-4000:]
    report = json.loads(process.stdout.splitlines()[-1])
    # The session beside the server reads what the client has saved.
    model = Word2VecModel.load(f"{tmp_path}/model")
    hits = model.findSynonymsArray(report["word"], 3)
    assert [word for word, _ in hits] == [word for word, _ in report["synonyms"]]
    text = spark.read.text(f"{tmp_path}/corpus.txt").select(F.split(F.lower("value"), " ").alias("text"))
    assert np.allclose(model.transform(text).first().vector, report["vector"], atol=1e-6)
    assert report["others"] == [4, 3, 16, 6]
    commands = report["commands"]
    summaries = {name: json.loads(commands[name]) for name in kinds.names()}
    assert {summary["status"] for summary in summaries.values()} == {"done"}
    assert summaries["words"]["rows"] > 50
    assert {name: summaries[name]["rows"] for name in tiny_inputs.ROWS} == tiny_inputs.ROWS
    # Pictures and words of both colors' names and numbers, found by the session beside the server.
    assert tables.read(spark, summaries["latent"]["table"]).count() == summaries["latent"]["rows"] > 24
    # The nearest are pictures of the same color, of another width.
    assert "red" in commands["search"]
    assert tables.read(spark, f"{tmp_path}/out/near").groupBy("query").count().count() == 17
    # This client's machine need not have Java.
    assert report["doctor"] == [
        "not needed: the session is provided",
        f"Spark {spark.version} answers (3 rows), set up for Delta",
    ]


def test_a_server_on_another_host_needs_a_shared_folder(monkeypatch):
    monkeypatch.delenv("SPARKML_TEMP_DFS_PATH", raising=False)
    monkeypatch.setattr(cluster_slots, "is_remote", lambda spark: True)
    session = SimpleNamespace(
        conf=SimpleNamespace(get=lambda *_: "local[4]"), client=SimpleNamespace(host="spark.example")
    )
    with pytest.raises(ConfigError, match="set run_root"):
        work_folder.new(session, Word2Vec())
    # At localhost there may be a container with files of its own: whether it sees ours is tried.
    session.client.host = "localhost"
    assert cluster_slots.local(session) == 4
    assert not cluster_slots.shares_files(session)
    session.read = SimpleNamespace(text=Mock(side_effect=AnalysisException("no such path")))
    with pytest.raises(ConfigError, match=r"does not see .*set run_root"):
        work_folder.new(session, Word2Vec())
    session.read.text = lambda path: SimpleNamespace(collect=lambda: [SimpleNamespace(value=Path(path).read_text())])
    assert Path(work_folder.new(session, Word2Vec())).name.startswith("Word2Vec")
