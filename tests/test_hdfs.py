"""Words and nodes on HDFS: a NameNode and a DataNode of this machine, whose jars come from Maven Central."""

import os
import socket
import subprocess
from pathlib import Path

import jars
import pytest
import yaml
from cli_runner import embedall
from processes import wait_for
from toy_corpus import documents

from embedall_spark import files, mlflow_store

pytestmark = pytest.mark.slow

PACKAGES = (f"org.apache.hadoop:hadoop-client-minicluster:{jars.HADOOP}", "junit:junit:4.13.2")
IVY = Path("~/.ivy2.5.2/jars").expanduser()


def minicluster():
    """Return the class path of the minicluster; skip the test where its jars cannot be had."""
    paths = [IVY / f"{name.replace(':', '_', 1).replace(':', '-')}.jar" for name in PACKAGES]
    if not all(path.exists() for path in paths):
        command = [jars.SPARK / "bin" / "spark-submit", "--master", "local[1]", "--packages", ",".join(PACKAGES)]
        command += ["--conf", f"spark.jars.ivy={IVY.parent}", "--class", "org.apache.hadoop.util.VersionInfo"]
        done = subprocess.run([*command, "spark-internal"], capture_output=True, text=True, check=False, timeout=300)
        if not all(path.exists() for path in paths):
            pytest.skip(f"the minicluster's jars cannot be resolved: {done.stderr[-300:]}")
    return os.pathsep.join([*map(str, paths), f"{jars.SPARK}/jars/*"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Return the address of HDFS."""
    classes, folder = minicluster(), tmp_path_factory.mktemp("hdfs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["java", *jars.QUICK_JAVA.split(), "-Xmx256m", "-cp", classes]
    command += ["org.apache.hadoop.test.MiniDFSClusterManager", "-datanodes", "1", "-nnport", str(port), "-format"]
    log = folder / "cluster.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "-writeDetails", str(folder / "ready")], cwd=folder, stdout=output, stderr=output
        )
    try:
        wait_for(lambda: (folder / "ready").exists() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"hdfs://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_small_files_with_odd_names_replace_each_other(cluster):
    uri = f"{cluster}/a b/ü%20#?.txt"
    files.write_bytes(uri, b"one")
    files.write_bytes(uri, b"two")
    with pytest.raises(KeyboardInterrupt), files.create(uri) as stream:
        stream.write(bytes(1 << 20))
        raise KeyboardInterrupt
    assert files.read_bytes(uri) == b"two"
    assert files.children(f"{cluster}/a b") == ["ü%20#?.txt"]
    filesystem, path = files.resolve(uri)
    assert filesystem.get_file_info(path).mtime_ns > 1e18
    with pytest.raises(FileNotFoundError, match=r"^File does not exist: /none$"):
        files.read_bytes(f"{cluster}/none")
    files.delete(f"{cluster}/a b")
    assert not files.exists(uri) and files.children(f"{cluster}/a b") == []


def test_words_and_nodes(spark, cluster, tmp_path, monkeypatch):
    """Over the session of all tests: Spark brings its own client of HDFS."""
    store = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow_store.prepare(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    files.write_bytes(f"{cluster}/in put/corpus.txt", "\n".join(documents(300)).encode())
    rings = [f"{ring}{at}\t{ring}{(at + step) % 12}" for ring in "ab" for at in range(12) for step in (1, 2)]
    files.write_bytes(f"{cluster}/in put/edges.tsv", "\n".join(rings).encode())
    small = {"vector_size": 16, "epochs": 2, "threads": 1}
    sections = {
        "words": {"input": {"path": f"{cluster}/in put/corpus.txt"}, "evaluate": {"map_words": 0}},
        "nodes": {"input": {"path": f"{cluster}/in put/edges.tsv"}, "evaluate": {"map_nodes": 0}},
    }
    commands = []
    for kind, values in sections.items():
        values |= {"output": {"table": f"{cluster}/out/{kind}"}, "train": small}
        files.write_bytes(f"{cluster}/conf/{kind}.yaml", yaml.safe_dump(values).encode())
        commands.append([kind, "--config", f"{cluster}/conf/{kind}.yaml", "--run-id", kind])
    commands += [["similar", f"{cluster}/out/nodes", "a1", "-n", 3], ["clean", f"{cluster}/out/.runs", "--keep", 0]]
    said = [embedall(*command) for command in commands]
    for result in said:
        assert result.code == 0, result.log
    assert said[1].summary["rows"] == 24
    assert len([line for line in said[2].output.splitlines() if " a" in line]) >= 3
    assert sorted(files.children(f"{cluster}/out/.runs/nodes")) == ["config.yaml", "manifest.json"]
