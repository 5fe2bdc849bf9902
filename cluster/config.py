"""The typed configuration of a run: composed from presets, a YAML file and dotted overrides.

A run is algorithm x env x scale + overrides. An env or scale preset may hold a section `algorithms`: trees by
the name of an algorithm preset; the one of the chosen algorithm goes over all presets. Unknown keys and wrong
types are refused with the dotted path; the resolved configuration is printed by `worldfleet config` and stored
with the run.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt

from actors.replay.config import ReplayConfig
from cluster.reader import dump_yaml, read_yaml
from cluster.role_config import ActorConfig
from cluster.roles import ROLES
from cluster.tree import build, drop_others, merge, to_tree
from envs.names import nearest
from envs.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt, check_fields
from envs.registry import is_family_name
from learner.algorithms.dreamer_config import DreamerConfig
from learner.algorithms.pets import PetsConfig
from learner.broadcast import BroadcastPrecision
from learner.learner import LearnerConfig
from planners.config import PlannerConfig

PRESET_KINDS = ("algorithms", "envs", "scales")

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

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ActorsConfig:
    """How experience is produced."""

    envs_per_actor: PositiveInt = 8  # environments of a rollout actor
    ticks_per_collect: PositiveInt = 64  # vector steps between two reports to the driver
    block_steps: PositiveInt = 64  # steps of a stored block
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
    stop_budget_seconds: NonNegativeFloat = 20.0  # time the calls in flight may take before the last checkpoint
    stop_exit_code: NonNegativeInt = 0  # of a run that a signal stopped; non-zero where a stop is to be retried
    metrics_port: NonNegativeInt = 0  # Prometheus port of the driver, 0 for none
    ledger: bool = False  # write down every acknowledged block, for `worldfleet audit`

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ScheduleConfig:
    """How long a run is and when it reports."""

    total_steps: int = 20_000  # environment steps
    log_every: int = 500  # environment steps between two lines of metrics.jsonl
    eval_every: int = 0  # environment steps between evaluations, 0 for one at the end only
    eval_episodes: int = 20  # episodes of an evaluation during the run
    checkpoint_every: int = 5_000  # environment steps between checkpoints
    checkpoint_seconds: float = 300.0  # a checkpoint is also taken when the last one is older
    keep_checkpoints: int = 2  # checkpoints kept
    publish_every: int = 16  # learner updates between two versions of the weights

    def __post_init__(self) -> None:
        for name in (
            "total_steps",
            "log_every",
            "eval_episodes",
            "checkpoint_every",
            "keep_checkpoints",
            "publish_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule.{name} must be at least 1, got {getattr(self, name)}")


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
    algorithm: PetsConfig | DreamerConfig = field(default_factory=PetsConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
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

    def count(self, role: str) -> int:
        """How many actors of a role the run has."""
        return ROLES[role].count(self, self.roles[role])

    @property
    def reserved_cpus(self) -> float:
        """Logical CPUs that the run's actors reserve."""
        return sum(self.count(name) * section.cpus for name, section in self.roles.items())

    @property
    def replayed_length(self) -> int:
        """Steps of a sequence drawn from the replay: the trained ones and those that only lead up to them."""
        return self.learner.sequence_length + (
            self.algorithm.context if isinstance(self.algorithm, DreamerConfig) else 0
        )


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
    others = [_env_preset(env), load_preset("scales", scale)]
    own = [preset.pop("algorithms", {}).get(algo, {}) for preset in others]
    for layer in (*others, *own):
        merge(presets, layer)
    return build_run(_changed(presets, [] if config_file is None else [read_file(config_file)], overrides))


def _env_preset(name: str) -> dict[str, Any]:
    return {"env": {"name": name}} if is_family_name(name) else load_preset("envs", name)


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


ELASTIC = ("actors", "cluster", "replay", "roles", "schedule")
"""Sections that may change when a run continues; the others would not fit what was trained."""


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
    """The algorithm presets that each env and scale preset has settings of its own for, if any."""
    presets = {name: load_preset(kind, name) for kind in ("envs", "scales") for name in preset_names(kind)}
    return {name: sorted(preset["algorithms"]) for name, preset in presets.items() if "algorithms" in preset}


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
