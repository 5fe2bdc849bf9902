"""The `worldfleet` command. stdout carries results, stderr progress; bad input is one line and exit code 2."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cluster.printed import printed_apart
from cluster.reader import read_yaml
from cluster.supervise import RunFailed
from envs.carla.standin.options import add_options as add_standin_options
from envs.numbers import NonNegativeInt, PositiveFloat, PositiveInt, read_value

if TYPE_CHECKING:
    from cluster.bench.row import BenchRow
    from cluster.config import RunConfig

logger = logging.getLogger("worldfleet")

BENCHES = {
    "planner": "cluster.bench.planner",
    "mcts": "cluster.bench.mcts",
    "env": "cluster.bench.env",
    "cluster": "cluster.bench.cluster",
    "replay": "cluster.bench.replay",
    "replay-memory": "cluster.bench.replay_memory",
    "scale": "cluster.bench.scale",
    "learner": "cluster.bench.learner",
    "precision": "cluster.bench.precision",
}
"""Topics of `worldfleet bench` and the modules whose `run()` yields their rows."""

SELECTION = {"algo": "pets", "env": "nav3d", "scale": "laptop"}
"""Presets of a run that says nothing else."""

NEW_RUN_FLAGS = ("--algo", "--env", "--scale", "--config", "--seed", "--run-dir", "--from-replay")
"""Flags of `worldfleet train` that say what a new run is."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; always leaves by SystemExit."""
    try:
        code = _run(arguments)
        sys.stdout.flush()  # a reader that went away is heard of here, not at the end of the process
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader went away; nothing is left to say
        code = 0
    except RunFailed as error:
        code = _complain(str(error), 1)
    except (ValueError, OSError, ImportError, RecursionError, OverflowError) as error:
        logger.debug("traceback", exc_info=True)
        code = _complain(_describe(error), 2)
    except MemoryError as error:
        logger.debug("traceback", exc_info=True)
        code = _complain(f"the memory of this machine is too small: {error}", 2)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """Carry out a command; its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.INFO,
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
        stream=_Stderr(),
    )
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


class _Stderr:
    """The standard error of the moment: while a picture is live there, what is logged scrolls above it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _next(command: str) -> None:
    """Tell the command that people type after this one; never on stdout, which is read by programs."""
    logger.info("next: worldfleet %s", command)


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"worldfleet: error: {' '.join(message.split())}\n")
    return code


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full: {error.filename or 'a write'} failed; what was saved before is intact"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _train(options: argparse.Namespace) -> int:
    with printed_apart():
        return _trained(options)


def _trained(options: argparse.Namespace) -> int:
    from cluster.train import default_run_dir, train

    if options.resume is not None:
        given = [flag for flag in NEW_RUN_FLAGS if getattr(options, flag.strip("-").replace("-", "_")) is not None]
        if given or options.resume_auto:
            raise ValueError(
                f"--resume continues a run as it is stored and takes no {', '.join(given) or '--resume-auto'}; "
                "change keys of its configuration with --set"
            )
        return train(None, options.resume, True, options.set, options.start_again).exit_code
    config = _resolve(options)
    if options.seed is not None:
        config = dataclasses.replace(config, seed=options.seed)
    if options.from_replay is not None:
        schedule = dataclasses.replace(config.schedule, from_replay=str(options.from_replay.resolve()))
        config = dataclasses.replace(config, schedule=schedule)
    algo, env, _ = _selection(options)
    run_dir = options.run_dir or default_run_dir(algo, env, config.seed)
    goes_on = options.resume_auto and (run_dir / "config.yaml").exists()
    return train(config, run_dir, resume=goes_on, overrides=options.set).exit_code


def _selection(options: argparse.Namespace) -> tuple[str, str, str]:
    """The algorithm, environment and scale that are asked for."""
    chosen = {
        name: default if getattr(options, name) is None else getattr(options, name)
        for name, default in SELECTION.items()
    }
    return chosen["algo"], chosen["env"], chosen["scale"]


def _resolve(options: argparse.Namespace) -> RunConfig:
    from cluster.config import resolve
    from cluster.idle_keys import idle_keys

    config = resolve(*_selection(options), options.config, options.set)
    for key, reason in idle_keys(config, options.set).items():
        logger.warning("--set %s changes nothing: %s", key, reason)
    return config


def _eval(options: argparse.Namespace) -> int:
    if options.suite is not None:
        from cluster.suites import run_suite

        with printed_apart():
            summary = run_suite(options.run_dir, options.suite, options.seed, options.set)
        sys.stdout.write(json.dumps(summary) + "\n")
        _next(f"report --run-dir {options.run_dir}")
        return 0
    from cluster.evaluation import evaluate_run

    with printed_apart():
        summary = evaluate_run(
            options.run_dir,
            options.episodes,
            options.seed,
            options.gif_episodes,
            options.precision,
            options.set,
            options.max_steps,
        )
    sys.stdout.write(json.dumps(summary) + "\n")
    _next(f"report --run-dir {options.run_dir}")
    return 0


def _config(options: argparse.Namespace) -> int:
    from cluster import build, machine
    from cluster.config import to_yaml
    from cluster.config_comments import with_comments

    with printed_apart():
        config = _resolve(options)
        machine.check(config)  # what `train` would refuse
        build.check(config)
    text = to_yaml(config)
    sys.stdout.write(text if options.no_comments else with_comments(text, config))
    return 0


def _presets(options: argparse.Namespace) -> int:
    from cluster.config import PRESET_KINDS, preset_names, tuned_algorithms
    from envs.registry import ENVIRONMENTS

    for kind in PRESET_KINDS:
        sys.stdout.write(f"{kind}: {' '.join(preset_names(kind))}\n")
    prefixes = [name for name in ENVIRONMENTS if name.endswith(":")]
    sys.stdout.write(f"any environment of a library: {' '.join(f'{prefix}<id>' for prefix in prefixes)}\n")
    for name, algorithms in tuned_algorithms().items():
        sys.stdout.write(f"{name} has settings of its own for: {' '.join(algorithms)}\n")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from cluster.doctor import collect, render
    from envs.scratch import remove_abandoned

    if options.clean:
        removed = remove_abandoned()
        sys.stdout.write("".join(f"removed {path}\n" for path in removed) or "nothing to remove\n")
        return 0
    report = collect()
    sys.stdout.write(render(report, as_json=options.json))
    return 0


def _carla_standin(options: argparse.Namespace) -> int:
    from envs.carla.standin.serve import run

    return run(options)


def _check_env(options: argparse.Namespace) -> int:
    from cluster.check_env import run_check_env

    return run_check_env(options.env, options.set, options.json, options.seconds)


def _report(options: argparse.Namespace) -> int:
    from cluster.report.page import write_report

    with printed_apart():
        if not options.recorded:
            _imagine(options.run_dir)
        page = write_report(options.run_dir)
    sys.stdout.write(f"{page}\n")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from cluster.report.compare import DEFAULT_OUTPUT, compare

    output = options.output or DEFAULT_OUTPUT
    if options.output is None and output.exists():
        raise ValueError(f"{output} exists and stays; name the picture with --output")
    sys.stdout.write(f"{compare(options.run_dirs, output)}\n")
    return 0


def _imagine(run_dir: Path) -> None:
    """Let the run's world model imagine what the report shows; a run that cannot yet is reported without."""
    from cluster.evaluation import study_imagination

    try:
        study_imagination(run_dir)
    except (ValueError, OSError) as error:
        logger.warning("without imagined episodes: %s", _describe(error))


def _audit(options: argparse.Namespace) -> int:
    from cluster.audit import audit_run

    result = audit_run(options.run_dir)
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if result["lost"] or result["doubled"] else 0


def _replay_update(options: argparse.Namespace) -> int:
    from cluster.bundle import replay_update

    with printed_apart():
        replayed = replay_update(options.bundle)
    record = {**dataclasses.asdict(replayed), "verdict": replayed.verdict}
    sys.stdout.write(json.dumps(record) + "\n" if options.json else replayed.text())
    return 0


def _fidelity(options: argparse.Namespace) -> int:
    if options.run_dir is not None:
        from cluster.report.run_fidelity import QUICK, RunStudyConfig, measure_run

        chosen = {name: getattr(options, name) for name in ("steps", "horizon") if getattr(options, name) is not None}
        config = dataclasses.replace(QUICK if options.quick else RunStudyConfig(), **chosen)
        with printed_apart():
            table = measure_run(options.run_dir, config)
        sys.stdout.write(f"{table}\n")
        return 0
    if options.models:
        from cluster.report import models

        with printed_apart():
            table = models.run(options.output, options.env, options.seed, models.QUICK if options.quick else None)
        sys.stdout.write(f"{table}\n")
        return 0
    from cluster.report.fidelity import ALGORITHMS, run
    from envs.names import unknown_name

    if options.algo not in ALGORITHMS:
        raise ValueError(unknown_name("algorithm of the study without --run-dir", options.algo, ALGORITHMS))
    with printed_apart():
        table = run(options.output, env=options.env, seeds=options.seeds, quick=options.quick)
    sys.stdout.write(f"{table}\n")
    return 0


def _tree(options: argparse.Namespace) -> int:
    from cluster.searches import record_searches

    with printed_apart():
        page = record_searches(options.run_dir, options.seed, overrides=options.set)
    sys.stdout.write(f"{page}\n")
    return 0


def bench_options(measure: Callable[..., Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of a benchmark from KEY=VALUE, with the types of their defaults.

    Raises:
        ValueError: A key is unknown or a value has another type.
    """
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(measure).parameters.items()
        if type(parameter.default) in (str, bool, int, float)
    }
    chosen: dict[str, Any] = {}
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        if key not in known:
            raise ValueError(f"this benchmark takes --set {', '.join(known) or 'nothing'}; there is no {key!r}")
        kind = type(known[key])
        value: Any = text if kind is str else read_value(kind, read_yaml(text, f"the value of {key}"), key)
        chosen[key] = value
    return chosen


def _bench(options: argparse.Namespace) -> int:
    import importlib

    measure = importlib.import_module(BENCHES[options.topic]).run
    rows: Iterable[BenchRow] = _told(measure(**bench_options(measure, options.set)))
    if options.json:
        for row in rows:
            sys.stdout.write(json.dumps(dataclasses.asdict(row)) + "\n")
            sys.stdout.flush()
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"worldfleet bench {options.topic}")
    for name in ("case", "value", "unit", "threads", "peer", "peer value", "ratio"):
        table.add_column(name, justify="left" if name in ("case", "unit", "peer") else "right", overflow="fold")
    for row in rows:
        peer_value, ratio = (f"{x:.4g}" if x is not None else "" for x in (row.peer_value, row.ratio))
        table.add_row(row.case, f"{row.value:.4g}", row.unit, str(row.threads), row.peer, peer_value, ratio)
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
    return 0


def _told(rows: Iterable[BenchRow]) -> Iterator[BenchRow]:
    """The rows, each logged when it comes: all of them can take minutes."""
    following = iter(rows)
    while True:
        with printed_apart():
            row = next(following, None)
        if row is None:
            return
        logger.info("%s: %.4g %s", row.case, row.value, row.unit)
        yield row


def _number(hint: Any) -> Callable[[str], Any]:
    """Reads the value of an option as that of a key of the configuration, for argparse: 1e3 is an integer."""

    def read(text: str) -> Any:
        try:
            return read_value(hint, read_yaml(text, "the value"), "")
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None

    return read


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path is wanted, got an empty text")
    return Path(text)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algo", help="algorithm preset (default: pets)")
    parser.add_argument("--env", help="environment preset, gym:<id> or dmc:<domain>-<task> (default: nav3d)")
    parser.add_argument("--scale", help="scale preset (default: laptop)")
    parser.add_argument("--config", type=_path, metavar="FILE", help="YAML file merged over the presets")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. learner.batch_size=32"
    )


def worldfleet_version() -> str:
    """The version of this checkout or installation."""
    from importlib.metadata import version

    return version("worldfleet")


class _Parser(argparse.ArgumentParser):
    """Refuses bad input in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_complain(f"{message}; see {self.prog} --help", 2))


class _Help(argparse.HelpFormatter):
    """Says the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        known = action.default not in (None, False, argparse.SUPPRESS) and action.default != []
        return f"{text} (default: %(default)s)" if known and "default" not in text else text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="worldfleet", description="World models at fleet scale.")
    parser.add_argument("--version", action="version", version=f"worldfleet {worldfleet_version()}")
    parser.add_argument("--debug", action="store_true", help="log tracebacks and debug messages")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
        sub.set_defaults(command=command)
        return sub

    sub = add("train", _train, "Train an agent; on Ray, or in one process with --set cluster.mode=local.")
    _add_selection(sub)
    sub.add_argument("--seed", type=_number(NonNegativeInt), help="root seed (default: the configuration's)")
    sub.add_argument(
        "--run-dir", type=_path, help="new directory for the run (default: runs/<algo>-<env>-<seed>-<time>)"
    )
    sub.add_argument("--resume", type=_path, metavar="RUN_DIR", help="continue a run from its last checkpoint")
    sub.add_argument(
        "--from-replay",
        type=_path,
        metavar="DIR",
        help="train on the steps that another run has stored, without actors; schedule.fit_updates says how much",
    )
    sub.add_argument(
        "--start-again", action="store_true", help="with --resume: a run without a checkpoint overwrites its metrics"
    )
    sub.add_argument("--resume-auto", action="store_true", help="continue --run-dir if it holds a run, else start it")

    sub = add("eval", _eval, "Evaluate a run on held-out seeds; one JSON object on stdout.")
    sub.add_argument("--run-dir", type=_path, required=True, help="directory of the run")
    sub.add_argument("--episodes", type=_number(PositiveInt), default=100, help="episodes on held-out seeds")
    sub.add_argument("--seed", type=_number(NonNegativeInt), default=0, help="chooses the held-out episodes")
    sub.add_argument(
        "--max-steps",
        type=_number(PositiveInt),
        help="steps after which an episode is cut (default: the run's schedule.eval_max_steps, or else the limit that "
        "the environment declares, or else 5,000)",
    )
    sub.add_argument("--gif-episodes", type=_number(NonNegativeInt), default=2, help="episodes drawn into eval/*.gif")
    sub.add_argument("--suite", help="a named suite of driving routes instead: docs/carla.md")
    sub.add_argument("--precision", choices=("fp32", "bf16", "auto"), help="planner arithmetic (default: the run's)")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="use the model otherwise, e.g. algorithm.acting=planner, env.options.wind_std=1",
    )

    sub = add("config", _config, "Print the resolved configuration, with what its keys mean.")
    _add_selection(sub)
    sub.add_argument("--no-comments", action="store_true", help="keys and values only")
    add("presets", _presets, "List the presets.")
    sub = add("doctor", _doctor, "Say what this machine offers and what will be used.")
    sub.add_argument("--json", action="store_true", help="one JSON object instead of text")
    sub.add_argument(
        "--clean",
        action="store_true",
        help="remove what your killed processes left in /tmp and /dev/shm, and say what",
    )
    sub = add("check-env", _check_env, "Check whether an environment does what training needs; docs/check_env.md.")
    sub.add_argument("env", metavar="ID", help="environment preset, gym:<id>, gym:<module>:<id> or dmc:<domain>-<task>")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. env.options.wind_std=1")
    sub.add_argument("--json", action="store_true", help="one JSON object instead of text")
    sub.add_argument(
        "--seconds", type=_number(PositiveFloat), default=60.0, help="time limit of each check (default: 60)"
    )

    standin = "Serve CARLA's protocol without Unreal, for tests and laptops: never for CARLA results; docs/carla.md."
    add_standin_options(add("carla-standin", _carla_standin, standin))

    sub = add("report", _report, "Write report.html of a run.")
    sub.add_argument("--run-dir", type=_path, required=True, help="directory of the run")
    sub.add_argument("--recorded", action="store_true", help="show what the run has written; start no simulator")

    sub = add("compare", _compare, "Draw the learning curves of runs into one picture, with their points as CSV.")
    sub.add_argument("run_dirs", type=_path, nargs="+", metavar="RUN_DIR", help="directories of runs")
    sub.add_argument(
        "--output", type=_path, help="picture to write, with its points in a .csv beside it (default: curves.png)"
    )

    audit = "Check that the replay of a run holds every step it acknowledged (needs cluster.ledger=true)."
    add("audit", _audit, audit).add_argument("--run-dir", type=_path, required=True, help="directory of the run")

    again = "Run an update that was not finite again, with anomaly detection, and name the first bad tensor."
    sub = add("replay-update", _replay_update, again)
    sub.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder RUN_DIR/bundles/update_<n>")
    sub.add_argument("--json", action="store_true", help="one JSON object instead of text")

    fidelity = "Measure open-loop model error against horizon: of a run's world model, or of ensembles trained for it."
    sub = add("fidelity", _fidelity, fidelity)
    sub.add_argument("--run-dir", type=_path, help="study the newest checkpoint of this run, into its directory")
    sub.add_argument("--horizon", type=_number(PositiveInt), help="longest horizon, with --run-dir (default: 30 steps)")
    sub.add_argument(
        "--steps", type=_number(PositiveInt), help="steps of each test set, with --run-dir (default: 4000)"
    )
    sub.add_argument("--algo", default="pets", help="algorithm preset (default: pets, the only one it can train)")
    sub.add_argument("--env", default="nav3d", help="environment preset, without --run-dir")
    sub.add_argument("--output", type=_path, default=Path("docs/results"), help="folder, without --run-dir")
    sub.add_argument("--seeds", type=_number(PositiveInt), default=3, help="runs of the study, without --run-dir")
    sub.add_argument("--models", action="store_true", help="one table of every one-step model instead of the study")
    sub.add_argument("--seed", type=_number(NonNegativeInt), default=0, help="of that table (default: 0)")
    sub.add_argument("--quick", action="store_true", help="a small study that shows the command works")

    sub = add("tree", _tree, "Write the searches of one episode as a page to step through, as JSON and for Graphviz.")
    sub.add_argument("--run-dir", type=_path, required=True, help="directory of the run")
    sub.add_argument("--seed", type=_number(NonNegativeInt), default=0, help="chooses the episode (default: 0)")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the run's configuration")

    sub = add("bench", _bench, "Measure speed as ratios to peers or physical bounds of the same run.")
    sub.add_argument("topic", choices=sorted(BENCHES), help="what is measured")
    sub.add_argument("--json", action="store_true", help="one JSON object a row instead of a table")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an argument of the benchmark")
    return parser
