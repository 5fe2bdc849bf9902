"""What is fuzzed: each target makes one random input and hands it to the code that users' inputs reach."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import numpy as np

from actors.ledger import Ledger, read_ledgers
from actors.replay.config import ReplayConfig
from actors.replay.sharded import ShardedReplay
from actors.replay.store.manifest import _HEAD, read_manifest
from actors.replay.store.record import RecordError
from actors.replay.store.scan import LogReader
from actors.replay.wire.blocks import decode_blocks, encode_blocks, seal
from cluster import checkpoints
from cluster.config import build_run, override, parse_override, resolve
from cluster.metrics import _lines_until
from cluster.reader import read_yaml
from cluster.report.data import read_evaluations, read_metrics
from cluster.report.page import write_report
from cluster.report.suite_page import suites
from cluster.run_dir import RunDir
from cluster.tree import to_tree
from learner import checkpoint
from native import crc32
from tests.fakes import counter_blocks
from tests.fuzz.mutate import EVIL, WORDS, paths, spoil_bytes, spoil_tree

REFUSALS = (ValueError, OSError)
"""What the command line turns into one line and exit code 2."""


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    name: str
    share: int  # of the inputs, in thousandths
    attempt: Callable[[Random], object]  # raises one of REFUSALS for what is refused


def targets(folder: Path) -> list[Target]:
    """All kinds of inputs, with their files in an empty folder."""
    return [*_configuration(folder / "run"), *_checkpoints(folder / "checkpoints"), *_replay(folder), *_results(folder)]


def _configuration(run: Path) -> Iterator[Target]:
    configs = [resolve(algo, "nav3d", "debug") for algo in ("pets", "dreamer_v3")]
    configs.append(resolve("muzero", "gym:CartPole-v1", "debug"))
    trees = [to_tree(config) for config in configs]
    keys = [paths(tree) for tree in trees]
    RunDir.create(run, configs[0]).close()
    text = (run / "config.yaml").read_bytes()
    lines = text.decode().splitlines(keepends=True)

    def word(rng: Random) -> object:
        return parse_override(f"{rng.choice(rng.choice(keys))}={rng.choice(WORDS)}{rng.choice(WORDS)}")

    def yaml(rng: Random) -> object:
        begin = rng.randrange(len(lines))
        piece = "".join(lines[begin : begin + rng.randrange(1, 8)]).encode()
        return read_yaml(spoil_bytes(rng, piece).decode(errors=rng.choice(("replace", "surrogateescape"))), "a text")

    def tree(rng: Random) -> object:
        chosen = spoil_tree(rng, rng.choice(trees))
        return build_run(chosen if isinstance(chosen, dict) else {"seed": chosen})

    def change(rng: Random) -> object:
        which = rng.randrange(len(configs))
        value = rng.choice(
            (rng.choice(WORDS), str(rng.choice(EVIL)), str(rng.randrange(-9, 10 ** rng.randrange(1, 22))))
        )
        key = rng.choice(keys[which])
        return override(configs[which], [f"{key}={value}"], [key.partition(".")[0]])

    def file(rng: Random) -> object:
        (run / "config.yaml").write_bytes(spoil_bytes(rng, text))
        return RunDir.open(run)

    yield Target("--set words", 250, word)
    yield Target("YAML text", 150, yaml)
    yield Target("configuration trees", 12, tree)
    yield Target("--set of a run", 5, change)
    yield Target("config.yaml", 1, file)


def _checkpoints(folder: Path) -> Iterator[Target]:
    state = {
        "learner": {"algorithm": {"w": np.arange(6.0).reshape(2, 3)}, "updates": 3},
        "replay": {"manifest": "step_1"},
        "limiter": {"inserted": 3},
        "recorder": {"steps": 3, "episodes": 1, "done": {"log": 1}},
    }
    saved = checkpoint.save(folder, 3, state)
    manifest = json.loads((saved / "manifest.json").read_text())
    text = (saved / "manifest.json").read_bytes()
    part = folder / "part.pt"
    checkpoint.save_part(part, state)
    content = part.read_bytes()

    def json_file(rng: Random) -> object:
        spoiled = spoil_bytes(rng, text) if rng.random() < 0.5 else _json(spoil_tree(rng, manifest))
        (saved / "manifest.json").write_bytes(spoiled)
        return checkpoints.read(saved)

    def part_file(rng: Random) -> object:
        part.write_bytes(spoil_bytes(rng, content))
        return checkpoint.load_part(part)

    def parts(rng: Random) -> object:
        spoiled = spoil_tree(rng, state)
        with checkpoint.restoring("a checkpoint"):
            checkpoint.save_part(part, spoiled)
            loaded = checkpoint.load_part(part)
            return loaded["recorder"]["steps"]

    yield Target("manifest.json of a checkpoint", 40, json_file)
    yield Target(".pt files", 20, part_file)
    yield Target("values of .pt files", 4, parts)


def _replay(folder: Path) -> Iterator[Target]:
    blocks = counter_blocks(7, 2, 64)
    header, payload = encode_blocks(blocks)
    fields = msgpack.unpackb(header[:-4])

    def wire(rng: Random) -> object:
        match rng.randrange(3):
            case 0:
                return decode_blocks(spoil_bytes(rng, header), payload)
            case 1:
                return decode_blocks(seal(_packed(spoil_tree(rng, fields))), payload)
            case _:
                spoiled = payload.copy()
                spoiled[rng.randrange(spoiled.size)] ^= 1 << rng.randrange(8)
                return decode_blocks(header, spoiled[: rng.choice((spoiled.size, rng.randrange(spoiled.size)))])

    shards = folder / "replay"
    replay = ShardedReplay.from_config(ReplayConfig(max_bytes=64 << 20), 0, shards)
    for block in blocks:
        replay.insert(block)
    replay.checkpoint("a")
    replay.close()
    [manifest] = shards.glob("layout-*/shard-0/manifest-*")
    [segment] = shards.glob("layout-*/shard-0/segment-*")
    head, log = manifest.read_bytes(), segment.read_bytes()
    meta_bytes = struct.unpack_from("<I", head, 12)[0]
    meta = msgpack.unpackb(head[_HEAD.size : _HEAD.size + meta_bytes], strict_map_key=False)
    arrays = head[_HEAD.size + meta_bytes :]

    def manifest_file(rng: Random) -> object:
        spoiled = spoil_bytes(rng, head)
        if rng.random() < 0.6:  # with checksums that fit
            packed = _packed(spoil_tree(rng, meta))
            start = _HEAD.pack(b"WFREPMAN", 1, len(packed), len(arrays), crc32(packed), crc32(arrays), 0)[:-4]
            spoiled = start + struct.pack("<I", crc32(start)) + packed + arrays
        manifest.write_bytes(spoiled)
        return read_manifest(manifest, with_arrays=rng.random() < 0.8).live()

    def segment_file(rng: Random) -> object:
        segment.write_bytes(spoil_bytes(rng, log))
        reader = LogReader(segment.parent)
        try:
            for record in reader.records:
                try:
                    reader.read(record)
                except RecordError:  # noted as damage
                    continue
        finally:
            reader.close()
        if reader.damage or sum(found.torn_bytes for found in reader.segments):
            raise ValueError("; ".join(map(str, reader.damage)) or "an unfinished write")
        return reader

    books = folder / "ledgers" / "rollout-0.1.txt"
    ledger = Ledger(books)
    for _ in range(4):
        ledger.acknowledged(header)
    lines = books.read_bytes()

    def ledger_file(rng: Random) -> object:
        books.write_bytes(spoil_bytes(rng, lines))
        return list(read_ledgers(books.parent))

    yield Target("blocks on the wire", 370, wire)
    yield Target("manifests of shards", 60, manifest_file)
    yield Target("segments of shards", 31, segment_file)
    yield Target("ledgers", 40, ledger_file)


def _results(folder: Path) -> Iterator[Target]:
    run = folder / "results"
    (run / "eval" / "suites").mkdir(parents=True)
    rows = [
        {"step": 64 * i, "time": i * 0.5, "rollout/episode_return": -1.0 * i, "learner/loss": 1 / i}
        for i in range(1, 6)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    summary = {
        "env": "nav3d", "algorithm": "pets", "episodes": 3, "seed": 0, "success_rate": 0.5, "success_ci95": [0.1, 0.9],
        "return_mean": 1.0, "return_ci95": [0.0, 2.0], "steps": 100, "train_steps": 64, "run_dir": "x",
        "metrics": {"collisions": 1.0},
    }  # fmt: skip
    figures = {"episodes": 3, "return_mean": 1.0, "return_ci95": [0.0, 1.0]}
    suite = {"suite": "a", "seed": 0, "train_steps": 3, "run_dir": "x", "all": figures, "conditions": {"b": figures}}
    metrics, result = run / "metrics.jsonl", run / "eval" / "step64_seed0.json"

    def metrics_file(rng: Random) -> object:
        spoiled = spoil_bytes(rng, lines)
        if rng.random() < 0.4:
            spoiled += _json(spoil_tree(rng, rng.choice(rows))) + b"\n"
        metrics.write_bytes(spoiled)
        (run / "metrics.unreadable.jsonl").unlink(missing_ok=True)
        _lines_until(metrics, 256, 0)
        return [read_metrics(metrics).series(name) for name in read_metrics(metrics).names]

    def result_file(rng: Random) -> object:
        result.write_bytes(_json(spoil_tree(rng, summary)) if rng.random() < 0.6 else spoil_bytes(rng, _json(summary)))
        (run / "eval" / "suites" / "a.json").write_bytes(_json(spoil_tree(rng, suite)))
        suites(run / "eval" / "suites")
        return read_evaluations(run / "eval")

    def report(rng: Random) -> object:
        result_file(rng)
        metrics_file(rng)
        return write_report(run)

    yield Target("metrics.jsonl", 8, metrics_file)
    yield Target("results of evaluations", 8, result_file)
    yield Target("reports of such runs", 1, report)


def _json(tree: Any) -> bytes:
    return json.dumps(tree, default=str).encode(errors="replace")


def _packed(tree: Any) -> bytes:
    """msgpack of a tree; what that has no type for is text."""
    try:
        return bytes(msgpack.packb(tree, default=str))
    except OverflowError:
        return bytes(msgpack.packb(str(tree)))
