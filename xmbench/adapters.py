"""Methods out of what others wrote: scikit-learn estimators, and PyTorch modules with a loss. Each function registers one.

Hyper-parameters are given by name with their defaults, from which their types are taken; the function that makes the estimator
or the module is given an object `p` that has them.
"""

from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from xmbench.method import FitContext, Method, check_positive
from xmbench.registry import register_method
from xmbench.types import Array, Embedding, Modality, PairedSet, class_numbers

if TYPE_CHECKING:
    import torch

Maker = Callable[[Any], Any]


def from_pair_estimator(name: str, make: Maker, **parameters: Any) -> type[Method]:
    """Register an estimator with fit(X, Y) and transform(X, Y), of two modalities, as in sklearn.cross_decomposition.

    Args:
        name: of the method.
        make: p -> estimator.
        parameters: hyper-parameters with their defaults.

    For example `from_pair_estimator("sk_cca", lambda p: CCA(n_components=p.dim, scale=p.scale), dim=4, scale=True)`.
    """
    return _registered(name, _PairEstimator, {"make": make}, parameters, needs={"vectors", "pairs"}, max_modalities=2)


def from_views_estimator(name: str, make: Maker, **parameters: Any) -> type[Method]:
    """Register an estimator with fit([X, Y, ...]) and transform([X, Y, ...]) -> list, as in cca_zoo; arguments as above."""
    return _registered(name, _ViewsEstimator, {"make": make}, parameters, needs={"vectors", "pairs"})


def from_classifier(name: str, make: Maker, **parameters: Any) -> type[Method]:
    """Register a classifier with fit(X, y) and predict_proba(X), one per modality; arguments as above.

    Items are embedded by the probabilities of their classes, the one space that classifiers of several modalities share
    (semantic matching: Rasiwasia et al., "A New Approach to Cross-Modal Multimedia Retrieval", ACM MM 2010). What
    `transform` returns, as of a discriminant analysis, lies in another space for each modality.
    """
    return _registered(name, _Classifier, {"make": make}, parameters, needs={"vectors", "labels"})


def from_modules(
    name: str,
    encoder: "Callable[[Any, int], torch.nn.Module]",
    loss: "Callable[..., torch.Tensor]",
    *,
    labels: bool = False,
    **parameters: Any,
) -> type[Method]:
    """Register a pair of PyTorch modules with a loss, trained over the pairs of the training split by Adam.

    Args:
        name: of the method.
        encoder: p, number of features -> the module (N, features) -> (N, d) of one modality.
        loss: p, embeddings [(N, d), ...] in the dataset's order of modalities -> loss of a batch of N pairs; with `labels`,
            given the labels [(N, c) bool, ...] too.
        labels: whether the loss reads labels.
        parameters: hyper-parameters with their defaults, beside `epochs`, `batch_size`, `lr` and `weight_decay`.
    """
    needs = {"vectors", "pairs"} | ({"labels"} if labels else set())
    return _registered(name, _Modules, {"encoder": encoder, "loss": loss}, parameters, needs=needs)


def _registered(
    name: str, base: type[Method], functions: dict[str, Callable[..., Any]], parameters: dict[str, Any], **declared: Any
) -> type[Method]:
    """A dataclass of the parameters over `base`, registered as if it stood in the file of the first function."""
    typed = [(key, type(value), value) for key, value in parameters.items()]
    namespace = {key: staticmethod(function) for key, function in functions.items()}
    module = next(iter(functions.values())).__module__
    cls: type[Method] = make_dataclass(name, typed, bases=(base,), namespace=namespace, kw_only=True)
    cls.__module__ = module
    return register_method(name, **declared)(cls)


def _paired(train: PairedSet) -> list[Array]:
    """Vectors (n_pairs, d) of each modality, row i of which belong together."""
    assert train.pairs is not None
    return [_vectors(m)[rows] for m, rows in zip(train.modalities, train.pairs.T, strict=True)]


def _vectors(modality: Modality) -> Array:
    return np.asarray(modality.vectors, dtype=np.float64)


def _seeded(estimator: Any, context: FitContext) -> Any:
    """The estimator, each `random_state` of which that is not set follows the fit's seed."""
    unset = [key for key, value in estimator.get_params().items() if key.split("__")[-1] == "random_state" and value is None]
    return estimator.set_params(**{key: int(context.generator(key).integers(2**31)) for key in unset})


@dataclass(kw_only=True)
class _PairEstimator(Method):
    """See `from_pair_estimator`."""

    make: ClassVar[Maker]

    def fit(self, train: PairedSet, context: FitContext) -> None:
        first, second = _paired(train)
        self.first_, self.widths_ = train.modalities[0].name, (first.shape[1], second.shape[1])
        self.estimator_ = _seeded(type(self).make(self), context).fit(first, second)

    def embed(self, modality: Modality) -> Embedding:
        vectors = _vectors(modality)
        if modality.name == self.first_:
            other = np.zeros((len(vectors), self.widths_[1]))  # what is transformed beside them plays no part
            return Embedding(modality.name, self.estimator_.transform(vectors, other)[0])
        other = np.zeros((len(vectors), self.widths_[0]))
        return Embedding(modality.name, self.estimator_.transform(other, vectors)[1])


@dataclass(kw_only=True)
class _ViewsEstimator(Method):
    """See `from_views_estimator`."""

    make: ClassVar[Maker]

    def fit(self, train: PairedSet, context: FitContext) -> None:
        views = _paired(train)
        self.widths_ = {m.name: view.shape[1] for m, view in zip(train.modalities, views, strict=True)}
        self.estimator_ = _seeded(type(self).make(self), context).fit(views)

    def embed(self, modality: Modality) -> Embedding:
        vectors = _vectors(modality)
        views = [vectors if name == modality.name else np.zeros((len(vectors), d)) for name, d in self.widths_.items()]
        return Embedding(modality.name, self.estimator_.transform(views)[list(self.widths_).index(modality.name)])


@dataclass(kw_only=True)
class _Classifier(Method):
    """See `from_classifier`."""

    make: ClassVar[Maker]

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.n_classes_, self.classifiers_ = train.n_classes, {}
        for modality in train.modalities:
            assert modality.labels is not None
            labels = class_numbers(modality.labels)
            known = labels >= 0
            estimator = _seeded(type(self).make(self), context)
            if not hasattr(estimator, "predict_proba"):
                advice = "wrap it in sklearn.calibration.CalibratedClassifierCV"
                raise TypeError(f"a classifier must have predict_proba, {type(estimator).__name__} has none; {advice}")
            self.classifiers_[modality.name] = estimator.fit(_vectors(modality)[known], labels[known])

    def embed(self, modality: Modality) -> Embedding:
        scores = self.class_scores(modality)
        return Embedding(modality.name, scores)

    def class_scores(self, modality: Modality) -> Array:
        classifier = self.classifiers_[modality.name]
        scores = np.zeros((len(modality), self.n_classes_))  # of a class without a training item 0
        scores[:, classifier.classes_] = classifier.predict_proba(_vectors(modality))
        return scores


@dataclass(kw_only=True)
class _Modules(Method):
    """See `from_modules`."""

    epochs: int = 30
    batch_size: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0

    encoder: ClassVar[Callable[..., Any]]
    loss: ClassVar[Callable[..., Any]]

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "batch_size", "lr")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        import torch

        assert train.pairs is not None
        encoders = {m.name: type(self).encoder(self, m.vectors.shape[1]) for m in train.modalities if m.vectors is not None}
        self.nets_ = torch.nn.ModuleDict(encoders).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        data = context.tensors(train)
        for _ in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            self.nets_.train()
            losses = []
            for batch in context.batches(len(train.pairs), self.batch_size):
                sides = list(zip(data, train.pairs[batch].T, strict=True))
                embeddings = [self.nets_[m.name](m.vectors[rows]) for m, rows in sides if m.vectors is not None]
                labels = [m.labels[torch.from_numpy(rows).to(context.device)] for m, rows in sides if m.labels is not None]
                loss = type(self).loss(self, embeddings, *([labels] if labels else []))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            context.end_epoch(loss=torch.stack(losses).mean())

    def embed(self, modality: Modality) -> Embedding:
        import torch

        assert modality.vectors is not None
        self.nets_.eval()
        device = next(self.nets_.parameters()).device
        with torch.no_grad():
            values = self.nets_[modality.name](torch.from_numpy(modality.vectors[:]).to(device))
        return Embedding(modality.name, values.cpu().numpy())
