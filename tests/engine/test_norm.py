"""vLLM's CPU kernels for RMSNorm give what its own torch operations give, and the engine uses them."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def ops():
    from vllm import _custom_ops, ir  # noqa: F401  # loads the kernels

    from rft.engine import norm

    norm.install()
    norm.install()  # a second engine in the process asks again
    return ir.ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_give_what_torch_gives(ops, dtype):
    generator = torch.Generator().manual_seed(0)
    x, residual, weight = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 576), (5, 576), (576,))
    )
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    for epsilon in (1e-5, 1.0):
        found = ops.rms_norm.impls["rft_cpu"].impl_fn(x, weight, epsilon)
        torch.testing.assert_close(found, ops.rms_norm.impls["native"].impl_fn(x, weight, epsilon), **close)
        expected = ops.fused_add_rms_norm.impls["native"].impl_fn(x, residual, weight, epsilon)
        added = ops.fused_add_rms_norm.impls["rft_cpu"].impl_fn(x.clone(), residual.clone(), weight, epsilon)
        torch.testing.assert_close(added, expected, **close)


@pytest.mark.parametrize("variance_size", [None, 8])
def test_what_the_kernels_do_not_take_is_left_to_vllm(ops, variance_size):
    x, weight = torch.randn(3, 16), torch.ones(16)
    takes = ops.rms_norm.impls["rft_cpu"].supports_args
    assert takes(x, weight, 1e-5, variance_size) is (variance_size is None)
    assert not takes(x, None, 1e-5)
    assert not takes(x, weight.bfloat16(), 1e-5)
    assert not takes(x.t(), torch.ones(3), 1e-5)


@pytest.mark.engine
def test_an_engine_on_a_cpu_uses_the_kernels(engine):
    from vllm import ir

    assert ir.ops.rms_norm.get_priority()[0] == "rft_cpu"
