"""The fidelity study: its behaviours and its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.report.fidelity import MODELS, QUICK, SmoothRandomPolicy, collect, run
from envs.registry import env_spec, make_vector_env
from envs.specs import ArraySpec, StepBatch

BOX = ArraySpec((3,), "float32", (-1.0, -2.0, 0.0), (1.0, 2.0, 4.0))
STEP = StepBatch({}, *(np.zeros(2, np.float32) for _ in range(4)))  # type: ignore[arg-type]


def test_smooth_actions_are_correlated_in_the_box_and_depend_on_their_row_alone() -> None:
    policy = SmoothRandomPolicy(BOX)

    def actions(seeds: list[int]) -> np.ndarray:
        carry, out = policy.initial(np.array(seeds, np.uint64)), []
        for _ in range(2000):
            output = policy.act(STEP, carry, True)
            carry = output.carry
            out.append(output.action)
        return np.stack(out)

    both, alone = actions([3, 4]), actions([4])
    assert both.dtype == np.float32
    low, high = BOX.bounds()
    assert (both >= low).all()
    assert (both <= high).all()
    np.testing.assert_array_equal(both[:, 1], alone[:, 0])
    unclipped = both[:, 0, 0]
    assert 0.75 < np.corrcoef(unclipped[:-1], unclipped[1:])[0, 1] < 0.95
    np.testing.assert_allclose(both.mean((0, 1)), [0.0, 0.0, 2.0], atol=0.3)


def test_collected_streams_are_whole_and_in_order() -> None:
    spec = env_spec("nav3d")
    streams = collect(make_vector_env("nav3d", 8), SmoothRandomPolicy(spec.action), 1600, seed=0)
    assert len(streams) == 8
    assert {len(stream["reward"]) for stream in streams} == {200}
    for stream in streams:
        assert stream["is_first"][0]
        moved = stream["state"][1:, :3] - stream["state"][:-1, :3]
        assert np.abs(moved[~stream["is_first"][1:]]).max() < 0.35  # no step is missing: 0.1 s at 3 m/s at most


@pytest.mark.integration
def test_a_quick_study_writes_its_three_files(tmp_path: Path) -> None:
    path = run(tmp_path, seeds=1, quick=True)
    assert path == tmp_path / "ensemble_fidelity.md"
    text = path.read_text()
    for words in ("deterministic ensemble", "constant velocity", "Gaussian NLL", "the planner's own episodes"):
        assert words in text
    record = json.loads((tmp_path / "ensemble_fidelity.json").read_text())
    (seed,) = record["seeds"]
    for test in ("smooth", "uniform", "planner"):
        for model in (*MODELS, "persistence", "constant_velocity"):
            assert len(seed[test][model]["nrmse"]) == QUICK.horizon
    assert (tmp_path / "ensemble_fidelity.png").stat().st_size > 10_000


def test_no_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 0"):
        run(tmp_path, seeds=0)
