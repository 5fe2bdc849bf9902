"""One-step models: ensembles, learned by bootstrap from replayed sequences (PETS, Chua et al. 2018), perhaps of codes.

An update (1) sums normaliser statistics and row weights over the ranks, (2) computes the gradient on the training
episodes, (3) measures the loss on the held-out episodes of the same batch, (4) takes the step, if losses and gradients
are finite, and (5) decides whether to stop.

Letters: B sequences, T steps, N transitions, K members, S state size, A action size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.base import Part, UpdateResult, nonfinite
from learner.algorithms.pets_config import PetsConfig
from learner.batch import SequenceBatch
from learner.bootstrap import bootstrap_weights, held_out
from learner.collective import Collective, current
from learner.device import autocast, to_device
from learner.early_stopping import EarlyStopping
from learner.learner_config import Precision
from learner.losses.coding import code_rows, coding_losses
from learner.losses.ensemble import EnsembleLoss, ensemble_loss, logvar_penalty
from learner.losses.ensemble_config import EnsembleLossConfig
from learner.losses.likelihood import squared_error
from learner.models.average import ParameterAverage
from learner.models.ensemble import Ensemble
from learner.models.latent_ensemble import LatentEnsemble
from learner.models.members import save_members
from learner.models.normaliser import OUTLIER_FACTOR, OUTLIER_SHARE
from learner.optim import Optimizer, learning_rate
from learner.transitions import Transitions, transitions_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Rows:
    """Transitions on the device."""

    state: Tensor  # [N, S]
    action: Tensor  # [N, A]
    target: Tensor  # [N, S + 1] physical units
    terminal: Tensor  # [N]
    weights: Tensor  # [K, N]

    @property
    def inputs(self) -> Tensor:
        """[N, S + A]."""
        return torch.cat([self.state, self.action], 1)

    def __len__(self) -> int:
        return len(self.state)

    def take(self, mask: Tensor) -> _Rows:
        """The rows where the mask [N] is true."""
        return _Rows(self.state[mask], self.action[mask], self.target[mask], self.terminal[mask], self.weights[:, mask])


class PetsAlgorithm:
    """Learns an ensemble from batches of sequences.

    Args:
        config: What to learn and how.
        env_spec: Sizes of the state and the action.
        device: Where to compute.
        seed: Seed of the initial weights, the bootstrap and the split.
        precision: "bf16" computes matrix products in bfloat16; weights and losses stay in full width.
        collective: The ranks that share the work, by default the process group this process has joined.
        dtype: Width of weights and losses.
        priorities: Whether updates give priorities, for which they predict the batch once more.

    Raises:
        ValueError: If the environment has no such observation, or discrete actions.
    """

    def __init__(
        self,
        config: PetsConfig,
        env_spec: EnvSpec,
        device: torch.device,
        seed: int,
        precision: Precision = "fp32",
        collective: Collective | None = None,
        dtype: torch.dtype = torch.float32,
        priorities: bool = False,
    ) -> None:
        observation, action_size = _spaces(config, env_spec)
        self.config = config
        self.seed = seed
        self._device, self._precision, self._dtype = device, precision, dtype
        self._gives_priorities = priorities
        self._collective = collective or current()
        self.model = make_model(config, observation, action_size, seed % 2**63).to(device, dtype)
        for statistics in self.model.normalisers:
            statistics.double()
        self.optimizer = Optimizer(config.optimizer, self.model.parameters())
        self.average = ParameterAverage(self.model.parameters(), config.average_decay)
        self.stopping = EarlyStopping(config.early_stopping)
        self._best: dict[str, Tensor] | None = None
        self._stream_steps: dict[int, int] = {}
        self._told_outlier = False
        # A held-out loss is a proper score: without the variance weighting of the training loss.
        self._validation_loss = replace(config.loss, nll_beta=0.0)

    def update(self, batch: SequenceBatch, part: Part | None = None) -> UpdateResult:
        """One gradient step, or only an evaluation while stopped.

        Args:
            batch: Sequences of at least two steps with the observation of the configuration.
            part: Changes nothing: all that is learned is the world model.

        Returns:
            Losses of the members (`loss_member_{i}`, `validation_loss_member_{i}`) and their means, every term of the
            loss likewise (`loss_{term}`, `loss_{term}_member_{i}`), the norm of the gradients, `stopped`, and
            `outliers`, the transitions of all ranks that were left out; perhaps priorities, with their mean and that of
            the weights.
        """
        seen, held = self._split(batch)
        train, validation = self._regular(seen), self._regular(held)
        outliers = torch.tensor([len(seen) + len(held) - len(train) - len(validation)], device=self._device)
        before = [buffer.clone() for buffer in self.model.buffers()]
        sums, validation_weight, streams, data_seen = self._share_statistics(batch, seen, train, validation, outliers)
        report: dict[str, Tensor] = {}
        if not self.stopping.stopped:
            report.update(self._train_losses(train, sums))
        report["validation_loss_member"] = self._held_out_loss(validation, validation_weight)
        metrics, norm = self._reduce(report)
        metrics["outliers"] = float(outliers)
        if skipped := nonfinite(metrics):
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)
            self.optimizer.clear()
            return UpdateResult(metrics, skipped=skipped)
        self._stream_steps = streams
        if norm is not None:
            metrics["learning_rate"] = learning_rate(self.config.optimizer, self.optimizer.step_count)
            self.optimizer.step(norm)
            self.average.update()
        metrics.update(self._decide(metrics, bool(validation_weight > 0), data_seen))
        if not self._gives_priorities:
            return UpdateResult(metrics)
        priorities = self._sequence_errors(batch)
        metrics |= {"priority_mean": float(priorities.mean()), "weight_mean": float(batch.weight.mean())}
        return UpdateResult(metrics, priorities)

    def evaluate(self, transitions: Transitions) -> NDArray[np.float64]:
        """Held-out loss of every member on given transitions, [K]; no update, no exchange with other ranks."""
        rows = self._rows(transitions, np.ones((self.config.ensemble.members, len(transitions)), np.float32))
        loss = self._held_out_loss(rows, rows.weights.sum(1))
        return loss.double().cpu().numpy()

    def export_weights(self) -> dict[str, NDArray[Any]]:
        """The ensemble as planners consume it, see `Ensemble.export`."""
        with self.average.applied():
            return self.model.export()

    def save_artifacts(self, directory: Path) -> list[Path]:
        """Write `world_model_member_{i}.pt` for every member."""
        with self.average.applied():
            return save_members(self.model, directory)

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser, moving average, early stopping and the lengths of the known streams."""
        streams = self._stream_steps
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "stopping": self.stopping.state_dict(),
            "best": self._best,
            "stream_ids": np.array(list(streams.keys()), np.uint64),
            "stream_steps": np.array(list(streams.values()), np.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            RuntimeError: If the sizes of the model differ.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.stopping.load_state_dict(state["stopping"])
        best = state["best"]
        self._best = None if best is None else {name: value.to(self._device) for name, value in best.items()}
        steps = state["stream_steps"].tolist()
        self._stream_steps = dict(zip(state["stream_ids"].tolist(), steps, strict=True))

    def _split(self, batch: SequenceBatch) -> tuple[_Rows, _Rows]:
        """Training rows with bootstrap weights and held-out rows."""
        config = self.config
        rows = transitions_of(batch, config.observation_key)
        out = held_out(rows.stream_id, rows.episode, config.validation_fraction, self.seed)
        train, validation = rows.take(~out), rows.take(out)
        members = config.ensemble.members
        weights = bootstrap_weights(train.stream_id, train.step, members, self.seed, config.bootstrap)
        everyone = np.tile(validation.weight, (members, 1))
        return self._rows(train, weights * train.weight), self._rows(validation, everyone)

    def _rows(self, rows: Transitions, weights: NDArray[np.float32]) -> _Rows:
        arrays = (rows.state, rows.action, rows.target, rows.terminal, weights)
        return _Rows(*(to_device(array, self._device, self._dtype) for array in arrays))

    @torch.no_grad()
    def _coded(self, rows: _Rows, weights: Tensor | None = None) -> _Rows:
        """The rows as the members see them: with latents where there is a coder, scaled first by rows of `weights`."""
        model = self.model
        if not isinstance(model, LatentEnsemble):
            return rows
        coder = model.coder
        if weights is not None and coder.statistics is not None and not self.stopping.stopped:
            found = coder.statistics.statistics(rows.state, weights)
            self._collective.sum_([found])
            coder.statistics.merge(found)
            coder.refresh_scales()
        coded = code_rows(model, rows.state, rows.target)
        return replace(rows, state=coded.latent, target=coded.target)

    def _regular(self, rows: _Rows) -> _Rows:
        """The rows without an outlier, see `RunningNormaliser`; the first one of all is told."""
        key = self.config.observation_key
        if isinstance(self.model, LatentEnsemble):
            return rows  # what is coded is bounded by the coder's units, or by those of pixels
        statistics = self.model.input_statistics, self.model.output_statistics
        odd = [found.outliers(part) for found, part in zip(statistics, (rows.inputs, rows.target), strict=True)]
        everywhere = torch.cat(odd, 1)
        if not bool(everywhere.any()):
            return rows
        if not self._told_outlier:
            self._told_outlier = True
            row, column = everywhere.nonzero()[0].tolist()
            state, action = self.model.state_size, self.model.action_size
            names = [f"{key}[{i}]" for i in range(state)] + [f"action[{i}]" for i in range(action)]
            names += [f"the change of {key}[{i}]" for i in range(state)] + ["the reward"]
            logger.warning(
                "%s is %g, more than %d times as large as in all but %g %% of the steps: such transitions are left "
                "out, and learner/outliers counts them",
                *(names[column], torch.cat([rows.inputs, rows.target], 1)[row, column].item()),
                *(OUTLIER_FACTOR, 100 * OUTLIER_SHARE),
            )
        return rows.take(~everywhere.any(1))

    def _share_statistics(
        self, batch: SequenceBatch, seen: _Rows, train: _Rows, validation: _Rows, outliers: Tensor
    ) -> tuple[Tensor, Tensor, dict[int, int], int]:
        """Merge the normaliser statistics of all ranks and sum their row weights, and their numbers of outliers.

        Returns:
            Weight sums of the members [K], the held-out weight, and the known data: steps of every stream, and of all
            streams that the rank that knows most has met.
        """
        model, collective = self.model, self._collective
        uniform = (seen.weights.sum(0) > 0).double()
        seen = self._coded(seen, uniform)
        inputs = model.input_statistics.statistics(seen.inputs, uniform)
        outputs = model.output_statistics.statistics(seen.target, uniform)
        sums = train.weights.double().sum(1)
        held = validation.weights[:1].double().sum()[None]
        streams = self._stream_steps | self._met_streams(batch)
        known = torch.zeros(collective.world_size, dtype=torch.float64, device=self._device)
        known[collective.rank] = sum(streams.values())
        collective.sum_([inputs, outputs, sums, held, known, outliers])
        if not self.stopping.stopped:
            model.input_statistics.merge(inputs)
            model.output_statistics.merge(outputs)
            model.refresh_scales()
        return sums.to(self._dtype), held[0].to(self._dtype), streams, int(known.max())

    def _met_streams(self, batch: SequenceBatch) -> dict[int, int]:
        """The known length of every stream of the batch, with the batch."""
        met: dict[int, int] = {}
        ends = (batch.first_step + batch.shape[1]).tolist()
        for stream, end in zip(batch.stream_id.tolist(), ends, strict=True):
            met[stream] = max(end, met.get(stream, 0), self._stream_steps.get(stream, 0))
        return met

    def _losses(self, rows: _Rows, config: EnsembleLossConfig, sums: Tensor) -> EnsembleLoss:
        model = self.model
        with autocast(self._device, self._precision):
            if isinstance(model, LatentEnsemble):
                coded = code_rows(model, rows.state, rows.target, sample=torch.is_grad_enabled())
                prediction = model(coded.latent, rows.action)
                coding = coding_losses(config, model, coded, prediction, self.optimizer.step_count)
                target = model.normalise_target(coded.target)
            else:
                prediction, coding = model(rows.state, rows.action), None
                target = model.normalise_target(rows.target)
        return ensemble_loss(config, prediction, target, rows.terminal, rows.weights, sums, coding=coding)

    def _train_losses(self, train: _Rows, sums: Tensor) -> dict[str, Tensor]:
        """Backpropagate this rank's share of the loss; returns its terms per member."""
        losses = self._losses(train, self.config.loss, sums)
        total = losses.total.sum()
        if self.config.ensemble.gaussian:
            penalty = logvar_penalty(self.config.loss, self.model.min_logvar, self.model.max_logvar)
            total = total + penalty / self._collective.world_size
        total.backward()  # type: ignore[no-untyped-call]
        terms = {f"loss_{name}_member": term.detach() for name, term in losses.terms().items()}
        return {"loss_member": losses.total.detach()} | terms

    @torch.no_grad()
    def _held_out_loss(self, rows: _Rows, weight: Tensor) -> Tensor:
        """This rank's share of the held-out loss of every member, [K]."""
        with self.average.applied():
            return self._losses(rows, self._validation_loss, weight).total

    @torch.no_grad()
    def _sequence_errors(self, batch: SequenceBatch) -> NDArray[np.float32]:
        """Half the squared error [B] of each sequence: the mean over transitions, members and normalised quantities.

        Outliers do not count.
        """
        transitions = transitions_of(batch, self.config.observation_key)
        rows = self._rows(transitions, transitions.sequence[None].astype(np.float32))
        rows = self._regular(rows)
        sequence = rows.weights[0].long().cpu().numpy()
        rows = self._coded(rows)
        with autocast(self._device, self._precision):
            mean = self.model(rows.state, rows.action).mean
        error = squared_error(mean, self.model.normalise_target(rows.target).expand_as(mean)).mean((0, 2))
        sums = np.bincount(sequence, error.double().cpu().numpy(), batch.shape[0])
        counts = np.bincount(sequence, minlength=batch.shape[0])
        errors = (sums / np.maximum(counts, 1)).astype(np.float32)
        return np.where(np.isfinite(errors), errors, np.float32(0.0))  # of predictions that overflow

    def _reduce(self, report: dict[str, Tensor]) -> tuple[dict[str, float], Tensor | None]:
        """Sum gradients and losses over the ranks in one buffer; the losses as numbers, the gradients' norm if any."""
        stepping = "loss_member" in report
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None] if stepping else []
        self._collective.sum_([*gradients, *report.values()])
        norm = self.optimizer.gradient_norm() if stepping else None
        if norm is not None:
            report["gradient_norm"] = norm[None]
        values = torch.cat([value.detach() for value in report.values()]).tolist()
        return _named(values, {name: value.numel() for name, value in report.items()}), norm

    def _decide(self, metrics: dict[str, float], measured: bool, data_seen: int) -> dict[str, float]:
        """Early stopping: keep the best weights, return to them on a stop."""
        decision = self.stopping.observe(metrics["validation_loss"] if measured else None, data_seen)
        if decision == "restart":
            self._best = None
        elif decision == "improved":
            with self.average.applied():
                self._best = {name: value.clone() for name, value in self.model.state_dict().items()}
        elif decision == "stop" and self._best is not None:
            self.model.load_state_dict(self._best)
            self.average.reset()
        if not measured:
            for name in [name for name in metrics if name.startswith("validation_loss")]:
                del metrics[name]
        return {
            "validation_loss_smoothed": self.stopping.smoothed,
            "stopped": float(self.stopping.stopped),
            "data_seen": float(data_seen),
        }


def make_model(config: PetsConfig, observation: ArraySpec, action_size: int, seed: int = 0) -> Ensemble:
    """The model of a configuration: of the observation itself, or of a code of it.

    Raises:
        ValueError: The observation does not fit the coder.
    """
    if config.coder is None:
        return Ensemble(config.ensemble, observation.size, action_size, seed)
    return LatentEnsemble(config.ensemble, config.coder, observation, action_size, seed)


def _spaces(config: PetsConfig, env_spec: EnvSpec) -> tuple[ArraySpec, int]:
    """The observation, and A of the environment."""
    if config.observation_key not in env_spec.observation:
        raise ValueError(
            f"environment {env_spec.name} has no observation {config.observation_key!r}, "
            f"only {sorted(env_spec.observation)}"
        )
    if env_spec.action.is_discrete:
        raise ValueError(f"{config.name} plans in a box of actions, but the actions of {env_spec.name} are discrete")
    return env_spec.observation[config.observation_key], env_spec.action.size


def _named(values: list[float], sizes: dict[str, int]) -> dict[str, float]:
    """Flat values as metrics: the mean under each name, and the members' own values of a `*_member` entry."""
    metrics: dict[str, float] = {}
    offset = 0
    for name, size in sizes.items():
        part = values[offset : offset + size]
        offset += size
        if name.endswith("_member"):
            metrics.update({f"{name}_{index}": value for index, value in enumerate(part)})
            name = name.removesuffix("_member")
        metrics[name] = sum(part) / size
    return metrics
