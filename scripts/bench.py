"""Speed of the metrics and of a training step, beside plain loops, a library, and the limit that no code can beat.

    python scripts/bench.py --jobs map462,map4000,map23661,mrl --repeats 5

One thread, pinned before NumPy and torch are imported. Variants take turns, so that a busy minute of the machine hits all of
them; figures are the median [min-max] over the turns, and ratios are ratios of median CPU seconds. Results are compared
before they are timed: a wrong answer ends the run.
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import ctypes
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from baselines.mrl import MRL
from xmbench import FitContext, Modality, PairedSet, Rows, one_hot
from xmbench.device import fast_matmul, keep_freed_memory, limit_threads
from xmbench.metrics import average_precision, mean_average_precision

Array = NDArray[np.float64]


def require(condition: bool, message: str) -> None:
    """End the run where a result is wrong."""
    if not condition:
        raise SystemExit(f"wrong result: {message}")


# ---- clocks and tables ----------------------------------------------------------------------------------------------


@dataclass
class Timings:
    """CPU and wall seconds of one variant, one entry per turn."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @contextmanager
    def turn(self, parts: int = 1) -> Iterator[None]:
        """Time the body as one turn of `parts` equal parts (steps), and note the time per part."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu.append((time.process_time() - cpu) / parts)
        self.wall.append((time.perf_counter() - wall) / parts)


def alternate(variants: dict[str, Callable[[Timings], None]], repeats: int) -> dict[str, Timings]:
    """Let every variant take `repeats` turns, one after the other; print what the machine gave meanwhile."""
    timings = {name: Timings() for name in variants}
    before, cpu, wall = psutil.cpu_times(), time.process_time(), time.perf_counter()
    for _ in range(repeats):
        for name, run in variants.items():
            run(timings[name])
    spent = [b - a for a, b in zip(before, psutil.cpu_times(), strict=True)]
    idle = spent[before._fields.index("idle")] / max(sum(spent), 1e-9)
    cores = (time.process_time() - cpu) / (time.perf_counter() - wall)
    print(f"  machine: {os.cpu_count()} cores, {idle:.0%} idle meanwhile; this process obtained {cores:.2f} cores")
    return timings


def timed(function: Callable[[], object]) -> Callable[[Timings], None]:
    """`function` as a variant for `alternate`: one call per turn."""

    def run(timings: Timings) -> None:
        with timings.turn():
            function()

    return run


def print_table(timings: dict[str, Timings]) -> None:
    """Print each variant's CPU and wall milliseconds, and how many times faster than the plain loop it is."""
    print(f"  {'':22}{'CPU ms':>30}{'wall ms':>30}{'plain loop / x':>16}")
    for name, t in timings.items():
        ratio = np.median(timings["plain loop"].cpu) / np.median(t.cpu)
        print(f"  {name:22}{spread(t.cpu):>30}{spread(t.wall):>30}{ratio:>15.2f}x")


def spread(seconds: list[float]) -> str:
    return f"{1e3 * np.median(seconds):.1f} [{1e3 * min(seconds):.1f}-{1e3 * max(seconds):.1f}]"


def verdict(text: str, met: bool) -> None:
    print(f"  goal {text}: {'met' if met else 'MISSED'}")


# ---- MAP ------------------------------------------------------------------------------------------------------------


def plain_loop_map(query: Array, gallery: Array, query_labels: Array, gallery_labels: Array) -> float:
    """MAP as research code computes it: float64 cosine distances, argsort per query, a walk down the ranking."""
    distances = cdist(query, gallery, "cosine")
    scores = []
    for distance, label in zip(distances, query_labels, strict=True):
        hits, total = 0, 0.0
        for rank, item in enumerate(np.argsort(distance), start=1):
            if gallery_labels[item] == label:
                hits += 1
                total += hits / rank
        scores.append(total / hits)
    return float(np.mean(scores))


def numpy_map(query: Array, gallery: Array, query_labels: Array, gallery_labels: Array) -> float:
    """MAP with NumPy, one argsort and one cumulative sum per query."""
    similarity = unit(query) @ unit(gallery).T
    scores = []
    for row, label in zip(similarity, query_labels, strict=True):
        ranks = np.flatnonzero(gallery_labels[np.argsort(-row)] == label) + 1
        scores.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return float(np.mean(scores))


def scikit_learn_map(query: Array, gallery: Array, query_labels: Array, gallery_labels: Array) -> float:
    similarity = unit(query).astype(np.float64) @ unit(gallery).T
    pairs = zip(similarity, query_labels, strict=True)
    return float(np.mean([average_precision_score(gallery_labels == label, row) for row, label in pairs]))


def unit(values: Array) -> Array:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def product_alone(query: Array, gallery: Array) -> Callable[[], object]:
    """The matrix product of the unit rows in float32, nothing else: no exact MAP is faster."""
    left, right = torch.from_numpy(unit(query)), torch.from_numpy(unit(gallery)).T
    out = torch.empty(len(query), len(gallery))
    return lambda: torch.mm(left, right, out=out)


def planted(n_items: int, n_classes: int, dim: int) -> tuple[Array, Array, Array, Array]:
    """Float32 query and gallery embeddings around common class centres, and their labels; cosines of both signs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, (2, n_items))
    centres = rng.standard_normal((n_classes, dim)) / 8
    query, gallery = (centres[y] + rng.standard_normal((n_items, dim)) for y in labels)
    return query.astype(np.float32), gallery.astype(np.float32), labels[0], labels[1]


def expected_average_precision(scores: Array, relevance: Array) -> float:
    """AP over all orders of tied items, position by position (McSherry and Najork 2008), for the check of ties."""
    total, position, found = 0.0, 0, 0
    for score in sorted(set(scores.tolist()), reverse=True):
        group = relevance[scores == score]
        n, r = len(group), int(group.sum())
        for i in range(n):
            position += 1
            others = i * (r - 1) / (n - 1) if n > 1 else 0.0
            total += r / n * (found + 1 + others) / position
        found += r
    return total / found


def check_ties() -> None:
    """Ties, zeros of both signs and negative scores, with few and with many relevant items per query."""
    rng = np.random.default_rng(1)
    similarity = rng.integers(-3, 4, (40, 600)).astype(np.float32) / 4
    similarity[(similarity == 0) & (rng.random(similarity.shape) < 0.5)] = -0.0
    similarity[::2, ::3] = rng.standard_normal((20, 200))
    for rate in (0.02, 0.6):
        relevance = rng.random(similarity.shape) < rate
        relevance[:, 0] = True
        wanted = [expected_average_precision(s, r) for s, r in zip(similarity, relevance, strict=True)]
        error = np.abs(average_precision(similarity, relevance) - wanted).max()
        require(error < 1e-12, f"average precision with ties differs by {error:.1e} from the sum over positions")
    print("  checked: ties, +0 and -0, negative scores, to 1e-12")


def bench_map(n_items: int, n_classes: int, goal: float, goal_limit: float | None, repeats: int) -> None:
    data = planted(n_items, n_classes, 512)
    check_ties()
    functions = {"plain loop": plain_loop_map, "numpy": numpy_map, "scikit-learn": scikit_learn_map}
    functions["ours"] = mean_average_precision
    scores = {name: function(*data) for name, function in functions.items()}  # also compiles ours
    require(np.ptp(list(scores.values())) < 1e-6, f"MAP must agree to 1e-6, got {scores}")
    print(f"  checked: MAP {scores['ours']:.4f} by all, to 1e-6")
    variants = {name: timed(partial(function, *data)) for name, function in functions.items()}
    variants["limit: product alone"] = timed(product_alone(*data[:2]))
    timings = alternate(variants, repeats)
    print_table(timings)
    loop, ours, limit = (np.median(timings[name].cpu) for name in ("plain loop", "ours", "limit: product alone"))
    verdict(f">= {goal:g}x the plain loop, got {loop / ours:.1f}x", bool(loop / ours >= goal))
    if goal_limit is not None:
        verdict(f"<= {goal_limit:g}x the product alone, got {ours / limit:.2f}x", bool(ours / limit <= goal_limit))


def bench_memory(repeats: int) -> None:
    """MAP of 23661 x 23661 in a fresh process per turn, whose peak is its own."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import bench; bench.measure_memory()"
    growth, seconds = [], []
    for _ in range(repeats):
        command = [sys.executable, "-c", code, str(Path(__file__).parent)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        more, cpu = map(float, done.stdout.split())
        growth.append(more / 1e6)
        seconds.append(cpu)
    print(f"  peak memory beyond the inputs: {np.median(growth):.0f} [{min(growth):.0f}-{max(growth):.0f}] MB")
    print(f"  CPU ms, loading or compiling the kernels included: {spread(seconds)}")
    verdict("< 2 GB beyond the inputs", max(growth) < 2000)


def measure_memory() -> None:
    """Print the growth in bytes and the CPU seconds of one MAP of 23661 x 23661; runs in a process of its own."""
    limit_threads(1)
    query, gallery, query_labels, gallery_labels = planted(23661, 10, 64)
    few = slice(0, 30)
    wanted = plain_loop_map(query[few], gallery, query_labels[few], gallery_labels)
    rss, cpu = psutil.Process().memory_info().rss, time.process_time()
    mean_average_precision(query, gallery, query_labels, gallery_labels)
    cpu = time.process_time() - cpu
    growth = peak_rss() - rss  # never too small: the peak is that of the whole process
    error = abs(mean_average_precision(query[few], gallery, query_labels[few], gallery_labels) - wanted)
    require(error < 1e-6, f"MAP of 30 queries differs by {error:.1e} from the plain loop")
    print(growth, cpu)


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes; getrusage would count a parent's before exec on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---- MRL training step ----------------------------------------------------------------------------------------------

ITEMS, BATCH, HIDDEN, DIM, CLASSES, LR = 400, 100, 4096, 512, 10, 1e-4  # sizes of MRL on Wikipedia, 4 steps an epoch


def plain_network(n_features: int) -> nn.Module:
    """The trunk of MRL."""
    layers = nn.Linear(n_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIM)
    return nn.Sequential(*layers)


def plain_mrl_loss(embeddings: list[Tensor], labels: list[Tensor], prototypes: Tensor, beta: float = 0.7) -> Tensor:
    """MRL's objective at tau 1 in probabilities, self pairs left out (Hu et al., CVPR 2021, eq. (2) and (5)-(8))."""
    clustering = torch.zeros(())
    for z, y in zip(embeddings, labels, strict=True):
        probability = torch.softmax(z @ prototypes, dim=1)[torch.arange(len(z)), y]
        clustering = clustering + torch.log(1 - probability).mean()
    everything = torch.cat(embeddings)
    weight = torch.exp(everything @ everything.T)
    n = len(embeddings[0])
    instance = torch.arange(len(everything)) % n
    same = (instance[:, None] == instance) & ~torch.eye(len(everything), dtype=torch.bool)
    others = weight.sum(1) - weight.diagonal()
    contrast = -2 * torch.log((weight * same).sum(1) / others).mean()
    return beta * clustering + (1 - beta) * contrast


class PlainMRL:
    """MRL's training loop as most people write it: DataLoader, default Adam, default float32 products."""

    def __init__(self, vectors: list[Tensor], labels: list[Tensor]) -> None:
        torch.manual_seed(0)
        self.networks = nn.ModuleList(plain_network(x.shape[1]) for x in vectors)
        self.prototypes = nn.Parameter(nn.init.orthogonal_(torch.empty(DIM, CLASSES)))
        self.loader = DataLoader(TensorDataset(*vectors, *labels), batch_size=BATCH, shuffle=True)
        self.optimiser = torch.optim.Adam([*self.networks.parameters(), self.prototypes], lr=LR, betas=(0.5, 0.999))

    def epoch(self) -> None:
        for batch in self.loader:
            vectors, labels = batch[: len(self.networks)], batch[len(self.networks) :]
            self.prototypes.data /= self.prototypes.data.norm(dim=0)
            outputs = [network(x) for network, x in zip(self.networks, vectors, strict=True)]
            embeddings = [z / z.norm(dim=1, keepdim=True) for z in outputs]
            loss = plain_mrl_loss(embeddings, labels, self.prototypes)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            loss.item()


def step_products() -> Callable[[], object]:
    """The matrix products of one step of both trunks, their results already allocated, and nothing else."""
    jobs = []
    inner = 2 * [(HIDDEN, HIDDEN, True), (HIDDEN, DIM, True)]
    for before, after, to_input in [(128, HIDDEN, False), (10, HIDDEN, False), *inner]:
        x, w, g = torch.randn(BATCH, before), torch.randn(after, before), torch.randn(BATCH, after)
        pairs = [(x, w.T), (g.T, x), (g, w)] if to_input else [(x, w.T), (g.T, x)]
        jobs += [(a, b, torch.empty(len(a), b.shape[1])) for a, b in pairs]
    return lambda: [torch.mm(a, b, out=out) for a, b, out in jobs]


class TimedContext(FitContext):
    """A fit's context that notes the time of each epoch's batches; one turn per call of `batches`."""

    timings: Timings

    def batches(self, n_items: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
        with self.timings.turn(parts=n_items // batch_size):
            yield from super().batches(n_items, batch_size)


def bench_mrl(repeats: int) -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal((ITEMS, d)).astype(np.float32) for d in (128, 10)]
    classes = [rng.integers(0, CLASSES, ITEMS) for _ in vectors]
    tensors = [torch.from_numpy(x) for x in vectors], [torch.from_numpy(y) for y in classes]
    modalities = tuple(
        Modality(name=name, vectors=Rows(x), labels=one_hot(y, CLASSES))
        for name, x, y in zip(("image", "text"), vectors, classes, strict=True)
    )
    train = PairedSet(modalities=modalities, pairs=np.arange(ITEMS)[:, None].repeat(2, axis=1))
    switch = torch.backends.mkldnn.matmul
    fast = switch.fp32_precision
    plain = PlainMRL(*tensors)

    def run_plain(timings: Timings) -> None:
        switch.fp32_precision = "none"
        default_memory()
        with timings.turn(parts=ITEMS // BATCH):
            plain.epoch()
        switch.fp32_precision = fast

    def run_ours(timings: Timings) -> None:
        keep_freed_memory()
        context = TimedContext(seed=0)
        context.timings = Timings()
        MRL(hidden=HIDDEN, dim=DIM, epochs=2, batch_size=BATCH, lr=LR).fit(train, context)
        timings.cpu.append(context.timings.cpu[1])  # the second epoch: the first one allocates Adam's state
        timings.wall.append(context.timings.wall[1])

    check_mrl(train, tensors[1])
    plain.epoch()
    limit = timed(step_products())
    timings = alternate({"plain loop": run_plain, "ours": run_ours, "limit: products alone": limit}, repeats)
    print_table(timings)
    ratio = np.median(timings["plain loop"].cpu) / np.median(timings["ours"].cpu)
    verdict(f">= 2.2x the plain loop, got {ratio:.2f}x", bool(ratio >= 2.2))


def default_memory() -> None:
    """glibc's own thresholds (mallopt(3)) for the plain loop; `keep_freed_memory` changes them for ours."""
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    for parameter, value in ((-4, 65536), (-1, 128 * 1024), (-2, 0)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        library.mallopt(parameter, value)
    library.malloc_trim(0)


def check_mrl(train: PairedSet, labels: list[Tensor]) -> None:
    """The loss that ours steps down, and its gradient by every parameter's name, equal those of the plain loop."""
    method = MRL(hidden=64, dim=DIM, epochs=1, batch_size=BATCH, lr=LR)
    method.fit(train, FitContext(seed=0))
    method.nets_.renormalise()
    named = dict(method.nets_.named_parameters())
    embeddings = [method.nets_(m.name, torch.from_numpy(np.asarray(m.vectors))) for m in train.modalities]
    ours = method.loss(torch.stack(embeddings), list(labels))
    plain = plain_mrl_loss(embeddings, labels, named["prototypes"])
    require((ours - plain).abs().item() < 1e-5, f"MRL's loss is {ours.item():.6f}, in the plain loop {plain.item():.6f}")
    gradients = [torch.autograd.grad(loss, list(named.values()), retain_graph=True) for loss in (ours, plain)]
    for name, g, wanted in zip(named, *gradients, strict=True):
        error = float((g - wanted).abs().max() / wanted.abs().max())
        require(error < 1e-4, f"the gradient of {name} differs by {error:.1e} of its largest entry from the plain loop's")
    print("  checked: loss to 1e-5, gradients by name to 1e-4")


JOBS: dict[str, tuple[str, Callable[[int], None]]] = {
    "map462": ("MAP@all, 462 x 462, 10 classes, d = 512", lambda n: bench_map(462, 10, 10, None, n)),
    "map4000": ("MAP@all, 4000 x 4000, 200 classes, d = 512", lambda n: bench_map(4000, 200, 20, 2.5, n)),
    "map23661": ("MAP@all, 23661 x 23661, 10 classes, d = 64: memory", bench_memory),
    "mrl": ("MRL training step, batch 100, d = 128 and 10, hidden 4096, L = 512", bench_mrl),
}


@click.command()
@click.option("--jobs", default=",".join(JOBS), show_default=True, help="Comma-separated names.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Turns of each variant.")
def main(jobs: str, repeats: int) -> None:
    """Time the hot jobs beside plain loops."""
    names = jobs.split(",")
    if unknown := set(names) - set(JOBS):
        raise click.BadParameter(f"jobs must be among {', '.join(JOBS)}, got {', '.join(sorted(unknown))}")
    limit_threads(1)
    chosen = fast_matmul()
    print(f"torch {torch.__version__}, numpy {np.__version__}, 1 thread; float32 product: {chosen}")
    if chosen.startswith("default"):
        print("The fast product failed its accuracy check on this processor: the default one is used, and goals may be missed.")
    for name in names:
        title, job = JOBS[name]
        print(f"\n{name}: {title}; {repeats} turns", flush=True)
        job(repeats)


if __name__ == "__main__":
    main()
