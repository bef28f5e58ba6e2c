"""Storage that is read before Spark starts, such as a configuration, by the settings that Spark will be given."""

from __future__ import annotations

from embedall_spark import hadoop_options, session


def prepare(properties: str | None) -> None:
    """Tell this process's clients of storage what a properties file says; nothing where a session is running.

    Raises:
        SetupError: the file cannot be read.
    """
    if not session.is_running():
        hadoop_options.remember(session.read_properties(properties or session.conf_file("spark-local.conf")))
