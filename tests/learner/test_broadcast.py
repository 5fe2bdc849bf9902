from __future__ import annotations

import numpy as np
import torch

from learner.broadcast import pack_weights, unpack_weights


def test_bf16_halves_the_bytes_and_rounds_as_torch_does() -> None:
    values = np.random.default_rng(0).standard_normal((64, 33)).astype(np.float32)
    values[0, :4] = [0.0, -0.0, 1.00390625, 1.01171875]  # ties: to even, down and up
    weights = {"layer.weight": values, "scalar": np.array(3.5, np.float32), "activation": np.arange(5)}
    packed = pack_weights(weights, "bf16")
    assert sum(array.nbytes for array in packed.values()) == (values.nbytes + 4) // 2 + weights["activation"].nbytes
    back = unpack_weights(packed)
    assert back.keys() == weights.keys()
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(back["layer.weight"], expected)
    assert back["scalar"].shape == ()
    assert back["scalar"] == 3.5
    np.testing.assert_array_equal(back["activation"], weights["activation"])


def test_fp32_is_sent_as_it_is() -> None:
    weights = {"weight": np.ones(3, np.float32)}
    assert pack_weights(weights, "fp32") is weights
    assert unpack_weights(weights)["weight"] is weights["weight"]
