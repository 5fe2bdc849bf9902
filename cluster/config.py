"""The typed configuration of a run: composed from presets, a YAML file and dotted overrides.

A run is algorithm x env x scale + overrides. An env or scale preset may hold a section `algorithms`: trees by
the name of an algorithm preset; the one of the chosen algorithm goes over all presets. Unknown keys and wrong
types are refused with the dotted path; the resolved configuration is printed by `worldfleet config` and stored
with the run.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from actors.replay.config import ReplayConfig
from envs.contract import CHECK_SHARE
from envs.registry import is_prefixed_name, known_spec, remember_spec
from envs.specs import EnvSpec
from learner.algorithms.dreamer_config import DreamerConfig
from learner.algorithms.pets import PetsConfig
from learner.broadcast import BroadcastPrecision
from learner.learner import LearnerConfig
from planners.config import PlannerConfig

T = TypeVar("T")
PRESET_KINDS = ("algorithms", "envs", "scales")


@dataclass(frozen=True)
class EnvConfig:
    """The environment of a run."""

    name: str = "nav3d"  # a name of envs.registry, gym:<id> or dmc:<domain>-<task>
    mode: typing.Literal["serial", "subprocess"] = "serial"  # how an actor steps its environments
    options: dict[str, Any] = field(default_factory=dict)  # passed to the environment, checked by it
    eval_options: dict[str, Any] = field(default_factory=dict)  # replace options of the same name in evaluations
    check_share: float = CHECK_SHARE  # share of later steps whose observations are checked for their range; 0 for none

    def __getstate__(self) -> tuple[dict[str, Any], EnvSpec | None]:
        """A configuration takes the spec along to other processes, which then start no simulator for it."""
        return vars(self), known_spec(self.name, self.options)

    def __setstate__(self, state: tuple[dict[str, Any], EnvSpec | None]) -> None:
        values, spec = state
        vars(self).update(values)
        if spec is not None:
            remember_spec(self.name, self.options, spec)


@dataclass(frozen=True)
class ActorsConfig:
    """How many producers of experience there are and how they plan."""

    rollout_actors: int = 1  # processes that step environments
    envs_per_actor: int = 8  # environments of each
    planner_actors: int = (
        1  # processes that plan for rollout actors, if the algorithm plans in C++; 0 plans inside them
    )
    planner_batch: int = 64  # problems a planner actor gathers at most
    planner_wait_ms: float = 2.0  # how long it waits for more
    inference_actors: int = 0  # processes that serve the actions of any other policy; 0 acts in the rollout actors
    inference_batch: int = 256  # environments an inference actor gathers at most
    inference_wait_ms: float = 1.0  # how long it waits for more
    ticks_per_collect: int = 64  # vector steps between two reports to the driver
    block_steps: int = 64  # steps of a stored block
    exploration_std: float = 0.1  # Gaussian noise on planned actions, in units of the action box's half width
    restarts: int = 10  # how often a dead actor is replaced before the run stops

    def __post_init__(self) -> None:
        positive = ("rollout_actors", "envs_per_actor", "planner_batch", "inference_batch", "ticks_per_collect")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"actors.{name} must be at least 1, got {getattr(self, name)}")
        not_negative = ("planner_actors", "planner_wait_ms", "inference_actors", "inference_wait_ms")
        for name in (*not_negative, "exploration_std", "restarts"):
            if getattr(self, name) < 0:
                raise ValueError(f"actors.{name} must not be negative, got {getattr(self, name)}")
        if self.ticks_per_collect % self.block_steps:
            # Steps of an unfinished block would be counted by the limiter without being in the replay.
            raise ValueError(
                f"actors.ticks_per_collect must be a multiple of block_steps {self.block_steps}, "
                f"got {self.ticks_per_collect}"
            )


@dataclass(frozen=True)
class ClusterConfig:
    """Where the processes run."""

    mode: typing.Literal["ray", "local"] = "ray"  # Ray actors, or everything in this process
    learner_ranks: int = 1  # data-parallel learner processes
    rollout_cpus: float = 1.0  # logical CPUs a rollout actor reserves
    planner_cpus: float = 1.0  # logical CPUs a planner actor reserves
    inference_cpus: float = 1.0  # logical CPUs an inference actor reserves
    inference_gpus: float = 1.0  # GPUs of an inference actor, used when the learner leaves enough
    learner_cpus: float = 1.0  # logical CPUs a learner rank reserves
    learner_gpus: float = 1.0  # GPUs of a rank, used when the cluster has any
    broadcast: BroadcastPrecision = "fp32"  # of the weights that actors pull; "bf16" halves their bytes
    updates_per_lease: int = 16  # learner updates between two reports to the driver
    sample_in_flight: int = 2  # batches a rank requests ahead
    stop_budget_seconds: float = 20.0  # time the calls in flight may take before the last checkpoint
    stop_exit_code: int = 0  # of a run that a signal stopped; non-zero where a stop is to be retried
    metrics_port: int = 0  # Prometheus port of the driver, 0 for none
    ledger: bool = False  # write down every acknowledged block, for `worldfleet audit`


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


@dataclass(frozen=True)
class ServingConfig:
    """The actors that act for a run's rollout actors, in batches."""

    role: str  # "planner" or "inference"
    num_actors: int  # 0: the policy runs inside the rollout actors
    max_rows: int  # of a batch
    max_wait_ms: float  # of the first request of a batch
    cpus: float  # logical, of each actor
    gpus: float  # of each actor, if there are as many


@dataclass(frozen=True)
class RunConfig:
    """A complete run. Every field has a default; presets fill in what a combination needs."""

    seed: int = 0
    env: EnvConfig = field(default_factory=EnvConfig)
    algorithm: PetsConfig | DreamerConfig = field(default_factory=PetsConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        ranks, batch_size = self.cluster.learner_ranks, self.learner.batch_size
        if ranks < 1 or batch_size % ranks:
            raise ValueError(
                f"learner.batch_size {batch_size} must be a multiple of cluster.learner_ranks {ranks}, which share it"
            )

    @property
    def serving(self) -> ServingConfig:
        """Planner actors for an algorithm that plans in C++, inference actors for the others."""
        actors, cluster = self.actors, self.cluster
        if isinstance(self.algorithm, PetsConfig):
            return ServingConfig(
                "planner",
                actors.planner_actors,
                actors.planner_batch,
                actors.planner_wait_ms,
                cluster.planner_cpus,
                gpus=0.0,
            )
        return ServingConfig(
            "inference",
            actors.inference_actors,
            actors.inference_batch,
            actors.inference_wait_ms,
            cluster.inference_cpus,
            cluster.inference_gpus,
        )

    @property
    def reserved_cpus(self) -> float:
        """Logical CPUs that the run's actors reserve."""
        return (
            self.actors.rollout_actors * self.cluster.rollout_cpus
            + self.serving.num_actors * self.serving.cpus
            + self.cluster.learner_ranks * self.cluster.learner_cpus
        )

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
    tree = load_preset("algorithms", algo)
    others = [_env_preset(env), load_preset("scales", scale)]
    own = [preset.pop("algorithms", {}).get(algo, {}) for preset in others]
    for layer in (*others, *own):
        merge(tree, layer)
    if config_file is not None:
        merge(tree, read_yaml(config_file))
    for override in overrides:
        merge(tree, parse_override(override))
    return build(RunConfig, tree)


def _env_preset(name: str) -> dict[str, Any]:
    return {"env": {"name": name}} if is_prefixed_name(name) else load_preset("envs", name)


ELASTIC = ("actors", "cluster", "replay", "schedule")
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
    tree = to_tree(config)
    for text in overrides:
        key = text.partition("=")[0].strip()
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise ValueError(f"{who} may change keys of {', '.join(allowed)}, not {text!r}")
        merge(tree, parse_override(text))
    return build(RunConfig, tree)


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
    return yaml.safe_load(text) or {}


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration tree from a YAML file."""
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
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
    tree: Any = yaml.safe_load(value)
    for key in reversed(path.split(".")):
        tree = {key: tree}
    return typing.cast(dict[str, Any], tree)


def merge(base: dict[str, Any], update: Mapping[str, Any]) -> None:
    """Merge `update` into `base` in place; mappings merge key by key, everything else is replaced."""
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def build(cls: type[T], tree: Mapping[str, Any], path: str = "") -> T:
    """A configuration dataclass from a tree of plain values.

    Raises:
        ValueError: An unknown key, a wrong type or an invalid value, named by its dotted path.
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    values = {}
    for key, value in tree.items():
        where = f"{path}{key}"
        if key not in hints:
            raise ValueError(f"unknown configuration key {where!r}{nearest(key, hints)}")
        options = _dataclasses(hints[key])
        if not options or (value is None and type(None) in typing.get_args(hints[key])):
            values[key] = _leaf(hints[key], value, where)
        elif isinstance(value, Mapping):
            values[key] = build(_chosen(options, value, where), value, f"{where}.")
        else:
            raise ValueError(f"{where} must be a mapping of {sorted(_hints(options[0]))}, got {value!r}")
    try:
        return cls(**values)
    except ValueError as error:
        prefix = path.rstrip(".")
        raise ValueError(
            f"{prefix}: {error}" if prefix and not str(error).startswith(prefix) else str(error)
        ) from error


def to_tree(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain values for YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return typing.cast(dict[str, Any], plain(dataclasses.asdict(config)))


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML text; `build(RunConfig, yaml.safe_load(text))` gives it back."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def nearest(name: str, names: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no name is near."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _dataclasses(hint: Any) -> list[type]:
    """The dataclasses a field may hold."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option) and isinstance(option, type)]


def _chosen(options: list[type], tree: Mapping[str, Any], where: str) -> type:
    """The dataclass that a tree is meant for: the one whose field `name` may have the tree's value.

    Raises:
        ValueError: There are several, and the name is missing or none of theirs.
    """
    if len(options) == 1:
        return options[0]
    names = {name: option for option in options for name in typing.get_args(_hints(option)["name"])}
    if "name" not in tree:
        raise ValueError(f"{where}.name is missing; it is one of {', '.join(names)}")
    name = str(tree["name"])
    if name not in names:
        raise ValueError(f"{where}.name must be one of {', '.join(names)}, got {name!r}{nearest(name, names)}")
    return names[name]


def _leaf(hint: Any, value: Any, where: str) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=False))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{where}: {first['msg'].lower()}, got {value!r}") from error
