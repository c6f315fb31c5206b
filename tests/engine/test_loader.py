"""Products on unpacked weights give what F.linear gives, and the loader leaves every tensor whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (2, 48), (32, 48), (33, 48), (129, 48), (2, 3, 48)])
def test_plain_linear_is_a_linear_layer(dtype, bias, shape):
    from rft.engine.loader import plain_linear

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(80, 48, generator=generator).to(dtype)
    bias_N = torch.randn(80, generator=generator).to(dtype) if bias else None
    out = plain_linear(x, weight, bias_N)
    exact = F.linear(x.double(), weight.double(), None if bias_N is None else bias_N.double())
    assert out.shape == (*shape[:-1], 80) and out.dtype == dtype
    assert out.is_contiguous()  # models take views of it
    torch.testing.assert_close(
        out.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=60 * torch.finfo(dtype).eps
    )


@pytest.mark.engine
def test_no_tensor_of_a_loaded_model_is_packed_away(engine):
    parameters = dict(engine.model.named_parameters())
    assert parameters and all(parameter.numel() > 0 for parameter in parameters.values())
    assert not any(parameter.is_inference() for parameter in parameters.values())
