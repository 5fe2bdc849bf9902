"""The MuZero algorithm: one update by hand, and every switch by itself."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from envs.specs import EnvSpec
from learner import checkpoint
from learner.algorithms import muzero
from learner.algorithms.muzero_config import MuZeroConfig
from learner.batch import SequenceBatch
from learner.losses.muzero import mixed_targets, positions
from learner.models.muzero_config import SupportConfig
from learner.searched import FRESH_VERSION, SEARCH_ACTIONS, SEARCH_POLICY, SEARCH_VALUE
from tests.learner.muzeros import IDS, IMAGE, NAMES, SPECS, batches, make, randomise_heads, tiny

CASES = [(name, SPECS[name]) for name in NAMES] + [("muzero", IMAGE), ("efficientzero", IMAGE)]
CASE_IDS = [*NAMES, "muzero-image", "efficientzero-image"]


def literal_batch() -> SequenceBatch:
    """One sequence inside an episode, and one that terminates at its step 1."""
    data: dict[str, Any] = {
        "state": np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32),
        "action": np.array([[0, 1, 2, 0], [1, 0, 2, 2]]),
        "reward": np.array([[9.0, 1.0, -2.0, 4.0], [9.0, 3.0, 0.0, 5.0]], np.float32),
        "is_first": np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.bool_),
        "is_last": np.array([[0, 0, 0, 0], [0, 1, 0, 0]], np.bool_),
        "is_terminal": np.array([[0, 0, 0, 0], [0, 1, 0, 0]], np.bool_),
        "episode": np.array([[0, 0, 0, 0], [3, 3, 4, 4]]),
        SEARCH_POLICY: np.tile(np.array([0.5, 0.25, 0.25], np.float32), (2, 4, 1)),
        SEARCH_VALUE: np.array([[10.0, 20.0, 30.0, 40.0], [10.0, 20.0, 30.0, 40.0]], np.float32),
    }
    rows = np.zeros(2, np.int64)
    weight = np.array([0.5, 0.25], np.float32)
    return SequenceBatch(data, rows.astype(np.uint64), rows, rows, weight, np.zeros((2, 3), np.int64))


# With discount 0.5 and two steps: z = r' + r'' / 2 + v'' / 4, and one step less at the end of the sequence.
VALUE_TARGETS = [[1 - 2 / 2 + 30 / 4, -2 + 4 / 2 + 40 / 4, 4 + 40 / 2], [3.0, 0.0, 0.0]]
REWARD_TARGETS = [[1.0, -2.0], [3.0, 0.0]]
POLICY_MASK = [[1, 1, 1], [1, 0, 0]]
SCALE = np.array([1.0, 0.5, 0.5])  # the root, and 1 / K of the others
WEIGHT = np.array([1.0, 0.5])  # divided by the largest


def by_hand(log_probs: NDArray[np.float64], target: list[list[float]], limit: float) -> NDArray[np.float64]:
    """Cross-entropies [B, K] of log-probabilities [B, K, bins] against two-hot codes of h(target)."""
    bins = log_probs.shape[-1]
    x = np.array(target)
    h = np.sign(x) * (np.sqrt(np.abs(x) + 1.0) - 1.0) + 0.001 * x
    place = (h + limit) / (2 * limit) * (bins - 1)
    low = np.floor(place).astype(int)
    rows, columns = np.indices(x.shape)
    upper = log_probs[rows, columns, np.minimum(low + 1, bins - 1)]
    result: NDArray[np.float64] = -((low + 1 - place) * log_probs[rows, columns, low] + (place - low) * upper)
    return result


def log_softmax(logits: torch.Tensor) -> NDArray[np.float64]:
    """[K, B, D] -> [B, K, D] in float64."""
    x = logits.detach().double().numpy().swapaxes(0, 1)
    x = x - x.max(-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


def hand_config(**changes: Any) -> MuZeroConfig:
    return tiny("muzero", unroll_steps=2, td_steps=2, discount=0.5, **changes)


def test_a_first_update_costs_what_uniform_predictions_cost() -> None:
    metrics = make(hand_config()).update(literal_batch()).metrics
    # Everything the first sequence has, and of the second all but the policy of two absorbing positions.
    everything, root = SCALE.sum(), 1.0
    assert metrics["loss/value"] == pytest.approx(0.25 * math.log(61) * everything * WEIGHT.mean())
    assert metrics["loss/reward"] == pytest.approx(math.log(21) * 1.0 * WEIGHT.mean())
    policy = math.log(3) * (everything * 1.0 + root * 0.5) / 2
    assert metrics["loss/policy"] == pytest.approx(policy)
    assert metrics["loss"] == pytest.approx(sum(metrics[f"loss/{name}"] for name in ("value", "reward", "policy")))


def test_losses_and_priorities_of_an_update_against_numpy() -> None:
    algorithm = make(hand_config(), seed=3)
    randomise_heads(algorithm)
    batch, model = literal_batch(), algorithm.model
    ids = torch.eye(3)[torch.tensor(batch.data["action"])]
    with torch.no_grad():
        states = [model.represent({"state": torch.tensor(batch.data["state"][:, 0])})]
        rewards = []
        generator = torch.Generator().manual_seed(3)  # the algorithm's, which draws the actions of absorbing states
        drawn = (torch.rand(2, 2, 1, generator=generator)[..., 0] * 3).long()
        ids[1, 1] = torch.eye(3)[drawn[1, 1]]
        for k in range(2):
            state, reward = model.step(states[-1], ids[:, k])
            states.append(state)
            rewards.append(reward.logits)
        values = torch.stack([model.value(state.state) for state in states])
        policies = torch.stack([model.policy(state.state) for state in states])
        root_value = model.predict(states[0].state)[1].mean.numpy()
    value = by_hand(log_softmax(values), VALUE_TARGETS, 30.0)
    reward = by_hand(log_softmax(torch.stack(rewards)), REWARD_TARGETS, 10.0)
    policy = -(log_softmax(policies) * np.array([0.5, 0.25, 0.25])).sum(-1) * np.array(POLICY_MASK)
    result = algorithm.update(batch)
    for name, losses, weight, scale in (
        ("value", value, 0.25, SCALE), ("reward", reward, 1.0, SCALE[1:]), ("policy", policy, 1.0, SCALE)
    ):  # fmt: skip
        expected = weight * ((losses * scale).sum(1) * WEIGHT).sum() / 2
        assert result.metrics[f"loss/{name}"] == pytest.approx(expected, rel=1e-5), name
    assert result.priorities is not None
    np.testing.assert_allclose(result.priorities, np.abs(root_value - np.array(VALUE_TARGETS)[:, 0]), rtol=1e-5)
    assert result.metrics["target/value"] == pytest.approx(np.mean(VALUE_TARGETS))
    assert result.metrics["target/reward"] == pytest.approx(np.mean(REWARD_TARGETS))
    assert result.metrics["weight_mean"] == pytest.approx(0.375)


def test_gradients_halve_at_every_step_of_the_dynamics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last position's gradient reaches the root through K - 1 halvings: none is before the first step."""
    algorithm = make(tiny("muzero", unroll_steps=3))
    data = {key: torch.from_numpy(value) for key, value in batches()[0].data.items()}
    place = positions(data["is_first"], data["is_last"], data["is_terminal"], 3)
    gradients = []
    for _ in range(2):
        algorithm.generator.manual_seed(0)
        last = algorithm._unroll(data, place).state[3]
        gradients += torch.autograd.grad(last.square().sum(), [algorithm.model.representation.vector.weight])
        monkeypatch.setattr(muzero, "scale_gradient", lambda x, scale: x)
    assert gradients[1].any()
    torch.testing.assert_close(gradients[0], gradients[1] * 0.25)


@pytest.mark.parametrize(("name", "spec"), CASES, ids=CASE_IDS)
def test_an_update_moves_every_parameter_and_leaves_the_batch_alone(name: str, spec: EnvSpec) -> None:
    algorithm = make(tiny(name), spec)
    before = {key: value.clone() for key, value in algorithm.model.state_dict().items()}
    for batch in batches(spec):
        copies = {key: value.copy() for key, value in batch.data.items()}
        result = algorithm.update(batch)
        assert all(math.isfinite(value) for value in result.metrics.values())
        for key, value in copies.items():
            np.testing.assert_array_equal(batch.data[key], value)
    assert ("loss/consistency" in result.metrics) == (name == "efficientzero")
    still = [key for key, value in algorithm.model.named_parameters() if torch.equal(before[key], value)]
    assert still == []


@pytest.mark.parametrize("name", NAMES)
def test_losses_fall_on_a_fixed_batch(name: str) -> None:
    config = tiny(name)
    algorithm = make(replace(config, optimizer=replace(config.optimizer, name="adam", lr=1e-2)))
    batch = batches(SPECS[name])[0]
    losses = [algorithm.update(batch).metrics["loss"] for _ in range(30)]
    assert losses[-1] < losses[0] - 0.5


def test_values_bootstrap_from_searches_or_from_the_target_network() -> None:
    batch = batches()[0]
    other = replace(batch, data={**batch.data, SEARCH_VALUE: batch.data[SEARCH_VALUE] + 5.0})
    found = {}
    for source in ("search", "target_network"):
        algorithm = make(tiny("muzero", bootstrap=source))
        found[source] = [
            make(tiny("muzero", bootstrap=source)).update(each).metrics["target/value"] for each in (batch, other)
        ]
        randomise_heads(algorithm)
        found[source].append(algorithm.update(batch).metrics["target/value"])
    assert found["search"][0] == found["search"][2] < found["search"][1]
    assert found["target_network"][0] == found["target_network"][1] != found["target_network"][2]


def test_the_target_network_follows_at_its_time() -> None:
    algorithm = make(tiny("muzero", target_every=2))
    weights = algorithm.model.policy.state_dict()
    for index, batch in enumerate(batches()):
        algorithm.update(batch)
        target = algorithm.target.policy.state_dict()
        equal = all(torch.equal(value, target[key]) for key, value in weights.items())
        assert equal == (index % 2 == 1)


def test_saturated_targets_are_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    algorithm = make(hand_config(value=SupportConfig(2.0, 5)))
    with caplog.at_level(logging.WARNING):
        metrics = algorithm.update(literal_batch()).metrics
        algorithm.update(literal_batch())
    # h(7.5) = 1.9..., h(10) and h(24) are beyond 2
    assert metrics["saturated/value"] == pytest.approx(2 / 6)
    assert metrics["saturated/reward"] == 0.0
    assert [record.getMessage() for record in caplog.records] == [
        "33.3 % of the value targets of update 1 are beyond the support: raise algorithm.value.limit 2"
    ]


def test_importance_weights_scale_the_losses() -> None:
    batch = literal_batch()
    alone = replace(batch, weight=np.array([1.0, 1e-9], np.float32))
    other = replace(batch, weight=np.array([1e-9, 1.0], np.float32))
    policies = [make(hand_config()).update(each).metrics["loss/policy"] for each in (alone, other)]
    assert policies == pytest.approx([math.log(3) * 2.0 / 2, math.log(3) * 1.0 / 2], rel=1e-5)


def test_samples_teach_the_policy_where_they_are() -> None:
    """All improved weight on one sample pulls the policy's mean there."""
    config = tiny("sampled_muzero")
    algorithm = make(replace(config, optimizer=replace(config.optimizer, name="adam", lr=3e-3)))
    batch = batches(SPECS["sampled_muzero"])[0]
    actions = np.zeros_like(batch.data[SEARCH_ACTIONS])
    actions[..., 0, :] = [0.6, -0.3]
    weights = np.zeros_like(batch.data[SEARCH_POLICY])
    weights[..., 0] = 1.0
    batch = replace(batch, data={**batch.data, SEARCH_ACTIONS: actions, SEARCH_POLICY: weights})
    for _ in range(150):
        algorithm.update(batch)
    state = algorithm.model.represent({"state": torch.from_numpy(batch.data["state"][:, 0])}).state
    mode = algorithm.model.predict(state)[0].mode().detach().numpy()
    np.testing.assert_allclose(mode, np.tile([0.6, -0.3], (4, 1)), atol=0.12)


@pytest.mark.parametrize("key", ["state", "reward", SEARCH_VALUE])
def test_an_update_that_is_not_finite_changes_nothing(key: str) -> None:
    algorithm, twin = make(tiny("muzero"), seed=1), make(tiny("muzero"), seed=1)
    good, other = batches()[:2]
    bad = replace(good, data={**good.data, key: np.full_like(good.data[key], np.nan)})
    result = algorithm.update(bad)
    assert "gradient_norm" in result.skipped
    assert result.priorities is None
    for batch in (good, other):
        assert algorithm.update(batch).metrics == twin.update(batch).metrics


SWITCHES: dict[str, dict[str, Any]] = {
    "consistency": {"losses": replace(tiny("muzero").losses, consistency=2.0)},
    "prefix": {"network": replace(tiny("muzero").network, prefix=tiny("efficientzero").network.prefix)},
    "target network": {"bootstrap": "target_network"},
    "entropy": {"losses": replace(tiny("muzero").losses, entropy=5e-3)},
    "no transform": {"value": SupportConfig(300.0, 61, "none")},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_difference_can_be_switched_alone(switch: str) -> None:
    algorithm = make(tiny("muzero", **SWITCHES[switch]))
    plain = make(tiny("muzero"))
    for batch in batches():
        changed, unchanged = algorithm.update(batch).metrics, plain.update(batch).metrics
    assert changed != unchanged
    assert math.isfinite(changed["loss"])


@pytest.mark.parametrize("name", NAMES)
def test_resume_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    spec, config = SPECS[name], tiny(name, target_every=2)
    first, second = batches(spec)[:3], batches(spec, seed=1)[:3]
    whole = make(config, seed=1)
    for batch in first:
        whole.update(batch)
    path = checkpoint.save(tmp_path, 1, {"algorithm": whole.state_dict()})
    resumed = make(config, seed=2)
    resumed.load_state_dict(checkpoint.load(path)["algorithm"])
    for batch in second:
        ours, theirs = whole.update(batch), resumed.update(batch)
        assert ours.metrics == theirs.metrics
        np.testing.assert_array_equal(ours.priorities, theirs.priorities)


def test_exported_weights_leave_the_projection_out_and_stay_as_they_are(tmp_path: Path) -> None:
    algorithm = make(tiny("efficientzero"))
    weights = algorithm.export_weights()
    assert not [name for name in weights if name.startswith("projection.")]
    before = {name: value.copy() for name, value in weights.items()}
    algorithm.update(batches()[0])
    for name, value in before.items():
        np.testing.assert_array_equal(weights[name], value)
    assert [path.name for path in algorithm.save_artifacts(tmp_path)] == ["muzero.pt"]
    assert torch.load(tmp_path / "muzero.pt", weights_only=True).keys() == algorithm.model.state_dict().keys()


def test_the_reference_values_of_the_preset() -> None:
    """Schrittwieser et al. 2020, appendix: the defaults are the paper's for Atari."""
    config = MuZeroConfig()
    assert (config.unroll_steps, config.td_steps, config.discount, config.bootstrap) == (5, 5, 0.997, "search")
    assert (config.network.blocks, config.network.channels) == (16, 256)
    assert (config.reward, config.value) == (SupportConfig(300.0, 601, "h"), SupportConfig(300.0, 601, "h"))
    assert (config.losses.value, config.losses.consistency) == (0.25, 0.0)


def test_drawn_ids_teach_the_policy_by_their_own_probabilities() -> None:
    """Weights of ids out of order, one of them none, cost what the same weights in order do."""
    batch = literal_batch()
    ids = np.tile(np.array([2, 0, -1, 1]), (2, 4, 1))
    weights = np.tile(np.array([0.25, 0.5, 0.0, 0.25], np.float32), (2, 4, 1))
    drawn = replace(batch, data={**batch.data, SEARCH_ACTIONS: ids, SEARCH_POLICY: weights})
    losses = []
    for each in (batch, drawn):
        algorithm = make(hand_config())
        randomise_heads(algorithm)
        losses.append(algorithm.update(each).metrics["loss/policy"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def with_fresh_targets(batch: SequenceBatch, version: int) -> SequenceBatch:
    """The batch after later searches at every second step, beginning with the first."""
    found = np.zeros(batch.shape, np.int32)
    found[:, ::2] = version
    fresh = {FRESH_VERSION: found, "fresh_search_policy": batch.data[SEARCH_POLICY][..., ::-1].copy()}
    return replace(batch, data=batch.data | fresh | {"fresh_search_value": batch.data[SEARCH_VALUE] + 1})


@pytest.mark.parametrize(("fraction", "share", "age"), [(0.0, 0.0, 9.0), (0.5, 0.5, 6.5), (1.0, 1.0, 4.0)])
def test_a_share_of_the_sequences_learns_from_later_searches(fraction: float, share: float, age: float) -> None:
    (batch,) = batches(size=1000, count=1)
    batch = with_fresh_targets(batch, version=5)
    algorithm, plain = (make(tiny("muzero", bootstrap="search"), fresh_fraction=f) for f in (fraction, 0.0))
    algorithm.updates = plain.updates = 9
    metrics, expected = algorithm.update(batch).metrics, plain.update(batch).metrics
    assert metrics["target/fresh"] == pytest.approx(share, abs=0.05)
    assert metrics["target/age"] == pytest.approx(age, abs=0.3)
    assert metrics["target/age_p90"] == (4.0 if fraction == 1.0 else 9.0)
    assert (metrics["target/value"] > expected["target/value"]) == (fraction > 0)
    if fraction == 1.0:  # every second position: k + n, and for the policies k itself
        data = {key: torch.from_numpy(values) for key, values in batch.data.items()}
        mixed = {key: values.numpy() for key, values in mixed_targets(data, torch.ones(1000) > 0).items()}
        assert metrics["loss"] == plain_loss(replace(batch, data=mixed))


def plain_loss(batch: SequenceBatch) -> float:
    algorithm = make(tiny("muzero", bootstrap="search"))
    return float(algorithm.update(batch).metrics["loss"])


def test_targets_without_later_searches_are_learned_as_they_are() -> None:
    (batch,) = batches(count=1)
    without, never = make(tiny("muzero"), fresh_fraction=1.0), make(tiny("muzero"), fresh_fraction=1.0)
    assert without.update(batch).metrics == never.update(with_fresh_targets(batch, 0)).metrics
    assert without.update(batch).metrics["target/fresh"] == 0.0


def test_sequences_must_hold_an_unroll() -> None:
    with pytest.raises(ValueError, match="at least 4 steps, got 3"):
        make(tiny("muzero")).update(batches(IDS, length=3)[0])
