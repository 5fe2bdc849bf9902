"""C++ kernels of worldfleet: the facade over the extension ``native._native``.

The NumPy twins in ``native.reference`` are the oracle of the tests, never a fallback.
"""

from pathlib import Path
from pkgutil import extend_path

from native.sources import digest

__path__ = extend_path(__path__, __name__)  # a checkout without kernels takes those of the installed package

try:
    from native import _native
    from native._native import (
        Ensemble,
        Mcts,
        RayScene,
        RowGather,
        Search,
        SearchState,
        SumTree,
        Traffic,
        build_info,
        cpu_features,
        crc32,
        halving_sequence,
        particle_members,
        risk_scores,
        steering_curve,
        step_vehicles,
        vehicle_columns,
    )
except ImportError as error:
    raise ImportError(
        f"the C++ kernels are not built or do not load ({error}); build them with: make native"
    ) from error

if Path(_native.__file__).parent != Path(__file__).parent:
    _sources = digest(Path(__file__).parent)
    if _sources is not None and _sources != build_info().get("sources"):
        raise ImportError(
            f"the kernels in {_native.__file__} were built from other C++ sources than those beside {__file__}; "
            "install a package with these sources, or bring kernels built from them with: make native"
        )

__all__ = [
    "Ensemble",
    "Mcts",
    "RayScene",
    "RowGather",
    "Search",
    "SearchState",
    "SumTree",
    "Traffic",
    "build_info",
    "cpu_features",
    "crc32",
    "halving_sequence",
    "particle_members",
    "risk_scores",
    "steering_curve",
    "step_vehicles",
    "vehicle_columns",
]
