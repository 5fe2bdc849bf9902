"""`worldfleet check-env`: the conformance report of an environment, and what a run will do with it."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import yaml

from cluster.config import EnvConfig, preset_names, resolve
from envs.registry import vector_backend
from envs.specs import EnvSpec
from envs.testing.conformance import check_env
from envs.testing.process import Channel, Stop, run
from envs.testing.report import Finding, Report

_FIT_SCALE = "debug"
_MESSAGE_MS = 0.4
"""What a step of a vector environment costs more when it is taken in other processes, about."""
_SMALL_STATE = 64
"""Numbers of an observation up to which an ensemble over the observation itself is the cheapest start."""
_MARKS = {"ok": "green", "note": "yellow", "fault": "bold red"}


@dataclass(frozen=True)
class Plan:
    """What a run will do with an environment, and where to start."""

    algorithms: Mapping[str, str | None]  # algorithm preset -> why it cannot learn the environment, None if it can
    remarks: Mapping[str, str]  # subject -> what will happen
    command: str  # to start with, "" if no algorithm fits
    config: str  # its YAML for --config, "" if none is needed


def run_check_env(name: str, overrides: Sequence[str], as_json: bool = False, seconds: float = 60.0) -> int:
    """The command: progress to stderr, the report to stdout.

    Args:
        name: Env preset, gym:<id> or dmc:<domain>-<task>.
        overrides: `env.key=value` each.
        as_json: One JSON object in place of text.
        seconds: Time limit of each check.

    Returns:
        1 if there are faults, else 0.

    Raises:
        ValueError: The name, an override or an option is refused.
    """
    for text in overrides:
        if not text.strip().startswith("env."):
            raise ValueError(f"check-env takes keys of env, not {text!r}")
    env = resolve("pets", name, _FIT_SCALE, overrides=overrides).env
    stop = Stop()
    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(fitting_algorithms, name, overrides, seconds, stop)
        try:
            report = check_env(env.name, env.options, seconds=seconds, progress=_tell, stop=stop)
        except BaseException:
            stop.set()
            raise
        plan = make_plan(name, env, overrides, report, fit.result())
    sys.stdout.write(render_json(report, plan) if as_json else render(report, plan))
    return 1 if report.faults else 0


def _tell(check: str, findings: Sequence[Finding], seconds: float) -> None:
    """Progress: a line a check."""
    faults = sum(finding.verdict == "fault" for finding in findings)
    said = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "ok"
    sys.stderr.write(f"check-env: {check}: {said} ({seconds:.1f} s)\n")
    sys.stderr.flush()


def fitting_algorithms(
    name: str, overrides: Sequence[str] = (), seconds: float = 60.0, stop: Stop | None = None
) -> dict[str, str | None]:
    """Every algorithm preset, with the reason for which it refuses the environment, None if it takes it.

    Building each algorithm's policy decides, in a process of its own.
    """
    outcome = run(_fit, (name, tuple(overrides)), seconds, stop)
    answers: dict[str, str | None] = dict.fromkeys(preset_names("algorithms"), outcome.fault or "not tried")
    return answers | dict(outcome.messages)


def _fit(channel: Channel, name: str, overrides: Sequence[str]) -> None:
    """The process of `fitting_algorithms`."""
    from cluster import build

    for algorithm in preset_names("algorithms"):
        channel.place(f"building {algorithm}")
        try:
            build.check(resolve(algorithm, name, _FIT_SCALE, overrides=overrides))
        except ValueError as error:
            channel.send((algorithm, " ".join(str(error).split())))
        else:
            channel.send((algorithm, None))


def make_plan(
    name: str, env: EnvConfig, overrides: Sequence[str], report: Report, algorithms: Mapping[str, str | None]
) -> Plan:
    """What a run will do with the environment of this report.

    Args:
        name: As on the command line.
        env: What that stands for.
        overrides: As on the command line.
        report: What was found.
        algorithms: See `fitting_algorithms`.
    """
    chosen = _choose(report.spec, [algorithm for algorithm, reason in algorithms.items() if reason is None])
    if chosen is None:
        return Plan(algorithms, {}, "", "")
    algorithm, scale = chosen
    num_envs = resolve(algorithm, name, scale, overrides=overrides).actors.envs_per_actor
    mode, why = _mode(report.facts, num_envs)
    remarks = {"env.mode": f"{mode}: {why}"}
    if backend := vector_backend(env.name, **env.options):
        remarks["backend"] = f"rollouts are stepped by {backend}; the checks look at a single environment"
    exact = report.facts.get("exact_replay")
    if exact is not None:
        remarks["resume"] = "exactly, by playing the episodes again" if exact else "with new streams"
    if report.facts.get("episodes") == 0 and report.facts.get("episode_limit") is None:
        remarks["evaluation"] = "needs episodes that end: give the environment a time limit"
    remarks["videos"] = "drawn" if report.facts.get("renders") else "left out"
    words = ["worldfleet", "train", "--algo", algorithm, "--env", name, "--scale", scale]
    tree: dict[str, Any] = {"env": {"name": env.name}}
    if mode != env.mode:
        words += ["--set", f"env.mode={mode}"]
        tree["env"]["mode"] = mode
    for text in overrides:
        words += ["--set", text]
    if env.options:
        tree["env"]["options"] = dict(env.options)
    return Plan(algorithms, remarks, shlex.join(words), yaml.safe_dump(tree, sort_keys=False))


def _choose(spec: EnvSpec | None, fitting: Sequence[str]) -> tuple[str, str] | None:
    """Algorithm and scale preset to start with."""
    if spec is None or not fitting:
        return None
    if any(len(part.shape) == 3 for part in spec.observation.values()):
        return ("dreamer_v3" if "dreamer_v3" in fitting else fitting[0]), "laptop_pixels"
    small = sum(part.size for part in spec.observation.values()) <= _SMALL_STATE
    order = ("pets", "dreamer_v3") if small else ("dreamer_v3", "pets")
    return next((algorithm for algorithm in order if algorithm in fitting), fitting[0]), "laptop"


def _mode(facts: Mapping[str, Any], num_envs: int) -> tuple[str, str]:
    """How to step the environments of an actor, and why."""
    cores = len(os.sched_getaffinity(0))
    step = float(facts.get("step_ms_median", 0.0))
    saved = step * (num_envs - -(-num_envs // cores))
    told = f"{num_envs} environments of {step:.3g} ms a step"
    if saved > 2 * _MESSAGE_MS:
        return "subprocess", f"{told} on {cores} cores save {saved:.3g} ms a tick; messages cost {_MESSAGE_MS} ms"
    return "serial", f"{told} are too quick for processes of their own, whose messages cost {_MESSAGE_MS} ms a tick"


def render_json(report: Report, plan: Plan) -> str:
    """One JSON object."""
    spec = None if report.spec is None else _spec_tree(report.spec)
    tree = {**report.as_dict(), "spec": spec, "algorithms": dict(plan.algorithms), "plan": dict(plan.remarks)}
    return json.dumps({**tree, "command": plan.command, "config": plan.config}, default=str) + "\n"


def _spec_tree(spec: EnvSpec) -> dict[str, Any]:
    """Key, dtype and shape of every observation and of the action."""
    parts = {**spec.observation, "action": spec.action}
    encoded = {
        key: {"dtype": part.dtype, "shape": list(part.shape), "num_values": part.num_values}
        for key, part in parts.items()
    }
    action = encoded.pop("action")
    return {"observation": encoded, "action": action, "max_episode_steps": spec.max_episode_steps}


def render(report: Report, plan: Plan) -> str:
    """The report for people."""
    from rich.console import Console
    from rich.text import Text

    stream = io.StringIO()
    terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    console = Console(file=stream, width=shutil.get_terminal_size((110, 24)).columns, force_terminal=terminal)

    def line(mark: str, style: str, subject: str, text: str, where: str = "") -> None:
        parts = Text.assemble((f"{mark:<6}", style), (f"{subject:<14}", "bold"), text)
        if where:
            parts.append(f" ({where})", style="dim")
        console.print(parts, soft_wrap=True)

    options = "".join(f" {key}={value}" for key, value in report.options.items())
    console.print(Text(f"{report.env}{options}", style="bold underline"))
    for finding in report.findings:
        line(finding.verdict, _MARKS[finding.verdict], finding.check, finding.text, finding.where)
    console.print(Text("\nwhat worldfleet will do with it", style="bold underline"))
    for algorithm, reason in plan.algorithms.items():
        mark, style = ("takes", "green") if reason is None else ("not", "yellow")
        line(mark, style, algorithm, "can learn it" if reason is None else reason)
    for subject, text in plan.remarks.items():
        line("", "", subject, text)
    if plan.command:
        when = "to start from, once the faults are mended" if report.faults else "to start from"
        console.print(Text(f"\n{when}", style="bold underline"))
        console.print(Text(plan.command), soft_wrap=True)
        console.print(Text("or as a file for --config:\n" + plan.config.rstrip()), soft_wrap=True)
    count = len(report.faults)
    console.print(Text(f"\n{count or 'no'} fault{'' if count == 1 else 's'}", style="bold red" if count else "green"))
    return stream.getvalue()
