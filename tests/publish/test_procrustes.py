"""The rotation onto a published table: scipy's, whatever noise; it changes no dot product."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from vector_tables import table

from embedall_spark.errors import BadData, ConfigError
from embedall_spark.publish import procrustes

D, IDS = 8, 200


@pytest.fixture(scope="module")
def spaces(spark):
    """A published space, and a candidate: turned, a little noise, and some ids whose vectors mean something else."""
    random = np.random.default_rng(3)
    published = random.normal(size=(IDS, D))
    turned = published @ ortho_group.rvs(D, random_state=random) + random.normal(scale=0.05, size=(IDS, D))
    turned[:10] = random.normal(size=(10, D))
    counts = random.integers(1, 1000, IDS)
    ids = [f"w{i}" for i in range(IDS)]
    tables = [table(spark, ids[20:], turned[20:], counts[20:]), table(spark, ids[:180], published[:180], counts[:180])]
    return tables, turned, published, counts


def test_it_is_scipys_over_the_anchors_that_are_left(spaces):
    (candidate, published), turned, before, counts = spaces
    actual = procrustes.fit(procrustes.pair(candidate, published), D)
    a, b = (x[20:180] / np.linalg.norm(x[20:180], axis=1, keepdims=True) for x in (turned, before))
    w = np.sqrt(counts[20:180])[:, None]
    first, _ = orthogonal_procrustes(a * w, b * w)
    cosine = ((a @ first) * b).sum(1)
    left = cosine >= np.sort(cosine)[15]
    expected, _ = orthogonal_procrustes((a * w)[left], (b * w)[left])
    np.testing.assert_allclose(actual.matrix, expected, atol=1e-6)
    np.testing.assert_allclose(actual.matrix @ actual.matrix.T, np.eye(D), atol=1e-12)
    assert actual.anchors == 160
    assert actual.fit == pytest.approx(np.average(((a @ expected) * b).sum(1)[left], weights=counts[20:180][left]))


def test_dot_products_and_neighbors_stay(spark):
    random = np.random.default_rng(4)
    rows = random.normal(size=(50, D)).astype(np.float32)
    rotation = ortho_group.rvs(D, random_state=random)
    vectors = table(spark, [f"w{i}" for i in range(50)], rows)
    arrow = procrustes.rotate(vectors, rotation).toArrow().sort_by("id")
    order = np.argsort([f"w{i}" for i in range(50)])
    actual = np.array(arrow["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(actual @ actual.T, rows[order] @ rows[order].T, atol=2e-5)
    assert arrow["context"].null_count == 50


def test_spaces_that_cannot_be_compared_are_refused(spark):
    random = np.random.default_rng(5)
    small = table(spark, ["a", "b", "c"], random.normal(size=(3, 4)))
    with pytest.raises(BadData, match="share 3 ids, and a rotation in 4 dimensions needs at least as many"):
        procrustes.fit(procrustes.pair(small, small), procrustes.same_dimension(small, small))
    with pytest.raises(ConfigError, match="vectors have 4 dimensions, those of the published table 2"):
        procrustes.same_dimension(small, table(spark, ["a"], random.normal(size=(1, 2))))
