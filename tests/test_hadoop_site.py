"""Options of storage that only Hadoop's own files say: they reach Python's clients, in this process and in tasks."""

from types import SimpleNamespace

import pyarrow as pa

from embedall_spark import hadoop_options, hadoop_site

SITE = {"fs.s3a.endpoint": "https://s3.example", "fs.s3a.secret.key": "s3cr3t", "yarn.acl.enable": "true"}


def in_a_task(batches):
    for _ in batches:
        yield pa.record_batch({"said": [hadoop_options.get("fs.s3a.secret.key")]})


def test_options_of_a_site_and_neither_defaults_nor_what_spark_was_told(spark, tmp_path, monkeypatch):
    lines = [f"<property><name>{name}</name><value>{value}</value></property>" for name, value in SITE.items()]
    (tmp_path / "core-site.xml").write_text(f"<configuration>{''.join(lines)}</configuration>")
    configuration = spark._jvm.org.apache.hadoop.conf.Configuration(spark._jsc.hadoopConfiguration())
    configuration.addResource(spark._jvm.org.apache.hadoop.fs.Path(f"{tmp_path}/core-site.xml"))
    configuration.set("fs.s3a.access.key", "told by Spark")
    assert configuration.get("fs.s3a.path.style.access") == "false"
    session = SimpleNamespace(_jvm=spark._jvm, _jsc=SimpleNamespace(hadoopConfiguration=lambda: configuration))
    found = hadoop_site.options(session)
    assert found == {name: value for name, value in SITE.items() if name.startswith("fs.")}
    # They become settings of a session, as it were of the one that has no such file.
    other = spark.newSession()
    monkeypatch.setattr(hadoop_options, "_own", type(hadoop_options._own)())
    monkeypatch.setattr(hadoop_site, "options", lambda *_: found)
    hadoop_options.remember_those_of(other)
    assert hadoop_options.get("fs.s3a.endpoint") == "https://s3.example"
    assert other.range(1).mapInArrow(in_a_task, "said string").first().said == "s3cr3t"
    assert spark.conf.get("spark.hadoop.fs.s3a.endpoint", None) is None


def test_nothing_is_asked_of_databricks(monkeypatch):
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    assert hadoop_site.options(SimpleNamespace()) == {}
