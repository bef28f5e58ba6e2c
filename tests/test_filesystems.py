"""Clients of storage: one for each scheme and host, told what Spark was told; nothing half-written is published."""

import io
import os
import signal
import subprocess
import sys
import time

import pyarrow.fs as pafs
import pytest
import s3_server
from cli_runner import embedall

from embedall_spark import committed_files, config, files, filesystems, hadoop_options, storage_options, torch_processes
from embedall_spark.errors import ConfigError
from embedall_spark.kinds import words

ODD = "s3a://lake/a b%20#ü/c?d.txt"


@pytest.fixture
def told():
    """A function that tells this process what Spark was told."""
    before = dict(hadoop_options._own)

    def tell(options):
        hadoop_options.remember({f"spark.hadoop.{name}": value for name, value in options.items()})

    yield tell
    tell(before)


@pytest.fixture(scope="module")
def server():
    with serving() as (endpoint, boto):
        yield endpoint, boto


@pytest.fixture
def lake(server, told, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    told(s3_server.options(server[0]))
    return server[1]


serving = s3_server.serving


def test_small_files_on_s3_with_odd_names(lake):
    files.write_bytes(ODD, b"one")
    files.write_bytes(ODD, b"two")
    assert files.read_bytes(ODD) == b"two"
    assert files.children("s3a://lake/a b%20#ü") == ["c?d.txt"]
    assert lake.get_object(Bucket="lake", Key="a b%20#ü/c?d.txt")["Body"].read() == b"two"
    assert files.exists("s3a://lake/a b%20#ü") and not files.exists("s3a://lake/a")
    assert files.children("s3a://lake/nothing") == []
    files.delete("s3a://lake/a b%20#ü")
    assert not files.exists(ODD)


@pytest.mark.parametrize("megabytes", [1, 40])
def test_half_a_file_is_never_published_on_s3(lake, megabytes):
    uri = f"s3a://lake/big/{megabytes}"
    files.write_bytes(uri, b"before")
    with pytest.raises(KeyboardInterrupt), files.create(uri) as stream:
        for _ in range(megabytes):
            stream.write(bytes(1 << 20))
        raise KeyboardInterrupt
    assert files.read_bytes(uri) == b"before"
    assert "Uploads" not in lake.list_multipart_uploads(Bucket="lake")
    with files.create(uri) as stream:
        for _ in range(megabytes):
            stream.write(bytes(1 << 20))
    assert lake.head_object(Bucket="lake", Key=f"big/{megabytes}")["ContentLength"] == megabytes << 20


def test_an_interrupted_upload_is_whole(lake, monkeypatch):
    """Ctrl-C comes while the file is uploaded."""
    upload = files._upload

    def interrupted(*arguments):
        # Until the main thread waits.
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        upload(*arguments)

    monkeypatch.setattr(files, "_upload", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes("s3a://lake/interrupted", b"whole")
    assert files.read_bytes("s3a://lake/interrupted") == b"whole"


def test_a_server_that_the_environment_names(server, told, monkeypatch):
    told({})
    for name, value in (("AWS_ENDPOINT_URL", server[0]), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    files.write_bytes("s3://lake/told/by/environment", b"x")
    assert files.children("s3a://lake/told/by") == ["environment"]


def test_a_client_is_made_once_per_host_and_settings(lake, told):
    first, again = (filesystems.of(f"s3a://lake/{name}")[0] for name in ("a", "b"))
    assert first is again
    told({**s3_server.options("http://127.0.0.1:1"), "fs.s3a.secret.key": "another"})
    assert filesystems.of("s3a://lake/a")[0] is not first


def test_an_outage_is_no_missing_file(told, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    told({**s3_server.options("http://127.0.0.1:1"), "dfs.client.failover.max.attempts": "1"})
    with pytest.raises(OSError, match=r"refused|connect"):
        files.write_bytes("s3a://lake/x", b"lost")
    for uri in ("s3a://lake/x", "hdfs://127.0.0.1:1/x"):
        with pytest.raises(OSError) as error:
            files.exists(uri)
        assert not isinstance(error.value, FileNotFoundError)


def test_configuration_and_summary_lie_on_any_storage(lake, monkeypatch):
    files.write_bytes("s3a://lake/conf/ä.yaml", b"input: {path: x}\noutput: {table: y}\ntrain: {epochs: 3}\n")
    assert config.load(words.Config, "s3a://lake/conf/ä.yaml").train.epochs == 3
    with pytest.raises(ConfigError, match=r"s3a://lake/conf/none\.yaml: cannot be read"):
        config.read("s3a://lake/conf/none.yaml")
    monkeypatch.setattr("embedall_spark.early_storage.prepare", lambda properties: None)
    command = ["words", "--config", "s3a://lake/conf/none.yaml", "--summary", "s3a://lake/out/summary.json"]
    assert embedall(*command).code == 2
    assert b"cannot be read" in files.read_bytes("s3a://lake/out/summary.json")


def test_schemes_of_fsspec_and_those_that_are_refused():
    files.write_bytes("memory://host/a/b", b"one")
    with files.create("memory://host/a/b") as stream:
        stream.write(b"two")
    assert (files.read_bytes("memory://host/a/b"), files.children("memory://host/a")) == (b"two", ["b"])
    files.delete("memory://host/a")
    assert not files.exists("memory://host/a/b")
    for uri, message in (
        ("https://host/x", "nothing is fetched from the web"),
        ("nothing://host/x", "no client for the scheme nothing; use s3a, gs, abfss, hdfs"),
        ("s3://bucket/x?endpoint_override=10.0.0.1", r"options in a URI \(\?endpoint_override=\) are not read"),
    ):
        with pytest.raises(ConfigError, match=message):
            files.exists(uri)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hdfs_native", None)
    with pytest.raises(ConfigError, match=r'pip install "embedall_spark\[hdfs\]"'):
        files.exists("hdfs://nobody/x")


def test_names_of_databricks_and_local_files(tmp_path):
    assert filesystems.local_path("dbfs:/Volumes/c/s/v/x") == "/Volumes/c/s/v/x"
    assert filesystems.local_path("dbfs:/x") == "/dbfs/x"
    assert files.identifier("dbfs:/Volumes/c/s/v/x") == "delta.`/Volumes/c/s/v/x`"
    parsed = config.parse(words.Config, {"input": {"path": "dbfs:/Volumes/a"}, "output": {"table": "dbfs:/Volumes/b"}})
    assert (parsed.input.path, parsed.output.table) == ("/Volumes/a", "/Volumes/b")
    odd = tmp_path / "a b%20#ü.txt"
    odd.write_bytes(b"odd")
    assert files.read_bytes(odd.as_uri()) == files.read_bytes(str(odd)) == b"odd"
    assert filesystems.local_path("file:///a b#c") == "/a b#c"


OAUTH = {
    "fs.azure.account.auth.type": "OAuth",
    "fs.azure.account.oauth.provider.type": "org.apache.hadoop.fs.azurebfs.oauth2.ClientCredsTokenProvider",
    "fs.azure.account.oauth2.client.endpoint": "https://login.microsoftonline.com/tenant-1/oauth2/token",
    "fs.azure.account.oauth2.client.id": "id",
    "fs.azure.account.oauth2.client.secret": "secret",
}
AZURE = "account.dfs.core.windows.net"


@pytest.mark.parametrize(
    ("options", "translate", "arguments"),
    [
        (
            {"fs.s3a.access.key": "a", "fs.s3a.secret.key": "b", "fs.s3a.bucket.lake.secret.key": "c"},
            lambda: storage_options.s3("lake"),
            {"access_key": "a", "secret_key": "c"},
        ),
        (
            {"fs.s3a.endpoint": "minio.example:9000", "fs.s3a.connection.ssl.enabled": "false"},
            lambda: storage_options.s3("lake"),
            {"scheme": "http", "endpoint_override": "minio.example:9000", "force_virtual_addressing": True},
        ),
        (
            {
                "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.auth.AssumedRoleCredentialProvider",
                "fs.s3a.assumed.role.arn": "arn:aws:iam::1:role/x",
            },
            lambda: storage_options.s3("lake"),
            {"role_arn": "arn:aws:iam::1:role/x"},
        ),
        (
            {"fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider"},
            lambda: storage_options.s3("lake"),
            {"anonymous": True},
        ),
        (
            {f"fs.azure.account.key.{AZURE}": "a2V5"},
            lambda: storage_options.azure(AZURE),
            {"account_name": "account", "account_key": "a2V5"},
        ),
        (
            OAUTH,
            lambda: storage_options.azure(AZURE),
            {"account_name": "account", "tenant_id": "tenant-1", "client_id": "id", "client_secret": "secret"},
        ),
        (
            {"fs.gs.project.id": "p", "fs.gs.auth.type": "UNAUTHENTICATED"},
            storage_options.gcs,
            {"project_id": "p", "anonymous": True},
        ),
        (
            {"dfs.nameservices": "ns", "dfs.ha.namenodes.ns": "a", "dfs.namenode.rpc-address.ns.a": "h:8020"},
            lambda: storage_options.hdfs("ns"),
            {"dfs.nameservices": "ns", "dfs.ha.namenodes.ns": "a", "dfs.namenode.rpc-address.ns.a": "h:8020"},
        ),
    ],
)
def test_what_spark_was_told_is_translated(told, options, translate, arguments):
    told(options)
    assert translate() == arguments


def test_translated_arguments_are_those_of_the_clients(told):
    told({f"fs.azure.account.key.{AZURE}": "a2V5", "fs.gs.auth.type": "UNAUTHENTICATED"})
    for uri, kind, path in (
        (f"abfss://box@{AZURE}/a/b", pafs.AzureFileSystem, "box/a/b"),
        ("gs://bucket/a", pafs.GcsFileSystem, "bucket/a"),
    ):
        filesystem, inside = files.resolve(uri)
        assert isinstance(filesystem, kind) and inside == path
    told(OAUTH)
    assert isinstance(files.resolve(f"abfss://box@{AZURE}/a")[0], pafs.AzureFileSystem)


@pytest.mark.parametrize(
    ("options", "uri", "variable"),
    [
        ({"fs.s3a.aws.credentials.provider": "com.example.Vault"}, "s3a://lake/x", "AWS_ACCESS_KEY_ID"),
        ({"hadoop.security.credential.provider.path": "jceks://x"}, "s3a://lake/x", "AWS_ACCESS_KEY_ID"),
        ({"fs.azure.account.auth.type": "Custom"}, f"abfss://box@{AZURE}/x", "AZURE_CLIENT_ID"),
        ({"fs.gs.auth.service.account.json.keyfile": "/k.json"}, "gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_credentials_that_cannot_be_translated(told, monkeypatch, options, uri, variable):
    for name in ("AWS_ACCESS_KEY_ID", "AZURE_CLIENT_ID", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    told(options)
    with pytest.raises(ConfigError, match=f"cannot follow; set .*{variable}.* by spark.executorEnv.NAME"):
        files.exists(uri)


def test_options_reach_a_process_and_are_not_shown(told, monkeypatch):
    told(s3_server.options("http://127.0.0.1:1"))
    assert "s3cr3t" not in repr(hadoop_options._own)
    code = "import os; from embedall_spark import hadoop_options as o; o.accept(); "
    code += "print(o.get('fs.s3a.secret.key'), [name for name in os.environ if 'HADOOP_OPTIONS' in name])"
    environment = {"PATH": "/usr/bin", **hadoop_options.handed_over()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [s3_server.SECRETS["secret.key"], "[]"]
    handed, seen = hadoop_options.handed_over(), []
    told({})
    torch_processes.on_worker(handed, lambda key: seen.append(hadoop_options.get(key)), "fs.s3a.access.key")
    assert seen == [s3_server.SECRETS["access.key"]]


def test_only_the_files_that_a_write_has_named_are_read(spark, tmp_path):
    for number in (1, 2):
        committed_files.write(spark.range(10 * number).repartition(2), f"{tmp_path}/{number}")
    one = sorted((tmp_path / "1").glob("part-*.parquet"))
    (tmp_path / "1" / "stray.parquet").write_bytes(one[0].read_bytes())
    foreign = one[0].name[:11] + "00000000-0000-4000-8000-000000000000-c000.snappy.parquet"
    (tmp_path / "1" / foreign).write_bytes(one[0].read_bytes())
    assert committed_files.read(spark.read, [f"{tmp_path}/1"]).count() == 10
    assert committed_files.read(spark.read, [f"{tmp_path}/1", f"{tmp_path}/2"]).count() == 30
    assert [info.path for info in committed_files.of(f"{tmp_path}/1")] == [str(path) for path in one]
    (tmp_path / "1" / "_committed.json").unlink()
    assert len(committed_files.of(f"{tmp_path}/1")) == 4
    # A platform that names files in its own way.
    names = committed_files._pattern(["a{1}.parquet", "b.parquet"])
    assert names == r"{a\{1\}.parquet,b.parquet}"


def test_a_file_is_read_as_it_is_on_fsspec():
    files.write_bytes("memory://host/numbers", bytes(range(10)))
    filesystem, path = files.resolve("memory://host/numbers")
    with filesystem.open_input_file(path) as stream:
        stream.seek(5)
        assert stream.read(2) == b"\5\6"
    with filesystem.open_input_stream(path) as stream:
        assert io.BytesIO(stream.read()).getvalue() == bytes(range(10))
    with pytest.raises(NotADirectoryError):
        files.children("memory://host/numbers")
