"""Targets and losses of MuZero as pure functions.

A sequence's first step is the root of an unroll; position k is the step k actions after it. Positions after the end of
the root's episode are absorbing if it terminated (Schrittwieser et al. 2020, pseudocode: no reward and no value, and
nothing to imitate), and unknown if it was cut: nothing is learned of them.

Letters: B sequences, T steps, K unrolled steps, n steps of a return, N actions searched, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.searched import FRESH_VERSION, fresh


@dataclass(frozen=True)
class Positions:
    """What the positions of an unroll are, [B, K + 1] each, bool."""

    inside: Tensor  # in the root's episode, so the stored step is the one that is predicted
    absorbing: Tensor  # after its terminal step
    last: Tensor  # the last stored step of the episode, terminal or not
    terminal: Tensor  # its terminal step


@dataclass(frozen=True)
class Returns:
    """The n-step returns of all positions, [B, K + 1] each, but for the value they bootstrap from."""

    reward: Tensor  # discounted sum of the rewards
    index: Tensor  # step of the sequence to bootstrap from
    discount: Tensor  # of its value, 0 where nothing is bootstrapped from
    known: Tensor  # whether there is a return at all: of a position with a later step, or after the end


@dataclass(frozen=True)
class Targets:
    """What an unroll learns from; a mask is 1 where there is a target and 0 elsewhere."""

    reward: Tensor  # [B, K] received on arriving at positions 1 to K, or their sum so far with a value prefix
    reward_mask: Tensor  # [B, K]
    value: Tensor  # [B, K + 1]
    value_mask: Tensor  # [B, K + 1]
    policy: Tensor  # [B, K + 1, N] improved policy over the actions searched
    policy_mask: Tensor  # [B, K + 1]
    consistency_mask: Tensor  # [B, K] where the observation of positions 1 to K is known


def positions(is_first: Tensor, is_last: Tensor, is_terminal: Tensor, unroll: int) -> Positions:
    """What positions 0 to `unroll` are, from flags [B, T]; a stream that goes on with a new episode ended the old one.

    Raises:
        ValueError: The sequences are too short.
    """
    if is_first.shape[1] < unroll + 1:
        raise ValueError(f"sequences need at least {unroll + 1} steps, got {is_first.shape[1]}")
    is_last, is_terminal = is_last.bool(), is_terminal.bool()
    cut = torch.zeros_like(is_last)
    cut[:, :-1] = is_first.bool()[:, 1:]
    last = (is_last | cut)[:, : unroll + 1]
    terminal = (is_last & is_terminal)[:, : unroll + 1]
    ended = _before(last)
    first_end = last & ~ended
    return Positions(~ended, _before(first_end & terminal), first_end, first_end & terminal)


def _before(flags: Tensor) -> Tensor:
    """Whether [B, K + 1] any earlier position has its flag set."""
    return F.pad(flags.cumsum(1) > 0, (1, -1), value=False)


def n_step_returns(
    reward: Tensor,
    is_first: Tensor,
    is_last: Tensor,
    is_terminal: Tensor,
    unroll: int,
    steps: int,
    discount: float,
) -> Returns:
    """z_k = r_{k+1} + ... + discount^{n-1} r_{k+n} + discount^n v_{k+n} (Schrittwieser et al. 2020, eq. 1 and 3).

    A return ends earlier where its episode or the sequence does: a terminal step is worth nothing, and at a cut or at
    the end of the sequence the return bootstraps from the last step that is there.

    Args:
        reward: [B, T] received on arriving at each step.
        is_first: [B, T].
        is_last: [B, T].
        is_terminal: [B, T].
        unroll: K.
        steps: n.
        discount: Of rewards per step.
    """
    place = positions(is_first, is_last, is_terminal, unroll)
    length = reward.shape[1]
    whole = positions_of_steps(is_first, is_last)
    terminal = is_last.bool() & is_terminal.bool()
    index = torch.arange(unroll + 1, device=reward.device).expand(len(reward), -1).clone()
    total, scale = torch.zeros_like(reward[:, : unroll + 1]), torch.ones_like(reward[:, : unroll + 1])
    alive = place.inside.clone()
    for _ in range(steps):
        alive = alive & ~whole.gather(1, index) & (index < length - 1)
        index = torch.where(alive, index + 1, index)
        total = torch.where(alive, total + scale * reward.gather(1, index), total)
        scale = torch.where(alive, scale * discount, scale)
    moved = index > torch.arange(unroll + 1, device=reward.device)
    ends = terminal.gather(1, index)
    bootstraps = place.inside & ~ends
    return Returns(
        total, index, torch.where(bootstraps, scale, 0.0), place.absorbing | (place.inside & (moved | place.terminal))
    )


def positions_of_steps(is_first: Tensor, is_last: Tensor) -> Tensor:
    """Whether [B, T] each step is the last of its episode in the sequence."""
    cut = F.pad(is_first.bool()[:, 1:], (0, 1), value=False)
    return is_last.bool() | cut


def targets(
    reward: Tensor, policy: Tensor, place: Positions, returns: Returns, bootstrap: Tensor, prefix: int = 0
) -> Targets:
    """The targets of an unroll.

    Args:
        reward: [B, T] received on arriving at each step.
        policy: [B, T, N] improved policy over the actions searched, all 0 where there was no search.
        place: The positions.
        returns: Their returns.
        bootstrap: [B, K + 1] values of the steps `returns.index`.
        prefix: Steps after which the sum of a value prefix begins anew, 0 for rewards as they are.
    """
    unroll = place.inside.shape[1] - 1
    inside = place.inside[:, 1:]
    received = torch.where(inside, reward[:, 1 : unroll + 1], 0.0)
    if prefix:
        parts = [received[:, start : start + prefix] for start in range(0, unroll, prefix)]
        received = torch.cat([part.cumsum(1) for part in parts], 1)
    value = torch.where(place.inside, returns.reward + returns.discount * bootstrap, 0.0)
    imitated = policy[:, : unroll + 1]
    searched = imitated.sum(-1) > 0.0
    dtype = reward.dtype
    return Targets(
        received,
        (inside | place.absorbing[:, 1:]).to(dtype),
        value,
        returns.known.to(dtype),
        imitated,
        (place.inside & ~place.last & searched).to(dtype),
        inside.to(dtype),
    )


def mixed_targets(data: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Data [B, T, ...] with the fresh targets of the sequences chosen [B], at the steps that have any.

    Where they are not chosen, and where no later search has been yet, the targets are those of the acting search.
    """
    taken = chosen[:, None] & (data[FRESH_VERSION] > 0)
    mixed = dict(data)
    for key, stored in data.items():
        if fresh(key) in data:
            wide = taken.view(*taken.shape, *[1] * (stored.dim() - 2))
            mixed[key] = torch.where(wide, data[fresh(key)], stored)
    return mixed


def step_weights(unroll: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weights [K + 1] of the positions: 1 of the root and 1 / K of the others (Schrittwieser et al. 2020, app. G)."""
    weights = torch.full((unroll + 1,), 1.0 / unroll, device=device, dtype=dtype)
    weights[0] = 1.0
    return weights


def policy_loss(log_probs: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy [...] of log-probabilities [..., N] of the actions searched against the improved policy [..., N].

    Where the actions are samples this is the loss of Sampled MuZero (Hubert et al. 2021, section 5.1) up to the entropy
    of the target: the samples' own share of probability is in the target, by the search's correction.
    """
    return -(target * log_probs).sum(-1)


def consistency_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Negative cosine similarity [...] of predictions [..., D] and fixed targets [..., D] (Ye et al. 2021, eq. 3)."""
    return -F.cosine_similarity(prediction.float(), target.detach().float(), dim=-1)


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x with `scale` times its gradient."""
    return x * scale + x.detach() * (1.0 - scale) if x.requires_grad else x
