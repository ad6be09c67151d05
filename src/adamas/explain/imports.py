"""Calls a function when the script imports a framework: nothing is imported that the script does not import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Then = Callable[[], None]


class _Loader(Loader):
    """The module's own loader, with something to do afterwards."""

    def __init__(self, loader: Loader, then: Then) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        module.__loader__ = self._loader
        if spec is not None:
            spec.loader = self._loader  # what the module sees of itself is as without us
        self._loader.exec_module(module)
        self._then()


class _Finder(MetaPathFinder):
    def __init__(self, then: dict[str, Then]) -> None:
        self._then, self._asking = then, False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self._asking or name not in self._then:
            return None
        self._asking = True  # this asks all finders, this one too
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:  # others may only ask, and never load it
            spec.loader = _Loader(spec.loader, self._then[name])
        return spec


@contextmanager
def when_imported(then: dict[str, Then]) -> Iterator[None]:
    """Calls `then[name]()` right after the module `name` was imported, or now where it has been; once each."""
    for name in [name for name in then if name in sys.modules]:
        then[name]()
    finder = _Finder({name: action for name, action in then.items() if name not in sys.modules})
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
