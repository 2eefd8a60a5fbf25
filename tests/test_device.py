"""The fast float32 product is used where it is exact, and refused where it is not."""

import numpy as np
import pytest
import torch

from xmbench import device


@pytest.fixture
def default_precision():
    """The process's setting is put back, and the cached choice forgotten, around a test."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "none"
    device.fast_matmul.cache_clear()
    yield matmul
    matmul.fp32_precision = before
    device.fast_matmul.cache_clear()


def test_a_product_that_is_not_float32_is_refused(default_precision, monkeypatch):
    monkeypatch.setattr(device, "_product_error", lambda: 2e-3)  # what true bfloat16 shows
    assert device.fast_matmul() == "default-float32 (onednn error 2e-03)"
    assert default_precision.fp32_precision == "none"


def test_the_chosen_product_is_exact_to_float32(default_precision):
    device.fast_matmul()
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((300, 700)).astype(np.float32), rng.standard_normal((700, 200)).astype(np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(device.matmul(a, b) - exact).max() <= device.FLOAT32_ERROR * np.abs(exact).max()
    assert np.allclose(device.matmul(a.astype(np.float64), b.astype(np.float64)), exact, rtol=1e-13)


def test_the_error_check_sees_rounding(monkeypatch):
    """With operands rounded to bfloat16 the same check must fail."""
    tensor = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda self: tensor(self.to(torch.bfloat16)))
    assert device._product_error() > device.FLOAT32_ERROR


@pytest.mark.parametrize(("wanted", "message"), [("toaster", "must be one that torch knows"), ("cuda:0", "sees no CUDA")])
def test_a_device_that_is_not_there_is_named(wanted, message):
    if wanted.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match=message):
        device.choose_device(wanted)


def test_cpu_is_a_device():
    assert device.choose_device("cpu") == "cpu"
    assert device.choose_device("auto") in {"cpu", "mps", "cuda"}
