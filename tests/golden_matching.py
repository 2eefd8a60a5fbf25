"""What the fixtures of SCAN and SGRAF hold, computed by our networks: generators of (output, its value)."""

import re

import torch

from baselines._attention import ScanSimilarity
from baselines._matching import RegionEncoder, WordEncoder
from baselines._sgraf import SimilarityReasoning

POOLINGS = {"logsumexp": "lse", "mean": "avg", "max": "max", "sum": "sum"}


def inputs_of(z, captions="captions"):
    """Images, captions and lengths, of which the first two get gradients."""
    images, words = (torch.from_numpy(z[f"input.{name}"]).requires_grad_() for name in ("images", captions))
    return images, words, torch.from_numpy(z["input.caption_lengths"])


def scan(entry, z, monkeypatch):
    for direction in ("t2i", "i2t"):
        lambdas = [float(entry["settings"][direction][name]) for name in ("lambda_softmax", "lambda_lse")]
        for theirs, ours in POOLINGS.items():
            similarity = ScanSimilarity(direction, ours, *lambdas)
            images, captions, lengths = inputs_of(z)
            scores = similarity(images, captions, lengths)
            scores.sum().backward()
            garbage = similarity(*inputs_of(z, "captions_garbage_padding")).detach()
            assert torch.equal(garbage, scores.detach())
            yield f"output.{direction}_{theirs}", scores.detach()
            if theirs in ("logsumexp", "mean"):
                yield f"grad.{direction}_{theirs}.images", images.grad
                yield f"grad.{direction}_{theirs}.captions", captions.grad


def our_name(name):
    """Our name of a parameter or buffer of the fixtures' similarity networks."""
    name = re.sub(r"^(image|text)_global_attn", r"\1_global", name)
    name = re.sub(r"^(local|global)_similarity_fc", r"\1_fc", name)
    return re.sub(r"^filtration", "reasoning", re.sub(r"^graph_step(\d)", r"reasoning.steps.\1", name))


def reasoning_network(entry, z):
    """The network with the fixture's parameters in float64, without dropout."""
    (dim, n_regions), n_steps = z["input.images"].shape[:0:-1], entry["settings"]["sgr_step"]
    steps = n_steps if entry["name"] == "sgr_sim" else 0
    network = SimilarityReasoning(dim, entry["settings"]["sim_dim"], n_regions, steps, dropout=0.0).double()
    network.load_state_dict(
        {our_name(name.removeprefix("param.")): torch.from_numpy(z[name].copy()) for name in entry["parameters"]}
    )
    return network


def reasoning(entry, z, monkeypatch):
    for mode in ("eval", "train"):
        network, other = (reasoning_network(entry, z).train(mode == "train") for _ in range(2))
        images, captions, lengths = inputs_of(z)
        scores = network(images, captions, lengths)
        scores.sum().backward()
        assert torch.equal(other(*inputs_of(z, "captions_garbage_padding")), scores)
        yield f"output.{mode}_similarity", scores.detach()
        yield f"grad.{mode}.images", images.grad
        yield f"grad.{mode}.captions", captions.grad
        for output in entry["outputs"]:
            name = output.removeprefix("grad.eval.").removeprefix("output.train_")
            if mode == "eval" and output.startswith("grad.eval.") and "." in name:
                parameter = network.get_parameter(our_name(name))
                # The softmax drops what the key's bias adds, so that it takes no part: the gradient is zero.
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert (parameter.grad is None) == name.endswith("key_fc.bias")
                yield output, gradient
            if mode == "train" and ".running_" in output:
                yield output, network.get_buffer(our_name(name))


def encoders(entry, z, monkeypatch):
    n_words, word_dim = z["param.word_embedding.weight"].shape
    regions = RegionEncoder(z["input.images"].shape[2], entry["settings"]["image_embed"]).double()
    words = WordEncoder(n_words, word_dim, entry["settings"]["gru_hidden"], dropout=0.4).double().eval()
    weights = {name.removeprefix("param."): torch.from_numpy(z[name]) for name in entry["parameters"]}
    regions.load_state_dict({f"fc.{kind}": weights.pop(f"image_fc.{kind}") for kind in ("weight", "bias")})
    words.load_state_dict({name.removeprefix("word_"): value for name, value in weights.items()})
    tokens, lengths = (torch.from_numpy(z[f"input.caption_{name}"]) for name in ("ids", "lengths"))
    encoded = words(tokens, lengths).detach()
    assert torch.equal(encoded == 0, torch.from_numpy(z["output.words_bidirectional"] == 0))
    yield "output.image_regions", regions(torch.from_numpy(z["input.images"])).detach()
    yield "output.words_bidirectional", encoded


COMPUTED = {"scan_xattn": scan, "sgr_sim": reasoning, "saf_sim": reasoning, "sgraf_encoders": encoders}
# What the released options give that nobody offers here: other normalisations of the raw products, one GRU direction.
LEFT_OUT = re.compile(r"output\.(.2._mean_rawnorm_.+|words_forward_only)")
