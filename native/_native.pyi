"""Types of the extension; import from ``native``."""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

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
            threads: threads of every call, the caller's included. More than 1 do not survive a fork(): build the
                ensemble in the process that uses it.

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
    @overload
    def rollout(
        self,
        observation: NDArray[np.float32],
        actions: NDArray[np.float32],
        seeds: NDArray[np.uint64],
        particles: int,
        propagation: str,
        gamma: float,
        sample: bool,
        states: Literal[True],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    @overload
    def rollout(
        self,
        observation: NDArray[np.float32],
        actions: NDArray[np.float32],
        seeds: NDArray[np.uint64],
        particles: int,
        propagation: str,
        gamma: float,
        sample: bool,
        states: Literal[False] = False,
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
            states: also return the states [B, N, P, H+1, S], of which the first is the observation. A termination
                ends the return, but not the path.
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

class Mcts:
    """Monte Carlo tree search over a learned model, for a batch of roots; the caller runs the model.

    ``begin`` names one leaf per root; ``expand`` takes the model's evaluation of the leaves and names the next ones.
    Node 0 is the root and node s is what simulation s (1 to S) expanded; one that max_depth stopped evaluates an
    expanded node again, and so does one that reached a state without a valid action. Each node's own evaluation counts
    as a visit. A root's tree depends on its own inputs and seed alone, whatever its batch and the threads. A search
    keeps its memory for the next ``begin``.

    Letters: B roots, S simulations, A actions of the model, N actions of a node: all A, or the K drawn of them. Arrays
    must be C-contiguous and of the stated dtype (TypeError otherwise); other invalid arguments raise ValueError before
    anything changes.

    Sampled actions (Hubert et al. 2021, arXiv:2104.06303, section 5.1): K ids of every node, the root included, are
    drawn with replacement from the proposal beta(a) ~ pi(a)^(1 / tau) over its valid ids, where pi is the softmax of
    the logits and tau the proposal_temperature. With beta^(a) = (draws of a) / K, each id found is kept once, in order
    of ids, with the prior pi^(a) = (beta^(a) / beta(a)) pi(a), divided by the sum over the ids found; for tau = 1 it is
    beta^. PUCT and Gumbel use pi^ in place of pi, so the weights are an improved policy over the ids found, Z^_beta
    included. Samples of a box are the caller's: pass K as num_actions and log(pi / beta) as logits.
    """

    def __init__(
        self,
        *,
        num_actions: int,
        simulations: int,
        selection: Literal["puct", "gumbel"] = "puct",
        max_depth: int = 0,
        sampled_actions: int = 0,
        proposal_temperature: float = 1.0,
        normalisation: Literal["siblings", "tree", "bounds"] = "siblings",
        min_value: float = 0.0,
        max_value: float = 1.0,
        min_range: float = 1e-8,
        c1: float = 1.25,
        c2: float = 19652.0,
        dirichlet_alpha: float = 0.3,
        dirichlet_fraction: float = 0.0,
        gumbel_scale: float = 0.0,
        max_considered: int = 16,
        value_scale: float = 0.1,
        maxvisit_init: float = 50.0,
        rescale: bool = True,
        mixed_value: bool = True,
        threads: int = 1,
    ) -> None:
        """Configures the search.

        Args:
            num_actions: A.
            simulations: S.
            selection: "puct" (Schrittwieser et al. 2020, appendix B; unvisited actions have the least Q value) or
                "gumbel" (Danihelka et al. 2022).
            max_depth: actions from the root to a leaf at most; 0 for no limit.
            sampled_actions: K; 0 takes all actions.
            proposal_temperature: of the proposal that they are drawn from.
            normalisation: what scales Q values to [0, 1]: "siblings", the extremes of a node's own value and its
                visited children's (of the completed Q values for Gumbel); "tree", the extremes of the whole tree so
                far: its root's value and the Q values of its visited actions; "bounds", min_value and max_value.
            min_value, max_value: with "bounds".
            min_range: extremes closer than this are taken to be this far apart.
            c1, c2: exploration of PUCT.
            dirichlet_alpha, dirichlet_fraction: noise in the root's prior, over its valid actions (PUCT).
            gumbel_scale: of the noise on the root's logits (Gumbel); 0 for none.
            max_considered: valid actions that the sequential halving starts with (Gumbel).
            value_scale, maxvisit_init: a completed Q value counts (maxvisit_init + most visits of a child) times
                value_scale logits (Gumbel).
            rescale: scale the completed Q values of a node first (Gumbel).
            mixed_value: complete Q values by the mixed value, by the node's own evaluation otherwise (Gumbel).
            threads: threads of every call, the caller's included.

        Raises:
            ValueError: A value is out of range.
        """

    @property
    def simulation(self) -> int:
        """Simulations done."""

    def begin(
        self,
        logits: NDArray[np.float32],
        value: NDArray[np.float32],
        seeds: NDArray[np.uint64],
        invalid: NDArray[np.bool_] | None = None,
        noise: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts a search.

        Args:
            logits: [B, A] of the root's prior.
            value: [B] of the root.
            seeds: [B] of the roots' noise.
            invalid: [B, A] what the roots may not do, None for nothing.
            noise: whether the configured noise disturbs the roots; without it the search is for evaluation.

        Returns:
            parent [B] and action [B] of the leaves; every ``expand`` overwrites both.

        Raises:
            ValueError: A root has no valid action, or a number is not finite; the row is named.
        """

    def begin_kept(
        self,
        logits: NDArray[np.float32],
        value: NDArray[np.float32],
        seeds: NDArray[np.uint64],
        trees: NDArray[np.uint8],
        taken: NDArray[np.int64],
        invalid: NDArray[np.bool_] | None = None,
        noise: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """``begin`` with what lies below the actions that were taken in earlier searches, for PUCT over all actions.

        Roots have the new evaluation and the visits that they had, which count among the S simulations. New nodes
        follow those that are kept. What is kept was evaluated by the model of then.

        Args:
            logits, value, seeds, invalid, noise: as for ``begin``.
            trees: [B, bytes] of ``save``.
            taken: [B] ids, -1 to keep nothing.

        Returns:
            parent [B] and action [B] of the leaves, as ``begin``; the node [B, S + 1] of the saved tree that each node
            was, -1 for none; and the simulations [B] that each root makes. It ignores the evaluations of later ones.

        Raises:
            ValueError: As ``begin``; or the search is not by PUCT over all actions, or an id is too large.
        """

    def save(self) -> NDArray[np.uint8]:
        """The trees as they are [B, bytes], for ``begin_kept`` of a search with the same configuration."""

    @property
    def tree_size(self) -> int:
        """Bytes of a saved tree."""

    @property
    def done(self) -> bool:
        """Whether all simulations are done."""

    def expand(
        self,
        logits: NDArray[np.float32],
        value: NDArray[np.float32],
        reward: NDArray[np.float32],
        discount: NDArray[np.float32],
        invalid: NDArray[np.bool_] | None = None,
    ) -> None:
        """Takes the evaluation of the leaves and names the next ones, unless the search is done.

        Args:
            logits: [B, A] of the leaves' prior.
            value: [B] of the leaves.
            reward: [B] of the step to each leaf.
            discount: [B] of what comes after that step: 0 after a terminal one, negative where the other player moves
                next.
            invalid: [B, A] what may not be done at the leaves, None for nothing. Searches end where nothing may be.

        Raises:
            ValueError: The search is done or not begun, or a number is not finite; the row is named.
        """

    def actions(self) -> NDArray[np.int64]:
        """The roots' actions [B, N], -1 where there is none: invalid, or fewer found than drawn."""

    def root(self) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """visits [B, N] of the roots' actions, their Q values [B, N] (NaN where not visited), mean values [B]."""

    def policy(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """weights [B, N] to learn from and the place [B] of the best of the roots' ``actions``.

        Shares of the visits and the first of the most visited (PUCT); the improved policy and what the sequential
        halving leaves over (Gumbel).
        """

    def nodes(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """parent, action (-1 for none), visits and value [B, S + 1] of all nodes; unused ones have 0 visits."""

    def details(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """prior of the action that led to each node, its reward, its discount, and the node's evaluation [B, S + 1]."""

class RowGather:
    """Copies runs of consecutive rows of several arrays into contiguous outputs.

    Arrays must be C-contiguous and of the stated dtype; invalid arguments raise ValueError before anything is copied.
    """

    def __init__(self, arrays: list[NDArray[Any]], threads: int = 1) -> None:
        """Keeps the arrays, which must have equally many rows.

        Args:
            arrays: Arrays [rows, ...] of any dtype; later changes of their content are seen.
            threads: threads of every call, the caller's included; the result does not depend on it. More than 1 do
                not survive a fork().
        """

    def gather(self, first: NDArray[np.int64], count: NDArray[np.int64], out: list[NDArray[Any]]) -> None:
        """Copies rows first[i] .. first[i] + count[i] - 1, run behind run, from every array into its output.

        Args:
            first: first row of each run.
            count: rows of each run.
            out: one writeable array per array, of its dtype and with as many bytes as the runs have.
        """

    def gather_chains(
        self,
        chunk: NDArray[np.int64],
        offset: NDArray[np.int64],
        length: int,
        chunk_steps: int,
        next_chunk: NDArray[np.int64],
        out: list[NDArray[Any]],
    ) -> None:
        """Copies sequences that follow chains of chunks; chunk c has `chunk_steps` rows from c * chunk_steps on.

        Args:
            chunk: chunk of the first step of each sequence.
            offset: its place in the chunk.
            length: steps of a sequence.
            chunk_steps: rows of a chunk.
            next_chunk: [chunks] the chunk with the steps after each chunk's last.
            out: as in gather.
        """

class Search:
    """Configuration of a sampling search over action sequences in a box: CEM, iCEM, MPPI, random shooting. Immutable.

    Letters: B problems, N candidates, E reused elites, H horizon, A action size. Raises ValueError for numbers out of
    range.
    """

    def __init__(
        self,
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        *,
        horizon: int,
        population: int,
        elites: int,
        iterations: int,
        momentum: float = 0.1,
        noise_beta: float = 0.0,
        population_decay: float = 1.0,
        keep_fraction: float = 0.0,
        init_std: float = 0.5,
        min_std: float = 0.0,
        temperature: float = 1.0,
        sampling: str = "gaussian",
        weighting: str = "uniform",
        update_std: bool = True,
        include_mean: bool = False,
        execute_best: bool = False,
        warm_start: bool = True,
    ) -> None:
        """Fixes the search.

        Args:
            low: [A] lower bounds, finite.
            high: [A] upper bounds, finite; equal bounds fix an action.
            horizon: H.
            population: candidates of iteration 0.
            elites: best candidates that refit the distribution.
            iterations: asks and tells of a plan.
            momentum: share of the old mean and standard deviation that a refit keeps.
            noise_beta: the noise's power spectrum falls as frequency^-beta (Pinneri et al., 2020); variance stays 1.
            population_decay: iteration i has population * decay^-i candidates, at least 2 * elites.
            keep_fraction: share of the elites that joins the next iteration's and the next plan's candidates.
            init_std: standard deviation of iteration 0, in half-widths of the box.
            min_std: smallest standard deviation, in half-widths of the box.
            temperature: of the softmax, in units of the score.
            sampling: "gaussian" (clipped to the box), "truncated" (white, cut at two standard deviations that fit in
                the box; Chua et al., 2018) or "uniform" in the box.
            weighting: "uniform" or "softmax" (Williams et al., 2017) weights of the elites.
            update_std: whether a refit changes the standard deviation.
            include_mean: the last candidate of the last iteration is the mean.
            execute_best: the plan is the best candidate of the last iteration instead of the mean.
            warm_start: start from the carry instead of the middle of the box.
        """

    @property
    def num_kept(self) -> int:
        """E, the elites that a carry holds."""

    def num_candidates(self, iteration: int) -> int:
        """N of an iteration."""

    def begin(
        self,
        mean: NDArray[np.float32],
        elites: NDArray[np.float32],
        has_elites: NDArray[np.bool_],
        seed: NDArray[np.uint64],
        step: NDArray[np.int64],
        is_first: NDArray[np.bool_],
    ) -> SearchState:
        """Starts a plan of B problems from their carries; rows with is_first [B] forget mean and elites.

        Args:
            mean: [B, H, A] of the last plan, shifted by one step.
            elites: [B, E, H, A] of the last plan, shifted by one step.
            has_elites: [B].
            seed: [B] root of the random numbers.
            step: [B] plans made so far.
            is_first: [B].
        """

class SearchState:
    """A plan in progress: ask and tell by turns (ValueError out of turn), then finish. Not thread-safe."""

    @property
    def iteration(self) -> int:
        """Tells so far."""

    def ask(self) -> NDArray[np.float32]:
        """Candidates [B, N, H, A] of the next iteration, inside the box; the array is the caller's."""

    def noise_seeds(self) -> NDArray[np.uint64]:
        """Seeds [B] of the model's noise in this iteration; after the last tell, for evaluating the plan."""

    def tell(self, scores: NDArray[np.float32], violations: NDArray[np.float32] | None = None) -> None:
        """Refits to the scores [B, N], higher is better.

        With violations of constraints [B, N], 0 where there is none, feasible candidates rank first, by score, then
        the others by violation; a softmax weighs only those of the least violation.

        A score that is not finite ranks last and never becomes an elite; a problem without a finite score keeps its
        distribution.
        """

    def best(self) -> NDArray[np.float32]:
        """Best candidate [B, H, A] of the last iteration; the mean if all failed."""

    def finish(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
        """Plan [B, H, A] and the next carry's mean, elites, has_elites and step (the last action is repeated)."""

class SumTree:
    """Draws leaves in proportion to their float64 priorities (Schaul et al., 2016, appendix B.2.1).

    Every sum is at all times the rounded sum of its children, whatever the order of the updates: errors do not
    accumulate. Not thread-safe. Arrays must be C-contiguous and of the stated dtype (TypeError otherwise); an index
    outside the tree and a priority that is NaN, negative or above max_priority raise ValueError before anything
    changes.
    """

    def __init__(self, size: int) -> None:
        """A tree of `size` leaves of priority 0."""

    @property
    def size(self) -> int: ...
    @property
    def total(self) -> float:
        """Sum of the priorities."""

    @property
    def max_priority(self) -> float:
        """The largest priority a leaf may have; as many as the tree has leaves keep the total finite."""

    def update(self, index: NDArray[np.int64], priority: NDArray[np.float64]) -> None:
        """Sets the leaves index [n] to priority [n]; of repeated indices the last wins."""

    def assign(self, first: int, priority: NDArray[np.float64]) -> None:
        """Sets the leaves from `first` on to priority [n]."""

    def fill(self, first: int, count: int, priority: float) -> None:
        """Sets `count` leaves from `first` on to one priority."""

    def get(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Priorities [n] of the leaves index [n]."""

    def sample(self, uniform: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The leaves [n] in which uniform * total falls, and their priorities [n]; never a leaf of priority 0.

        Args:
            uniform: [n] in [0, 1); equally spaced ones with one jitter each make the draw stratified.

        Raises:
            ValueError: the total is 0, or a uniform lies outside [0, 1).
        """

def halving_sequence(considered: int, simulations: int) -> list[int]:
    """Visits of the considered actions before each simulation of a sequential halving (Karnin et al. 2013).

    Raises:
        ValueError: considered is below 1 or simulations below 0.
    """

def particle_members(seed: int, horizon: int, particles: int, num_members: int, propagation: str) -> NDArray[np.int32]:
    """The member [H, P] that moves each particle in each step of a rollout with this seed."""

def risk_scores(
    returns: NDArray[np.float32],
    *,
    measure: str = "mean",
    parameter: float = 0.0,
    part: str = "both",
    members: int = 1,
) -> NDArray[np.float32]:
    """Scores [...] of particle returns [..., P], higher is better; a NaN among a row's returns gives NaN.

    Args:
        returns: C-contiguous; particle p is of member p % members.
        measure: "mean", "mean_std", "var", "cvar", "worst" or "entropic".
        parameter: lambda of mean_std, alpha of var and cvar, theta of entropic.
        part: "both", over all particles; "epistemic", over the members' means; "aleatoric", over the particles of each
            member, then the mean over members.
        members: K, of which P is a multiple.
    """

def crc32(buffer: Buffer, crc: int = 0) -> int:
    """CRC-32 of the bytes of a C-contiguous buffer, behind data whose checksum is `crc`: zlib's function, faster."""

def cpu_features() -> dict[str, bool]:
    """Usable instruction sets: pclmul, vpclmul, avx2, avx512, avx512bf16, amx_bf16."""

def build_info() -> dict[str, Any]:
    """Digest of the sources (see native.sources), compiler, C++ standard and whether assertions are compiled in."""

vehicle_columns: tuple[str, ...]
"""Names of the columns of a table of vehicles.

Metres, seconds and radians; z up, y to the right of x, angles clockwise seen from above. forward and side are the
velocity along and to the right of the body; limit is in km/h; steer, throttle and brake are the driver's.
"""

steering_curve: tuple[tuple[float, float], ...]
"""Share of the steering that is left at a speed in km/h, linear between these points."""

def step_vehicles(table: NDArray[np.float64], count: int, seconds: float) -> None:
    """Moves vehicles on: a dynamic bicycle model whose tyres slide, in steps of at most 0.03 s.

    Args:
        table: [columns, capacity], changed in place.
        count: Vehicles in the table.
        seconds: More than 0.
    """

class Traffic:
    """Rule-based drivers that keep their lanes, their gaps and the traffic lights.

    Pure pursuit of the lane, the intelligent driver model for the gap (Treiber, Hennecke and Helbing, 2000), junction
    lanes that come near each other entered by one at a time. The same calls give the same controls.
    """

    def __init__(
        self,
        points: NDArray[np.float64],
        first: NDArray[np.int64],
        next_first: NDArray[np.int64],
        next: NDArray[np.int64],
        left: NDArray[np.int64],
        right: NDArray[np.int64],
        junction: NDArray[np.int64],
        limit: NDArray[np.float64],
        gate: NDArray[np.int64],
    ) -> None:
        """Takes a lane network.

        Args:
            points: [P, 3] x, y and yaw along the lanes.
            first: [lanes + 1] where the points of each lane begin.
            next_first: [lanes + 1] where the successors of each lane begin.
            next: Successors.
            left: [lanes] lane beside it in the same direction, -1 for none.
            right: Likewise.
            junction: [lanes] -1 outside junctions.
            limit: [lanes] m/s.
            gate: [lanes] traffic light that must be green to enter, -1 for none.

        Raises:
            ValueError: The network is inconsistent.
        """

    def add(self, number: int, seed: int) -> None:
        """A new driver, whose turns and eagerness depend on the seed."""

    def remove(self, number: int) -> bool:
        """Whether there was such a driver."""

    def __len__(self) -> int: ...
    def step(
        self,
        table: NDArray[np.float64],
        count: int,
        rows: NDArray[np.int64],
        points: NDArray[np.int64],
        obstacles: NDArray[np.float64],
        is_green: NDArray[np.uint8],
        seconds: float,
    ) -> None:
        """Sets throttle, steer and brake of the drivers' vehicles.

        Args:
            table: [columns, capacity] of step_vehicles.
            count: Vehicles in the table.
            rows: [drivers] rows of their vehicles, in the order of their coming.
            points: [count] nearest lane point of each vehicle, -1 for none.
            obstacles: [N, 5] x, y, velocity and radius of what else is in the way.
            is_green: [lights].
            seconds: Until the next call.
        """

    def nearest(
        self, x: NDArray[np.float64], y: NDArray[np.float64], yaw: NDArray[np.float64], use_yaw: bool
    ) -> NDArray[np.int64]:
        """Lane points [N] nearest to places within 8 m, -1 for none; points of another direction count as farther."""

class RayScene:
    """Ground and boxes into which rays are cast; results are equal for any number of threads."""

    def __init__(
        self,
        classes: NDArray[np.uint8],
        corner: NDArray[np.float64],
        cell: float,
        outside: int,
        heights: NDArray[np.float32],
        height_cell: float,
        palette: NDArray[np.uint8],
        threads: int = 1,
    ) -> None:
        """Takes the ground.

        Args:
            classes: [columns, rows] tags of its cells, rows along y.
            corner: [2] lower corner, metres.
            cell: Size of a cell, metres.
            outside: Tag beyond the cells.
            heights: [columns, rows] at the corners of coarser cells; [0, 0] for the plane z = 0.
            height_cell: Their size, metres.
            palette: [32, 3] colors of the tags.
            threads: Of every call.
        """

    def set_boxes(self, boxes: NDArray[np.float64], labels: NDArray[np.uint32], colors: NDArray[np.uint8]) -> None:
        """Takes the boxes: [N, 15] centre, half sizes, forward, right, up; [N, 2] object and tag; [N, 3] colors."""

    def cast(
        self, origin: NDArray[np.float64], directions: NDArray[np.float64], range: float, ignored: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.float32]]:
        """Distances [R], infinite for nothing; tags; objects; cosines to the normal of what is met.

        Args:
            origin: [3].
            directions: [R, 3] unit vectors.
            range: Nothing beyond it is met, metres.
            ignored: Object whose boxes let rays through.
        """

    def draw(
        self,
        origin: NDArray[np.float64],
        axes: NDArray[np.float64],
        width: int,
        height: int,
        fov: float,
        kind: str,
        light: NDArray[np.float64],
        ignored: int = 0,
    ) -> NDArray[np.uint8]:
        """A picture [height, width, 4]: blue, green, red, opaque.

        Args:
            origin: [3].
            axes: [9] forward, right and up of the camera.
            width: Pixels.
            height: Pixels.
            fov: Horizontal angle, radians.
            kind: "color", "tags" (in red), or "depth" (red + 256 green + 65536 blue, over 2^24 - 1 of a kilometre).
            light: [5] unit vector to the sun, brightness, fog per metre.
            ignored: As in cast.
        """
