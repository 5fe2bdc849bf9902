"""The typed configuration of a run: composed from presets, a YAML file and dotted overrides.

A run is algorithm x env x scale + overrides. An env preset may hold a section `scales`, trees by the name of a scale
preset, and all of these a section `algorithms`, trees by the name of an algorithm preset; what is meant for the chosen
scale goes over the presets, and what is meant for the chosen algorithm over all of them. Unknown keys and wrong
types are refused with the dotted path; the resolved configuration is printed by `worldfleet config` and stored
with the run.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, Lt

from actors.reanalyze_config import REANALYZE, ReanalyzeConfig
from actors.replay.config import ReplayConfig
from actors.replay.exchange import check_exchange
from actors.rollout import MIN_BLOCK_STEPS
from cluster.build import AlgorithmConfig, algorithm_configs
from cluster.build import stages as stages_of
from cluster.reader import dump_yaml, read_yaml
from cluster.role_config import ActorConfig
from cluster.roles import ROLES
from cluster.stages import StageCursor
from cluster.tree import build, drop_others, merge, to_tree
from envs.contract import CHECK_SHARE
from envs.faults import STEP_TIMEOUT_SECONDS
from envs.names import nearest
from envs.numbers import Fraction, NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, check_fields
from envs.registry import is_prefixed_name, known_spec, remember_spec
from envs.specs import EnvSpec
from learner.broadcast import BroadcastPrecision
from learner.learner_config import LearnerConfig
from planners.config import IcemConfig, PlannerConfig

PRESET_KINDS = ("algorithms", "envs", "scales")

_TREE = (
    "simulations", "selection", "sampled_actions", "max_depth", "c1", "c2", "dirichlet_alpha", "dirichlet_fraction",
    "gumbel_scale", "max_considered", "value_scale", "maxvisit_init",
)  # fmt: skip

RENAMED = {
    "cluster.updates_per_permit": "cluster.updates_per_lease",
    "cluster.learner_ranks": "roles.learner.count",
    "cluster.learner_cpus": "roles.learner.cpus",
    "cluster.learner_gpus": "roles.learner.gpus",
    "cluster.rollout_cpus": "roles.rollout.cpus",
    "cluster.planner_cpus": "roles.planner.cpus",
    "cluster.inference_cpus": "roles.inference.cpus",
    "cluster.inference_gpus": "roles.inference.gpus",
    "actors.rollout_actors": "roles.rollout.count",
    "actors.planner_actors": "roles.planner.count",
    "actors.planner_batch": "roles.planner.max_rows",
    "actors.planner_wait_ms": "roles.planner.max_wait_ms",
    "actors.inference_actors": "roles.inference.count",
    "actors.inference_batch": "roles.inference.max_rows",
    "actors.inference_wait_ms": "roles.inference.max_wait_ms",
    **{f"planner.tree.{name}": f"planner.{name}" for name in _TREE},
    "planner.objective": "planner.risk.measure",
    "planner.risk_lambda": "planner.risk.weight",
    **{f"replay.selector.{k}": f"replay.selector.fractions.{k}" for k in ("uniform", "prioritized", "recency", "fifo")},
    "replay.selector.priority_exponent": "replay.selector.exponent",
    "replay.selector.recency_exponent": "replay.selector.exponent",
}
"""Keys of earlier versions and what they are called now."""

_ABSENT = object()


@dataclass(frozen=True)
class EnvConfig:
    """The environment of a run."""

    name: str = "nav3d"  # a name of envs.registry, gym:<id> or dmc:<domain>-<task>
    mode: typing.Literal["serial", "subprocess"] = "serial"  # how an actor steps its environments
    options: dict[str, Any] = field(default_factory=dict)  # passed to the environment, checked by it
    eval_options: dict[str, Any] = field(default_factory=dict)  # replace options of the same name in evaluations
    check_share: Fraction = CHECK_SHARE  # share of later steps whose ranges are checked; 0 for none
    fault_budget: NonNegativeInt = 20  # failures of simulators in 10,000 steps of a rollout actor; 0 allows none
    step_timeout_seconds: NonNegativeFloat = STEP_TIMEOUT_SECONDS  # of one reset or step; 0 for any time

    def __getstate__(self) -> tuple[dict[str, Any], EnvSpec | None]:
        """A configuration takes the spec along to other processes, which then start no simulator for it."""
        return vars(self), known_spec(self.name, self.options)

    def __setstate__(self, state: tuple[dict[str, Any], EnvSpec | None]) -> None:
        values, spec = state
        vars(self).update(values)
        if spec is not None:
            remember_spec(self.name, self.options, spec)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ActorsConfig:
    """How experience is produced."""

    envs_per_actor: Annotated[int, Ge(1), Le(1 << 16)] = 8  # environments of a rollout actor
    ticks_per_collect: PositiveInt = 64  # vector steps between two reports to the driver
    block_steps: Annotated[int, Ge(MIN_BLOCK_STEPS)] = MIN_BLOCK_STEPS  # steps of a stored block
    exploration_std: NonNegativeFloat = 0.1  # Gaussian noise on planned actions, in half widths of the action box
    restarts: NonNegativeInt = 10  # how often a dead actor is replaced before the run stops

    def __post_init__(self) -> None:
        check_fields(self)
        if self.ticks_per_collect % self.block_steps:
            # Steps of an unfinished block would be counted by the limiter without being in the replay.
            raise ValueError(
                f"ticks_per_collect must be a multiple of block_steps {self.block_steps}, got {self.ticks_per_collect}"
            )


@dataclass(frozen=True)
class ClusterConfig:
    """Where the processes run."""

    mode: typing.Literal["ray", "local"] = "ray"  # Ray actors, or everything in this process
    broadcast: BroadcastPrecision = "fp32"  # of the weights that actors pull; "bf16" halves their bytes
    updates_per_lease: PositiveInt = 16  # learner updates between two reports to the driver
    sample_in_flight: PositiveInt = 2  # batches a rank requests ahead
    wait_for_resources_seconds: NonNegativeFloat = 600.0  # how long a run waits for room on a cluster that it joins
    stop_budget_seconds: NonNegativeFloat = 20.0  # within which a run that is stopped has ended, whatever hangs
    stop_exit_code: Annotated[int, Ge(0), Le(255)] = (
        0  # of a run that a signal stopped; non-zero where a stop is to be retried
    )
    dashboard: bool = True  # whether a cluster that the run starts has Ray's dashboard
    metrics_port: Annotated[int, Ge(0), Le(65535)] = 0  # Prometheus port of the driver, 0 for none
    ledger: bool = False  # write down every acknowledged block, for `worldfleet audit`

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ScheduleConfig:
    """How long a run is and when it reports.

    What is due every so many environment steps is due every so many updates while a run only trains.
    """

    total_steps: PositiveInt = 20_000  # environment steps
    pretrain_updates: NonNegativeInt = 0  # of the world model alone, on the first replay.limiter.min_size steps
    fit_updates: NonNegativeInt = 0  # made after all steps are collected; 0 trains meanwhile, as the limiter allows
    from_replay: str | None = None  # run directory or replay folder whose steps are trained on; nothing is collected,
    # and fit_updates 0 stands for as many as a run of total_steps makes meanwhile
    log_every: PositiveInt = 500  # environment steps between two lines of metrics.jsonl
    eval_every: NonNegativeInt = 0  # environment steps between evaluations, the last after the last step; 0 for none
    eval_episodes: PositiveInt = 20  # episodes of an evaluation during the run
    eval_max_steps: NonNegativeInt = 0  # steps after which an episode of an evaluation is cut; 0 for the limit that the
    # environment declares, or 5,000 where it declares none
    checkpoint_every: PositiveInt = 5_000  # environment steps between checkpoints
    checkpoint_seconds: PositiveFloat = 300.0  # a checkpoint is also taken when the last one is older
    keep_checkpoints: PositiveInt = 2  # checkpoints kept
    publish_every: PositiveInt = 16  # learner updates between two versions of the weights

    def __post_init__(self) -> None:
        check_fields(self)


def read_roles(tree: Any) -> dict[str, ActorConfig]:
    """The sections of all roles, from the tree `roles` of a configuration.

    Raises:
        ValueError: An unknown role or key, a wrong type or an invalid value, named by its dotted path.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"roles must be a mapping of {sorted(ROLES)}, got {tree!r}")
    sections = {name: role.section for name, role in ROLES.items()}
    for name, below in tree.items():
        if name not in ROLES:
            raise ValueError(f"unknown configuration key 'roles.{name}'{nearest(str(name), ROLES)}")
        default = ROLES[name].section
        if not isinstance(below, Mapping):
            raise ValueError(f"roles.{name} must be a mapping of {sorted(to_tree(default))}, got {below!r}")
        sections[name] = build(type(default), {**to_tree(default), **below}, f"roles.{name}.")
    return sections


@dataclass(frozen=True)
class RunConfig:
    """A complete run. Every field has a default; presets fill in what a combination needs."""

    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    env: EnvConfig = field(default_factory=EnvConfig)
    algorithm: Annotated[AlgorithmConfig, OneOf(algorithm_configs)] = field(
        default_factory=lambda: algorithm_configs()[0]()
    )
    planner: PlannerConfig = field(default_factory=IcemConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    reanalyze: ReanalyzeConfig = field(default_factory=ReanalyzeConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    roles: dict[str, ActorConfig] = field(default_factory=lambda: read_roles({}))  # by the names of `cluster.roles`
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        ranks, batch_size = self.count("learner"), self.learner.batch_size
        if batch_size % ranks:
            raise ValueError(
                f"learner.batch_size {batch_size} must be a multiple of roles.learner.count {ranks}, which share it"
            )
        if REANALYZE in self.replay.views:
            raise ValueError(f"replay.views.{REANALYZE} is what reanalyze.selector says: leave it out")
        parts = self.algorithm.exchange, self.viewed_replay, self.learner, self.reanalyze
        check_exchange(self.algorithm.name, *parts)
        _ = self.stages  # refuses a schedule that cannot be run

    @property
    def stages(self) -> StageCursor:
        """What the run does, from its beginning."""
        return StageCursor(stages_of(self), self.schedule.total_steps)

    def count(self, role: str) -> int:
        """How many actors of a role the run has."""
        record = ROLES[role]
        return 0 if record.collects and not self.stages.collects else record.count(self, self.roles[role])

    @property
    def viewed_replay(self) -> ReplayConfig:
        """The replay, with the view of those who make targets anew if there are any."""
        if self.reanalyze.fraction == 0:
            return self.replay
        return replace(self.replay, views={**self.replay.views, REANALYZE: self.reanalyze.selector})

    @property
    def reserved_cpus(self) -> float:
        """Logical CPUs that the run's actors reserve."""
        return sum(self.count(name) * section.cpus for name, section in self.roles.items())

    @property
    def replayed_length(self) -> int:
        """Steps of a sequence drawn from the replay: the trained ones and those that only lead up to them."""
        return self.learner.sequence_length + self.algorithm.context


def resolve(
    algo: str,
    env: str,
    scale: str,
    config_file: Path | None = None,
    overrides: Iterable[str] = (),
) -> RunConfig:
    """Compose presets, an optional YAML file and `a.b=value` overrides, in that order.

    Raises:
        ValueError: An unknown preset or key (with the nearest name), a wrong type or an invalid value.
    """
    presets = load_preset("algorithms", algo)
    of_env = _env_preset(env)
    of_env_at_scale = of_env.pop("scales", {}).get(scale, {})
    others = [of_env, load_preset("scales", scale), of_env_at_scale]
    own = [preset.pop("algorithms", {}).get(algo, {}) for preset in others]
    for layer in (*others, *own):
        merge(presets, layer)
    return build_run(_changed(presets, [] if config_file is None else [read_file(config_file)], overrides))


def _env_preset(name: str) -> dict[str, Any]:
    return {"env": {"name": name}} if is_prefixed_name(name) else load_preset("envs", name)


def build_run(tree: Mapping[str, Any]) -> RunConfig:
    """A run's configuration from its tree.

    Raises:
        ValueError: As `cluster.tree.build`; or a key of an earlier version, with its new name.
    """
    for old, new in RENAMED.items():
        below: Any = tree
        for key in old.split("."):
            below = below.get(key, _ABSENT) if isinstance(below, Mapping) else _ABSENT
        if below is not _ABSENT:
            raise ValueError(f"configuration key {old!r} is now called {new!r}")
    return build(RunConfig, {**tree, "roles": read_roles(tree.get("roles", {}))})


ELASTIC = (
    "actors", "cluster", "replay", "roles", "schedule",
    "env.mode", "env.check_share", "env.fault_budget", "env.step_timeout_seconds",
)  # fmt: skip
"""Sections and keys that may change when a run continues; the others would not fit what was trained."""


def override(
    config: RunConfig, overrides: Iterable[str], allowed: Sequence[str] = ELASTIC, who: str = "a run that continues"
) -> RunConfig:
    """A stored configuration with some of its keys changed.

    Args:
        config: The configuration.
        overrides: `a.b=value` each.
        allowed: Keys that may change, with all below them.
        who: Whose changes these are, for the message.

    Raises:
        ValueError: As `resolve`; or a key that may not change.
    """
    overrides = list(overrides)
    for text in overrides:
        key = text.partition("=")[0].strip()
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise ValueError(f"{who} may change keys of {', '.join(allowed)}, not {text!r}")
    return build_run(_changed(to_tree(config), [], overrides))


def _changed(tree: dict[str, Any], layers: Iterable[Mapping[str, Any]], overrides: Iterable[str]) -> dict[str, Any]:
    """A tree with what the user asks for, less what only other members of a union have."""
    asked: dict[str, Any] = {}
    for layer in (*layers, *map(parse_override, overrides)):
        merge(asked, layer)
    drop_others(RunConfig, tree, asked)
    merge(tree, asked)
    return tree


def preset_names(kind: str) -> list[str]:
    """Names of the presets of a kind (`algorithms`, `envs` or `scales`)."""
    folder = resources.files("cluster") / "presets" / kind
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def tuned_algorithms() -> dict[str, list[str]]:
    """The algorithm presets that env and scale presets have settings of their own for, by `env`, `scale` or both."""
    presets = {name: load_preset(kind, name) for kind in ("envs", "scales") for name in preset_names(kind)}
    both = {
        f"{name} {scale}": tree for name, preset in presets.items() for scale, tree in preset.get("scales", {}).items()
    }
    return {name: sorted(tree["algorithms"]) for name, tree in (presets | both).items() if "algorithms" in tree}


def load_preset(kind: str, name: str) -> dict[str, Any]:
    """The tree of one preset."""
    names = preset_names(kind)
    if name not in names:
        raise ValueError(
            f"unknown {kind.removesuffix('s')} preset {name!r}{nearest(name, names)}; see `worldfleet presets`"
        )
    text = (resources.files("cluster") / "presets" / kind / f"{name}.yaml").read_text()
    return read_yaml(text, f"{kind}/{name}.yaml") or {}


def read_file(path: Path) -> dict[str, Any]:
    """A configuration tree from a YAML file."""
    try:
        tree = read_yaml(path.read_text(), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no mapping of configuration keys")
    return tree


def parse_override(text: str) -> dict[str, Any]:
    """`a.b=value` as a tree; the value is read as YAML."""
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise ValueError(f"override {text!r} is not of the form key.subkey=value")
    tree: Any = read_yaml(value, f"the value of {path}")
    for key in reversed(path.split(".")):
        tree = {key: tree}
    return typing.cast(dict[str, Any], tree)


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML text; `build_run(read_yaml(text, ...))` gives it back."""
    return dump_yaml(to_tree(config))
