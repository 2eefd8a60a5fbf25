"""Adapters: networks that learn on embeddings which a large model has made, and leave the model as it is.

After Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV 2024 (first 2021).
"""

from torch import Tensor, nn

from baselines._matching import Cosine, MatchingNetwork

ADAPTERS = ("linear", "mlp")


class Adapter(nn.Module):
    """Unit rows (n, D) of embeddings (n, d).

        linear   W x + b
        mlp      x + W relu(U x + a) + b,  without its first term where it does not begin at the embeddings

    Args:
        kind: "linear" or "mlp".
        width: d.
        dim: D, which is the hidden width of the mlp too.
        keeps: begin at the embeddings as they are, W = 1 or, in the mlp, W = 0; needs d = D. Else at random weights.
    """

    def __init__(self, kind: str, width: int, dim: int, keeps: bool) -> None:
        super().__init__()
        self.residual = keeps and kind == "mlp"
        last = nn.Linear(width if kind == "linear" else dim, dim)
        nn.init.zeros_(last.bias)
        if not keeps:
            nn.init.xavier_uniform_(last.weight)
        elif kind == "linear":
            nn.init.eye_(last.weight)
        else:
            nn.init.zeros_(last.weight)
        self.layers = last if kind == "linear" else nn.Sequential(nn.Linear(width, dim), nn.ReLU(), last)

    def forward(self, vectors: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(n, d) -> unit rows (n, D); captions come with lengths, which say nothing of vectors."""
        out = self.layers(vectors)
        return nn.functional.normalize(out + vectors if self.residual else out, dim=1)


def adapter_network(kind: str, *, image_dim: int, caption_dim: int, dim: int) -> MatchingNetwork:
    """An adapter of images (B, d) and one of captions (C, d'), compared by their cosine.

    Where d = d' = D both begin at the embeddings as they are, so that training starts from zero-shot retrieval.

    Args:
        kind: "linear" or "mlp".
        image_dim, caption_dim: d and d'.
        dim: D, of the common space.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in ADAPTERS:
        raise ValueError(f"adapter must be one of {', '.join(ADAPTERS)}, got {kind!r}")
    keeps = image_dim == caption_dim == dim
    return MatchingNetwork(Adapter(kind, image_dim, dim, keeps), Adapter(kind, caption_dim, dim, keeps), Cosine())
