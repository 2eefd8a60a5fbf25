"""The fit context: epochs in stages, batches, randomness, best epochs, checkpoints; shown on a method that uses all of it."""

import time
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from xmbench import Embedding, FitContext, Method, Rows, build_method, unit_rows
from xmbench import method as method_module
from xmbench.method import DeviceRows, FitStopped, state_bytes

N = 10


class Staged(Method):
    """Two stages with dropout: the second begins a network of its own and goes on with the first; an array counts rows."""

    def fit(self, train, context):
        self.first_ = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
        self.counts_, self.draws_ = np.zeros(N), []
        data = torch.ones(N, 3)
        self._stage(context, data, {"first": self.first_}, 3)
        self.second_ = torch.nn.Linear(3, 3)
        self._stage(context, data, {"first": self.first_, "second": self.second_}, 4)

    def _stage(self, context, data, nets: Mapping[str, torch.nn.Module], epochs):
        modules = torch.nn.ModuleDict(nets)
        optimiser = torch.optim.SGD(modules.parameters(), lr=0.1, momentum=0.9)
        for epoch in context.epochs(epochs, state={"nets": modules, "optimiser": optimiser, "counts": self.counts_}):
            for rows in context.batches(len(data), 4):
                loss = sum((net(data[rows]) ** 2).mean() for net in nets.values())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                self.counts_[rows[0]] += context.generator("count").random()
            context.record("counts", self.counts_)
            context.end_epoch(loss=loss.detach(), selectable="second" in nets and epoch > 0)
            self.draws_.append(torch.rand(1).item())

    def embed(self, modality):
        return Embedding("image", np.zeros((1, 1)))

    def bits(self):
        return [p.tolist() for net in (self.first_, self.second_) for p in net.parameters()] + [self.counts_.tolist()]


def run(path=None, stop_at=None, scores=(0, 5, 1, 2, 9, 4, 7), validate=True, **options):
    """Fit with given validation scores, which is interrupted in epoch `stop_at`; returns method and context."""
    method, epochs = Staged(), []

    def score():
        method.first_.eval()
        torch.rand(5)
        epochs.append(context.epoch)
        if context.epoch == stop_at:
            raise KeyboardInterrupt
        return {"score": float(scores[context.epoch])}

    context = FitContext(validate=score if validate else None, checkpoint=path, checkpoint_seconds=0, **options)
    context.seed_torch()
    if stop_at is None:
        method.fit(None, context)
    else:
        with pytest.raises(KeyboardInterrupt):
            method.fit(None, context)
    context.validated = epochs
    return method, context


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_a_fit_stopped_in_any_epoch_of_any_stage_goes_on_to_the_same_bits(stop_at, tmp_path):
    whole, known = run()
    run(tmp_path / "fit.pt", stop_at)
    resumed, context = run(tmp_path / "fit.pt")
    assert context.validated == list(range(stop_at, 7))
    assert resumed.bits() == whole.bits()
    assert context.history == known.history
    assert context.records["counts"].tolist() == known.records["counts"].tolist()
    assert context.restore_best("score") == known.restore_best("score") == 4
    assert resumed.bits() == whole.bits()


def test_validation_disturbs_neither_modes_nor_draws():
    never = run(validate=False)[0]
    for method in (run()[0], run(validate_every=100)[0]):
        assert method.bits() == never.bits()
        assert method.draws_ == never.draws_
    assert run(seed=1)[0].bits() != never.bits()


def test_validation_comes_every_so_often_and_at_the_end_of_a_stage():
    assert run(validate_every=2)[1].validated == [1, 2, 3, 5, 6]


def test_the_best_epoch_is_the_first_selectable_one_with_the_highest_score():
    assert run(scores=(9, 9, 9, 9, 1, 5, 5))[1].restore_best("score") == 5, "epochs 0 to 3 are not selectable"
    method, context = run(scores=(0, 1, 2, 3, 5, 6, 7))
    last = method.bits()
    assert context.restore_best("score") == 6
    assert method.bits() == last
    assert context.restore_best("another") == -1
    assert run(scores=(0, 1, 2, 3, float("nan"), 3, float("nan")))[1].restore_best("score") == 5


def test_history_holds_every_epoch():
    history = run(validate_every=2, observe=lambda: {"watched": 1.0})[1].history
    assert [row["epoch"] for row in history] == list(range(7))
    assert [row["selectable"] for row in history] == [0, 0, 0, 0, 1, 1, 1]
    assert [row.get("valid/score") for row in history] == [None, 5, 1, 2, None, 4, 7]
    assert ["watched" in row for row in history] == [False, True, True, True, False, True, True]


def test_batches_cover_every_row_once_in_an_order_of_the_epochs_own():
    context, orders = FitContext(seed=3), []
    for _ in context.epochs(2, state={"x": np.zeros(1)}):
        for _ in range(2):
            batches = list(context.batches(N, 4))
            assert [len(batch) for batch in batches] == [4, 4, 2]
            orders.append(np.concatenate(batches).tolist())
        context.end_epoch(loss=0.0)
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_an_epoch_must_be_closed():
    with pytest.raises(RuntimeError, match=r"must close with context\.end_epoch"):
        for _ in FitContext().epochs(2, state={}):
            pass


def test_timing_a_fit_stops_it_after_so_many_batches():
    with pytest.raises(FitStopped) as stopped:
        run(time_batches=2)
    assert 0 < stopped.value.seconds < 60


def test_timing_counts_every_pass_of_an_epoch():
    context, met = FitContext(time_batches=2), []

    def fit():
        for _ in context.epochs(5, state={"x": np.zeros(1)}, later=2):
            for seconds in (0.01, 0.02):
                for batch in context.batches(40, 4):
                    time.sleep(seconds)
                    met.append(len(batch))
            context.end_epoch(loss=0.0)

    with pytest.raises(FitStopped) as stopped:
        fit()
    assert met == [4] * 4, "two batches of each pass"
    assert stopped.value.seconds >= 0.99 * 7 * 10 * (0.01 + 0.02), "epochs, later ones too, batches, and what both passes take"


def test_state_is_measured_in_bytes():
    _, context = run()
    linear = 2 * (3 * 3 + 3) * 4  # two layers of weights and biases, float32
    assert state_bytes(context) == 2 * linear + N * 8, "parameters, their momentum, and the counts"


def test_similarity_is_cosine_with_zero_for_zero_rows():
    method = Staged()
    first, second = Embedding("a", np.array([[3.0, 4.0], [0.0, 0.0]])), Embedding("b", np.array([[1.0, 0.0], [-6.0, -8.0]]))
    np.testing.assert_allclose(method.similarity(first, second), [[0.6, -1.0], [0.0, 0.0]], atol=1e-12)
    assert unit_rows(first.values).tolist() == [[0.6, 0.8], [0.0, 0.0]]


@pytest.mark.parametrize("bad", [0, -1])
def test_parameters_that_must_be_positive_are_named(bad):
    with pytest.raises(ValueError, match=r"mrl\.lr must be above 0, got"):
        build_method("mrl", lr=bad)


def test_rows_that_do_not_fit_are_moved_batch_by_batch(monkeypatch):
    """The same numbers reach the network, whether the features were preloaded or are read for every batch."""
    rows = Rows(np.arange(60.0).reshape(20, 3), index=np.arange(19, -1, -1))
    preloaded = DeviceRows(rows, "cpu")
    monkeypatch.setattr(method_module, "_free_bytes", lambda device: 0.0)
    streamed = DeviceRows(rows, "cpu")
    assert isinstance(preloaded._rows, torch.Tensor)
    assert isinstance(streamed._rows, Rows)
    batch = np.array([3, 0, 19])
    assert streamed[batch].tolist() == preloaded[batch].tolist() == [[48, 49, 50], [57, 58, 59], [0, 1, 2]]


def test_recorded_text_survives_a_checkpoint(tmp_path):
    path = tmp_path / "fit.pt"

    def fit(stop, recorded):
        context = FitContext(checkpoint=path, checkpoint_seconds=0)
        for epoch in context.epochs(3, state={"x": np.zeros(1)}):
            if recorded:
                context.record("names", np.array(["a", "bc"]))
            if epoch == stop:
                return context
            context.end_epoch(loss=0.0)
        return context

    fit(1, True)
    assert fit(None, False).records["names"].tolist() == ["a", "bc"]
    with pytest.raises(TypeError, match="must be an array of numbers or text"):
        FitContext().record("when", np.array(["2020-01-01"], dtype="datetime64[D]"))
