"""A latent world model as planners see it.

Letters: B problems, P particles, D deterministic and S stochastic features, N actions of a node, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from learner.models.rssm import State
from learner.models.rssm_config import RssmConfig
from learner.models.world_model import LatentModel
from planners.base import Expansion
from planners.config import BOX_SAMPLES, MctsConfig, SequenceConfig
from planners.risk import check_part
from planners.scoring import TorchEvaluator


class SearchedLatents:
    """See planners.base.Plannable.

    Args:
        name: Of the algorithm.
        model: Its world model.
        heads: Its actor `policy` and critic `value`, if it has them.
    """

    def __init__(self, name: str, model: LatentModel, heads: Mapping[str, nn.Module]) -> None:
        self._name, self._model, self._heads = name, model, heads

    def evaluator(self, config: SequenceConfig) -> TorchEvaluator:
        """Returns of imagined sequences, with the critic's value of their ends if there is one.

        Raises:
            ValueError: Actions are ids.
        """
        if self._model.action.spec.is_discrete:
            raise ValueError(f"planner method {config.method} needs a box of actions, but those here are ids")
        if config.constraint is not None or config.guard is not None:
            name = "constraint" if config.constraint is not None else "guard"
            raise ValueError(
                f"planner.{name} needs predicted states, but {self._name} plans over latents; pets has them"
            )
        check_part(config.risk.part, config.particles or 1, 1)
        model = LatentPlanningModel(self._model, self._heads.get("value"), config.particles or 1)
        device = next(self._model.parameters()).device
        return TorchEvaluator(model, config.gamma, str(device))

    def tree(self, config: MctsConfig) -> LatentTreeModel:
        """The dynamics with the actor as prior and the critic at the leaves.

        Raises:
            ValueError: There are none.
        """
        config.check_one_model(self._name)
        if "policy" not in self._heads:
            raise ValueError(f"planner method {config.method} needs a policy and a critic, which {self._name} lacks")
        if not self._model.action.spec.is_discrete and config.proposal_temperature != 1.0:
            raise ValueError(
                f"proposal_temperature must be 1 where actions are a box, which {self._name} samples from its policy, "
                f"got {config.proposal_temperature}"
            )
        samples = config.sampled_actions or BOX_SAMPLES
        return LatentTreeModel(self._model, self._heads["policy"], self._heads["value"], samples)


class LatentPlanningModel:
    """The latent dynamics as searches of sequences see them; see planners.base.PlanningModel.

    Particles of a candidate differ by their noise.

    Args:
        model: The world model.
        value: A critic for what comes after the horizon, None to ignore it.
        num_particles: P.
    """

    def __init__(self, model: LatentModel, value: nn.Module | None, num_particles: int) -> None:
        self.num_particles, self.num_draws = num_particles, model.rssm.config.groups
        self._model, self._value = model, value

    def initial(self, observation: State, num_candidates: int) -> State:
        """Each of the B states [B, ...] for all its candidates' particles."""
        rows = num_candidates * self.num_particles
        return State(*(part.repeat_interleave(rows, dim=0) for part in observation))

    def step(self, latent: State, action: Tensor, noise: Tensor) -> tuple[State, Tensor, Tensor]:
        """One imagined step, its reward and the probability that the episode goes on."""
        shared = latent_noise(self._model.rssm.config, noise)[:, None]  # [B, 1, P, groups]
        candidates = len(action) // (noise.shape[0] * noise.shape[1])
        rows = shared.expand(-1, candidates, -1, -1).flatten(0, 2)
        return _imagine(self._model, latent, action, rows)

    def value(self, latent: State) -> Tensor:
        """The critic's value of the last states [rows]."""
        if self._value is None:
            return latent.deter.new_zeros(len(latent.deter))
        return self._value(latent.features).mean  # type: ignore[no-any-return]


class LatentTreeModel:
    """The latent dynamics as a tree search sees them; see planners.base.TreeModel.

    Where actions are ids a node has all of them, with the actor's prior. Where they are a box it has samples of the
    actor, which are then equally likely (Hubert et al. 2021, "Learning and planning in complex action spaces").

    Args:
        model: The world model.
        policy: Its actor.
        value: Its critic.
        sampled_actions: Samples of a node, of a box.
    """

    def __init__(self, model: LatentModel, policy: nn.Module, value: nn.Module, sampled_actions: int) -> None:
        self._model, self._policy, self._value = model, policy, value
        self.discrete = model.action.spec.is_discrete
        self.num_actions = model.action.size if self.discrete else sampled_actions
        self._groups = model.rssm.config.groups
        self.num_draws = self._groups + (0 if self.discrete else sampled_actions * model.action.size)

    def step(self, latent: State, action: Tensor, noise: Tensor) -> tuple[State, Tensor, Tensor]:
        """One imagined step, its reward and the probability that the episode goes on."""
        own = latent_noise(self._model.rssm.config, noise[:, : self._groups])
        return _imagine(self._model, latent, action, own)

    def blank(self, rows: int) -> State:
        """Initial states."""
        return self._model.rssm.initial(rows)

    def expand(self, latent: State, noise: Tensor) -> Expansion:
        """Prior, value and actions of the states."""
        features = latent.features
        value = self._value(features).mean
        size = self._model.action.size
        if self.discrete:
            return Expansion(self._policy(features).log_probs, value)
        eps = normals(noise[:, self._groups :]).view(-1, self.num_actions, size)
        actions = self._policy(features[:, None]).sample(eps)
        return Expansion(actions.new_zeros(actions.shape[:2]), value, actions)


def _imagine(model: LatentModel, latent: State, action: Tensor, noise: Tensor) -> tuple[State, Tensor, Tensor]:
    """One imagined step of rows, its reward and the probability that the episode goes on."""
    state = model.rssm.step(latent, action, noise)
    features = state.features
    return state, model.reward(features).mean, model.predict_continuation(features)


def latent_noise(config: RssmConfig, uniform: Tensor) -> Tensor:
    """Noise for a sample of the latents, from uniform numbers in [0, 1)."""
    return uniform if config.latent == "categorical" else normals(uniform)


def normals(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform multiples of 2^-24 in [0, 1)."""
    return torch.special.ndtri(uniform.double() + 2.0**-25).float()  # type: ignore[no-any-return]
