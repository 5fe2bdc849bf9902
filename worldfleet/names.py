"""Binds the names of our packages to our folders, whatever else of these names is on the path.

A package of ours is imported from beside `worldfleet`. Same-named folders elsewhere on `sys.path` are the user's: they
follow ours in the package's `__path__`, and their `__init__.py` runs in the package after ours, so `envs.mine` is the
user's and `envs.specs` ours, in any order of the path. A module that both have is refused when it is imported, also a
plain `envs.py`. The path is read at every import, so what is added to it later counts too. A folder with another
`worldfleet`, such as an installed one behind a checkout, is not the user's and is left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).resolve().parents[1]
"""Where our packages are."""

NAMES = ("actors", "cluster", "envs", "learner", "native", "planners")


class NameClash(ImportError):
    """A module of the user's has the name of one of ours."""


def bind() -> None:
    """Bind the names from now on; a second call changes nothing.

    Packages of these names that were imported before stay what they are, and our modules are found in them too.

    Raises:
        NameClash: A module that was imported before has the name of one of ours.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    for name in NAMES:
        module = sys.modules.get(name)
        if module is None:
            continue
        if not hasattr(module, "__path__"):
            raise _clash(name, HOME / name / "__init__.py", _place(module))
        folders = _folders(name)
        module.__path__ = [*folders, *(folder for folder in module.__path__ if folder not in folders)]
        for inner in [inner for inner in sys.modules if inner.rpartition(".")[0] == name]:
            ours = _file(inner, HOME / name)
            if ours is not None and _place(sys.modules[inner]) != ours:
                raise _clash(inner, ours, _place(sys.modules[inner]))
        _run_ours(module)


def run(function: Callable[..., None], *arguments: object) -> None:
    """Where spawned processes start: importing this module has bound the names that `function` is found by."""
    function(*arguments)


class _Finder:
    """Finds our packages and the modules directly in them; what is deeper has one owner and is found as usual."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, inner = name.partition(".")
        if package not in NAMES or "." in inner:
            return None
        roots = _user_roots()
        if inner:
            found = [_file(name, root / package) for root in (HOME, *roots)]
        else:
            found = [HOME / name / "__init__.py", *(root / f"{name}.py" for root in roots)]
        ours, *theirs = found
        for file in theirs:
            if ours is not None and file is not None and file.exists():
                raise _clash(name, ours, file)
        folders = _folders(package)
        if inner:
            return PathFinder.find_spec(name, folders)
        loader = _Package(name, str(ours))
        return spec_from_file_location(name, ours, loader=loader, submodule_search_locations=folders)


_FINDER = _Finder()


class _Package(SourceFileLoader):
    """Runs our `__init__.py`, then those of the user's folders in the same module; what ours has defined stays."""

    def exec_module(self, module: ModuleType) -> None:
        _run_ours(module)
        ours = dict(vars(module))
        for folder in _folders(self.name)[1:]:
            init = Path(folder) / "__init__.py"
            if init.is_file():
                module.__file__ = str(init)
                _execute(init, module)
                vars(module).update(ours)


def _run_ours(module: ModuleType) -> None:
    _execute(HOME / module.__name__ / "__init__.py", module)
    if module.__name__ == "envs":
        from envs import spawn

        spawn.enter_through(run)


def _execute(init: Path, package: ModuleType) -> None:
    SourceFileLoader(package.__name__, str(init)).exec_module(package)


def _user_roots() -> list[Path]:
    """The folders of the path that have no worldfleet in them."""
    roots = dict.fromkeys(Path(entry).resolve() for entry in sys.path)
    return [root for root in roots if not (root / "worldfleet" / "__init__.py").is_file()]


def _folders(package: str) -> list[str]:
    """Our folder of a package, then the user's in the order of the path."""
    return [str(root / package) for root in (HOME, *_user_roots()) if (root / package).is_dir()]


def _file(name: str, folder: Path) -> Path | None:
    """The file of module `name` in a folder, the folder of one without `__init__.py`, None if it is not there."""
    spec = PathFinder.find_spec(name, [str(folder)])
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin)
    places = map(Path, spec.submodule_search_locations or ())
    return next((place for place in places if any(place.glob("*.py"))), None)


def _place(module: ModuleType) -> Path:
    """Where a module came from."""
    return Path(getattr(module, "__file__", None) or next(iter(module.__path__))).resolve()


def _clash(name: str, ours: Path, theirs: Path) -> NameClash:
    return NameClash(
        f"{theirs} and worldfleet's {ours} are both the module {name}; rename yours, or take its folder off the path"
    )
