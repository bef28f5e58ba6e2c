"""The rules of docs/architecture.md, checked on the source: imports go down only, one place for each outside thing."""

import ast
import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

TRITON = importlib.util.find_spec("triton")
PACKAGE = Path(__file__).resolve().parents[1] / "embedall_spark"
MODULES = sorted(PACKAGE.rglob("*.py"))
BASE = {
    "user_cache",
    "cgroups",
    "cluster_slots",
    "executor_memory",
    "devices",
    "errors",
    "extras",
    "schemas",
    "config",
    "config_help",
    "list_offsets",
    "randomness",
    "row_numbers",
    "credentials",
    "files",
    "filesystems",
    "fsspec_handlers",
    "hadoop_options",
    "hadoop_site",
    "storage_options",
    "committed_files",
    "host_cache",
    "numba_intrinsics",
    "vectors",
    "torch_processes",
    "run_context",
}
# A stage imports stages that stand before it: data first, then what learns from them, then what reads vectors.
STAGES = (
    "sources",
    "corpus",
    "graph",
    "train",
    "images",
    "search",
    "evaluate",
    "visualize",
    "cluster",
    "latent",
    "publish",
    "export",
    "export_fasttext",
    "export_files",
)
# Circles that are still there; whoever ends one takes it out of this list.
STAGE_EXCEPTIONS: set[tuple[str, str]] = set()
FILE_CIRCLES: list[set[str]] = []
KINDS = {"kinds"}
OUTER = {
    "session",
    "spark_jvm",
    "spark_versions",
    "path_checks",
    "storage_probe",
    "early_storage",
    "concurrent_writers",
    "tables",
    "table_cache",
    "delta_files",
    "table_errors",
    "table_merge",
    "table_versions",
    "publication",
    "published_alias",
    "published_beside",
    "published_codes",
    "published_latent",
    "start_table",
    "pipeline",
    "input_snapshot",
    "run_heartbeat",
    "run_manifest",
    "run_store",
    "run_result",
}
OUTER |= {"python_daemon", "progress", "launch", "doctor", "cli", "ml"}
OUTER |= {"tracking", "mlflow_store", "mlflow_entries", "mlflow_models"}
# latent/mlflow_model.py is a script that MLflow copies; nothing imports it.
MLFLOW = {"tracking.py", "mlflow_store.py", "mlflow_entries.py", "mlflow_models.py", "doctor.py"}
# Where results come to the driver, and why that does not grow with the data.
COLLECTS = {
    "latent/fit/covariance.py": "one matrix per side and of both, d at most 4,096",
    "latent/fit/contrastive_job.py": "what is kept for validation; limited",
    "latent/text/text_features.py": "words and their weights, at most a million, checked",
    "cluster/label_agreement.py": "a table of clusters and labels, at most a million cells, checked",
    "cli/cluster.py": "k*n members, at most 10,000; a size per cluster",
    "cli/demo/pictures.py": "eight pictures",
    "cli/search.py": "k results of one query",
    "cli/suggest.py": "n titles of one row; a count for each of two reasons",
    "corpus/corpus_estimate.py": "bins of counts, four an octave",
    "row_numbers.py": "rows per partition",
    "cluster_slots.py": "what is wrong on the hosts of 32 tasks",
    "storage_probe.py": "a line of a file; Hadoop's version",
    "ml/work_folder.py": "one line of a file that was written to see whether Spark sees it",
    "evaluate/cooccurrence_baseline.py": "ranks in at most 100,000 stories; limited",
    "evaluate/label_metrics.py": "2,000 ids and their neighbors, 20,000 vectors; limited",
    "evaluate/retrieval.py": "the evaluated pairs, and both sides' vectors of them; limited",
    "evaluate/skipgram_ranking.py": "the items before the answers of such stories",
    "evaluate/link_prediction.py": "100,000 pairs, 200,000 ids; limited",
    "evaluate/next_item.py": "such stories",
    "graph/graph_stats.py": "five hubs",
    "evaluate/word_benchmarks.py": "figures of an evaluation set, whose size is checked",
    "images/featurize.py": "a network's size and fingerprint",
    "images/thumbnails.py": "at most 10,000 small pictures, checked",
    "images/train_backbone.py": "labels, at most 10,000, checked",
    "kinds/images.py": "the members shown of each cluster, at most 10,000; a size per cluster",
    "search/ann.py": "a row per part; the sample that recall is measured on",
    "search/exact_batch.py": "rows per partition",
    "sources/metadata.py": "metadata of the ids that are shown, at most a million, checked",
    "search/exact.py": "k results per query and partition, checked",
    "latent/suggest.py": "words that share a title with a prefix, at most 100,000, checked",
    "search/title_lookup.py": "titles of the ids that are shown",
    "search/unseen_words.py": "the n-grams of a few words",
    "search/spelling.py": "a handful of spellings",
    "sources/input_version.py": "one digest; one table's id and version",
    "tables.py": "history and details of one table",
    "published_latent.py": "a matrix of at most 4,096 rows, and their number",
    "publish/drift.py": "10,000 ids and their vectors; limited",
    "table_versions.py": "history of one table",
    "train/preflight.py": "a row per worker",
    "train/worker_probe.py": "a count of cores",
    "train/slice_job.py": "a report per worker",
    "train/trainer.py": "sums over a vocabulary and over blocks",
    "train/warm_start.py": "a report per worker",
    "visualize/scatter_map.py": "at most 5,000 rows, checked",
    "visualize/latent_plots.py": "at most 2,500 pairs and 5,000 words, and vectors of those that are drawn; limited",
    "visualize/projector.py": "at most 50,000 rows and 256 MiB, checked",
}


def name(path):
    return str(path.relative_to(PACKAGE))


FILES = {
    f"embedall_spark.{name(p).removesuffix('.py').replace('/', '.').removesuffix('.__init__')}": p for p in MODULES
}


def layer(part):
    for rank, names in enumerate((BASE, STAGES, KINDS, OUTER)):
        if part in names:
            return rank
    return 0


def part(path):
    """Return the folder of the package that a file belongs to, or the name of a file that lies in none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports(path):
    """Return the package's files that a file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {dotted if dotted in FILES else node.module for dotted in names.values()}
    return {FILES[module] for module in modules if module in FILES} - {path}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_down_only(path):
    here = part(path)
    for imported in imports(path):
        there = part(imported)
        assert layer(there) <= layer(here), f"{name(path)} imports {name(imported)}"
        if here in STAGES and there in STAGES and (here, there) not in STAGE_EXCEPTIONS:
            assert STAGES.index(there) <= STAGES.index(here), f"{name(path)} imports {name(imported)}"


def test_every_module_has_a_layer():
    assert {part(path) for path in MODULES} - {"__init__"} == BASE | set(STAGES) | KINDS | OUTER


def circles(graph):
    """Return the sets of nodes that reach each other."""

    def reach(start):
        seen, waiting = set(), [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reached = {node: reach(node) for node in graph}
    groups = {
        frozenset(other for other in graph if other in reached[node] and node in reached[other]) for node in graph
    }
    return [set(group) for group in groups if len(group) > 1]


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_files_do_not_import_in_a_circle():
    graph = {name(path): {name(imported) for imported in imports(path)} for path in MODULES}
    assert [circle for circle in circles(graph) if circle not in FILE_CIRCLES] == []


def test_folders_do_not_import_in_a_circle():
    graph = {part(path): set() for path in MODULES}
    for path in MODULES:
        graph[part(path)] |= {part(imported) for imported in imports(path)} - {part(path)}
    for here, there in STAGE_EXCEPTIONS:
        graph[here].discard(there)
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"SparkSession\.builder", {"session.py"}),
        (r"\bmlflow\.", {*MLFLOW, "latent/mlflow_model.py"}),
        (r"import mlflow", MLFLOW),
        (r"\.(rdd|sparkContext|_jvm|_jdf|_jsparkSession)\b", {"session.py", "spark_versions.py", "hadoop_site.py"}),
        (r"SparkContext", {"session.py"}),
        (r"txnAppId|userMetadata", {"tables.py", "table_merge.py", "delta_files.py"}),
        (r"DESCRIBE HISTORY", {"tables.py", "sources/input_version.py"}),
        (r"deltalake", {"delta_files.py"}),
        (r"toPandas\(|F\.broadcast\(|\.broadcast\(", set()),
    ],
)
def test_one_place_for_each_outside_thing(pattern, home):
    users = {name(path) for path in MODULES if re.search(pattern, path.read_text())}
    assert users <= home


def test_results_come_to_the_driver_only_where_they_are_small():
    users = {
        name(path) for path in MODULES if re.search(r"(?<!gc)\.(collect|toArrow|toLocalIterator)\(", path.read_text())
    }
    assert users <= set(COLLECTS)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert node.end_lineno - first.lineno < 75, f"{node.name} is too long"


@pytest.mark.skipif(TRITON is None, reason="torch without CUDA has no Triton")
def test_kernels_import_without_pyspark():
    code = "import sys; sys.modules['pyspark'] = None; "
    code += "import embedall_spark.corpus.windows, embedall_spark.train.sgns, embedall_spark.graph.walks, "
    code += "embedall_spark.train.device.trial, embedall_spark.train.device.glove_kernel"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_modules_import_without_a_session():
    names = [name(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in MODULES]
    names = [module for module in names if TRITON or not module.startswith("train.device")]
    imported = "; ".join(f"import embedall_spark.{module}" for module in names if module != "__init__")
    code = f"{imported}; from pyspark import SparkContext as S; assert S._active_spark_context is None; "
    # torch's compiler: see images/vision_library.py.
    code += "import sys; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_has_its_job_and_configuration():
    from embedall_spark import kinds

    root = PACKAGE.parent
    for kind in kinds.names():
        assert (root / "jobs" / f"{kind}.py").exists()
        assert (root / "conf" / f"{kind}.yaml").exists()
