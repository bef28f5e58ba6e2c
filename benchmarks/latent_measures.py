"""What benchmarks/latent.py measures beside retrieval: baselines, exactness, suggested words, color arithmetic."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import common
import numpy as np
import products

if TYPE_CHECKING:
    from pathlib import Path

    from latent import Data, Matrix, Trial
    from numpy.typing import NDArray

    from embedall_spark.latent.fit.cca import Maps
    from embedall_spark.latent.text.text_features import TextModel

    Figures = dict[str, float]

COLORS = ("black", "blue", "brown", "white", "grey", "red", "green", "purple", "pink", "yellow", "orange", "beige")
PEER = 100  # dimensions of a side for scikit-learn's CCA, which takes long for more
NEAREST, SUGGESTED, TOP = 10, 5, 10
_SHOWN = 8


def nearest_product(data: Data, right: str) -> Figures:
    """Return recall without a latent space: through the training product nearest to the query.

    For a photo, this is the product with the nearest photo, whose title is compared with the others; for a title, the
    one with the nearest title, whose photo is compared.
    """
    from embedall_spark.evaluate import retrieval
    from embedall_spark.vectors import unit

    fit_rows, test = np.concatenate([data.parts["train"], data.parts["validation"]]), data.parts["test"]
    sides = {"image_to_text": (data.features["mobilenet"], data.bags[right])}
    sides["text_to_image"] = sides["image_to_text"][::-1]
    links = np.repeat(np.arange(len(test))[:, None], 2, axis=1)
    recalls = {}
    for way, (queries, answers) in sides.items():
        nearest = (unit(queries[test]) @ unit(queries[fit_rows]).T).argmax(axis=1)
        ranks = retrieval.ranks(answers[fit_rows][nearest], answers[test], links)
        recalls |= {f"{way}_recall_{cut}": float(ranks.within(cut).mean()) for cut in (1, 5, 10)}
    return recalls


def exactness(data: Data) -> Figures:
    """Return how far our closed forms are from scikit-learn's, on the first principal components of both sides."""
    from latent import moments_of
    from sklearn.cross_decomposition import CCA
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge

    from embedall_spark.latent.fit import cca

    train, test = data.parts["train"], data.parts["test"]
    sides = []
    for matrix in (data.features["mobilenet"], data.bags["title"]):
        reduced = PCA(PEER, svd_solver="full").fit(matrix[train].astype(float))
        sides.append((reduced.transform(matrix[train].astype(float)), reduced.transform(matrix[test].astype(float))))
    (x, x_test), (y, y_test) = sides
    moments = moments_of(x, y)
    ours = cca.cca(moments, 10, (0, 0))
    theirs = CCA(10, scale=False, tol=1e-13, max_iter=100_000).fit(x, y)
    mapped = [
        (side - mean) @ matrix
        for side, mean, matrix in ((x_test, ours.mean_left, ours.p), (y_test, ours.mean_right, ours.q))
    ]
    others = theirs.transform(x_test, y_test)
    apart = [
        1 - abs(np.corrcoef(a[:, i], b[:, i])[0, 1]) for a, b in zip(mapped, others, strict=True) for i in range(10)
    ]
    straight = cca.ridge(moments, regularization=0.1)
    peer = Ridge(0.1 * np.var(x, axis=0).mean() * len(x), solver="cholesky").fit(x, y)
    difference = np.abs(straight.p - peer.coef_.T).max() / np.abs(peer.coef_).max()
    facts = {"sklearn_cca_apart": float(max(apart)), "sklearn_ridge_apart": float(difference)}
    print(f"beside scikit-learn: {facts}", flush=True)
    return facts


def refinement(data: Data, trial: Trial, rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)) -> Figures:
    """Return what the contrastive loss adds to the closed form of the training products; chosen on validation."""
    from latent import left_side, moments_of

    from embedall_spark.evaluate import retrieval
    from embedall_spark.latent.fit import cca, contrastive

    x, y = left_side(data, trial.left, trial.power), data.bags[trial.right]
    train, validation, test = data.parts.values()
    maps = cca.cca(moments_of(x[train], y[train]), trial.k, trial.regularization, trial.strength)
    left = ((x - maps.mean_left) @ maps.p).astype(np.float32)
    right = ((y - maps.mean_right) @ maps.q).astype(np.float32)
    titles = np.unique(y, axis=0, return_inverse=True)[1].ravel()

    def figures(rows: NDArray[np.int64], a: Any, b: Any) -> Figures:
        links = np.repeat(np.arange(len(rows))[:, None], 2, axis=1)
        pair = [(side[rows] @ matrix).astype(np.float32) for side, matrix in ((left, a), (right, b))]
        return retrieval.measure(pair[0], pair[1], links, csls=trial.csls)

    def score(a: Any, b: Any) -> float:
        recalls = figures(validation, a, b)
        return (recalls["left_to_right/recall_10"] + recalls["right_to_left/recall_10"]) / 2

    pairs = contrastive.Pairs(left[train], right[train], train, titles[train], np.ones(len(train)))
    best = None
    for rate in rates:
        refined = contrastive.refine(pairs, contrastive.ContrastiveConfig(rate=rate, epochs=15), score)
        common.say(f"contrastive, rate {rate}", epoch=refined.epoch, first=refined.scores[0], best=max(refined.scores))
        best = refined if best is None or max(refined.scores) > max(best.scores) else best
    assert best is not None
    same = np.eye(left.shape[1])
    before, after = figures(test, same, same), figures(test, best.left, best.right)
    ways = {"right_to_left": "text_to_image", "left_to_right": "image_to_text"}
    gains: Figures = {}
    for way, name in ways.items():
        for cut in (1, 5, 10):
            key, recall = f"contrastive_{name}_recall_{cut}", after[f"{way}/recall_{cut}"]
            gains |= {key: recall, f"{key}_gain": recall - before[f"{way}/recall_{cut}"]}
    common.say("contrastive, test products", **gains)
    return gains


def suggestions(data: Data, trial: Trial, maps: Maps) -> Figures:
    """Return the share of the first five suggested words that are in the title, by our decoder and by other methods.

    The others: words by their cosine to the photo, the commonest words of the titles of the ten nearest photos, by the
    network's features and in the latent space.
    """
    from latent import latent_left, left_side, moments_of

    from embedall_spark.latent.fit import cca
    from embedall_spark.vectors import unit

    model, test = data.models["title"], data.parts["test"]
    fit_rows = np.concatenate([data.parts["train"], data.parts["validation"]])
    titles = data.bags["title"] > 0
    words = unit(((np.eye(len(model.tokens)) - maps.mean_right) @ maps.q).astype(np.float32))
    photos, side = latent_left(data, trial, maps), left_side(data, trial.left, trial.power)
    moments = moments_of(side[fit_rows], data.bags["title"][fit_rows])
    guessed = maps.mean_right + (side[test] - maps.mean_left) @ maps.p @ cca.decoder(moments, maps)
    ours, cosine = (
        np.take_along_axis(titles[test], _first(scores), axis=1).mean()
        for scores in (guessed / model.weights, photos[test] @ words.T)
    )
    features = unit(data.features["mobilenet"])
    neighbors = np.argsort(-(features[test] @ features[fit_rows].T), axis=1, kind="stable")[:, :NEAREST]
    votes = titles[fit_rows][neighbors].sum(axis=1)
    theirs = np.take_along_axis(titles[test], _first(votes), axis=1).mean()
    close = photos[test] @ photos[fit_rows].T
    neighbors = np.argsort(-close, axis=1, kind="stable")[:, :NEAREST]
    votes = titles[fit_rows][neighbors].sum(axis=1)
    mixed = np.take_along_axis(titles[test], _first(votes), axis=1).mean()
    facts = {"words_precision_5": float(ours), "words_precision_5_by_cosine": float(cosine)}
    facts["words_precision_5_of_nearest_titles"] = float(theirs)
    facts["words_precision_5_of_latent_nearest_titles"] = float(mixed)
    common.say("suggested words", **facts)
    return facts


def completions(data: Data, trial: Trial, maps: Maps) -> Figures:
    """Return the share of the five first suggested words that are in the rest of a title.

    The first one, two or three words of a test product's title are given. Methods: the photo alone (given words left
    out); the words alone, counted in training titles; the sum of photo and words in the latent space, decoded
    as a photo; the photo and the counted words, as ``embedall suggest --prefix`` does.
    """
    from latent import left_side, moments_of

    from embedall_spark.latent import suggest
    from embedall_spark.latent.fit import cca
    from embedall_spark.vectors import unit

    model, bags = data.models["title"], data.bags["title"]
    fit_rows = np.concatenate([data.parts["train"], data.parts["validation"]])
    side = left_side(data, trial.left, trial.power)
    decoder = cca.decoder(moments_of(side[fit_rows], bags[fit_rows]), maps)
    place, contains = {token: index for index, token in enumerate(model.tokens)}, (bags[fit_rows] > 0).astype(int)
    together = contains.T @ contains
    counts = suggest.CooccurrenceCounts(
        len(fit_rows), dict(zip(model.tokens, np.diagonal(together).tolist(), strict=True)), {}
    )
    hit_rates: Figures = {}
    for length in (1, 2, 3):
        hits: dict[str, list[float]] = {}
        for index in data.parts["test"].tolist():
            title = list(dict.fromkeys(re.findall(r"[\w']+", data.products[index].title.lower())))
            title = [word for word in title if word in place]
            prefix, rest = title[:length], set(title[length:])
            if not rest:
                continue
            photo = (side[index] - maps.mean_left) @ maps.p
            bag = unit(model.bag(prefix)[None])[0]
            text = (bag - maps.mean_right) @ maps.q
            both = unit((photo / np.linalg.norm(photo) + 0.5 * text / np.linalg.norm(text))[None])[0]
            columns = together[:, [place[word] for word in prefix]].tolist()
            with_prefix = counts._replace(together=dict(zip(model.tokens, columns, strict=True)))
            guess, summed = (_guess(model, maps, decoder, latent) for latent in (photo, np.linalg.norm(photo) * both))
            ways = {
                "photo": guess,
                "latent_sum": summed,
                "photo_and_words": suggest.rerank_by_prefix(guess, prefix, with_prefix),
            }
            ways["words"] = suggest.rerank_by_prefix([(word, 1.0) for word, _ in guess], prefix, with_prefix)
            for way, ranked in ways.items():
                five = [word for word, _ in ranked if word not in prefix][:SUGGESTED]
                hits.setdefault(way, []).append(len(rest & set(five)) / SUGGESTED)
            hits.setdefault("most_possible", []).append(min(len(rest), SUGGESTED) / SUGGESTED)
        hit_rates |= {f"completion_{length}_by_{way}": float(np.mean(each)) for way, each in hits.items()}
    common.say("words after a beginning", **hit_rates)
    return hit_rates


def _guess(model: TextModel, maps: Maps, decoder: Any, latent: Any) -> list[tuple[str, float]]:
    shares = (maps.mean_right + latent @ decoder) / model.weights
    return [(model.tokens[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")]


def _first(scores: Any) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :SUGGESTED]


def color_arithmetic(data: Data, trial: Trial, maps: Maps, figure: Path | None) -> Figures:
    """Return how often a photo of color A, less the word A, plus the word B, finds color B and the same type.

    Each test product whose color is a word of titles is changed to each other such color that its type has; candidates
    are all other products.
    """
    from latent import latent_left

    from embedall_spark.vectors import unit

    place = {token: i for i, token in enumerate(data.models["title"].tokens)}
    colors = [color for color in COLORS if color in place]
    steps = unit(
        ((np.eye(len(place))[[place[color] for color in colors]] - maps.mean_right) @ maps.q).astype(np.float32)
    )
    photos = latent_left(data, trial, maps)
    kinds = [(item.attributes["articleType"], item.attributes["baseColour"].lower()) for item in data.products]
    counts = Counter(kinds)
    questions = [
        (i, colors.index(kinds[i][1]), target)
        for i in data.parts["test"].tolist()
        if kinds[i][1] in colors
        for target, color in enumerate(colors)
        if color != kinds[i][1] and counts[kinds[i][0], color] >= TOP
    ]
    rows, before, after = np.array(questions).T
    wanted = [(kinds[i][0], colors[target]) for i, target in zip(rows, after, strict=True)]
    queries = {"arithmetic": unit(photos[rows] - steps[before] + steps[after]), "unchanged": photos[rows]}
    shares = {"colours_random": float(np.mean([counts[want] / (len(kinds) - 1) for want in wanted]))}
    tops = {}
    for name, query in queries.items():
        tops[name] = _top(query, photos, rows)
        right = [[kinds[i] == want for i in top] for top, want in zip(tops[name], wanted, strict=True)]
        types = [[kinds[i][0] == want[0] for i in top] for top, want in zip(tops[name], wanted, strict=True)]
        shares |= {f"colours_{name}": float(np.mean(right)), f"types_{name}": float(np.mean(types))}
    common.say("colors exchanged by words", questions=len(questions), **shares)
    if figure is not None:
        _draw(
            data, figure, tops["arithmetic"], rows, [(colors[a], colors[b]) for a, b in zip(before, after, strict=True)]
        )
    return shares


def _top(queries: Matrix, photos: Matrix, barred: NDArray[np.int64]) -> NDArray[np.int64]:
    scores = queries @ photos.T
    scores[np.arange(len(queries)), barred] = -2
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]


def _draw(data: Data, file: Path, tops: Any, rows: Any, changes: list[tuple[str, str]]) -> None:
    """Write a montage of some questions, the first of each of several changes of color."""
    from PIL import Image

    from embedall_spark.visualize import montage

    def tile(i: int) -> Any:
        item = data.products[i]
        return montage.Tile(Image.open(products.picture(item.id)), item.title)

    firsts = {change: i for i, change in reversed(list(enumerate(changes)))}
    chosen = sorted(firsts.items(), key=lambda pair: pair[1])
    drawn = chosen[:: max(1, len(chosen) // _SHOWN)][:_SHOWN]
    lines = [
        (f"the first picture - {a} + {b}", [tile(rows[i]), *(tile(neighbor) for neighbor in tops[i])])
        for (a, b), i in drawn
    ]
    file.write_bytes(montage.draw(lines))
