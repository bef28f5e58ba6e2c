"""Which versions of Spark and Delta are refused, and what a real session says that it runs."""

import pyspark
import pytest

from embedall_spark import session, spark_versions
from embedall_spark.errors import SetupError


class Session:
    def __init__(self, version):
        self.version = version


def test_a_session_of_these_versions(spark):
    spark_versions.check(spark)
    assert spark_versions.delta(spark) == "4.4.0"


@pytest.mark.parametrize(
    ("spark_version", "delta_version", "message"),
    [
        ("3.5.6", None, r"the running Spark is 3\.5\.6, need 4\.1"),
        ("4.0.1", "4.0.0", r"the running Spark is 4\.0\.1, need 4\.1"),
        ("4.1.4", "3.3.2", r"the running Delta is 3\.3\.2, need 4\.4 or a later 4: .*delta-spark_4\.1_2\.13:4\.4\.0"),
        ("4.1.4", "5.0.0", r"the running Delta is 5\.0\.0"),
    ],
)
def test_other_versions_are_refused(monkeypatch, caplog, spark_version, delta_version, message):
    monkeypatch.setattr(spark_versions, "delta", lambda _: delta_version)
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    with pytest.raises(SetupError, match=message):
        spark_versions.check(Session(spark_version))
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")
    spark_versions.check(Session(spark_version))
    assert "Databricks Runtime 17.3: the running" in caplog.text


def test_supported_versions(monkeypatch):
    for found in ("4.4.0", "4.5.1", None):
        monkeypatch.setattr(spark_versions, "delta", lambda _, found=found: found)
        spark_versions.check(Session("4.1.0"))
    # Without a JVM, as in a client of Spark Connect, and without Delta's class.
    monkeypatch.undo()
    assert spark_versions.delta(Session("4.1.4")) is None
    # What the properties bring is what is asked for.
    jars = session.read_properties(session.conf_file("spark-standalone.conf"))["spark.jars.packages"]
    assert jars == spark_versions._PACKAGE
    assert spark_versions._numbers(pyspark.__version__) == spark_versions.SPARK
