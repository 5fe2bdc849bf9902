"""Bundles of updates that were not finite: written by one rank or several, and run again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from cluster import build, bundle
from cluster.bundle import Bundles, replay_update
from cluster.cli import main
from cluster.config import RunConfig, resolve
from learner import distributed
from learner.algorithms.dreamer_config import DreamerConfig
from learner.batch import SequenceBatch
from learner.learner import Learner
from learner.nonfinite import MOST_BUNDLES, SkippedUpdate

WORLD = 2
ALGORITHMS = ("pets", "dreamer_v3")


def make_config(algo: str, ranks: int = 1) -> RunConfig:
    return resolve(algo, "nav3d", "debug", overrides=["learner.device=cpu", f"roles.learner.count={ranks}"])


def make_batch(config: RunConfig, seed: int, broken: str = "") -> SequenceBatch:
    """A rank's random batch; the array `broken` has NaN in its sequence 1, step 2."""
    rng = np.random.default_rng(seed)
    rows, spec = config.learner.batch_size // config.count("learner"), build.env_spec(config)
    shape = rows, config.replayed_length
    data: dict[str, Any] = {
        key: rng.normal(size=(*shape, *each.shape)).astype(each.dtype) for key, each in spec.observation.items()
    }
    data["action"] = rng.uniform(-1, 1, (*shape, *spec.action.shape)).astype(np.float32)
    data["reward"] = rng.normal(size=shape).astype(np.float32)
    data |= {flag: np.zeros(shape, np.bool_) for flag in ("is_first", "is_last", "is_terminal")}
    data["episode"] = np.broadcast_to(np.arange(rows)[:, None], shape).copy()
    if isinstance(own := config.algorithm, DreamerConfig) and own.store_latents:
        data["latent_deter"] = np.zeros((*shape, own.sizes.deter), np.float16)
        data["latent_stoch"] = np.zeros((*shape, own.rssm.groups), np.uint8)
    if broken:
        data[broken][1, 2] = np.nan
    ids = np.arange(rows)
    return SequenceBatch(
        data, ids.astype(np.uint64), ids, ids, np.ones(rows, np.float32), np.zeros((rows, 3), np.int64)
    )


def make_learner(config: RunConfig, batches: list[SequenceBatch], folder: Path, rank: int = 0) -> Learner:
    return build.learner(config, iter(batches), lambda batch, result: None, rank, folder)


def worker(rank: int, port: int, directory: str) -> None:
    torch.set_num_threads(1)
    distributed.initialise("127.0.0.1", port, rank, WORLD, "gloo", 60.0)
    for algo in ALGORITHMS:
        config = make_config(algo, WORLD)
        batches = [make_batch(config, 10 * step + rank, "reward" if rank and step == 1 else "") for step in range(3)]
        learner = make_learner(config, batches, Path(directory) / algo, rank)
        metrics = [learner.step() for _ in batches]
        skipped = [each["nonfinite"] for each in metrics]
        torch.save({"state": learner.algorithm.export_weights(), "skipped": skipped}, f"{directory}/{algo}_{rank}.pt")
    distributed.destroy()


@pytest.mark.timeout(300)
def test_ranks_skip_alike_and_write_one_bundle(tmp_path: Path) -> None:
    mp.spawn(worker, (distributed.free_port(), str(tmp_path)), nprocs=WORLD)  # type: ignore[attr-defined, no-untyped-call]
    for algo in ALGORITHMS:
        ranks = [torch.load(tmp_path / f"{algo}_{rank}.pt", weights_only=False) for rank in range(WORLD)]
        assert [rank["skipped"] for rank in ranks] == [[0.0, 1.0, 0.0]] * WORLD
        for name, value in ranks[0]["state"].items():
            np.testing.assert_array_equal(ranks[1]["state"][name], value, err_msg=name)
        (path,) = (tmp_path / algo).iterdir()
        assert sorted(file.name for file in path.iterdir()) == [
            "about.json", "batch_0.npz", "batch_1.npz", "config.yaml", "spec.json", "state.pt",
        ]  # fmt: skip
        replayed = replay_update(path)
        size = make_config(algo).learner.batch_size // WORLD
        assert replayed.update == 2
        assert replayed.verdict.startswith(f"the batch is not finite: reward of sequence {size + 1}, step 2 ")


@pytest.mark.parametrize("algo", ["pets", "dreamer_v1", "dreamer_v3", "planet"])
def test_what_a_network_makes_is_named(algo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(algo)
    learner = make_learner(config, [make_batch(config, 0)], tmp_path)
    algorithm: Any = learner.algorithm
    with torch.no_grad():
        weights = [algorithm.model.weights[-1]] if algo == "pets" else algorithm.world.reward.parameters()
        for weight in weights:
            weight.fill_(1e30)
    learner.step()
    path = tmp_path / "update_000000000001"
    with pytest.raises(SystemExit) as exit_code:
        main(["replay-update", str(path), "--json"])
    assert exit_code.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["finite"], result["batch"], result["state"]) == (False, [], [])
    assert result["recorded"] == result["values"]
    assert ("student_nll" if algo == "pets" else "world.reward") in result["births"][0]
    assert result["verdict"] == f"born in the update: {result['births'][0]}"


def skipped(learner: Learner, batch: SequenceBatch, update: int = 1) -> SkippedUpdate:
    return SkippedUpdate(update, batch, None, {"loss": float("nan")}, learner.state_dict)


def test_an_update_that_is_finite_again_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config("pets")
    batch = make_batch(config, 0)
    learner = make_learner(config, [batch], tmp_path)
    path = Bundles(config, tmp_path)(skipped(learner, batch))
    assert path is not None
    loss = learner.step()["loss"]
    with pytest.raises(SystemExit) as exit_code:
        main(["replay-update", str(path)])
    assert exit_code.value.code == 0
    assert f"the update is finite again: loss {loss:.6g}," in capsys.readouterr().out


def test_the_state_before_the_update_is_searched_too(tmp_path: Path) -> None:
    config = make_config("pets")
    learner, batch = make_learner(config, [], tmp_path), make_batch(config, 0)
    algorithm: Any = learner.algorithm
    with torch.no_grad():
        algorithm.model.biases[0][1, 2] = torch.inf
    path = Bundles(config, tmp_path)(skipped(learner, batch))
    assert path is not None
    assert replay_update(path).verdict == "the learner was not finite before the update: model.biases.0"


def test_bundles_are_few_and_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("pets")
    learner, batch = make_learner(config, [], tmp_path), make_batch(config, 0)
    bundles = Bundles(config, tmp_path)
    (tmp_path / ".update_000000000009.tmp").mkdir()  # of a process that was killed
    for update in range(1, 5):
        path = bundles(skipped(learner, batch, update))
        assert path is not None
        os.utime(path, (update, update))
    bundles(skipped(learner, batch, 4))  # the same update again
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"update_{update:012d}" for update in range(2, 5)]
    assert len(kept) == MOST_BUNDLES
    monkeypatch.setattr(bundle, "MOST_BYTES", 100)
    path = bundles(skipped(learner, batch, 6))
    assert path is not None
    replayed = replay_update(path)
    assert replayed.finite
    assert "no state of the optimisers" in replayed.notes[0]


def test_a_full_disk_costs_the_bundle_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    config = replace(make_config("pets"))
    learner = make_learner(config, [make_batch(config, 0, "reward")], tmp_path / "bundles")
    monkeypatch.setattr(np, "savez", full)
    assert learner.step()["nonfinite"] == 1.0
    assert "No space left" in caplog.text
    assert not any((tmp_path / "bundles").iterdir())


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a bundle of an update: it has no about\.json"):
        replay_update(tmp_path)
    config = make_config("pets")
    path = Bundles(config, tmp_path)(skipped(make_learner(config, [], tmp_path), make_batch(config, 0)))
    assert path is not None
    (path / "batch_0.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        replay_update(path)
    (path / "about.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="bundle format 99"):
        replay_update(path)


def test_the_seed_fixes_torchs_random_numbers_by_rank(tmp_path: Path) -> None:
    config = make_config("pets")
    states = [make_learner(config, [], tmp_path, rank).state_dict()["torch_rng"] for rank in (0, 0, 1)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
