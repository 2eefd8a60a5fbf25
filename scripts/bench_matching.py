"""Speed of the region-word networks beside a loop over captions, and the memory that scoring many pairs takes.

    python scripts/bench_matching.py --jobs stream,scan,sgr,imram,small --repeats 5

The conditions of bench.py: one thread, variants in turns, results compared before they are timed. The loops are written
from the papers; sizes are the papers' (joint space 1024, 36 regions, similarity vectors of 256, three steps) with 32 images
and 32 captions of 8 to 25 words to train, 48 to score. "small" are the sizes of the shipped Flickr8k specs: milliseconds per
training step, and seconds for 200 x 1000 pairs.

IMRAM is timed with the papers' batch of 128 images too, in mode "text", with 20 captions: a block then holds one caption, and
is computed again on the way back. One turn takes 45 s of CPU and 4.2 GB; the loop took 30.3 s, ours 14.3 s, 2.1 times less.
Smaller blocks of images, with more captions in each, do not pay: 128 images and 6 captions took 4.3 to 4.9 s whole, 5.2 s by
16 images and 4.7 s by 32; in mode "image", with 3 captions, 5.8 to 5.9 s whole, 5.8 s by 16 and 5.7 s by 32.
"""

from bench import alternate, print_table, require, timed, verdict  # first, since it pins one thread

# isort: split
import resource
import time
from collections.abc import Callable

import click
import numpy as np
import torch
from torch import Tensor, nn

from baselines._attention import ScanSimilarity
from baselines._matching import BACKBONES, MatchingNetwork, matching_network
from baselines._sgraf import SimilarityReasoning
from baselines.imram import ASKING, IteratedMatching, Memory
from xmbench.device import fast_matmul, keep_freed_memory, limit_threads

DIM, SIMILARITY_DIM, REGIONS, STEPS, BATCH, SCORED = 1024, 256, 36, 3, 32, 48
MANY, FEW = 128, 20  # images of the papers' batches, and captions enough for blocks to be computed again on the way back
Scores = Callable[[Tensor, Tensor, Tensor], Tensor]


def caption_lengths(n_captions: int) -> Tensor:
    """Numbers of words between 8 and 25, 15 on average, as real captions have them with both end tokens."""
    return torch.from_numpy(np.random.default_rng(0).normal(14.5, 4.5, n_captions).round().clip(8, 25).astype(np.int64))


def unit_rows(*shape: int) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape), dim=-1)


def encoded(n_images: int, n_captions: int, n_regions: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit regions, unit words with zeros at padding, and the numbers of words."""
    torch.manual_seed(0)
    lengths = caption_lengths(n_captions)
    captions = unit_rows(n_captions, int(lengths.max()), dim)
    captions[torch.arange(captions.shape[1]) >= lengths[:, None]] = 0
    return unit_rows(n_images, n_regions, dim), captions, lengths


# ---- loops over captions ----------------------------------------------------------------------------------------------


def l2(x: Tensor, dim: int = -1) -> Tensor:
    return x / (x.pow(2).sum(dim=dim, keepdim=True).sqrt() + 1e-8)


def attended(contexts: Tensor, queries: Tensor) -> Tensor:
    """Context (B, n, D) that each of the n words draws from the regions (B, R, D), or each region from the words."""
    products = nn.functional.leaky_relu(torch.bmm(contexts, queries.transpose(1, 2)), 0.1)
    weights = torch.softmax(9.0 * l2(products, dim=2), dim=1)
    return torch.bmm(weights.transpose(1, 2), contexts)


def plain_scan(images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    """SCAN t2i with log-sum-exp, lambda 9 and 6, one caption after the other."""
    columns = []
    for i in range(len(captions)):
        words = captions[i, : lengths[i]].unsqueeze(0).expand(len(images), -1, -1).contiguous()
        cosines = torch.cosine_similarity(words, attended(images, words), dim=2)
        columns.append((6.0 * cosines).exp().sum(dim=1).log() / 6.0)
    return torch.stack(columns, dim=1)


def plain_sgr(network: SimilarityReasoning, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    """SGR as the paper writes it, with the parameters of `network`, one caption after the other."""
    look, read = network.image_global, network.text_global
    local = torch.tanh(look.local_bn(look.local_fc(images)))
    overall = torch.tanh(look.global_bn(look.global_fc(images.mean(dim=1))))
    shares = torch.softmax(look.score_fc(local * overall.unsqueeze(1)), dim=1)
    image_vectors = l2((shares * images).sum(dim=1))
    columns = []
    for i in range(len(captions)):
        words = captions[i, : lengths[i]].unsqueeze(0)
        agreement = torch.tanh(read.local_fc(words)) * torch.tanh(read.global_fc(words.mean(dim=1))).unsqueeze(1)
        text_vector = l2((torch.softmax(read.score_fc(agreement), dim=1) * words).sum(dim=1))
        words = words.expand(len(images), -1, -1).contiguous()
        contexts = l2(attended(images, words))
        local_nodes = l2(network.local_fc((contexts - words).pow(2)))
        global_node = l2(network.global_fc((image_vectors - text_vector).pow(2))).unsqueeze(1)
        nodes = torch.cat([global_node, local_nodes], dim=1)
        for step in network.reasoning.steps:
            edges = torch.softmax(torch.bmm(step.query_fc(nodes), step.key_fc(nodes).transpose(1, 2)), dim=-1)
            nodes = torch.relu(step.update_fc(torch.bmm(edges, nodes)))
        columns.append(torch.sigmoid(network.score_fc(nodes[:, 0]))[:, 0])
    return torch.stack(columns, dim=1)


def plain_imram(network: IteratedMatching, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    """IMRAM as the paper writes it, with the memories of `network`, one caption after the other."""
    columns = []
    for i in range(len(captions)):
        words = captions[i, : lengths[i]].unsqueeze(0).expand(len(images), -1, -1).contiguous()
        score = torch.zeros(len(images))
        for asking, memory in network.memories.items():
            assert isinstance(memory, Memory)
            first, contexts = (words, images) if asking == "text" else (images, words)
            queries = first
            for step in range(network.steps):
                found = attended(contexts, queries)
                score = score + torch.cosine_similarity(first, found, dim=2).mean(dim=1)
                if step < network.steps - 1:
                    both = torch.cat([queries, found], dim=2)
                    gate = torch.sigmoid(memory.gate_fc(both))
                    queries = gate * queries + (1 - gate) * torch.tanh(memory.candidate_fc(both))
        columns.append(score)
    return torch.stack(columns, dim=1)


# ---- checks and timings -----------------------------------------------------------------------------------------------


def gradients(scores: Scores, network: nn.Module, images: Tensor, captions: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """The scores, and the gradients of a weighted sum of them by name; zero where a parameter takes no part."""
    leaves = {"images": images.clone().requires_grad_(), "captions": captions.clone().requires_grad_()}
    found = scores(leaves["images"], leaves["captions"], lengths)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    named = leaves | dict(network.named_parameters())
    values = torch.autograd.grad((found * weights).sum(), list(named.values()), allow_unused=True, materialize_grads=True)
    return {"scores": found.detach(), **dict(zip(named, values, strict=True))}


def check(ours: Scores, plain: Scores, network: nn.Module, data: tuple[Tensor, Tensor, Tensor]) -> None:
    found, wanted = (gradients(scores, network, *data) for scores in (ours, plain))
    largest = max(float(g.abs().max()) for name, g in wanted.items() if name != "scores")
    for name, expected in wanted.items():
        scale = float(expected.abs().max()) if name == "scores" else max(float(expected.abs().max()), 1e-4 * largest)
        error = float((found[name] - expected).abs().max()) / scale
        limit = 1e-5 if name == "scores" else 1e-3
        require(error < limit, f"{name} differs by {error:.1e} of its largest entry from the loop's")
    print("  checked: scores to 1e-5, gradients by name to 1e-3 of their largest entries")


class Switch:
    """Runs the loop as torch comes, and ours with what the harness sets for a fit: fast products, memory kept."""

    def __init__(self) -> None:
        self.matmul = torch.backends.mkldnn.matmul
        self.fast = self.matmul.fp32_precision

    def default(self, function: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            self.matmul.fp32_precision = "none"
            function()
            self.matmul.fp32_precision = self.fast

        return run


def forward_backward(scores: Scores, network: nn.Module, data: tuple[Tensor, Tensor, Tensor]) -> Callable[[], object]:
    images, captions, lengths = data
    leaves = images.clone().requires_grad_(), captions.clone().requires_grad_()

    def run() -> None:
        network.zero_grad(set_to_none=True)
        for leaf in leaves:
            leaf.grad = None
        scores(*leaves, lengths).sum().backward()

    return run


def forward(scores: Scores, data: tuple[Tensor, Tensor, Tensor]) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            scores(*data)

    return run


def compare(
    title: str, goal: float, plain: Callable[[], object], ours: Callable[[], object], repeats: int, *, warm: bool = True
) -> None:
    print(f"  {title}", flush=True)
    if warm:
        ours()
    timings = alternate({"plain loop": timed(Switch().default(plain)), "ours": timed(ours)}, repeats)
    print_table(timings)
    ratio = np.median(timings["plain loop"].cpu) / np.median(timings["ours"].cpu)
    verdict(f">= {goal}x the plain loop, got {ratio:.2f}x", bool(ratio >= goal))


def bench_scan(repeats: int) -> None:
    data = encoded(BATCH, BATCH, REGIONS, DIM)
    ours = ScanSimilarity("t2i", "lse", 9.0, 6.0)
    check(ours, plain_scan, ours, data)
    plain_run, our_run = (forward_backward(scores, ours, data) for scores in (plain_scan, ours))
    compare("forward and backward", 3.0, plain_run, our_run, repeats)


def bench_sgr(repeats: int) -> None:
    data, more = (encoded(n, n, REGIONS, DIM) for n in (BATCH, SCORED))
    ours = SimilarityReasoning(DIM, SIMILARITY_DIM, REGIONS, STEPS, dropout=0.0)

    def plain(*given: Tensor) -> Tensor:
        return plain_sgr(ours, *given)

    check(ours, plain, ours, data)
    ours.eval()
    compare(f"forward, {SCORED} x {SCORED}", 1.8, forward(plain, more), forward(ours, more), repeats)
    ours.train()
    plain_run, our_run = (forward_backward(scores, ours, data) for scores in (plain, ours))
    compare("forward and backward, 32 x 32", 1.8, plain_run, our_run, repeats)


def bench_imram(repeats: int) -> None:
    data = encoded(BATCH, BATCH, REGIONS, DIM)
    for mode in ASKING:
        ours = IteratedMatching(DIM, mode, STEPS, temperature=9.0, normalise=False)

        def plain(*given: Tensor, network: IteratedMatching = ours) -> Tensor:
            return plain_imram(network, *given)

        check(ours, plain, ours, data)
        plain_run, our_run = (forward_backward(scores, ours, data) for scores in (plain, ours))
        compare(f"forward and backward, mode {mode}", 2.0, plain_run, our_run, repeats)
        if mode == "text":
            many = encoded(MANY, FEW, REGIONS, DIM)
            plain_run, our_run = (forward_backward(scores, ours, many) for scores in (plain, ours))
            compare(f"forward and backward, {MANY} x {FEW}, one turn", 2.0, plain_run, our_run, 1, warm=False)


def small_network(backbone: str) -> MatchingNetwork:
    torch.manual_seed(0)
    return matching_network(
        backbone, region_dim=256, n_regions=16, n_words=4000, dim=128, similarity_dim=32, steps=2, word_dim=300
    )


def bench_small(repeats: int) -> None:
    lengths = caption_lengths(BATCH)
    regions, tokens = torch.randn(BATCH, 16, 256), torch.randint(4, 4000, (BATCH, int(lengths.max())))
    many = encoded(200, 1000, 16, 128)
    for backbone in BACKBONES:
        network = small_network(backbone)
        steps, scoring = [], []
        for _ in range(repeats + 1):
            start = time.process_time()
            network.zero_grad()
            network(regions, tokens, lengths).sum().backward()
            steps.append(time.process_time() - start)
        network.eval()
        for _ in range(2):
            start = time.process_time()
            with torch.inference_mode():
                network.scores(*many)
            scoring.append(time.process_time() - start)
        step = 1e3 * np.median(steps[1:])
        print(f"  {backbone:10} step {step:6.1f} ms CPU, {1e3 * min(steps):.1f} at best; 200 x 1000 in {min(scoring):.2f} s")


def bench_stream(repeats: int) -> None:
    network = small_network("sgr")
    network.similarity = SimilarityReasoning(DIM, SIMILARITY_DIM, REGIONS, STEPS, dropout=0.0)
    network.eval()
    for n_captions in (100, 1000):
        data = encoded(200, n_captions, REGIONS, DIM)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with torch.inference_mode():
            scores = network.scores(*data)
        require(bool(scores.isfinite().all()), "scores must be finite")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"  200 x {n_captions}: {time.process_time() - start:.1f} s CPU, peak memory grew by {grown:.0f} MB")
    verdict(f"memory bounded: growth at 200 x 1000 at most 400 MB, got {grown:.0f} MB", grown <= 400)


JOBS: dict[str, tuple[str, Callable[[int], None]]] = {
    "stream": ("SGR scoring 200 x 1000 at the papers' sizes", bench_stream),  # first: it watches the highest memory so far
    "scan": ("SCAN t2i, 32 x 32, joint space 1024, 36 regions", bench_scan),
    "sgr": ("SGR, joint space 1024, similarity 256, three steps, 36 regions", bench_sgr),
    "imram": ("IMRAM, 32 x 32, joint space 1024, 36 regions, three steps", bench_imram),
    "small": ("training and scoring at joint space 128, similarity 32, two steps, 16 regions", bench_small),
}


@click.command()
@click.option("--jobs", default=",".join(JOBS), show_default=True, help="Comma-separated names.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Turns of each variant.")
def main(jobs: str, repeats: int) -> None:
    """Time the region-word networks beside loops over captions."""
    names = jobs.split(",")
    if unknown := set(names) - set(JOBS):
        raise click.BadParameter(f"jobs must be among {', '.join(JOBS)}, got {', '.join(sorted(unknown))}")
    limit_threads(1)
    print(f"torch {torch.__version__}, 1 thread; float32 product of ours: {fast_matmul()}")
    keep_freed_memory()
    for name in names:
        title, job = JOBS[name]
        print(f"\n{name}: {title}; {repeats} turns", flush=True)
        job(repeats)


if __name__ == "__main__":
    main()
