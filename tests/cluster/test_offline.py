"""Which stored replays a run takes, and how the others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.sharded import ShardedReplay
from cluster.cli import main
from cluster.config import RunConfig, resolve
from cluster.offline import read_arrays, source_folders


def store(path: Path, config: RunConfig, steps: int = 20, **other: object) -> None:
    """A replay that the run could train on, but for arrays that are `other`, None to leave them out."""
    data = {key: np.zeros((steps, *spec.shape), spec.dtype) for key, spec in read_arrays(config).items()}
    flags = dict.fromkeys(("is_first", "is_last", "is_terminal"), np.zeros(steps, np.bool_))
    data |= {"reward": np.zeros(steps, np.float32), "episode": np.zeros(steps, np.int64), **flags}
    data = {key: value for key, value in {**data, **other}.items() if value is not None}  # type: ignore[misc]
    replay = ShardedReplay.from_config(ReplayConfig(num_shards=2, max_bytes=1 << 20), 0, path)
    replay.insert(Block(1, 0, 0, data))
    replay.checkpoint("whole")
    replay.close()


def wanting(path: Path, algo: str = "dreamer_v3") -> RunConfig:
    return resolve(algo, "nav3d", "debug", overrides=[f"schedule.from_replay={path}", "schedule.fit_updates=3"])


def test_a_replay_that_fits_is_taken_from_a_run_or_its_replay_folder(tmp_path: Path) -> None:
    store(tmp_path / "run" / "replay", wanting(tmp_path))
    assert source_folders(resolve("pets", "nav3d", "debug")) == ()
    folders = source_folders(wanting(tmp_path / "run"))
    assert [folder.name for folder in folders] == ["shard-0", "shard-1"]
    assert source_folders(wanting(tmp_path / "run" / "replay")) == folders


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"state": np.zeros((20, 3), np.float32)},
            r"'state' is float32 \((\d+),\) for dreamer_v3 on nav3d and float32 \(3,\) in the replay in",
        ),
        ({"action": np.zeros((20, 2), np.float64)}, r"'action' is float32 .* and float64 \(2,\) in the replay"),
        (
            {"latent_deter": None},
            r"dreamer_v3 on nav3d reads 'latent_deter', which the replay in .* does not hold: it holds action, episode",
        ),
    ],
)
def test_a_replay_of_other_steps_is_refused_by_key(tmp_path: Path, other: dict[str, object], message: str) -> None:
    config = wanting(tmp_path / "replay")
    store(tmp_path / "replay", config, **other)
    with pytest.raises(ValueError, match=message):
        source_folders(config)


def test_replays_that_hold_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    config = wanting(tmp_path / "short")
    with pytest.raises(ValueError, match=r"short holds no replay: it is neither the directory of a run nor the folder"):
        source_folders(config)
    store(tmp_path / "short", config, steps=4)
    with pytest.raises(ValueError, match=r"sequences of 6 steps .* longer than any stream of the replay"):
        source_folders(config)
    ShardedReplay.from_config(ReplayConfig(), 0, tmp_path / "empty").close()
    with pytest.raises(ValueError, match=r"empty holds no steps"):
        source_folders(wanting(tmp_path / "empty"))


def test_a_replay_in_use_is_refused(tmp_path: Path) -> None:
    config = wanting(tmp_path / "replay")
    store(tmp_path / "replay", config)
    writer = ShardedReplay.from_config(ReplayConfig(num_shards=2), 0, tmp_path / "replay")
    with pytest.raises(ValueError, match=r"shard-0 is in use: a replay is read when its run has ended"):
        source_folders(config)
    writer.close()


def test_the_command_refuses_before_it_creates_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    for arguments, message in (
        (["--run-dir", str(run), "--from-replay", str(tmp_path)], "holds no replay"),
        (["--resume", str(run), "--from-replay", str(tmp_path)], "takes no --scale, --from-replay"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["train", "--scale", "debug", "--set", "cluster.mode=local", *arguments])
        assert end.value.code == 2
        assert message in capsys.readouterr().err
    assert not run.exists()
