"""The study of what a world model imagines: its files, and its sections of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.report.imagination import HORIZON, SEEN, study_file, write_study
from cluster.report.page import write_report
from cluster.run_dir import RunDir
from envs.specs import EnvSpec
from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import DreamerConfig
from learner.models.observation_config import ObservationConfig
from learner.models.rssm_config import RssmConfig
from tests.cluster.report.test_page import Outline
from tests.learner.test_imagination import DIMENSIONS, SPEC, stream


def make(latent: Any = "categorical", *keys: str) -> DreamerAlgorithm:
    config = DreamerConfig(
        dimensions=DIMENSIONS,
        rssm=RssmConfig(latent, groups=3, blocks=4),
        observation=ObservationConfig(multipliers=(1, 2), kernel=3, groups=4),
    )
    spec = EnvSpec("fake", {key: SPEC.observation[key] for key in keys or SPEC.observation}, SPEC.action)
    return DreamerAlgorithm(config, spec, torch.device("cpu"), seed=0)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    (tmp_path / "config.yaml").write_text("algorithm: {name: dreamer_v3}\nenv: {name: fake}\n")
    losses = {"learner/imagined/return": 1.0, "learner/replayed/return": 2.0, "learner/entropy/prior": 3.0}
    rows = [{"step": 10 * i, **losses} for i in range(1, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunDir(tmp_path)


def test_a_study_of_images_has_a_video_and_a_grid(run_dir: RunDir) -> None:
    streams = [stream(70, [0]), stream(60, [0], 1), stream(80, [0], 2)]
    write_study(run_dir, make().world, streams, 100)
    record = json.loads(study_file(run_dir, 100).read_text())
    assert (record["step"], record["episodes"], record["seen"], record["horizon"]) == (100, 3, SEEN, HORIZON)
    assert record["pictures"] == ["step100_image_open_loop.gif", "step100_image_reconstruction.png"]
    video = Image.open(run_dir.imagination / record["pictures"][0])
    assert video.n_frames == SEEN + HORIZON  # type: ignore[attr-defined]
    assert set(record["errors"]) == {"image", "state", "room"}
    assert len(record["errors"]["image"]["sample"]["psnr"]) == HORIZON
    assert "psnr" not in record["errors"]["state"]["sample"]
    assert [q["name"] for q in record["trajectories"]][-1] == "reward"
    assert len(record["latent"]["perplexity"]) == 3
    assert len(list((run_dir.path / "tensorboard" / "pictures").glob("events.*"))) == 1

    write_study(run_dir, make().world, streams, 200)
    kept = sorted(path.name for path in run_dir.imagination.iterdir())
    assert kept == ["step100.json", "step200.json", "step200_image_open_loop.gif", "step200_image_reconstruction.png"]


def test_the_report_shows_the_newest_study(run_dir: RunDir) -> None:
    write_study(run_dir, make().world, [stream(40, [0])], 90)
    write_study(run_dir, make().world, [stream(40, [0])], 100)
    page = Outline(write_report(run_dir.path).read_text())
    assert [source.split(",")[0] for source in page.sources] == ["data:image/gif;base64", "data:image/png;base64"]
    for words in (
        "1 held-out episodes after 100 steps",
        "imagines the next 35 from the actions alone",
        "state 2",
        "room 3",
        "image, PSNR in dB",
        "3 groups of 4 classes",
        "return of visited states",
        "imaginedreplayed",
    ):
        assert words in page.text, words


def test_a_gaussian_model_of_vectors_has_trajectories_alone(run_dir: RunDir) -> None:
    write_study(run_dir, make("gaussian", "state").world, [stream(40, [0]), stream(30, [0], 1)], 100)
    page = Outline(write_report(run_dir.path).read_text())
    assert page.sources == []
    assert "state 0" in page.text
    assert "of 3 dimensions depend on what was seen" in page.text
    assert not list((run_dir.path).glob("tensorboard"))


def test_short_episodes_are_not_imagined(run_dir: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    write_study(run_dir, make().world, [stream(SEEN, [0])] * 3, 100)
    assert "nothing to imagine" in caplog.text
    assert not run_dir.imagination.exists()
    write_study(run_dir, make().world, [stream(SEEN + 1, [0])], 100)
    assert json.loads(study_file(run_dir, 100).read_text())["horizon"] == 1


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"latent": 3, "errors": {}}'])
def test_a_damaged_study_does_not_stop_the_page(run_dir: RunDir, damage: str) -> None:
    write_study(run_dir, make().world, [stream(30, [0])], 100)
    study_file(run_dir, 100).write_text(damage)
    text = Outline(write_report(run_dir.path).read_text()).text
    assert "What the world model imagines" not in text
    assert ("step100.json cannot be read" in text) == damage.startswith('{"') or damage == "{}"


def test_pictures_that_are_gone_are_left_out(run_dir: RunDir) -> None:
    write_study(run_dir, make().world, [stream(30, [0])], 100)
    for path in run_dir.imagination.glob("*.gif"):
        path.unlink()
    page = Outline(write_report(run_dir.path).read_text())
    assert [source[:15] for source in page.sources] == ["data:image/png;"]


def test_a_study_is_the_same_twice_and_disturbs_no_generator(run_dir: RunDir) -> None:
    algorithm = make()
    before, torch_before = algorithm.generator.get_state(), torch.get_rng_state()
    write_study(run_dir, algorithm.world, [stream(30, [0])], 100)
    one = study_file(run_dir, 100).read_text()
    write_study(run_dir, algorithm.world, [stream(30, [0])], 100)
    assert study_file(run_dir, 100).read_text() == one
    assert torch.equal(algorithm.generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.isfinite(json.loads(one)["latent"]["kl"]).all()
