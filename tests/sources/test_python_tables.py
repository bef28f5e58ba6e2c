"""One pass over a small folder of Python files: three tables; a second call writes nothing."""

from embedall_spark.sources import python_files, python_tables

CODE = '''"""A module."""
import json
def load(text):
    """Shared."""
    return json.loads(str(text))
'''


def test_one_pass_writes_three_tables(spark, tmp_path, monkeypatch):
    folder, output = tmp_path / "code", f"{tmp_path}/out"
    (folder / "pkg" / "tests").mkdir(parents=True)
    (folder / "pkg" / "tests" / "test_a.py").write_text(CODE)
    (folder / "pkg" / "data.py").write_text(f"VALUES = {[0] * 40_000}")
    (folder / "pkg" / "a.py").write_text(CODE)
    (folder / "pkg" / "b.py").write_text('"""Shared."""\nimport pkg.a\n')
    (folder / "pkg" / "broken.py").write_text("def f(:\n")
    tables = python_tables.write(spark, str(folder), output)
    rows = {name: spark.read.parquet(getattr(tables, name)).collect() for name in ("docstrings", "calls", "imports")}
    assert sorted(row.text for row in rows["docstrings"]) == ["A module.", "Shared."]
    calls = sorted((row.key, row.order, row.item) for row in rows["calls"])
    assert calls == [("pkg/a.py:load", 0, "str"), ("pkg/a.py:load", 1, "json.loads")]
    assert {(row.src, row.dst, row.weight) for row in rows["imports"]} == {
        ("pkg.a", "json", 1.0),
        ("pkg.b", "pkg.a", 1.0),
    }
    assert (tables.files, tables.refused) == (3, 1)
    monkeypatch.setattr(python_files, "read", None)
    assert python_tables.write(spark, str(folder), output) == tables
