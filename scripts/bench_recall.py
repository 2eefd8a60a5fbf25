"""Speed of R@K and PMRP in both directions, beside plain loops and the limit of reading the similarities once.

    python scripts/bench_recall.py --repeats 5

The turns, clocks and checks are those of `bench.py`.
"""

from bench import alternate, print_table, require, spread, timed, verdict  # first, since it pins one thread

# isort: split
import click
import numpy as np

from xmbench.device import limit_threads
from xmbench.metrics import evaluate_matches, pmrp_of_classes

N_IMAGES, PER_IMAGE, N_CLASSES = 1000, 5, 80  # Flickr30K's test split, COCO's classes
RECALLS = ("r@1", "r@5", "r@10")


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct float32 similarities (images, captions), higher for pairs, the pairs, and integer class vectors of images."""
    rng = np.random.default_rng(0)
    n_captions = N_IMAGES * PER_IMAGE
    captions = np.arange(n_captions)
    pairs = np.stack([captions // PER_IMAGE, captions], axis=1)
    similarity = 0.1 * rng.standard_normal((N_IMAGES, n_captions)).astype(np.float32)
    similarity[pairs[:, 0], pairs[:, 1]] += 0.2
    order = np.argsort(similarity, axis=None)
    similarity.flat[order] = np.arange(order.size, dtype=np.float32) / order.size - 0.5  # a plain argsort cannot break ties
    require(len(np.unique(similarity)) == similarity.size, "the loops cannot be compared where scores are tied")
    classes = (rng.random((N_IMAGES, N_CLASSES)) < 0.3 / np.arange(1, N_CLASSES + 1) ** 0.9).astype(np.int64)
    classes[~classes.any(axis=1), 0] = 1
    return similarity, pairs, classes


def plain_loop_ranks(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 0 of the best own caption and of the own image as research code finds them: an argsort per query."""
    of_images = np.empty(len(similarity))
    for i, scores in enumerate(similarity):
        order = np.argsort(scores)[::-1]
        of_images[i] = min(np.where(order == PER_IMAGE * i + k)[0][0] for k in range(PER_IMAGE))
    of_captions = np.empty(similarity.shape[1])
    for j, scores in enumerate(similarity.T):
        of_captions[j] = np.where(np.argsort(scores)[::-1] == j // PER_IMAGE)[0][0]
    return of_images, of_captions


def ours_ranks(similarity: np.ndarray, pairs: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return evaluate_matches((*RECALLS, "meanr"), similarity, pairs)


def plain_loop_pmrp(similarity: np.ndarray, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """PMRP per query: L1 distances to all class vectors, an argsort, the share of plausible matches among the top R."""
    values = []
    for scores, classes in zip(similarity, query, strict=True):
        distance = np.abs(gallery - classes).sum(axis=1)
        order = np.argsort(scores)[::-1]
        plausible = [distance <= zeta for zeta in (0, 1, 2)]
        values.append(np.mean([match[order[: match.sum()]].mean() for match in plausible]))
    return np.array(values)


def check_ties() -> None:
    """With many ties and zeros of both signs, ours is the mean over random orders of the gallery, within its error."""
    rng = np.random.default_rng(1)
    similarity = (rng.integers(-2, 3, (6, 30)) / 2).astype(np.float32) * rng.choice([1, -1], (6, 30)).astype(np.float32)
    pairs = np.stack([np.arange(30) // PER_IMAGE, np.arange(30)], axis=1)
    tiny = 1e-6 * rng.random((20_000, 6, 30))
    above = (similarity + tiny)[:, pairs[:, 0], pairs[:, 1]].reshape(-1, 6, PER_IMAGE).max(axis=2)
    ranks = 1 + ((similarity + tiny) > above[:, :, None]).sum(axis=2)
    got, _ = evaluate_matches(["r@1", "meanr"], similarity, pairs)
    require(np.abs(got["meanr"] - ranks.mean(axis=0)).max() < 0.1, "mean rank with ties is not the mean over their orders")
    require(np.abs(got["r@1"] - (ranks == 1).mean(axis=0)).max() < 0.02, "R@1 with ties is not the mean over their orders")
    print("  checked: ties, +0 and -0, against 20,000 orders")


def bench_recall(repeats: int) -> None:
    similarity, pairs, _ = planted()
    check_ties()
    for wanted, got in zip(plain_loop_ranks(similarity), ours_ranks(similarity, pairs), strict=True):
        require(bool((got["meanr"] == wanted + 1).all()), "ranks differ from the plain loop's")
        for name in RECALLS:
            require(bool((got[name] == (wanted < int(name[2:]))).all()), f"{name} differs from the plain loop's")
    print("  checked: every rank and hit equals the plain loop's")
    variants = {
        "plain loop": timed(lambda: plain_loop_ranks(similarity)),
        "ours": timed(lambda: ours_ranks(similarity, pairs)),
        "limit: reading once": timed(similarity.sum),
    }
    report(variants, 50, repeats)


def bench_pmrp(repeats: int) -> None:
    similarity, pairs, images = planted()
    captions = images[pairs[:, 0]]

    def both(function):  # type: ignore[no-untyped-def]
        return [function(similarity, images, captions), function(similarity.T, captions, images)]

    for wanted, got in zip(both(plain_loop_pmrp), both(pmrp_of_classes), strict=True):
        require(np.abs(wanted - got).max() < 1e-12, "PMRP differs from the plain loop's")
    print("  checked: PMRP of every query equals the plain loop's to 1e-12")
    floats = images.astype(np.float32), captions.astype(np.float32)
    variants = {
        "plain loop": timed(lambda: both(plain_loop_pmrp)),
        "ours": timed(lambda: both(pmrp_of_classes)),
        "limit: one product": timed(lambda: floats[0] @ floats[1].T),
    }
    report(variants, 25, repeats)


def report(variants, goal: float, repeats: int) -> None:  # type: ignore[no-untyped-def]
    timings = alternate(variants, repeats)
    print_table(timings)
    ratio = np.median(timings["plain loop"].cpu) / np.median(timings["ours"].cpu)
    verdict(f">= {goal:g}x the plain loop, got {ratio:.1f}x (ours {spread(timings['ours'].cpu)} ms)", bool(ratio >= goal))


JOBS = {
    "recall": (f"R@1, R@5, R@10 and ranks, {N_IMAGES} x {N_IMAGES * PER_IMAGE}, both directions", bench_recall),
    "pmrp": (f"PMRP, {N_IMAGES} x {N_IMAGES * PER_IMAGE}, {N_CLASSES} classes, both directions", bench_pmrp),
}


@click.command()
@click.option("--jobs", default=",".join(JOBS), show_default=True, help="Comma-separated names.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Turns of each variant.")
def main(jobs: str, repeats: int) -> None:
    """Time recall and PMRP beside plain loops."""
    names = jobs.split(",")
    if unknown := set(names) - set(JOBS):
        raise click.BadParameter(f"jobs must be among {', '.join(JOBS)}, got {', '.join(sorted(unknown))}")
    limit_threads(1)
    for name in names:
        title, job = JOBS[name]
        print(f"\n{name}: {title}; {repeats} turns", flush=True)
        job(repeats)


if __name__ == "__main__":
    main()
