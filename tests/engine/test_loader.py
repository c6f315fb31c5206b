"""The loader leaves every tensor of a model whole."""

from __future__ import annotations

import pytest


@pytest.mark.engine
def test_no_tensor_of_a_loaded_model_is_packed_away(engine):
    parameters = dict(engine.model.named_parameters())
    assert parameters and all(parameter.numel() > 0 for parameter in parameters.values())
    assert not any(parameter.is_inference() for parameter in parameters.values())
