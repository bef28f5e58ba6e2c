"""Pictures become the same vectors whatever the batches, threads and partitions; a bad one costs one row."""

import hashlib
import io
import threading
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch
from PIL import Image

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.images import backbones, featurize, image_reader
from embedall_spark.images.backbones import Backbone, BackboneConfig, inference
from embedall_spark.images.featurize import FeaturizeConfig
from embedall_spark.images.vision_library import torchvision
from embedall_spark.sources.image_limits import Limits

NAMES = ["id", "content", "path", "origin", "known"]
SCHEMA = pa.schema([(name, pa.binary() if name == "content" else pa.string()) for name in NAMES])
PICTURES = 21


def encoded(seed, side=48):
    dice = np.random.default_rng(seed)
    squares = Image.fromarray(dice.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    out = io.BytesIO()
    squares.resize((side + seed, side), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def row(number, **others):
    return {
        "id": f"p{number}",
        "content": encoded(number),
        "path": None,
        "origin": f"o{number}",
        "known": None,
        **others,
    }


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(1)
    module = torchvision.models.mobilenet_v3_small().eval()
    with torch.no_grad():
        # Statistics of its own, so that vectors tell pictures apart.
        for part in module.modules():
            part.momentum = 1.0
        module.train()(torch.randn(16, 3, 96, 96))
    file = tmp_path_factory.mktemp("weights") / "random.pt"
    torch.save(module.state_dict(), file)
    return BackboneConfig(name="mobilenet_v3_small", weights=str(file))


@pytest.fixture(scope="module")
def expected(backbone):
    """A bare loop, a picture at a time, the network as it was loaded."""
    network = backbones.load(backbone)
    with torch.inference_mode():
        result = [
            network.module(network.transform(Image.open(io.BytesIO(encoded(at))))[None])[0] for at in range(PICTURES)
        ]
    return torch.stack(result).numpy()


def run(rows, backbone, limits=Limits(), known=None, batch=5, **options):  # noqa: B008
    fingerprint = known or backbones.load(backbone).fingerprint
    config = FeaturizeConfig(**options)
    task = featurize.task(featurize.TaskOptions(backbone, config, limits, fingerprint, 1))
    batches = [pa.RecordBatch.from_pylist(rows[at : at + batch], SCHEMA) for at in range(0, len(rows), batch)]
    return [row for result in task(batches) for row in result.to_pylist()]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("size", "batch", "threads"), [(1, 5, 1), (4, 5, 3), (8, 1, 2), (64, 21, 2)])
def test_batches_and_threads_do_not_change_a_vector(backbone, expected, size, batch, threads):
    rows = [row(at) for at in range(PICTURES)]
    actual = run(rows, backbone, batch=batch, batch_size=size, decode_threads=threads)
    assert [result["id"] for result in actual] == [result["id"] for result in rows]
    vectors = np.array([result["vector"] for result in actual], np.float32)
    assert np.abs(vectors - unit(expected)).max() < 1e-5
    np.testing.assert_allclose([result["norm"] for result in actual], np.linalg.norm(expected, axis=1), rtol=1e-4)
    assert all(result["problem"] is None for result in actual)
    # The pictures differ by far more than that.
    assert np.abs(vectors[1:] - vectors[0]).max(axis=1).min() > 1e-3


def test_order_does_not_change_a_vector_and_raw_vectors_can_be_kept(backbone, expected):
    order = np.random.default_rng(3).permutation(PICTURES)
    actual = run([row(int(at)) for at in order], backbone, normalize=False)
    vectors = np.array([result["vector"] for result in actual])
    np.testing.assert_allclose(vectors, expected[order], atol=1e-5 * np.linalg.norm(expected, axis=1).max())


def test_one_is_what_a_task_makes(backbone, expected):
    actual = featurize.featurize_one(encoded(3), backbone, FeaturizeConfig(), Limits())
    assert (actual.dtype, actual.shape) == (np.float32, (1024,))
    assert np.abs(actual - unit(expected)[3]).max() < 1e-5
    with pytest.raises(BadData, match="cannot be used: not an image"):
        featurize.featurize_one(b"text, not a picture", backbone, FeaturizeConfig(), Limits())


def test_bad_rows_cost_only_themselves(backbone, expected, tmp_path):
    good = tmp_path / "good picture.png"
    good.write_bytes(encoded(5))
    narrow = io.BytesIO()
    Image.new("RGB", (1, 40_000)).save(narrow, "PNG")
    rows = [
        row(0),
        row(1, content=b"no picture"),
        row(2, content=b""),
        row(3, content=encoded(3)[:-40]),
        row(4, content=None, path=str(tmp_path / "none.png")),
        row(5, content=None, path=str(good)),
        row(6, content=None, path="nowhere://host/file"),
        row(7, content=narrow.getvalue()),
        row(8),
        row(9, content=None),
    ]
    actual = run(rows, backbone)
    problems = {result["id"]: result["problem"] for result in actual if result["problem"]}
    assert list(problems) == ["p1", "p2", "p3", "p4", "p6", "p7", "p9"]
    for name, why in {
        "p1": "not an image: p1",
        "p2": "empty: p2",
        "p9": "neither content nor path: p9",
        "p7": "1 x 40000 pixels, too narrow to be scaled: p7",
    }.items():
        assert problems[name] == why
    assert problems["p4"].startswith("cannot be read: ")
    assert problems["p6"].startswith("cannot be read: ")
    for result in actual:
        assert result["origin"] == result["id"].replace("p", "o")
        bad = result["id"] in problems
        assert [result[name] is None for name in ("vector", "norm", "digest")] == [bad] * 3
    usable = np.array([result["vector"] for result in actual if result["vector"]])
    assert np.abs(usable - unit(expected)[[0, 5, 8]]).max() < 1e-5


def test_a_file_over_the_limit_is_not_read_whole(backbone, tmp_path):
    file = tmp_path / "large.png"
    file.write_bytes(encoded(1) + bytes(50_000_000))
    fingerprint = backbones.load(backbone).fingerprint
    run([row(1)], backbone, known=fingerprint)
    tracemalloc.start()
    (actual,) = run([row(1, content=None, path=str(file))], backbone, Limits(max_bytes=1000), known=fingerprint)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "over limits.max_bytes=1000" in actual["problem"]
    assert len(image_reader.read(str(file), 1000)) == 1001
    assert peak < 10_000_000


def test_a_file_of_remote_storage_is_named_by_a_percent_encoded_uri(tmp_path, monkeypatch):
    uris = []
    (tmp_path / "bucket" / "my pictures").mkdir(parents=True)
    (tmp_path / "bucket" / "my pictures" / "a+b.png").write_bytes(b"one")
    (tmp_path / "bucket" / "two").write_bytes(b"two")
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(image_reader.files, "resolve", lambda uri: uris.append(uri) or (store, "bucket"))
    assert image_reader.read("s3://bucket/my%20pictures/a+b.png", 10) == b"one"
    assert image_reader.read("s3://bucket/two", 10) == b"two"
    # What is asked for is the bucket, whose client is kept: see filesystems.py.
    assert set(uris) == {"s3://bucket/"}


def test_a_file_by_its_uri_is_the_file(tmp_path):
    file = tmp_path / "a b%.png"
    file.write_bytes(b"one")
    assert image_reader.read(file.as_uri(), 10) == image_reader.read(str(file), 10) == b"one"


def test_known_digests_are_not_decoded(backbone, monkeypatch):
    fingerprint = backbones.load(backbone).fingerprint
    digests = [f"{hashlib.sha256(encoded(at)).hexdigest()[:32]}-{fingerprint}" for at in range(4)]
    rows = [row(0, known=digests[0]), row(1, known=digests[0]), row(2), row(3, known=digests[3])]
    decoded = []
    whole = inference.Model.pixels
    seen = lambda model, content, limits: decoded.append(content) or whole(model, content, limits)  # noqa: E731
    monkeypatch.setattr(inference.Model, "pixels", seen)
    actual = run(rows, backbone)
    assert [result["digest"] for result in actual] == digests
    assert [result["vector"] is None for result in actual] == [True, False, False, True]
    assert [result["problem"] for result in actual] == [None] * 4
    assert sorted(decoded) == sorted([encoded(1), encoded(2)])


class Watched(torch.nn.Module):
    """Takes means; tells how many pictures came at once, and what is wrong with dark ones."""

    seen: list[int] = []  # noqa: RUF012

    def forward(self, x):
        self.seen.append(len(x))
        means = x.mean((2, 3))
        if means.min() < -500:
            raise torch.OutOfMemoryError("no memory on the device")
        return torch.where(means < -100, torch.nan, means)


def watched():
    return Backbone(
        Watched(), lambda picture: torch.tensor(np.asarray(picture)).permute(2, 0, 1)[:, :8, :8] - 255.0, 3, "f"
    )


def dark(number, value):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(out, "PNG")
    return row(number, content=out.getvalue())


@pytest.fixture
def mean(monkeypatch):
    inference.load_model.cache_clear()
    monkeypatch.setattr(inference, "_fold", lambda module: module)
    monkeypatch.setattr(Watched, "seen", [])
    yield BackboneConfig(name=f"{__name__}:watched")
    inference.load_model.cache_clear()


def test_the_network_gets_batches_of_one_size(mean):
    rows = [dark(at, 250) for at in range(23)]
    rows[4] |= {"content": b"bad"}
    run(rows, mean, known="f", batch=3, batch_size=8)
    assert Watched.seen == [8, 8, 6]
    # Few pictures among many known rows do not wait for ever.
    Watched.seen.clear()
    digest = f"{hashlib.sha256(rows[0]['content']).hexdigest()[:32]}-f"
    actual = run([rows[1], *[row(0, content=rows[0]["content"], known=digest)] * 1500], mean, known="f", batch_size=8)
    assert Watched.seen == [1]
    assert len(actual) == 1501


def test_features_that_are_not_finite_are_a_problem_and_a_failing_device_is_not(mean):
    actual = run([dark(1, 250), dark(2, 1), dark(3, 250)], mean, known="f")
    assert [result["problem"] for result in actual] == [None, "the network's features are not finite: p2", None]
    assert [result["vector"] is None for result in actual] == [False, True, False]
    with pytest.raises(BadData, match="not finite"):
        featurize.featurize_one(dark(1, 1)["content"], mean, FeaturizeConfig(), Limits())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(Watched, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
        run([dark(1, 250)], mean, known="f")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_process_builds_a_network_once_and_refuses_other_weights(mean, monkeypatch):
    built = []
    load = backbones.load
    monkeypatch.setattr(backbones, "load", lambda config: built.append(config) or load(config))
    for _ in range(3):
        run([dark(1, 250)], mean, known="f")
    assert len(built) == 1
    with pytest.raises(ConfigError, match="has the fingerprint f on this host and other where the run"):
        run([dark(1, 250)], mean, known="other")


def test_decoding_stays_a_bounded_way_ahead_and_ends_with_the_task(mean):
    read = []

    def batches():
        for at in range(1000):
            read.append(at)
            yield pa.RecordBatch.from_pylist([dark(at, 200)], SCHEMA)

    config = FeaturizeConfig(batch_size=4, decode_threads=2)
    results = featurize.task(featurize.TaskOptions(mean, config, Limits(), "f", 1))(batches())
    for step in range(1, 4):
        assert next(results).num_rows == 4
        # Batches done, and on their way a batch and a picture per thread.
        assert len(read) <= 4 * step + 4 + 2
    assert [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    assert len(read) < 25


def test_threads_that_decode_leave_torch_one_thread_each():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    counts = []
    thread = threading.Thread(target=lambda: (featurize._limit_threads(), counts.append(torch.get_num_threads())))
    thread.start()
    thread.join()
    counts.append(torch.get_num_threads())
    torch.set_num_threads(before)
    assert counts == [1, 3]


def test_bfloat16_is_chosen_only_where_it_keeps_the_cosine(backbone, monkeypatch):
    actual = backbones.load(backbone)
    x = torch.stack([actual.transform(Image.open(io.BytesIO(encoded(at)))) for at in range(4)])
    exact = inference.prepare(actual, device="cpu")(x)
    short = inference.prepare(actual, device="cpu", dtype="bfloat16")(x)
    assert exact.dtype == short.dtype == torch.float32
    assert (exact - short).abs().max() > 0
    monkeypatch.setattr(inference, "_supports_bfloat16", lambda _: True)
    for least, same in ((0.5, short), (1.1, exact)):
        monkeypatch.setattr(inference, "MIN_COSINE", least)
        torch.testing.assert_close(inference.prepare(actual, device="cpu", dtype="auto")(x), same, rtol=0, atol=0)
    monkeypatch.setattr(inference, "_supports_bfloat16", lambda _: False)
    monkeypatch.setattr(inference, "MIN_COSINE", 0.5)
    torch.testing.assert_close(inference.prepare(actual, device="cpu", dtype="auto")(x), exact, rtol=0, atol=0)


@pytest.mark.slow
def test_folding_batch_norms_changes_nothing_but_the_speed():
    torch.manual_seed(1)
    for name in ("resnet18", "densenet121", "vit_b_32", "shufflenet_v2_x0_5"):
        module = torchvision.models.get_model(name, weights=None)
        module.train()(torch.randn(8, 3, 224, 224))
        module.eval()
        x = torch.randn(2, 3, 224, 224)
        with torch.inference_mode():
            torch.testing.assert_close(inference._fold(module)(x), module(x), rtol=1e-3, atol=1e-4)
    kinds = {type(part) for part in inference._fold(torchvision.models.resnet18().eval()).modules()}
    assert torch.nn.BatchNorm2d not in kinds


def frame(spark, rows):
    return spark.createDataFrame(
        [tuple(row[name] for name in NAMES) for row in rows],
        "id string, content binary, path string, origin string, known string",
    )


def test_spark_gives_the_same_however_it_is_partitioned(spark, backbone, expected):
    facts = featurize.describe(spark, backbone)
    assert facts == (1024, backbones.load(backbone).fingerprint)
    rows = [row(at) for at in range(PICTURES)] + [row(99, content=b"bad")]
    pictures = frame(spark, rows)
    for parts in (1, 3):
        spread = pictures.repartition(parts, "id") if parts > 1 else pictures.coalesce(1)
        actual = featurize.featurize(spread, backbone, FeaturizeConfig(), Limits(), facts.fingerprint)
        by_id = {row.id: row for row in actual.collect()}
        assert len(by_id) == PICTURES + 1
        vectors = np.array([by_id[f"p{at}"].vector for at in range(PICTURES)])
        assert np.abs(vectors - unit(expected)).max() < 1e-5
        assert (by_id["p99"].vector, by_id["p99"].problem) == (None, "not an image: p99")
    assert len(actual.limit(1).collect()) == 1


def test_a_network_that_tasks_cannot_load_is_told_on_the_driver(spark):
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        featurize.describe(spark, BackboneConfig(name="resnet19"))
