"""The update of the Dreamer family: alignment, imagination, what each loss trains, write-backs, ablations."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner import checkpoint
from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import BehaviourConfig, DreamerConfig, WorldLossConfig
from learner.batch import SequenceBatch
from learner.models.layers import GroupedLinear
from learner.models.rssm import Rssm, State
from learner.models.world_model_config import DisagreementConfig, PolicyConfig, ScalarConfig
from learner.optim import clip_adaptively
from learner.optim_config import OptimConfig
from tests.learner.dreamers import DISCRETE, IMAGE, NAMES, SPEC, VARIANTS, batches, losses_of, make, tiny, with_data

Observed = dict[str, Any]


def observed(algorithm: DreamerAlgorithm, batch: SequenceBatch) -> Observed:
    """What an update gives to `WorldModel.filter_posterior`, and what that answers."""
    seen: Observed = {}
    filter_posterior = algorithm.world.filter_posterior

    def spy(observation: Any, action: Tensor, is_first: Tensor, state: State, noise: Tensor) -> Any:
        states, statistics = filter_posterior(observation, action, is_first, state, noise)
        seen.update(observation=observation, action=action, is_first=is_first, state=state, noise=noise)
        seen["states"] = states.map(Tensor.detach)
        return states, statistics

    algorithm.world.filter_posterior = spy  # type: ignore[method-assign]
    seen["result"] = algorithm.update(batch)
    return seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", [SPEC, DISCRETE, IMAGE], ids=["box", "ids", "image"])
def test_an_update_moves_every_trained_parameter_and_leaves_the_batch_alone(name: str, spec: Any) -> None:
    config = tiny(name)
    config = replace(config, losses=replace(config.losses, free_nats=0.0))  # below which the prior rests
    algorithm = make(config, spec)
    before = {
        key: value.clone() for module in algorithm._modules().values() for key, value in module.named_parameters()
    }
    for batch in batches(config, spec)[:3]:
        copies = {key: value.copy() for key, value in batch.data.items()}
        metrics = algorithm.update(batch).metrics
        assert all(math.isfinite(value) for value in metrics.values()), metrics
        for key, value in copies.items():
            np.testing.assert_array_equal(batch.data[key], value, err_msg=key)
    assert metrics["loss"] == pytest.approx(sum(v for k, v in metrics.items() if k.startswith("loss/")))
    assert ("loss/actor" in metrics) == ("loss/critic" in metrics) == (name != "planet")
    for module in algorithm._modules().values():
        for key, value in module.named_parameters():
            if not (key.startswith("slow_value") and name == "dreamer_v2"):  # which moves every hundredth update
                assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", [SPEC, DISCRETE], ids=["box", "ids"])
def test_every_observation_comes_with_the_action_that_led_to_it(name: str, spec: Any) -> None:
    config = tiny(name)
    batch, context = batches(config, spec, length=20)[0], config.context
    seen = observed(make(config, spec), batch)
    stored = torch.from_numpy(batch.data["action"])
    taken = stored if spec is SPEC else torch.eye(3)[stored]
    torch.testing.assert_close(seen["action"][:, 1:], taken[:, context:-1])
    if context:
        torch.testing.assert_close(seen["action"][:, 0], taken[:, 0])
        torch.testing.assert_close(seen["state"].deter, torch.from_numpy(batch.data["latent_deter"][:, 0]).float())
        ids = torch.from_numpy(batch.data["latent_stoch"][:, 0]).long()
        assert torch.equal(seen["state"].stoch, torch.eye(4)[ids].flatten(1))
    else:
        assert not seen["action"][:, 0].any()  # unknown
        assert not seen["state"].features.any()
    assert torch.equal(seen["is_first"], torch.from_numpy(batch.data["is_first"][:, context:]))
    assert torch.equal(seen["observation"]["state"], torch.from_numpy(batch.data["state"][:, context:]))
    assert seen["is_first"].any(1).all()  # every sequence crosses an episode's end


def test_nothing_crosses_an_episode_start() -> None:
    """Neither the action stored with the last step of an episode, nor a context that ends one, changes the states."""
    config = tiny("dreamer_v3")
    batch = batches(config, length=20)[0]
    last = batch.data["is_last"]
    first = batch.data["is_first"].copy()
    first[0, 1] = True  # the first trained step
    expected = observed(make(config), with_data(batch, is_first=first))["states"]
    action, latent = batch.data["action"].copy(), batch.data["latent_deter"].copy()
    action[last] = 0.77
    action[0, 0] = -0.5
    latent[0, 0] = 3.0
    changed = with_data(batch, is_first=first, action=action, latent_deter=latent)
    assert torch.equal(observed(make(config), changed)["states"].features, expected.features)


@pytest.mark.parametrize("name", ["dreamer_v1", "dreamer_v2", "dreamer_v3"])
def test_exactly_the_horizon_is_imagined_from_every_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(name)
    algorithm, batch = make(config), batches(config)[0]
    rows: list[int] = []
    step = Rssm.step

    def count(self: Rssm, state: State, action: Tensor, noise: Tensor) -> State:
        rows.append(len(action))
        return step(self, state, action, noise)

    monkeypatch.setattr(Rssm, "step", count)
    acted: list[int] = []
    assert algorithm.behaviour is not None
    algorithm.behaviour.policy.register_forward_hook(
        lambda module, inputs, output: acted.append(inputs[0][..., 0].numel())
    )
    algorithm.update(batch)
    assert rows == [4 * 6] * 4  # H steps of all B * T states; none before, none behind
    assert acted == [4 * 6] * 4 + [4 * 4 * 6]  # an action for each, and their log-probabilities in one pass


@pytest.mark.parametrize(("name", "graphs"), [("dreamer_v1", 2), ("dreamer_v3", 1)])
def test_imagined_steps_may_be_compiled(name: str, graphs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))  # without a compiler
    torch._dynamo.utils.counters.clear()
    config = tiny(name)
    expected, compiled = make(config), make(replace(config, compile=True))
    for batch in batches(config)[:2]:
        assert compiled.update(batch).metrics == pytest.approx(expected.update(batch).metrics, rel=1e-5, abs=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # with gradients, the first step differs


GROUPS_OF_LOSSES = {
    "reconstruction/state": {"world"},
    "reward": {"world"},
    "continuation": {"world"},
    "dynamics": {"world"},
    "representation": {"world"},
    "actor": {"policy"},
    "critic": {"value"},
    "replay_value": {"world", "value"},
    "disagreement": {"disagreement"},
}


@pytest.mark.parametrize("reinforce", [1.0, 0.0, 0.5])
@pytest.mark.parametrize("gradient_to_model", [True, False])
def test_every_loss_trains_its_own_part(reinforce: float, gradient_to_model: bool) -> None:
    config = tiny("plan2explore", value=ScalarConfig(layers=1, bins=31, outscale=1.0))
    assert config.behaviour is not None
    behaviour = replace(config.behaviour, reinforce=reinforce, value_gradient_to_model=gradient_to_model)
    algorithm = make(replace(config, behaviour=behaviour))
    assert algorithm.behaviour is not None
    assert algorithm.disagreement is not None
    modules = {
        "world": algorithm.world,
        "policy": algorithm.behaviour.policy,
        "value": algorithm.behaviour.value,
        "slow": algorithm.behaviour.slow_value,
        "disagreement": algorithm.disagreement,
    }
    losses = losses_of(algorithm, batches(config)[0])
    assert losses.keys() == GROUPS_OF_LOSSES.keys()
    for name, loss in losses.items():
        for module in modules.values():
            module.zero_grad()
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        trained = {
            key
            for key, module in modules.items()
            if any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
        }
        expected = {"value"} if name == "replay_value" and not gradient_to_model else GROUPS_OF_LOSSES[name]
        assert trained == expected, name


def test_the_kl_trains_the_prior_by_one_side_and_the_posterior_by_the_other() -> None:
    config = tiny("dreamer_v3")
    algorithm = make(replace(config, losses=replace(config.losses, free_nats=0.0)))
    losses = losses_of(algorithm, batches(config)[0])
    rssm = algorithm.world.rssm
    for name, trained, still in (
        ("dynamics", rssm.prior_out, rssm.posterior_out),
        ("representation", rssm.posterior_out, rssm.prior_out),
    ):
        algorithm.world.zero_grad()
        losses[name].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert trained.weight.grad is not None
        assert trained.weight.grad.any()
        if name == "representation":
            assert still.weight.grad is None  # the dynamics side reaches the posterior through its sampled states


def test_losses_below_the_free_nats_train_nothing() -> None:
    config = tiny("dreamer_v3")
    algorithm = make(replace(config, losses=replace(config.losses, free_nats=1e3)))
    losses = losses_of(algorithm, batches(config)[0])
    assert losses["dynamics"].item() == 1e3
    assert losses["representation"].item() == pytest.approx(1e2)
    (losses["dynamics"] + losses["representation"]).backward()  # type: ignore[no-untyped-call]
    assert not any(p.grad is not None and bool(p.grad.any()) for p in algorithm.world.parameters())


def test_unimix_bounds_the_kl_of_the_update() -> None:
    """Logits of a thousand would make an infinite KL; with the share of the uniform each group has at most this."""
    config = tiny("dreamer_v3")
    algorithm = make(config)
    with torch.no_grad():
        algorithm.world.rssm.posterior_out.bias.copy_(torch.tensor([1e3, 0, 0, 0]).repeat(4))
        algorithm.world.rssm.prior_out.bias.copy_(torch.tensor([0, 1e3, 0, 0]).repeat(4))
    share, sure = 0.01 / 4, 0.99 + 0.01 / 4
    expected = 4 * (sure - share) * math.log(sure / share)
    assert algorithm.update(batches(config)[0]).metrics["kl"] == pytest.approx(expected, rel=1e-4)


def test_small_returns_are_divided_by_no_less_than_one() -> None:
    config = tiny("dreamer_v3")
    batch = batches(config)[0]
    quiet = with_data(batch, reward=1e-3 * batch.data["reward"])
    assert make(config).update(quiet).metrics["return_scale"] == 1.0
    assert config.behaviour is not None
    low = replace(config, behaviour=replace(config.behaviour, return_limit=1e-8))
    assert make(low).update(quiet).metrics["return_scale"] < 1.0


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_write_backs_are_the_states_the_update_met(latent: Any) -> None:
    config = tiny("dreamer_v3")
    config = replace(config, rssm=replace(config.rssm, latent=latent))
    algorithm, batch = make(config), batches(config)[0]
    seen = observed(algorithm, batch)
    written = seen["result"].writebacks
    assert written.keys() == {"latent_deter", "latent_stoch"}
    for key, values in written.items():
        trained = batch.data[key][:, config.context :]
        assert (values.shape, values.dtype) == (trained.shape, trained.dtype)
    states = seen["states"]
    np.testing.assert_array_equal(written["latent_deter"], states.deter.numpy().astype(np.float16))
    stored = {key: torch.from_numpy(values) for key, values in written.items()}
    back = algorithm.world.rssm.unpack(stored, torch.float32).stoch
    torch.testing.assert_close(
        back, states.stoch.round() if latent == "categorical" else states.stoch, rtol=1e-3, atol=1e-4
    )


def test_an_update_from_written_latents_continues_the_states() -> None:
    """A sequence that starts where another was written back meets the same states, up to the storage's precision."""
    config = tiny("dreamer_v3")
    batch = batches(config, length=9)[0]
    seen = observed(make(config), batch)
    data = {key: value[:, 4:] for key, value in batch.data.items()}
    data |= {key: value[:, 4 - config.context :] for key, value in seen["result"].writebacks.items()}
    algorithm = make(config)
    later = replace(batch, data=data)
    tail = algorithm._to_device(later)
    states, _ = algorithm.world.filter_posterior(
        tail.observation, tail.previous_action, tail.is_first, tail.start, seen["noise"][:, 4:]
    )
    torch.testing.assert_close(states.deter, seen["states"].deter[:, 4:], rtol=0.0, atol=2e-3)


@pytest.mark.parametrize("name", ["dreamer_v1", "dreamer_v2", "planet"])
def test_without_stored_latents_there_is_no_context_and_nothing_to_write(name: str) -> None:
    config = tiny(name)
    assert config.context == 0
    assert make(config).update(batches(config)[0]).writebacks == {}


V3 = tiny("dreamer_v3")


def behaviour(**changes: Any) -> dict[str, Any]:
    assert V3.behaviour is not None
    return {"behaviour": replace(V3.behaviour, **changes)}


def losses(**changes: Any) -> dict[str, Any]:
    return {"losses": replace(V3.losses, **changes)}


ABLATIONS: dict[str, dict[str, Any]] = {
    "layer_norm": {"norm": "layer"},
    "no_norm": {"norm": "none"},
    "elu": {"act": "elu"},
    "gaussian": {"rssm": replace(V3.rssm, latent="gaussian")},
    "plain_gru": {"rssm": replace(V3.rssm, cell="gru")},
    "memory_reset": {"rssm": replace(V3.rssm, cell="gru", reset="memory", gru_norm="none", update_bias=0.0)},
    "no_unimix": {"rssm": replace(V3.rssm, unimix=0.0), "policy": PolicyConfig(unimix=0.0)},
    "strided": {"observation": replace(V3.observation, strided=True)},
    "no_sigmoid": {"observation": replace(V3.observation, sigmoid=False)},
    "no_symlog": {"observation": replace(V3.observation, symlog=False)},
    "linear_heads": {"reward": ScalarConfig(output="linear"), "value": ScalarConfig(output="linear", layers=3)},
    "symlog_heads": {"reward": ScalarConfig(output="symlog"), "value": ScalarConfig(output="symlog", layers=3)},
    "tanh_normal": {"policy": PolicyConfig(continuous="tanh_normal")},
    "truncated_normal": {"policy": PolicyConfig(continuous="truncated_normal")} | behaviour(reinforce=0.5),
    "no_continuation": losses(continuation=0.0),
    "no_balance": losses(representation=1.0),
    "no_free_nats": losses(free_nats=0.0),
    "free_nats_of_batch": losses(free_nats_of="batch"),
    "consistency": losses(consistency=1.0, consistency_steps=2),
    "discount_apart": behaviour(discount_in_continuation=False),
    "dynamics_gradient": behaviour(reinforce=0.0),
    "mixed_gradient": behaviour(reinforce=0.5),
    "no_return_range": behaviour(normalise_returns=False),
    "slow_target": behaviour(slow_target=True, slow_regulariser=0.0, slow_rate=1.0, slow_every=2),
    "no_slow_regulariser": behaviour(slow_regulariser=0.0),
    "no_replay_value": behaviour(replay_value=0.0),
    "value_apart_from_model": behaviour(value_gradient_to_model=False),
    "no_entropy": behaviour(entropy=0.0),
    "half_critic": behaviour(critic=0.5),
    "no_latents": {"store_latents": False},
    "plan2explore": {"plan2explore": DisagreementConfig(3, 1)},
    "plan2explore_mixed": {"plan2explore": DisagreementConfig(3, 1, 1.0, 1.0)},
    "plan2explore_dynamics": {"plan2explore": DisagreementConfig(3, 1)} | behaviour(reinforce=0.0),
    "no_behaviour": {"behaviour": None, "acting": "planner"},
    "planning_with_a_critic": {"acting": "planner"},
    "adam": {"optimizer": OptimConfig("adam", 1e-3, grad_clip=100.0)},
    "three_optimizers": {"actor_optimizer": OptimConfig("adam"), "critic_optimizer": OptimConfig("adamw")},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_switch_can_be_thrown_alone(name: str) -> None:
    config = replace(V3, **ABLATIONS[name])
    for spec in (IMAGE, DISCRETE):
        algorithm = make(config, spec)
        for batch in batches(config, spec)[:2]:
            metrics = algorithm.update(batch).metrics
            assert all(math.isfinite(value) for value in metrics.values()), metrics
        assert metrics["gradient_norm"] > 0.0


def test_the_critics_loss_has_its_weight() -> None:
    """1/2 makes a squared error the negative log-likelihood that v1 and v2 descend."""
    batch = batches(V3)[0]
    assert V3.behaviour is not None
    half = replace(V3, behaviour=replace(V3.behaviour, critic=0.5))
    whole, halved = (losses_of(make(config), batch) for config in (V3, half))
    torch.testing.assert_close(halved["critic"], 0.5 * whole["critic"])
    torch.testing.assert_close(halved["replay_value"], whole["replay_value"])


def test_the_block_grus_own_and_shared_inputs_are_one_matrix_to_the_clipping() -> None:
    algorithm = make(replace(V3, optimizer=replace(V3.optimizer, agc=0.3, lr=1.0)))
    hidden = algorithm.world.rssm.cell.hidden
    assert isinstance(hidden, GroupedLinear)
    assert hidden.shared is not None
    own, shared = hidden.weight.detach().norm().item(), hidden.shared.detach().norm().item()
    for p in algorithm.optimizers[0].parameters:
        p.grad = torch.zeros_like(p)
    hidden.weight.grad = 1e3 * torch.ones_like(hidden.weight)
    given = hidden.weight.grad
    clip_adaptively(algorithm.optimizers[0].parameters, 0.3, together=algorithm.optimizers[0]._together)
    assert given.norm().item() == pytest.approx(0.3 * math.hypot(own, shared), rel=1e-5)


def test_rewards_are_discounted_also_without_a_continuation_head() -> None:
    """The head would have predicted the discount; without it the discount must not be lost with it."""
    imagined = []
    for in_continuation in (True, False):
        config = replace(
            V3,
            losses=replace(V3.losses, continuation=0.0),
            **behaviour(discount=0.5, discount_in_continuation=in_continuation),
        )
        algorithm = make(replace(config, reward=ScalarConfig(bins=31, outscale=1.0)))
        imagined.append(algorithm.update(batches(config)[0]).metrics["imagined/return"])
    assert imagined[0] == imagined[1] != 0.0


def test_plan2explore_rewards_disagreement() -> None:
    config = replace(V3, plan2explore=DisagreementConfig(3, 1, intrinsic=1.0, extrinsic=0.0))
    algorithm = make(config)
    assert algorithm.disagreement is not None
    batch = batches(config)[0]
    assert algorithm.update(batch).metrics["imagined/reward"] > 0.0
    agreeing = algorithm.disagreement.members
    for member in agreeing:
        member.load_state_dict(agreeing[0].state_dict())
    assert algorithm.update(batch).metrics["imagined/reward"] == pytest.approx(0.0, abs=1e-12)


def test_the_slow_critic_moves_its_share_at_its_time() -> None:
    config = replace(V3, **behaviour(slow_rate=0.25, slow_every=2))
    algorithm = make(config)
    assert algorithm.behaviour is not None
    slow, fast = algorithm.behaviour.slow_value.out.weight, algorithm.behaviour.value.out.weight
    start = slow.clone()
    one, two = batches(config)[:2]
    algorithm.update(one)
    assert torch.equal(slow, start)
    algorithm.update(two)
    torch.testing.assert_close(slow, start + 0.25 * (fast - start))


@pytest.mark.parametrize("name", ["planet", "dreamer_v2", "dreamer_v3"])  # none, optimisers of its own, one for all
def test_an_update_of_the_world_model_leaves_the_behaviour_alone(name: str) -> None:
    config = tiny(name)
    algorithm = make(config)
    one, two, three = batches(config)[:3]
    algorithm.update(one)
    before = algorithm.state_dict()
    metrics = algorithm.update(two, "world_model").metrics
    after = algorithm.state_dict()
    assert not torch.equal(
        before["modules"]["world"]["reward.out.weight"], after["modules"]["world"]["reward.out.weight"]
    )
    assert {"loss/reward", "loss/dynamics"} <= metrics.keys()
    assert not {"loss/actor", "loss/critic", "loss/replay_value"} & metrics.keys()
    for key, value in before["modules"].get("behaviour", {}).items():
        assert torch.equal(value, after["modules"]["behaviour"][key]), key
    if name != "planet":
        assert torch.equal(before["return_range"], after["return_range"])
    assert [saved["step_count"] for saved in after["optimizers"]] == [2, *[1] * (len(algorithm.optimizers) - 1)]
    assert math.isfinite(algorithm.update(three).metrics["loss"])


def test_the_consistency_loss_needs_longer_sequences() -> None:
    config = replace(V3, **losses(consistency=1.0, consistency_steps=6))
    with pytest.raises(ValueError, match="consistency_steps 6"):
        make(config).update(batches(config)[0])


@pytest.mark.parametrize("name", VARIANTS)
def test_resume_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = tiny(name)
    source = batches(config)
    whole = make(config, seed=1)
    for batch in source[:3]:
        whole.update(batch)
    path = checkpoint.save(tmp_path, 3, {"algorithm": whole.state_dict()})
    resumed = make(config, seed=2)
    resumed.load_state_dict(checkpoint.load(path)["algorithm"])
    for batch in source[3:6]:
        ours, theirs = resumed.update(batch), whole.update(batch)
        assert ours.metrics == theirs.metrics
        for key, value in theirs.writebacks.items():
            np.testing.assert_array_equal(ours.writebacks[key], value)
    exported = whole.export_weights()
    for key, value in resumed.export_weights().items():
        np.testing.assert_array_equal(value, exported[key], err_msg=key)


def test_a_state_is_a_snapshot() -> None:
    """Updates after `state_dict` do not reach into it."""
    config = tiny("dreamer_v3")
    source = batches(config)
    whole = make(config)
    whole.update(source[0])
    state = whole.state_dict()
    expected = [whole.update(batch).metrics for batch in source[1:4]]
    resumed = make(config, seed=9)
    resumed.load_state_dict(state)
    assert [resumed.update(batch).metrics for batch in source[1:4]] == expected


def test_a_seed_fixes_weights_and_noise() -> None:
    config = tiny("dreamer_v3")
    batch = batches(config)[0]
    torch.manual_seed(0)
    one = make(config, seed=5).update(batch).metrics
    torch.manual_seed(1)
    assert make(config, seed=5).update(batch).metrics == one
    assert make(config, seed=6).update(batch).metrics != one


def test_exported_weights_and_artifacts(tmp_path: Path) -> None:
    algorithm = make(tiny("dreamer_v3"))
    exported = algorithm.export_weights()
    assert {name.split(".")[0] for name in exported} == {"world", "policy", "value"}
    assert all(value.dtype == np.float32 for value in exported.values())
    before = {name: value.copy() for name, value in exported.items()}
    algorithm.update(batches(V3)[0])
    assert all(np.array_equal(value, before[name]) for name, value in exported.items())
    assert [path.name for path in algorithm.save_artifacts(tmp_path)] == ["world_model.pt", "behaviour.pt"]
    state = torch.load(tmp_path / "world_model.pt", weights_only=True)
    make(tiny("dreamer_v3"), seed=3).world.load_state_dict(state)
    assert len(make(tiny("planet")).save_artifacts(tmp_path)) == 1


def test_losses_fall_on_a_fixed_batch() -> None:
    config = tiny("dreamer_v3", optimizer=OptimConfig("laprop", 1e-2, eps=1e-20, agc=0.3))
    algorithm, batch = make(config), batches(config)[0]
    first = algorithm.update(batch).metrics
    for _ in range(60):
        last = algorithm.update(batch).metrics
    for name in ("reconstruction/state", "reward", "continuation"):
        assert last[f"loss/{name}"] < 0.7 * first[f"loss/{name}"], name


def test_sequences_must_be_longer_than_their_context() -> None:
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        make(V3).update(batches(V3, length=0)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "13m"}, "'13m'"),
        ({"acting": "reflex"}, "'reflex'"),
        ({"behaviour": None}, "needs a behaviour"),
        ({"behaviour": None, "acting": "planner", "plan2explore": DisagreementConfig()}, "plan2explore needs"),
        ({"exploration_noise": -1.0}, "-1.0"),
    ],
)
def test_refuses_what_makes_no_algorithm(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DreamerConfig(**options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (BehaviourConfig, {"horizon": 0}),
        (BehaviourConfig, {"discount": 1.5}),
        (BehaviourConfig, {"return_percentiles": (95.0, 5.0)}),
        (BehaviourConfig, {"return_limit": 0.0}),
        (BehaviourConfig, {"entropy": float("nan")}),
        (BehaviourConfig, {"discount": True}),
        (BehaviourConfig, {"normalise_returns": 1}),
        (WorldLossConfig, {"reconstruction": float("inf")}),
        (DreamerConfig, {"norm": "batch"}),
        (WorldLossConfig, {"free_nats": -1.0}),
        (WorldLossConfig, {"free_nats_of": "row"}),
        (DisagreementConfig, {"members": 1}),
        (ScalarConfig, {"bins": 254}),
        (PolicyConfig, {"min_std": 2.0}),
    ],
)
def test_refuses_values_out_of_range(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)
