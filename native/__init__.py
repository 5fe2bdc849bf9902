"""C++ kernels of worldfleet: the facade over the extension ``native._native``.

The NumPy twins in ``native.reference`` are the oracle of the tests, never a fallback.
"""

try:
    from native._native import (
        Ensemble,
        Mcts,
        RowGather,
        Search,
        SearchState,
        SumTree,
        build_info,
        cpu_features,
        crc32,
        halving_sequence,
        particle_members,
    )
except ImportError as error:
    raise ImportError(
        f"the C++ kernels are not built or do not load ({error}); build them with: make native"
    ) from error

__all__ = [
    "Ensemble",
    "Mcts",
    "RowGather",
    "Search",
    "SearchState",
    "SumTree",
    "build_info",
    "cpu_features",
    "crc32",
    "halving_sequence",
    "particle_members",
]
