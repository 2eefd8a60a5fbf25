"""CLIP's networks, a vision transformer over patches and a causal transformer over text, and reading their checkpoints.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. Layers, names of weights and
the rule of one attention head per 64 numbers of width were checked against openai/CLIP, model.py VisionTransformer, CLIP
and build_model. Images come as patches, over which the released convolution of kernel and stride p is a linear map; captions
are pooled at their last token, which is the end of text.
"""

import json
import math
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from baselines._matching import MatchingNetwork

LARGEST_SCALE = math.log(100.0)  # of logits; CLIP, section 2.5
HEAD_WIDTH = 64
SIZES_AMONG_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # in the released archives
SHOWN = 4  # names that an error lists

_RANKS = {  # of the weights that tell the sizes of a network
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "token_embedding.weight": 2,
    "positional_embedding": 2,
    "text_projection": 2,
}
_SAFE_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
_CONVERSION = "import torch; torch.save(torch.jit.load(OLD, map_location='cpu').state_dict(), NEW)"


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the activation of the released weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class Attention(nn.Module):
    """Multi-head self-attention (n, L, w) -> (n, L, w), in text over the tokens up to one's own."""

    def __init__(self, width: int, *, causal: bool) -> None:
        super().__init__()
        self.causal, self.heads = causal, max(width // HEAD_WIDTH, 1)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        projected = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, activation: str, *, causal: bool) -> None:
        super().__init__()
        self.attn = Attention(width, causal=causal)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](self.activation(self.mlp["c_fc"](self.ln_2(x))))


class Transformer(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, width: int, layers: int, activation: str, *, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, activation, causal=causal) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class VisionTransformer(nn.Module):
    """Unit vectors (n, D) of images (n, P, c p p): the class token after all blocks.

    Args:
        kernel: (c, p, p), channels and sides of a patch.
        n_patches: P, in the order of the grid.
        width: of tokens.
        layers: number of blocks.
        dim: D.
        activation: "quick_gelu" or "gelu".
    """

    def __init__(
        self, *, kernel: tuple[int, int, int], n_patches: int, width: int, layers: int, dim: int, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(kernel[0], width, kernel[1:], bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(n_patches + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, activation, causal=False)
        self.proj = nn.Parameter(torch.empty(width, dim))

    def forward(self, patches: Tensor) -> Tensor:
        weight = self.conv1.weight.flatten(1)
        wanted = (len(self.positional_embedding) - 1, weight.shape[1])
        if patches.shape[1:] != wanted:
            got = f"{tuple(patches.shape[1:])}; cut the images for this checkpoint"
            raise ValueError(f"images must be (patches, numbers in a patch) = {wanted}, as the checkpoint has it, got {got}")
        tokens = nn.functional.linear(patches, weight)
        tokens = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1) + self.positional_embedding
        pooled = self.transformer(self.ln_pre(tokens))[:, 0]
        return nn.functional.normalize(self.ln_post(pooled) @ self.proj, dim=1)


class TextTransformer(nn.Module):
    """Unit vectors (n, D) of captions (n, L) with lengths (n,): the last token of each after all blocks."""

    def __init__(self, *, n_tokens: int, context: int, width: int, layers: int, dim: int, activation: str) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(n_tokens, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = Transformer(width, layers, activation, causal=True)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, dim))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        n, length = tokens.shape
        context, n_tokens = len(self.positional_embedding), self.token_embedding.num_embeddings
        if length > context or tokens.max() >= n_tokens:
            got = f"{length} and {int(tokens.max())}; number and cut the captions for this checkpoint"
            raise ValueError(f"captions must have at most {context} tokens, each below {n_tokens}, got {got}")
        states = self.transformer(self.token_embedding(tokens) + self.positional_embedding[:length])
        last = states[torch.arange(n, device=tokens.device), lengths - 1]
        return nn.functional.normalize(self.ln_final(last) @ self.text_projection, dim=1)


class ScaledCosine(nn.Module):
    """Logits (B, C) of unit vectors: e^t times their cosines, t learnt and never above ln 100."""

    def __init__(self, tau: float = 0.07) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(tau)))

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        with torch.no_grad():
            self.logit_scale.clamp_(max=LARGEST_SCALE)
        return self.logit_scale.exp() * images @ captions.T


def symmetric_cross_entropy(logits: Tensor) -> Tensor:
    """1/2B sum_i (lse_j l_ij - l_ii) + (lse_j l_ji - l_ii) of logits (B, B), pairs on the diagonal."""
    both_ways = torch.logsumexp(logits, dim=1) + torch.logsumexp(logits, dim=0)
    return (both_ways - 2 * logits.diagonal()).mean() / 2


def load_clip(path: Path, activation: str = "quick_gelu") -> MatchingNetwork:
    """The network of a checkpoint in the names of openai/CLIP, in float32; its sizes are those of the weights.

    Args:
        path: read as `read_weights` says.
        activation: "quick_gelu" or "gelu"; no weight tells which of them it was trained with.

    Raises:
        ValueError: no such file, not a checkpoint, weights that are missing, not known, of a wrong shape or not finite.
    """
    weights = {name: value for name, value in read_weights(path).items() if name not in SIZES_AMONG_WEIGHTS}
    _check_names(path, weights, set(_RANKS), {*weights})
    for name, rank in _RANKS.items():
        if weights[name].ndim != rank:
            raise ValueError(f"{path}: {name} must have {rank} dimensions, got shape {tuple(weights[name].shape)}")
    dims = weights["visual.proj"].shape[1], weights["text_projection"].shape[1]
    if dims[0] != dims[1]:
        raise ValueError(f"{path}: visual.proj and text_projection must end in one width, got {dims[0]} and {dims[1]}")
    net = _network_of(path, weights, activation)
    own = named_weights(net)
    _check_names(path, weights, set(own), set(own))
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise ValueError(f"{path}: {name} must be {tuple(own[name].shape)}, got {tuple(value.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} must be finite, got NaN or infinity; get the checkpoint again")
        own[name].copy_(value)
    return net


def named_weights(net: MatchingNetwork) -> dict[str, Tensor]:
    """The weights of a network by their names in openai/CLIP; no copies."""
    image, text, similarity = (part.state_dict() for part in (net.region_encoder, net.word_encoder, net.similarity))
    return {f"visual.{name}": value for name, value in image.items()} | text | similarity


def _network_of(path: Path, weights: dict[str, Tensor], activation: str) -> MatchingNetwork:
    image_width, *kernel = weights["visual.conv1.weight"].shape
    n_tokens, text_width = weights["token_embedding.weight"].shape
    for width in (image_width, text_width):
        if width > HEAD_WIDTH and width % HEAD_WIDTH:
            raise ValueError(f"{path}: widths must be multiples of {HEAD_WIDTH}, one head each, got {width}")
    image = VisionTransformer(
        kernel=(kernel[0], kernel[1], kernel[2]),
        n_patches=len(weights["visual.positional_embedding"]) - 1,
        width=image_width,
        layers=_layers(weights, "visual.transformer"),
        dim=weights["visual.proj"].shape[1],
        activation=activation,
    )
    text = TextTransformer(
        n_tokens=n_tokens,
        context=len(weights["positional_embedding"]),
        width=text_width,
        layers=_layers(weights, "transformer"),
        dim=weights["text_projection"].shape[1],
        activation=activation,
    )
    return MatchingNetwork(image, text, ScaledCosine())


def _layers(weights: dict[str, Tensor], prefix: str) -> int:
    """How many blocks have weights; one at least, so that missing ones are named."""
    numbers = {found[1] for name in weights if (found := re.match(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.", name))}
    return max(len(numbers), 1)


def _check_names(path: Path, weights: dict[str, Tensor], needed: set[str], known: set[str]) -> None:
    missing, extra = sorted(needed - set(weights)), sorted(set(weights) - known)
    if missing or extra:
        parts = [
            f"{len(names)} {what} ({_some(names)})" for what, names in (("missing", missing), ("not known", extra)) if names
        ]
        wanted = "must hold the weights of a CLIP with a vision transformer under the names of openai/CLIP, and nothing else"
        raise ValueError(f"{path}: {wanted}, got {' and '.join(parts)}; rename or remove them")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by name, in float32, of a .npz, a .safetensors or a torch file that holds a dictionary of tensors alone.

    Which of them a file is, is told by its content. No code in it is run.

    Raises:
        ValueError: no such file, a damaged one, a TorchScript archive, or anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; give the path of a checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch on other pickles, before it refuses them
            weights = _weights_in(path)
        if not weights or not all(isinstance(value, Tensor) and isinstance(name, str) for name, value in weights.items()):
            raise TypeError("it holds other things")
        return {name: value.float() for name, value in weights.items()}
    except _TorchScriptError:
        raise ValueError(f"{path}: is a TorchScript archive, which holds code; save its weights alone: {_CONVERSION}") from None
    except Exception as error:  # damaged files raise many kinds, all with the same remedy
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: must be a dictionary of tensors in a .npz, .safetensors or torch file ({reason})") from None


class _TorchScriptError(Exception):
    """Not weights alone."""


def _weights_in(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        return _safetensors(path) if path.read_bytes()[8:9] == b"{" else torch.load(path, weights_only=True, map_location="cpu")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if all(name.endswith(".npy") for name in names):
        with np.load(path, allow_pickle=False) as content:
            return {name: torch.from_numpy(content[name]) for name in content.files}
    if any(name.split("/")[1:2] == ["code"] for name in names):
        raise _TorchScriptError
    return dict(torch.load(path, weights_only=True, map_location="cpu"))


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Eight bytes with the length of a JSON header, the header, and the numbers."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    weights = {}
    for name, about in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            numbers = torch.frombuffer(bytearray(content[start + first : start + last]), dtype=_SAFE_TYPES[about["dtype"]])
            weights[name] = numbers.reshape(about["shape"])
    return weights
