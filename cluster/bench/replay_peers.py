"""Replays of other projects that `cluster.bench.replay` times beside ours; docs/peers.md says how to install them.

Each is given the layout that suits it best: TorchRL whole episodes back to back in one tensor storage, cpprb items of
one whole sequence each (so its sequences cannot overlap, which is less than ours do), RLlib episodes.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.bench.replay_data import StepSource, Work, Workload

logger = logging.getLogger(__name__)


MakePeer = Callable[[Workload, StepSource, bool], Work]
"""(workload, source, prioritized) -> what samples one batch of the filled peer and, if prioritized, updates its
priorities. Raises ImportError if the peer is not installed or has no such thing."""


def torchrl(workload: Workload, source: StepSource, prioritized: bool) -> Work:
    """LazyTensorStorage with SliceSampler or PrioritizedSliceSampler, on one thread.

    The slices' starts and ends are cached, as its documentation advises while nothing is inserted.
    """
    import torch
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it logs to stdout
    batch_size = workload.batch_size * workload.length
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(workload.stored_steps),
        sampler=torchrl_sampler(workload, prioritized),
        batch_size=batch_size,
    )
    for number, episode in enumerate(source.episodes()):
        buffer.extend(torchrl_episode(episode, number))
    priority = torch.rand(batch_size) + 0.1

    def cycle() -> None:
        buffer.update_priority(buffer.sample()["index"], priority)

    return cycle if prioritized else buffer.sample


def torchrl_on_ray(workload: Workload) -> Any:
    """TorchRL's replay owned by a Ray actor, empty; Ray is connected already.

    Raises:
        ImportError: TorchRL is not installed.
    """
    from torchrl.data import LazyTensorStorage, RayReplayBuffer

    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it logs to stdout
    return RayReplayBuffer(
        storage=partial(LazyTensorStorage, workload.stored_steps),
        sampler=partial(torchrl_sampler, workload, False),
        batch_size=workload.batch_size * workload.length,
        remote_config={"num_cpus": 0},
    )


def torchrl_sampler(workload: Workload, prioritized: bool) -> Any:
    """A sampler of `batch_size` slices that TorchRL finds by the number of the episode.

    Raises:
        ImportError: TorchRL is not installed, or its extension does not load and the sampler needs it.
    """
    from torchrl.data.replay_buffers import samplers

    options = {"num_slices": workload.batch_size, "traj_key": "episode", "cache_values": True}
    if not prioritized:
        return samplers.SliceSampler(**options)
    torchrl_tree()
    return samplers.PrioritizedSliceSampler(workload.stored_steps, 0.6, 0.4, **options)


def torchrl_tree() -> Any:
    """TorchRL's sum tree class of float32.

    Raises:
        ImportError: TorchRL is not installed, or its extension does not load.
    """
    from torchrl.data.replay_buffers.samplers import prioritized

    if prioritized.SumSegmentTreeFp32 is None:
        raise ImportError("its extension does not load against this torch; docs/peers.md says how to rebuild it")
    return prioritized.SumSegmentTreeFp32


def torchrl_episode(episode: dict[str, NDArray[Any]], number: int) -> Any:
    """Steps of one episode as a TensorDict whose `episode` key is unique."""
    import torch
    from tensordict import TensorDict

    steps = len(episode["reward"])
    tensors = {key: torch.from_numpy(array) for key, array in episode.items()}
    return TensorDict(tensors | {"episode": torch.full((steps,), number)}, batch_size=[steps])


def cpprb(workload: Workload, source: StepSource, prioritized: bool) -> Work:
    """Items of one whole sequence each: sequences do not overlap."""
    import cpprb

    fields = {
        key: {"shape": (workload.length, *array.shape[1:]), "dtype": array.dtype}
        for key, array in source.block(0).data.items()
    }
    make = cpprb.PrioritizedReplayBuffer if prioritized else cpprb.ReplayBuffer
    buffer = make(workload.stored_steps // workload.length, fields)
    for block in source.blocks():
        buffer.add(**{key: array.reshape(-1, workload.length, *array.shape[1:]) for key, array in block.data.items()})
    priority = np.random.default_rng(0).uniform(0.1, 1.0, workload.batch_size)

    def cycle() -> None:
        buffer.update_priorities(buffer.sample(workload.batch_size)["indexes"], priority)

    return cycle if prioritized else partial(buffer.sample, workload.batch_size)


def rllib(workload: Workload, source: StepSource, prioritized: bool) -> Work:
    """EpisodeReplayBuffer."""
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer

    if prioritized:
        raise ImportError("its prioritized replay has no sequences")
    buffer = EpisodeReplayBuffer(
        workload.stored_steps, batch_size_B=workload.batch_size, batch_length_T=workload.length
    )
    for episode in source.episodes():
        buffer.add(
            SingleAgentEpisode(
                observations=[*episode["image"], episode["image"][-1]],
                actions=list(episode["action"]),
                rewards=episode["reward"].tolist(),
                truncated=True,
                len_lookback_buffer=0,
            )
        )
    sample: Work = buffer.sample
    return sample


def reverb(workload: Workload, source: StepSource, prioritized: bool) -> Work:
    """Reverb runs in no environment that this project supports, so it is named and never timed.

    Raises:
        ImportError: Always.
    """
    raise ImportError("it needs TensorFlow 2.15 and NumPy 1, which do not install beside torch 2.13 and NumPy 2")


PEERS: dict[str, MakePeer] = {
    "TorchRL": torchrl,
    "cpprb": cpprb,
    "RLlib": rllib,
    "Reverb": reverb,
}
"""Name -> constructor."""
PACKAGES = {"TorchRL": "torchrl", "cpprb": "cpprb", "RLlib": "ray"}


def shown(peer: str) -> str:
    """The peer's name with its version."""
    return f"{peer} {importlib.metadata.version(PACKAGES[peer])}"


def why_skipped(peer: str, error: ImportError) -> str:
    """Reason why a peer is not timed, for its row."""
    reason = "not installed" if isinstance(error, ModuleNotFoundError) else str(error)
    logger.warning("%s skipped: %s", peer, error)
    return reason


def make_peer(name: str, workload: Workload, source: StepSource, prioritized: bool) -> Work:
    """One batch of the peer `name`, filled.

    Raises:
        ImportError: It is not installed or lacks what is asked for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers, about each other
        return PEERS[name](workload, source, prioritized)
