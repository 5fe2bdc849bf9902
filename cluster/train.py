"""One run from start or checkpoint to its end, in one process or on Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import build, machine
from cluster.checkpoints import Checkpoints, keep_tail, load_newest, must_keep_tail, set_aside
from cluster.config import ELASTIC, RunConfig, override
from cluster.ending import Saved, end_now
from cluster.idle_keys import idle_keys
from cluster.offline import say_other_source, source_folders
from cluster.progress import Progress
from cluster.recorder import Recorder
from cluster.replay_size import held_steps, sized
from cluster.run_dir import RunDir, Start
from cluster.signals import StopFlag
from cluster.stages import Interleave, StageCursor
from cluster.supervise import RunFailed
from cluster.tree import to_tree
from envs.faults import SimulatorError
from envs.scratch import remove_abandoned

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    steps: int  # environment steps so far
    reason: str  # "done", or the signal that stopped it
    exit_code: int = 0


def train(
    config: RunConfig | None, path: Path, resume: bool = False, overrides: Sequence[str] = (), again: bool = False
) -> Outcome:
    """Train in `path`.

    Args:
        config: A new run's configuration. With `resume`, what the run in `path` must be one of, None for any.
        path: Run directory.
        resume: Continue from the newest checkpoint in `path`, or from the start if it has none.
        overrides: `a.b=value` changes to the configuration of a run that continues; they are in that of a new one.
        again: Whether a run without a checkpoint may begin again over its metrics; one with `config` always may.

    Raises:
        ValueError: The directory is in use, not empty, of another version, or its checkpoint is damaged.
        RunFailed: A part died that the run cannot replace.
    """
    remove_abandoned()
    if resume:
        return _resume(path, overrides, config, again)
    assert config is not None, "a new run needs a configuration"
    _check_new(config, path)
    config = sized(config, path)
    run_dir = RunDir.create(path, config)
    return _run(config, run_dir, None)


def _check_new(config: RunConfig, path: Path) -> None:
    """Refuse what can be refused before anything is written."""
    _check_place(config)
    machine.check(config)
    build.check(config)
    source_folders(config)
    say_other_source(config)
    source = config.schedule.from_replay
    if source is not None and path.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"the run directory {path} lies inside {source}, whose steps it reads and never changes")
    if isinstance(config.stages.stage, Interleave) and config.replay.limiter.min_size > config.schedule.total_steps:
        logger.warning(
            "replay.limiter.min_size %d is above schedule.total_steps %d: nothing will be trained",
            config.replay.limiter.min_size,
            config.schedule.total_steps,
        )


def _check_same(stored: RunConfig, asked: RunConfig, path: Path, overrides: Sequence[str]) -> list[str]:
    """Refuse to continue a run as one of another kind; the overrides that a run which continues may have."""
    for flag, kept, wanted in (
        ("--algo", stored.algorithm.name, asked.algorithm.name),
        ("--env", stored.env.name, asked.env.name),
        ("--seed", str(stored.seed), str(asked.seed)),
    ):
        if kept != wanted:
            raise ValueError(f"{path} holds a run with {flag} {kept}, not {wanted}; choose another --run-dir")
    elastic = [text for text in overrides if _is_elastic(text.partition("=")[0].strip())]
    named = {text.partition("=")[0].strip() for text in elastic}
    for key, (kept, wanted) in _differences(to_tree(stored), to_tree(asked)).items():
        if not _is_elastic(key) or key == "schedule.from_replay":
            raise ValueError(
                f"{path} holds a run with {key}={kept}, not {key}={wanted}, which cannot change; "
                "choose another --run-dir"
            )
        resolved = wanted == "auto"  # by a stored run, for its machine
        if not resolved and not any(key == name or key.startswith(f"{name}.") for name in named):
            logger.warning("the run keeps %s=%s; --set %s=%s would change it", key, kept, key, wanted)
    return elastic


def _is_elastic(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in ELASTIC)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> both values, of the leaves that differ."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*one, *other]):
        left, right = one.get(name), other.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= _differences(left, right, f"{path}{name}.")
        elif left != right:
            found[f"{path}{name}"] = left, right
    return found


def _check_place(config: RunConfig) -> None:
    if config.cluster.mode == "ray":
        from cluster import connection

        connection.check()


def _resume(path: Path, overrides: Sequence[str], asked: RunConfig | None, again: bool) -> Outcome:
    run_dir, before = RunDir.open(path)
    run_dir.acquire()
    try:
        if asked is not None:
            overrides = _check_same(before, asked, path, overrides)
        state, damaged = load_newest(run_dir.checkpoints)
        if state is None:
            _check_unsaved(run_dir, again or asked is not None)
        config = sized(override(before, overrides), path)
        for key, reason in idle_keys(config, overrides).items():
            logger.warning("--set %s changes nothing: %s", key, reason)
        if config.schedule.from_replay != before.schedule.from_replay:
            raise ValueError(
                f"schedule.from_replay is {before.schedule.from_replay} and cannot become "
                f"{config.schedule.from_replay}: a run keeps the steps that it began with"
            )
        _check_place(config)
        machine.check(config)
        if state is not None:  # refuse what the checkpoint cannot go on with
            books, total = state["recorder"], config.schedule.total_steps
            cursor = StageCursor(build.stages(config), total, books.get("stages"))
            if (
                config == before
                and run_dir.done_marker.exists()
                and cursor.last
                and not cursor.left(books["steps"], books["updates"])
            ):
                logger.info(
                    "%s is finished, with %d of schedule.total_steps=%d steps; --set schedule.total_steps=N with "
                    "a larger N trains on",
                    path,
                    books["steps"],
                    total,
                )
                run_dir.close()
                return Outcome(books["steps"], "done")
        set_aside(damaged)
        if config != before:
            run_dir.event(event="changed", overrides=list(overrides))
    except BaseException:
        run_dir.close()
        raise
    return _run(config, run_dir, state)


def _check_unsaved(run_dir: RunDir, again: bool) -> None:
    """A run without a checkpoint begins anew, not over metrics that nobody gave up.

    Where the replay holds what was collected on Ray, the run goes on from that, and its first metrics are kept aside.

    Raises:
        ValueError: There are metrics, and it was not asked to begin `again`.
    """
    lines = run_dir.metrics_file.read_bytes().count(b"\n") if run_dir.metrics_file.exists() else 0
    stored = must_keep_tail(run_dir.replay)
    if lines and stored:
        run_dir.metrics_file.replace(run_dir.path / f"metrics.{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
    elif lines and not again:
        raise ValueError(
            f"{run_dir.path} has no checkpoint to continue from, and {lines} lines of metrics that a new start would "
            "overwrite: add --start-again if they may go, or choose another --run-dir"
        )
    goes_on = "trains anew on the steps that its replay holds" if stored else "starts again"
    logger.warning("%s has no checkpoint yet; the run %s", run_dir.path, goes_on)


def default_run_dir(algo: str, env: str, seed: int) -> Path:
    """A new directory under runs/, named for the run and the time."""
    return Path("runs") / f"{algo}-{env.replace(':', '-').replace('/', '-')}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def _run(config: RunConfig, run_dir: RunDir, state: dict[str, Any] | None) -> Outcome:
    """Run to the end; a start that is refused, before the first step or update, leaves the directory as it was."""
    start = Start(run_dir, config)
    try:
        return _attempt(config, run_dir, state, start)
    except (ValueError, OSError, ImportError) as error:
        start.refused(error)
        raise
    finally:
        run_dir.close()


def _attempt(config: RunConfig, run_dir: RunDir, state: dict[str, Any] | None, start: Start) -> Outcome:
    run_dir.event(event="resume" if state else "start", step=state["recorder"]["steps"] if state else 0)
    run_dir.write_spec(config, build.env_spec(config))
    steps, size = held_steps(config), config.replay.max_bytes
    assert size != "auto"
    logger.info("the replay holds %s steps in %.3g GB (replay.max_bytes)", f"{steps:,}", size / 1e9)
    backend = build.env_backend(config)
    if backend is not None:
        logger.info("%s of the rollouts runs on %s", config.env.name, backend)
        run_dir.event(event="backend", env=config.env.name, backend=backend)
    title = f"{config.algorithm.name} on {config.env.name}, seed {config.seed}: {run_dir.path}"
    with Progress(title) as progress:
        recorder = Recorder(config, run_dir, progress, state["recorder"] if state else None, start.confirm)
        try:
            reason, saved = _train_in_mode(config, run_dir, recorder, state)
            start.confirm()
        except (RunFailed, SimulatorError) as error:
            run_dir.event(event="failed", step=recorder.steps, reason=str(error))
            raise RunFailed(f"{error}; continue with: worldfleet train --resume {run_dir.path}") from error
        finally:
            recorder.close()
    if reason == "done":
        run_dir.mark(run_dir.done_marker, reason=reason, step=recorder.steps)
    else:
        _mark_stop(run_dir, reason, recorder.steps, saved)
    run_dir.event(event="end", step=recorder.steps, reason=reason)
    logger.info("%s after %d steps; %s", reason, recorder.steps, run_dir.path)
    logger.info("next: worldfleet %s", f"{'eval --run-dir' if reason == 'done' else 'train --resume'} {run_dir.path}")
    return Outcome(recorder.steps, reason, 0 if reason == "done" else config.cluster.stop_exit_code)


def _train_in_mode(
    config: RunConfig, run_dir: RunDir, recorder: Recorder, state: dict[str, Any] | None
) -> tuple[str, Saved]:
    """Train until the end or a signal; why the run ended, and the checkpoint that it leaves."""
    checkpoints = Checkpoints(run_dir.checkpoints, config.schedule.keep_checkpoints)

    def overdue() -> None:
        known = flag.saved or checkpoints.saved(["all since that checkpoint: something hangs"])
        _mark_stop(run_dir, str(flag.reason), recorder.steps, known)
        run_dir.event(event="end", step=recorder.steps, reason=flag.reason)
        logger.warning("%s: ended after %g s, as something hangs", flag.reason, config.cluster.stop_budget_seconds)
        end_now(config.cluster.stop_exit_code)

    def lost(reason: str) -> None:
        run_dir.event(event="failed", step=recorder.steps, reason=reason)
        end_now(1, f"{reason}; continue with: worldfleet train --resume {run_dir.path}")

    with StopFlag(config.cluster.stop_budget_seconds, overdue) as flag:
        if config.cluster.mode == "local":
            from cluster.local import LocalRun

            with closing(LocalRun(config, recorder, checkpoints, run_dir.replay, state)) as run:
                flag.saved = run.run(flag)
        else:
            from cluster.connection import connected, namespace

            keep_tail(run_dir.replay)
            with connected(namespace(run_dir.path), config.reserved_cpus, config.cluster.dashboard):
                flag.install()  # ray.init has taken the signals
                from cluster import launch
                from cluster.node_guard import NodeGuard

                with NodeGuard(lost):
                    flag.saved = launch.run(config, recorder, checkpoints, flag, state, run_dir)
        assert flag.saved is not None
        return flag.reason or "done", flag.saved


def _mark_stop(run_dir: RunDir, reason: str, step: int, saved: Saved) -> None:
    """Leave STOPPED.json, which says what the run continues from and what that does not hold."""
    left_out = list(saved.left_out)
    names = {"checkpoint": saved.checkpoint, "checkpoint_step": saved.checkpoint_step, "left_out": left_out}
    run_dir.mark(run_dir.stop_marker, reason=reason, step=step, **names)
