"""Learners of other projects that `cluster.bench.learner` times beside ours; docs/peers.md says how to install them.

Both learn DreamerV3 with the same sizes and the same hyperparameters on the same sequences.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.bench.learner_data import Workload, arrays
from learner.algorithms.dreamer_config import BehaviourConfig
from learner.device import autocast
from learner.learner_config import Precision

logger = logging.getLogger(__name__)

Update = Callable[[], object]
"""One full update on the fixed batch."""
MakePeer = Callable[[Workload, torch.device, Precision], Update]
"""Raises ImportError if the peer is not installed or has no such networks."""


def torchrl(work: Workload, device: torch.device, precision: Precision) -> Update:
    """TorchRL's DreamerV3 losses, optimiser and stepper, eager.

    Raises:
        ImportError: It is not installed, or its networks differ (it has no pooled ones) or its precision does.
    """
    if work.image and not work.strided:
        raise ImportError("it has strided networks only")
    if precision == "bf16" and device.type == "cpu":
        raise ImportError("its stepper computes in bf16 on CUDA only")
    from torchrl.objectives import SoftUpdate
    from torchrl.trainers.algorithms import DreamerV3OptimizationStepper, DreamerV3Optimizer

    loss, parameters = _torchrl_loss(work, device)
    stepper = DreamerV3OptimizationStepper(
        loss,
        DreamerV3Optimizer(parameters, lr=4e-5, agc=0.3, eps=1e-20, warmup_steps=1000),
        SoftUpdate(loss.value_loss, tau=0.02),
        compile_train_step=False,
        cudagraph=False,
        mixed_precision=precision == "bf16",
    )
    batch = _torchrl_batch(work).to(device)
    return lambda: stepper.step(None, batch.copy())


def _torchrl_loss(work: Workload, device: torch.device) -> tuple[Any, list[nn.Parameter]]:
    """DreamerV3Loss and what it trains."""
    from torchrl.objectives import (
        DreamerV3ActorLoss,
        DreamerV3Loss,
        DreamerV3ModelLoss,
        DreamerV3ValueLoss,
        ValueEstimators,
    )

    parts = _TorchRlParts(work)
    config, behaviour = work.config, BehaviourConfig()
    model = DreamerV3ModelLoss(
        parts.world,
        num_reward_bins=config.reward.bins,
        free_bits=1.0,
        kl_mode="separate",
        lambda_dynamic=1.0,
        lambda_representation=0.1,
        unimix=config.rssm.unimix,
        lambda_continue=1.0,
        reco_symlog=not work.image,
        continue_target_scale=behaviour.discount,
        detach_output=False,
    )
    model.set_keys(pixels="observation", reco_pixels="reco_pixels")
    actor = DreamerV3ActorLoss(
        parts.actor,
        parts.value,
        parts.dream,
        continuation_model=parts.continuation,
        imagination_horizon=behaviour.horizon,
        use_reinforce=True,
        return_normalization_rate=0.01,
        return_normalization_min_scale=1.0,
    )
    actor.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=0.95)
    value = DreamerV3ValueLoss(
        parts.value,
        value_loss="two_hot",
        num_value_bins=config.value.bins,
        actor_loss=actor,
        slow_critic_regularization=1.0,
    )
    trained = [*parts.world.parameters(), *parts.actor.parameters(), *value.parameters()]
    loss = DreamerV3Loss(model, actor, value, replay_value_loss_weight=0.3, continuation_horizon=333.0, lmbda=0.95)
    return loss.to(device), trained


class _TorchRlParts:
    """World model, actor, critic and dream of TorchRL at our sizes."""

    def __init__(self, work: Workload) -> None:
        from tensordict.nn import TensorDictModule as Module
        from tensordict.nn import TensorDictSequential as Chain
        from torchrl.modules import RSSMPosteriorV3, RSSMPriorV3, RSSMRolloutV3, SymExpTwoHot, WorldModelWrapper

        config, sizes = work.config, work.config.sizes
        self._work, self._features = work, sizes.deter + config.rssm.groups * sizes.classes
        encoder, tokens = self._encoder()
        action = work.spec.action.size
        latent = {
            "hidden_dim": sizes.hidden,
            "rnn_hidden_dim": sizes.deter,
            "num_categoricals": config.rssm.groups,
            "num_classes": sizes.classes,
            "unimix": config.rssm.unimix,
        }
        prior = RSSMPriorV3(
            action_shape=(action,), action_dim=action, recurrent_model="block_gru", num_blocks=8, **latent
        )
        posterior = RSSMPosteriorV3(obs_embed_dim=tokens, use_rms_norm=True, **latent)
        rollout = RSSMRolloutV3(
            Module(prior, ["state", "belief", "action"], [("next", k) for k in ("prior_logits", "state", "belief")]),
            Module(
                posterior,
                [("next", "belief"), ("next", "encoded_latents")],
                [("next", "posterior_logits"), ("next", "state")],
            ),
        )
        reward, continuation, value = self._mlp(255, 1, 0.0), self._mlp(1, 1), self._mlp(255, 3, 0.0)
        bins = SymExpTwoHot(255)

        def head(net: nn.Module, key: str, then: Callable[..., Any], out: str, prefix: str = "") -> Any:
            nested = (lambda name: (prefix, name)) if prefix else (lambda name: name)
            inputs = [nested("belief"), nested("state")]
            return Chain(Module(net, inputs, [nested(key)]), Module(then, [nested(key)], [nested(out)]))

        self.world = Chain(
            encoder,
            rollout,
            self._decoder(),
            head(reward, "reward_logits", bins, "reward", "next"),
            Module(continuation, [("next", "belief"), ("next", "state")], [("next", "continue_pred")]),
        )
        self.continuation = head(continuation, "continue_logits", nn.Sigmoid(), "continuation")
        self.value = head(value, "state_value_logits", SymExpTwoHot(255), "state_value")
        self.actor = self._actor()
        step = Chain(Module(prior, ["state", "belief", "action"], ["_", "state", "belief"]))
        self.dream = self._dream(WorldModelWrapper(step, head(reward, "reward_logits", bins, "reward")))

    def _mlp(self, out: int | None, layers: int, outscale: float = 1.0, inputs: int | None = None) -> nn.Module:
        from torchrl.modules import DreamerV3MLP

        units = self._work.config.sizes.units
        return DreamerV3MLP(inputs or self._features, out, layers, units, outscale)  # type: ignore[no-any-return]

    def _encoder(self) -> tuple[Any, int]:
        from tensordict.nn import TensorDictModule, TensorDictSequential
        from torchrl.modules import DreamerV3ImageEncoder
        from torchrl.objectives import symlog

        raw, tokens = ("next", "observation"), ("next", "encoded_latents")
        if self._work.image:
            net = DreamerV3ImageEncoder(3, self._work.config.sizes.depth)
            return TensorDictModule(net, [raw], [tokens]), net.output_features((3, 64, 64))
        squashed = ("next", "symlog_observation")
        size = self._work.spec.observation["state"].size
        encode = TensorDictModule(self._mlp(None, 3, inputs=size), [squashed], [tokens])
        return TensorDictSequential(TensorDictModule(symlog, [raw], [squashed]), encode), self._work.config.sizes.units

    def _decoder(self) -> Any:
        from tensordict.nn import TensorDictModule, TensorDictSequential
        from torchrl.modules import DreamerV3ImageDecoder
        from torchrl.objectives import symexp

        inputs, out = [("next", "state"), ("next", "belief")], ("next", "reco_pixels")
        if self._work.image:
            return TensorDictModule(
                DreamerV3ImageDecoder(self._features, depth=self._work.config.sizes.depth), inputs, [out]
            )
        net = self._mlp(self._work.spec.observation["state"].size, 3)
        return TensorDictSequential(TensorDictModule(net, inputs, [out]), TensorDictModule(symexp, [out], [out]))

    def _actor(self) -> Any:
        from tensordict.nn import (
            InteractionType,
            ProbabilisticTensorDictModule,
            ProbabilisticTensorDictSequential,
            TensorDictModule,
        )
        from torchrl.modules.distributions.continuous import IndependentNormal

        units, action = self._work.config.sizes.units, self._work.spec.action.size
        trunk = self._mlp(None, 3)
        return ProbabilisticTensorDictSequential(
            TensorDictModule(_BoundedNormal(trunk, units, action), ["state", "belief"], ["loc", "scale"]),
            ProbabilisticTensorDictModule(
                ["loc", "scale"],
                ["action"],
                default_interaction_type=InteractionType.RANDOM,
                distribution_class=IndependentNormal,
                return_log_prob=True,
                log_prob_key="action_log_prob",
            ),
        )

    def _dream(self, model: Any) -> Any:
        from torchrl.data import Bounded, Composite, Unbounded
        from torchrl.envs.model_based import DreamerEnv

        deter = self._work.config.sizes.deter
        stoch = self._features - deter
        dream = DreamerEnv(model, prior_shape=(stoch,), belief_shape=(deter,))
        dream.observation_spec = Composite(state=Unbounded(stoch), belief=Unbounded(deter))
        dream.state_spec = dream.observation_spec.clone()
        dream.action_spec = Bounded(-1.0, 1.0, (self._work.spec.action.size,))
        dream.reward_spec = Unbounded((1,))
        return dream


class _BoundedNormal(nn.Module):
    """Mean and standard deviation of the policy, in the form its recipe gives them."""

    def __init__(self, trunk: nn.Module, units: int, action: int) -> None:
        super().__init__()
        self.trunk, self.mean, self.std = trunk, nn.Linear(units, action), nn.Linear(units, action)

    def forward(self, state: torch.Tensor, belief: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.trunk(belief, state)
        return self.mean(x).tanh().float(), (0.9 * torch.sigmoid(self.std(x) + 2.0) + 0.1).float()


def _torchrl_batch(work: Workload) -> Any:
    """The sequences as TorchRL stores them: each step with the observation behind it."""
    from tensordict import TensorDict

    data, sizes, groups = arrays(work, work.length), work.config.sizes, work.config.rssm.groups
    shape = work.batch_size, work.length
    (observation,) = (torch.from_numpy(data[key]) for key in work.spec.observation)
    flags = {key: torch.from_numpy(data[key]).unsqueeze(-1) for key in ("is_first", "is_last", "is_terminal")}
    return TensorDict(
        {
            "state": torch.zeros(*shape, groups * sizes.classes),
            "belief": torch.zeros(*shape, sizes.deter),
            "action": torch.from_numpy(data["action"]),
            "is_init": flags["is_first"],
            "next": {
                "observation": observation.movedim(-1, -3).contiguous() if work.image else observation,
                "reward": torch.from_numpy(data["reward"]).unsqueeze(-1),
                "done": flags["is_last"],
                "terminated": flags["is_terminal"],
            },
        },
        batch_size=shape,
    )


def r2dreamer(work: Workload, device: torch.device, precision: Precision) -> Update:
    """The learner of r2dreamer with its reconstruction loss, eager; its update always autocasts, ours says to what.

    Raises:
        ImportError: Its modules are not on the path, or its networks differ (it has no strided ones).
    """
    if work.image and work.strided:
        raise ImportError("it has pooled networks only")
    module = importlib.import_module("dreamer")
    if not hasattr(module, "clip_grad_agc_"):
        raise ImportError("the module `dreamer` on the path is another one")
    import gymnasium
    from omegaconf import OmegaConf

    names, sizes = r"^(image|state)$", work.config.sizes
    keys = {"mlp_keys": "$^" if work.image else names, "cnn_keys": names if work.image else "$^"}
    widths = {name: getattr(sizes, name) for name in ("deter", "hidden", "depth", "units")}
    assert module.__file__ is not None
    root = OmegaConf.create(
        {
            "device": str(device),
            "env": {"encoder": keys, "decoder": keys},
            "model": OmegaConf.load(Path(module.__file__).parent / "configs" / "model" / "_base_.yaml"),
        }
    )
    own = {"discrete": sizes.classes, "act": "SiLU", "norm": True, "compile": False, "rep_loss": "dreamer"}
    root.model.update(widths | own)
    spaces = {
        key: gymnasium.spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
        for key, spec in work.spec.observation.items()
    }
    action = gymnasium.spaces.Box(-1.0, 1.0, work.spec.action.shape, np.float32)
    OmegaConf.resolve(root)
    with _quiet():
        agent = module.Dreamer(root.model, SimpleNamespace(spaces=spaces), action).to(device)
    replay, context = _r2dreamer_replay(work, device), partial(autocast, device, precision)

    def update() -> object:
        module.__dict__["autocast"] = lambda **_: context()  # it would take float16, and a GradScaler, wherever it runs
        return agent.update(replay)

    return update


def _r2dreamer_replay(work: Workload, device: torch.device) -> Any:
    """A replay that always returns the fixed batch."""
    from tensordict import TensorDict

    data = {key: torch.from_numpy(values).to(device) for key, values in arrays(work, work.length).items()}
    data |= {key: data[key].unsqueeze(-1) for key in ("reward", "is_first", "is_last", "is_terminal")}
    sizes, groups = work.config.sizes, work.config.rssm.groups
    start = (
        torch.zeros(work.batch_size, groups, sizes.classes, device=device),
        torch.zeros(work.batch_size, sizes.deter, device=device),
    )
    stored = TensorDict(data, batch_size=(work.batch_size, work.length))
    return SimpleNamespace(sample=lambda: (stored.copy(), None, start), update=lambda *_: None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what a peer prints about its networks."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


PEERS: dict[str, MakePeer] = {"TorchRL": torchrl, "r2dreamer": r2dreamer}
"""Name -> constructor."""


def shown(peer: str) -> str:
    """The peer's name, with its version if it is a package."""
    return f"{peer} {importlib.metadata.version(peer.lower())}" if peer == "TorchRL" else peer


def why_skipped(peer: str, error: ImportError) -> str:
    """Reason why a peer is not timed, for its row."""
    logger.info("%s skipped: %s", peer, error)
    return "not installed" if isinstance(error, ModuleNotFoundError) else str(error)


def make_peer(name: str, work: Workload, device: torch.device, precision: Precision) -> Update:
    """An update of the peer `name`.

    Raises:
        ImportError: It is not installed or lacks what is asked for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers, about each other
        return PEERS[name](work, device, precision)
