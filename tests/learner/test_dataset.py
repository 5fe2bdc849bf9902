"""Recorded streams: sampling and offline fitting."""

import numpy as np
import pytest
import torch

from learner.algorithms.pets import PetsAlgorithm
from learner.algorithms.pets_config import PetsConfig
from learner.dataset import StreamDataset
from learner.early_stopping import EarlyStoppingConfig
from learner.fit import fit
from learner.learner_config import LearnerConfig
from learner.models.ensemble_config import EnsembleConfig
from tests.learner.streams import SPEC, make_stream


def test_sequences_are_cut_from_where_they_say() -> None:
    streams = [make_stream(0, episodes=1), make_stream(1, episodes=3)]
    batch = StreamDataset(streams, first_stream_id=40).sample(200, 6, np.random.default_rng(0))
    assert batch.shape == (200, 6)
    for row in range(200):
        stream = streams[int(batch.stream_id[row]) - 40]
        first = int(batch.first_step[row])
        np.testing.assert_array_equal(batch.data["state"][row], stream["state"][first : first + 6])


def test_every_start_is_equally_likely_and_short_streams_are_left_out() -> None:
    lengths = [2, 10, 5]
    streams = [{key: value[:length] for key, value in make_stream(0).items()} for length in lengths]
    dataset = StreamDataset(streams)
    assert len(dataset) == 17
    batch = dataset.sample(40_000, 4, np.random.default_rng(0))
    starts, counts = np.unique(np.stack([batch.stream_id, batch.first_step]), axis=1, return_counts=True)
    assert starts.T.tolist() == [[1, i] for i in range(7)] + [[2, 0], [2, 1]]
    np.testing.assert_allclose(counts / 40_000, 1 / 9, atol=0.01)


def test_bad_datasets_are_refused() -> None:
    stream = make_stream(0, episodes=1)
    with pytest.raises(ValueError, match="at least one"):
        StreamDataset([])
    with pytest.raises(ValueError, match="different keys"):
        StreamDataset([stream, {key: value for key, value in stream.items() if key != "reward"}])
    with pytest.raises(ValueError, match="no stream has 99 steps, the longest has 26"):
        StreamDataset([stream]).sample(1, 99, np.random.default_rng(0))


def test_fit_repeats_itself_and_ends_when_the_algorithm_stops() -> None:
    stopping = EarlyStoppingConfig(patience=5, smoothing=3, min_improvement=0.9)
    config = PetsConfig(ensemble=EnsembleConfig(2, (8,)), early_stopping=stopping, validation_fraction=0.3)
    settings = LearnerConfig(batch_size=32, sequence_length=2, threads=1)

    def once() -> tuple[list[dict[str, float]], PetsAlgorithm]:
        algorithm = PetsAlgorithm(config, SPEC, torch.device("cpu"), seed=1)
        return fit(algorithm, StreamDataset([make_stream(0)]), settings, 5000, seed=2, log_every=4), algorithm

    records, first = once()
    assert records[-1]["stopped"] == 1.0
    assert records[-1]["updates"] < 1000
    again, second = once()
    assert [r["validation_loss_smoothed"] for r in records] == [r["validation_loss_smoothed"] for r in again]
    np.testing.assert_array_equal(first.export_weights()["weight_0"], second.export_weights()["weight_0"])
