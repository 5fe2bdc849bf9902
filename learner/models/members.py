"""Files of the members of a model, each loadable on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.specs import ArraySpec
from learner.checkpoint import load_tensors, restoring, save_tensors
from learner.models.coder_config import CoderConfig
from learner.models.ensemble import Ensemble
from learner.models.ensemble_config import EnsembleConfig
from learner.models.latent_ensemble import LatentEnsemble


def save_members(model: Ensemble, directory: Path) -> list[Path]:
    """Write every member to `directory/world_model_member_{i}.pt`, each loadable on its own with `load_member`.

    Returns:
        The files, in the order of the members.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for member in range(model.config.members):
        path = directory / f"world_model_member_{member}.pt"
        record = model.recipe()
        record["config"]["members"] = 1
        save_tensors(path, {**record, "state": model.member_state_dict(member)})
        paths.append(path)
    return paths


def load_member(path: Path) -> Ensemble:
    """The one-member model stored in a file of `save_members`.

    Raises:
        CheckpointError: The file is damaged or lacks a value.
    """
    record = load_tensors(path)
    with restoring(path):
        config = EnsembleConfig(**_tuples(record["config"]))
        model: Ensemble
        if "coder" in record:
            coder, spec = CoderConfig(**_tuples(record["coder"])), record["observation"]
            model = LatentEnsemble(config, coder, ArraySpec(tuple(spec["shape"]), spec["dtype"]), record["action_size"])
        else:
            model = Ensemble(config, record["state_size"], record["action_size"])
        model.load_state_dict(record["state"])
    return model


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
