"""Types of the extension; import from ``native``."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

class Ensemble:
    """An ensemble of MLP dynamics models, packed for this machine's instruction set.

    Letters: B problems, N candidates, H horizon, A action size, S state size, P particles, K members, M rows.
    Results are equal, bit for bit, for any number of threads and for a problem alone or in a batch. A NaN in an
    observation, an action or a prediction gives NaN for the returns it reaches. Arrays must be C-contiguous and of
    the stated dtype (TypeError otherwise); other invalid arguments raise ValueError before anything is computed.
    """

    def __init__(
        self,
        weights: dict[str, NDArray[Any]],
        precision: str = "auto",
        isa: str | None = None,
        threads: int = 1,
    ) -> None:
        """Checks and packs a weights record; the record is not kept.

        Args:
            weights: "weight_i" [K, in, out], "bias_i" [K, out], "input_shift", "input_scale" [S+A], "output_shift",
                "output_scale" [S+1], "min_logvar", "max_logvar" [S+1] if Gaussian, all float32; "activation" uint8
                ascii of silu, relu, tanh or elu; "gaussian", "has_termination" int64 0 or 1. Others are ignored.
            precision: "fp32"; "bf16", which rounds weights and layer inputs, and needs AMX or AVX512-BF16; "auto" is
                bf16 where there is hardware for it, else fp32.
            isa: forces "scalar", "avx2", "avx512", "avx512bf16" or "amx".
            threads: threads of every call, the caller's included.

        Raises:
            ValueError: an inconsistent record, or a precision or isa that the machine lacks.
        """

    @property
    def num_members(self) -> int: ...
    @property
    def state_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    @property
    def is_gaussian(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str:
        """The instruction set in use."""

    @property
    def precision(self) -> Literal["fp32", "bf16"]: ...
    def rollout(
        self,
        observation: NDArray[np.float32],
        actions: NDArray[np.float32],
        seeds: NDArray[np.uint64],
        particles: int,
        propagation: str,
        gamma: float,
        sample: bool,
    ) -> NDArray[np.float32]:
        """Particle returns [B, N, P]: sum over h of gamma^h prod_{j<h} (1 - done_j) reward_h.

        Args:
            observation: [B, S].
            actions: [B, N, H, A].
            seeds: [B] seeds of the particles' noise and, with "ts1", of the members' permutations.
            particles: P, a multiple of K.
            propagation: "ts_inf": particle p follows member p % K for ever; "ts1": in step h it follows member
                permutation_h[p] % K, with one permutation of the particles per step and problem, shared by all
                candidates (Chua et al., 2018, section 5.1, here stratified).
            gamma: discount in [0, 1].
            sample: Gaussian members draw the state delta and the reward instead of using the mean.
        """

    def trajectories(
        self,
        observation: NDArray[np.float32],
        actions: NDArray[np.float32],
        seeds: NDArray[np.uint64],
        particles: int,
        propagation: str,
        sample: bool,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """States [B, P, H+1, S] (the first is the observation) and rewards [B, P, H] of one sequence per problem.

        Args are those of rollout, but actions is [B, H, A]. Termination does not end a trajectory.
        """

    def predict(
        self, state: NDArray[np.float32], action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Mean [K, M, S+1] and variance [K, M, S+1] of (state delta, reward), and probability of termination [K, M].

        Physical units; the variance is 0 for deterministic members, the probability 0 without a termination output.
        Args: state [M, S], action [M, A].
        """

def particle_members(seed: int, horizon: int, particles: int, num_members: int, propagation: str) -> NDArray[np.int32]:
    """The member [H, P] that moves each particle in each step of a rollout with this seed."""

def cpu_features() -> dict[str, bool]:
    """Usable instruction sets: avx2, avx512, avx512bf16, amx_bf16."""

def build_info() -> dict[str, Any]:
    """Compiler, C++ standard and whether assertions are compiled in."""
