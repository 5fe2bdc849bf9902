"""Gymnasium environments as `envs.specs.Env`: the five-tuple becomes a TimeStep here and nowhere else."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
from collections.abc import Container, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.contract import Contract, ContractError, StepFields, brief, to_arrays
from envs.specs import ArraySpec, EnvSpec, MetricKind, TimeStep

ACTION_TOLERANCE = 1e-6
"""How far outside its box an action may lie, for rounding; more is an error."""

_IMAGE_CHANNELS = (1, 3, 4)
_EMPTY_NAME = "observation"


class ActionCheck:
    """Refuses actions that an environment must not see, before anything changes.

    Args:
        spec: The action's spec.
    """

    def __init__(self, spec: ArraySpec) -> None:
        self._shape = spec.shape
        self._kinds = "fiu" if spec.num_values is None else "iu"
        self._low: NDArray[np.floating[Any]]
        self._high: NDArray[np.floating[Any]]
        if spec.num_values is not None:
            self._low, self._high = np.zeros(()), np.asarray(spec.num_values - 1.0)
            self._unbounded = False
            self._rule = f"an integer in [0, {spec.num_values - 1}]"
            return
        low, high = spec.bounds()
        self._low, self._high = low - ACTION_TOLERANCE, high + ACTION_TOLERANCE
        self._unbounded = not bool(np.isfinite(low).all() and np.isfinite(high).all())
        self._rule = f"finite and in [{brief(np.asarray(spec.low))}, {brief(np.asarray(spec.high))}]"

    def __call__(self, actions: NDArray[Any], batch: tuple[int, ...] = ()) -> None:
        """Check one action, or a batch of them.

        Args:
            actions: [*batch, *spec.shape].
            batch: Leading axes.

        Raises:
            ValueError: For a wrong shape, a wrong kind of number, NaN, infinity or a value out of bounds.
        """
        if actions.shape != batch + self._shape:
            raise ValueError(f"action must have shape {batch + self._shape}, got {actions.shape}: {brief(actions)}")
        if actions.dtype.kind not in self._kinds:
            raise ValueError(f"action must be {self._rule}, got {brief(actions)} of dtype {actions.dtype}")
        valid = (actions >= self._low) & (actions <= self._high)
        if self._unbounded:
            valid &= np.isfinite(actions)
        if np.count_nonzero(valid) != valid.size:
            row = tuple(np.argwhere(~valid)[0][: len(batch)].tolist())
            where = f" of environment {row[0]}" if row else ""
            raise ValueError(f"action{where} must be {self._rule}, got {brief(actions[row])}")


class ObservationEncoder:
    """From what an environment observes to a dict of arrays.

    A dict space keeps its keys (nested ones joined by "/"); otherwise a vector of floats is `state`, uint8 [height,
    width, 1 | 3 | 4] is `image`, anything else `observation`. float64 becomes float32, discrete ids int64.

    Args:
        space: The observation space; or `EnvSpec.observation`, which needs no simulator.
        name: Name of the environment, for errors.

    Raises:
        ValueError: If the space has a part without an array form.
    """

    def __init__(self, space: spaces.Space[Any] | Mapping[str, ArraySpec], name: str = "the environment") -> None:
        self.specs = _observation_specs(space) if isinstance(space, spaces.Space) else dict(space)
        self._name = name
        self._only = next(iter(self.specs)) if len(self.specs) == 1 else None
        self.flat = not any("/" in key for key in self.specs)

    def leaves(self, observation: Any) -> dict[str, Any]:
        """The parts of an observation by their keys in `specs`, as the environment gave them; what is missing is left
        out."""
        if not isinstance(observation, dict):
            return {self._only or _EMPTY_NAME: observation}
        return observation if self.flat else _joined(observation, self.specs)

    def encode(self, observation: Any) -> dict[str, NDArray[Any]]:
        """An observation as arrays of `specs`.

        Raises:
            ContractError: For a key that is missing or not declared, a wrong shape or a wrong dtype.
        """
        return to_arrays(self.leaves(observation), self.specs, self._name)


def _joined(observation: Mapping[str, Any], keys: Container[str], prefix: str = "") -> dict[str, Any]:
    """The parts of a nested dict by their joined names."""
    joined: dict[str, Any] = {}
    for name, part in observation.items():
        if isinstance(part, Mapping) and f"{prefix}{name}" not in keys:
            joined |= _joined(part, keys, f"{prefix}{name}/")
        else:
            joined[f"{prefix}{name}"] = part
    return joined


class ActionDecoder:
    """From an action as it is stored, float32 inside its box or an id from 0, to what an environment's `step` takes.

    Args:
        space: The action space; or `EnvSpec.action`, which needs no simulator.

    Raises:
        ValueError: If the space is neither discrete nor a box of floats.
    """

    def __init__(self, space: spaces.Space[Any] | ArraySpec) -> None:
        self.spec = space if isinstance(space, ArraySpec) else _action_spec(space)
        self._dtype = np.dtype(space.dtype)
        bounds = [np.asarray(bound, np.float64) for bound in (self.spec.low, self.spec.high)]
        self._box = [bound.reshape(self.spec.shape if bound.ndim else ()) for bound in bounds]
        self._rounded = any((bound.astype(np.float32) != bound).any() for bound in bounds)  # perhaps outwards
        self._first = int(self.spec.low) if self.spec.is_discrete and not isinstance(self.spec.low, tuple) else 0

    def decode(self, action: NDArray[Any]) -> Any:
        """One action of the environment's own."""
        if self.spec.is_discrete:
            return int(action) + self._first
        if self._rounded:
            return np.clip(action.astype(np.float64), *self._box)
        return action.astype(self._dtype, copy=False)


def box_of(spec: ArraySpec) -> spaces.Box:
    """The space of the arrays of a spec."""
    low, high = spec.bounds(spec.dtype)
    return spaces.Box(low, high, dtype=np.dtype(spec.dtype).type)


class GymnasiumEnv:
    """A Gymnasium environment that speaks TimeStep: see `ObservationEncoder` and `ActionDecoder`.

    A time-out (`truncated`) is last but never terminal.

    Args:
        env: The environment. It may declare `metrics` (see EnvSpec), `max_episode_steps` and `step_seconds` as
            attributes, and `checks_actions = True` if it refuses invalid actions and steps after the end by itself.
        name: What `envs.registry.make_env` calls it.
        metrics: Metrics beside those that the environment declares itself.

    Raises:
        ValueError: If a space is of a kind that has no array form, or a metric adds up in no known way.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str, metrics: Mapping[str, MetricKind] | None = None) -> None:
        self._env = env
        base = env.unwrapped
        self._encoder = ObservationEncoder(env.observation_space, name)
        self._decoder = ActionDecoder(env.action_space)
        self.spec = EnvSpec(
            name=name,
            observation=self._encoder.specs,
            action=self._decoder.spec,
            max_episode_steps=getattr(base, "max_episode_steps", None) or getattr(env.spec, "max_episode_steps", None),
            step_seconds=getattr(base, "step_seconds", None),
            metrics={**_declared_metrics(base, name), **(metrics or {})},
        )
        self._trusted = env is base and bool(getattr(base, "checks_actions", False))
        self._check = ActionCheck(self.spec.action)
        self._contract = Contract(self.spec)
        self._running = False
        self._origin: dict[str, Any] = {}

    @property
    def origin(self) -> dict[str, Any]:
        """The seed, or else the state of `np_random`, and the options that the present episode was reset with."""
        return self._origin

    def redo(self, origin: Mapping[str, Any]) -> TimeStep:
        """Start the episode of `origin` again, in this or another instance.

        Raises:
            ValueError: If `origin` is of another backend.
        """
        if "options" not in origin:
            raise ValueError(f"{self.spec.name} cannot play again an episode made from {sorted(origin)}")
        if "rng" in origin:
            self._env.unwrapped.np_random.bit_generator.state = origin["rng"]
        return self.reset(origin.get("seed"), origin["options"])

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> TimeStep:
        """Start an episode; its reward is 0."""
        options = dict(options) if options else None
        start = {"rng": self._env.unwrapped.np_random.bit_generator.state} if seed is None else {"seed": seed}
        self._origin = {**start, "options": options}
        result: Any = self._env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ContractError(f"{self.spec.name}: reset returns {_count(result)}, Gymnasium says (observation, info)")
        observation, info = result
        self._running = True
        return TimeStep(self._encoder.encode(observation), 0.0, True, False, False, info)

    def step(self, action: NDArray[Any]) -> TimeStep:
        """Act.

        Args:
            action: float32 [A] inside the box, or an int64 id.

        Raises:
            ContractError: If the environment returns what its spec rules out.
            ValueError: If the action is not one; nothing has changed then.
            RuntimeError: If the episode is over.
        """
        if not self._trusted:
            self._check(np.asarray(action))
        observation, reward, is_first, is_last, is_terminal, info = self.advance(action)
        arrays = to_arrays(observation, self.spec.observation, self.spec.name)
        return TimeStep(arrays, self._contract.reward(reward), is_first, is_last, is_terminal, dict(info))

    def advance(self, action: NDArray[Any]) -> StepFields:
        """`step` for vector environments: the fields of a TimeStep, observation and reward not checked yet; they have
        checked the action."""
        if not self._trusted:
            if not self._running:
                raise RuntimeError(f"the episode of {self.spec.name} is over; call reset first")
            action = self._decoder.decode(np.asarray(action))
        result: Any = self._env.step(action)
        try:
            observation, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            raise ContractError(
                f"{self.spec.name}: step returns {_count(result)}, Gymnasium says "
                "(observation, reward, terminated, truncated, info)"
            ) from None
        if terminated.__class__ is not bool or truncated.__class__ is not bool:
            terminated = self._contract.flag("terminated", terminated)
            truncated = self._contract.flag("truncated", truncated)
        is_last = terminated or truncated
        self._running = not is_last
        if observation.__class__ is not dict or not self._encoder.flat:
            observation = self._encoder.leaves(observation)
        return observation, reward, False, is_last, terminated, info

    def render(self) -> NDArray[np.uint8]:
        """A picture [height, width, 3]; grey ones get three channels, and an alpha channel is left out.

        Raises:
            RuntimeError: If the environment draws no pictures.
        """
        picture: Any = self._env.render()
        if not isinstance(picture, np.ndarray):
            raise RuntimeError(f"{self.spec.name} draws no pictures: render gives a {type(picture).__name__}")
        if picture.dtype != np.uint8 or not picture.size or picture.ndim not in (2, 3):
            raise RuntimeError(f"{self.spec.name} draws no pictures: render gives {picture.dtype} {picture.shape}")
        coloured = picture if picture.ndim == 3 else picture[:, :, None]
        if coloured.shape[2] not in _IMAGE_CHANNELS:
            raise RuntimeError(f"{self.spec.name} draws no pictures: render gives {picture.shape[2]} channels")
        return np.repeat(coloured, 3, axis=2) if coloured.shape[2] == 1 else coloured[:, :, :3]

    def close(self) -> None:
        self._env.close()  # type: ignore[no-untyped-call]


def _count(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, tuple) else f"one {type(result).__name__}"


def _declared_metrics(env: gym.Env[Any, Any], name: str) -> dict[str, MetricKind]:
    """The attribute `metrics` of an environment; one that maps no names to words is taken for something else."""
    if hasattr(env, "info_keys"):
        raise ValueError(f"{name} declares info_keys; worldfleet reads `metrics`, e.g. {{'cost': 'sum'}}")
    declared = getattr(env, "metrics", None)
    if isinstance(declared, Mapping) and all(isinstance(kind, str) for kind in declared.values()):
        return dict(declared)
    return {}


def quiet_sdl() -> None:
    """Let pygame draw into memory without a word where there is neither a sound card nor a screen to ask for.

    The user's own settings stay, and windows still open where there is a screen.
    """
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if "DISPLAY" not in os.environ and "WAYLAND_DISPLAY" not in os.environ:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def make_gym(name: str, **options: Any) -> gym.Env[Any, Any]:
    """The environment behind "gym:<id>".

    Args:
        name: "gym:<id>" with any registered id (a "module:id" is imported first).
        options: Keyword arguments of the environment.

    Raises:
        ValueError: For an id that Gymnasium does not know or cannot make, or options it does not take.
    """
    import envs.nav3d.registration  # noqa: F401 (registers its ids)

    quiet_sdl()
    gymnasium_id = name.removeprefix("gym:")
    options = {"disable_env_checker": True, **options}  # what the environment returns is checked by envs.contract
    try:
        if "render_mode" not in options and _may_draw(gymnasium_id):
            with contextlib.suppress(gym.error.Error, AssertionError, TypeError, ValueError):  # it takes no such mode
                return gym.make(gymnasium_id, **options, render_mode="rgb_array")
        return gym.make(gymnasium_id, **options)
    except (gym.error.Error, ModuleNotFoundError, TypeError) as error:
        raise ValueError(f"cannot make {name!r}: {error}") from error


def _may_draw(gymnasium_id: str) -> bool:
    """Whether an environment says that it draws arrays; what a function makes is asked by its argument."""
    module, colon, registered = gymnasium_id.rpartition(":")
    if colon:
        importlib.import_module(module)
    entry_point = gym.spec(registered).entry_point
    creator = gym.envs.registration.load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    metadata = getattr(creator, "metadata", None)
    if metadata is not None or creator is None:
        return "rgb_array" in (metadata or {}).get("render_modes", ())
    parameters = inspect.signature(creator).parameters
    return "render_mode" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _observation_specs(space: spaces.Space[Any]) -> dict[str, ArraySpec]:
    if not isinstance(space, spaces.Dict):
        spec = _array_spec(space, "observation")
        key = _EMPTY_NAME
        if spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[-1] in _IMAGE_CHANNELS:
            key = "image"
        elif spec.dtype == "float32" and len(spec.shape) == 1:
            key = "state"
        return {key: spec}
    specs: dict[str, ArraySpec] = {}
    nested = any(isinstance(part, spaces.Dict) for part in space.spaces.values())
    for name, part in space.spaces.items():
        if nested and "/" in name:
            raise ValueError(f"observation {name!r} is named like a part of another one, which are joined by '/'")
        if isinstance(part, spaces.Dict):
            specs.update({f"{name}/{key}": spec for key, spec in _observation_specs(part).items()})
        else:
            specs[name] = _array_spec(part, f"observation {name!r}")
    return specs


def _array_spec(space: spaces.Space[Any], what: str) -> ArraySpec:
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return ArraySpec((), "int64", first, first + int(space.n) - 1, int(space.n) if first == 0 else None)
    if isinstance(space, spaces.Box):
        dtype = "float32" if np.dtype(space.dtype).kind == "f" else str(space.dtype)
        return ArraySpec(space.shape, dtype, _bound(space.low), _bound(space.high))
    if isinstance(space, spaces.MultiBinary | spaces.MultiDiscrete):
        return ArraySpec(tuple(space.shape), str(space.dtype))
    raise ValueError(f"{what} is a {type(space).__name__} space, which has no array form")


def _action_spec(space: spaces.Space[Any]) -> ArraySpec:
    if isinstance(space, spaces.Discrete):
        first, count = int(space.start), int(space.n)
        return ArraySpec((), "int64", first, first + count - 1, count)
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f":
        return ArraySpec(space.shape, "float32", _bound(space.low), _bound(space.high))
    raise ValueError(f"actions of the space {space} are not supported: a Discrete space or a Box of floats is")


def _bound(values: NDArray[Any]) -> float | tuple[float, ...]:
    """One number if all are equal, else one per element."""
    numbers = tuple(values.astype(np.float64).ravel().tolist())
    return numbers[0] if len(set(numbers)) == 1 else numbers
