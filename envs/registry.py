"""The environments: one record each. Nothing is imported before it is made.

An environment is added by an `Entry` in `ENVIRONMENTS` and the files that it names: docs/extending/environment.md.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from envs.carla.tasks import TASKS
from envs.contract import CHECK_SHARE, ContractError
from envs.faults import STEP_TIMEOUT_SECONDS, one_line
from envs.frame_stack import OPTION as FRAME_STACK
from envs.frame_stack import FrameStackVectorEnv, stacked_spec
from envs.names import unknown_name
from envs.options import require_extra
from envs.specs import Env, EnvSpec, VectorEnv

if TYPE_CHECKING:
    import gymnasium as gym

VectorMode = Literal["serial", "subprocess"]


@dataclass(frozen=True)
class Entry:
    """What worldfleet knows of an environment. Functions are named "module:function" and take (name, **options).

    Args:
        bare: Makes the Gymnasium environment behind it. Its attributes `metrics`, `max_episode_steps`, `step_seconds`
            and `checks_actions` are read, see `envs.adapters.GymnasiumEnv`.
        spec: Gives its EnvSpec without a simulator; without this, one is started for it and closed, once per run.
        make_vector: Makes many at once, from (name, num_envs, num_threads, **options); None from it has them made one
            by one.
        backend: Says which package steps many, where that is a choice.
        extra: Optional extra of worldfleet that `bare` needs, a key of `envs.options.EXTRAS`.
        program: Executable of the external process that a simulator talks to, which must be on the PATH.
        envs_per_process: Most environments in one process, None for any number.
        resources: Ray resources of one simulator beyond those of its actor, e.g. {"GPU": 0.25}.
        repeatable: Whether an episode can be played again from its seed and actions, so that a run which resumes goes
            on in its middle; a simulator that only may be is found out by trying.
    """

    bare: str
    spec: str | None = None
    make_vector: str | None = None
    backend: str | None = None
    extra: str | None = None
    program: str | None = None
    envs_per_process: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    repeatable: bool = True


_NAV3D = Entry(bare="envs.nav3d.registration:make", spec="envs.nav3d.registration:spec")
_CAR_RACING = Entry(
    bare="envs.car_racing.factory:make",
    spec="envs.car_racing.factory:spec",
    make_vector="envs.car_racing.factory:make_pool",
    backend="envs.car_racing.factory:backend",
    extra="car-racing",
)
_CARLA = Entry(
    bare="envs.carla.registration:make",
    spec="envs.carla.registration:spec",
    backend="envs.carla.registration:backend",
    extra="carla",
    envs_per_process=4,
    repeatable=False,
)

ENVIRONMENTS: dict[str, Entry] = {
    "nav3d": _NAV3D,
    "nav3d_image": _NAV3D,
    "nav3d_creature": _NAV3D,
    "car_racing": _CAR_RACING,
    "car_racing_discrete": _CAR_RACING,
    **dict.fromkeys(TASKS, _CARLA),
    "gym:": Entry(bare="envs.adapters:make_gym"),
    "dmc:": Entry(bare="envs.dmc:make", extra="dmc"),
}
"""Name -> entry; a key that ends with a colon is the prefix of names "prefix:id"."""

_specs: dict[str, EnvSpec] = {}


def entry(name: str) -> Entry:
    """The entry of the environment `name`.

    Raises:
        ValueError: For an unknown name (with the nearest one).
    """
    prefix, colon, _ = name.partition(":")
    found = ENVIRONMENTS.get(prefix + colon)
    if found is None:
        valid = [f"{key}<id>" if key.endswith(":") else key for key in ENVIRONMENTS]
        raise ValueError(unknown_name("environment", name, valid))
    return found


def is_prefixed_name(name: str) -> bool:
    """Whether `name` is "prefix:id" with a known prefix."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix + colon in ENVIRONMENTS


def make_bare_env(name: str, **options: Any) -> gym.Env[Any, Any]:
    """The Gymnasium environment behind `name`, as other libraries know it.

    Raises:
        ValueError: For an unknown name or option (with the nearest one), an invalid value, or missing packages.
    """
    found = entry(name)
    if found.extra is not None:
        require_extra(found.extra, name)
    if found.program is not None and shutil.which(found.program) is None:
        raise ValueError(f"{name} needs the program {found.program!r}, which is not on the PATH")
    env: gym.Env[Any, Any] = _load(found.bare)(name, **options)
    return env


def make_env(name: str, **options: Any) -> Env:
    """The environment `name` with its own `options`.

    Where the entry gives no spec, the option `metrics` declares what the environment's info says and how it adds up
    (`EnvSpec.metrics`), beside what it declares itself.

    Raises:
        ValueError: As for `make_bare_env`, or whatever else the simulator raises while it is made.
    """
    from envs.adapters import GymnasiumEnv

    if FRAME_STACK in options:
        raise ValueError(f"{FRAME_STACK} is an option of many environments together, not of one (make_vector_env)")
    metrics = options.pop("metrics", None) if entry(name).spec is None else None
    if metrics is not None and not isinstance(metrics, Mapping):
        raise ValueError(f"option metrics of {name} must map names to last, sum or mean, got {metrics!r}")
    try:
        return GymnasiumEnv(make_bare_env(name, **options), name, metrics)
    except (ValueError, ImportError, OSError):
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot make {name!r}: {one_line(error)}") from error


def make_vector_env(
    name: str,
    num_envs: int,
    mode: VectorMode = "serial",
    num_workers: int | None = None,
    check_share: float = CHECK_SHARE,
    step_timeout_seconds: float = STEP_TIMEOUT_SECONDS,
    **options: Any,
) -> VectorEnv:
    """`num_envs` equal environments stepped together.

    Args:
        name: As for `make_env`.
        num_envs: How many.
        mode: "serial" steps them in this process, "subprocess" in `num_workers` processes, or in as many threads where
            the backend steps them all in one call.
        num_workers: Workers of mode "subprocess"; None takes one per core, at most one per environment, and enough for
            the entry's `envs_per_process`.
        check_share: Share of steps whose ranges are checked after the first ones, see `envs.contract.Contract`.
        step_timeout_seconds: How long one reset or step may take in mode "subprocess", 0 for any time.
        options: As for `make_env`; and `frame_stack`, how many frames an image has, see `envs.frame_stack`.

    Raises:
        ValueError: As for `make_env`, and for an invalid `num_envs`, `mode`, `num_workers`, `check_share` or
            `step_timeout_seconds`.
        ContractError: The environment is not of the spec that `env_spec` gave.
        SimulatorError: A worker process dies while it makes its environments.
    """
    from envs.subprocess_vector import SubprocessVectorEnv
    from envs.vector import SerialVectorEnv

    if FRAME_STACK in options:
        frames = options.pop(FRAME_STACK)
        plain = make_vector_env(name, num_envs, mode, num_workers, check_share, step_timeout_seconds, **options)
        try:
            return FrameStackVectorEnv(plain, frames)
        except ValueError:
            plain.close()
            raise
    found = entry(name)
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if mode not in get_args(VectorMode):
        raise ValueError(unknown_name("vector mode", mode, get_args(VectorMode)))
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    if not 0.0 <= check_share <= 1.0:
        raise ValueError(f"check_share must be in [0, 1], got {check_share}")
    if not 0.0 <= step_timeout_seconds < math.inf:
        raise ValueError(f"step_timeout_seconds must not be negative, got {step_timeout_seconds}")
    workers = num_workers or len(os.sched_getaffinity(0))
    if found.make_vector is not None:
        num_threads = min(workers, num_envs) if mode == "subprocess" else 1
        pool: VectorEnv | None = _load(found.make_vector)(name, num_envs, num_threads, **options)
        if pool is not None:
            return pool
    processes = -(-num_envs // found.envs_per_process) if found.envs_per_process is not None else 1
    factories = [partial(make_env, name, **options)] * num_envs
    env: VectorEnv
    if mode == "subprocess":
        env = SubprocessVectorEnv(factories, max(workers, processes), check_share, step_timeout_seconds)
    elif processes == 1:
        env = SerialVectorEnv(factories, check_share)
    else:
        raise ValueError(
            f"{name} runs {found.envs_per_process} environments in a process, not {num_envs}: "
            "set env.mode=subprocess or fewer environments per actor"
        )
    try:
        _agree(env.spec, known_spec(name, options))
    except ContractError:
        env.close()
        raise
    remember_spec(name, options, env.spec)
    return env


def vector_backend(name: str, **options: Any) -> str | None:
    """The package that `make_vector_env` would choose to step `name`, None where there is no choice.

    Raises:
        ValueError: For an unknown or invalid option, or missing packages.
    """
    backend = entry(name).backend
    own = {key: value for key, value in options.items() if key != FRAME_STACK}
    text: str | None = None if backend is None else _load(backend)(name, **own)
    return text


def env_spec(name: str, **options: Any) -> EnvSpec:
    """The spec of `make_vector_env` with these options; no simulator is started where the entry or an earlier answer
    says it.

    Raises:
        ValueError: As for `make_env`, and for an invalid `frame_stack`.
    """
    if FRAME_STACK in options:
        stacked = known_spec(name, options)
        if stacked is None:
            plain = {key: value for key, value in options.items() if key != FRAME_STACK}
            stacked = stacked_spec(env_spec(name, **plain), options[FRAME_STACK])
            remember_spec(name, options, stacked)
        return stacked
    found = entry(name)
    if found.spec is not None:
        spec: EnvSpec = _load(found.spec)(name, **options)
        return spec
    known = known_spec(name, options)
    if known is None:
        env = make_env(name, **options)
        env.close()
        known = env.spec
        remember_spec(name, options, known)
    return known


def known_spec(name: str, options: Mapping[str, Any]) -> EnvSpec | None:
    """What was remembered of these options."""
    return _specs.get(_key(name, options))


def remember_spec(name: str, options: Mapping[str, Any], spec: EnvSpec) -> None:
    """Have `env_spec` answer `spec` in this process, which another process or an earlier run found out."""
    _specs[_key(name, options)] = spec


def _key(name: str, options: Mapping[str, Any]) -> str:
    return f"{name} {json.dumps(options, sort_keys=True, default=repr)}"


def _agree(spec: EnvSpec, known: EnvSpec | None) -> None:
    """Refuse an environment that does not observe or act as it once did."""
    if known is None:
        return
    now, then = ({**found.observation, "action": found.action} for found in (spec, known))
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            raise ContractError(f"{spec.name}: {key!r} is {now.get(key)}, in this run it was {then.get(key)}")


def _load(target: str) -> Any:
    """The object "module:name"."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)
