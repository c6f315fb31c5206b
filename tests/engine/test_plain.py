"""Products on unpacked weights give what F.linear gives, whichever operand is turned."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (2, 48), (16, 48), (17, 48), (129, 48), (2, 3, 48)])
def test_plain_linear_is_a_linear_layer(dtype, bias, shape):
    from rft.engine.plain import plain_linear

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


@pytest.mark.parametrize("rows", [1, 2, 96, 97])
def test_the_head_gives_logits_of_every_word_in_order(rows):
    from rft.engine.plain import plain_head

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 48, generator=generator).bfloat16()
    weight = torch.randn(9000, 48, generator=generator).bfloat16()  # three pieces, the last one shorter
    logits = plain_head(x, weight, None)
    assert logits.is_contiguous() and logits.shape == (rows, 9000)
    exact = F.linear(x.double(), weight.double())
    torch.testing.assert_close(logits.double(), exact, rtol=0.02, atol=0.2)


def _layers(engine):
    return [layer for layer in engine.model.modules() if hasattr(layer, "gate_up_proj")]


def _fresh(engine, dtype=torch.float32):
    """A feed-forward layer of vLLM's as it was before it was turned, with weights of its own."""
    layer = copy.copy(_layers(engine)[0])
    del layer.forward
    # The session's engine takes adapters, so its products are wrapped.
    layer._modules = {
        name: copy.copy(getattr(child, "base_layer", child)) for name, child in layer._modules.items()
    }
    for product in (layer.gate_up_proj, layer.down_proj):
        generator = torch.Generator().manual_seed(product.weight.shape[0])
        weight = torch.randn(product.weight.shape, generator=generator) * 0.3
        product._parameters = {"weight": torch.nn.Parameter(weight.to(dtype)), "bias": None}
    return layer


@pytest.mark.engine
def test_every_feed_forward_layer_of_a_model_is_turned(engine):
    layers = _layers(engine)
    assert layers and all("forward" in vars(layer) for layer in layers)


@pytest.mark.engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 16, 17, 128, 129])
def test_a_turned_layer_gives_what_two_products_give(engine, dtype, rows):
    from rft.engine.plain import turn_feed_forward

    layer = _fresh(engine, dtype)
    assert turn_feed_forward(layer) == 1
    width = layer.gate_up_proj.weight.shape[1]
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    gate, up = F.linear(x.double(), layer.gate_up_proj.weight.double()).chunk(2, dim=-1)
    exact = F.linear(F.silu(gate) * up, layer.down_proj.weight.double())
    with torch.no_grad():
        out = layer(x)
    assert out.shape == x.shape and out.dtype == dtype and out.is_contiguous()
    error = (out.double() - exact).abs().max() / exact.abs().max()
    assert error < 16 * torch.finfo(dtype).eps


@pytest.mark.engine
def test_a_layer_that_does_something_else_between_its_products_keeps_its_way(engine):
    from vllm.model_executor.layers.activation import GeluAndMul

    from rft.engine.plain import turn_feed_forward

    layer = _fresh(engine)
    layer.act_fn = copy.copy(layer.act_fn)
    layer.act_fn.__class__ = GeluAndMul
    assert turn_feed_forward(layer) == 0


@pytest.mark.engine
def test_a_layer_whose_own_forward_does_more_keeps_its_way(engine):
    from rft.engine.plain import turn_feed_forward

    layer = _fresh(engine)

    class Doubled(type(layer)):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.__class__ = Doubled
    assert turn_feed_forward(layer) == 0
