"""torchvision without torch's compiler, whose import takes longer than that of torch and torchvision together.

``torchvision.ops.roi_align``, which only networks for detection call, imports one function of it. Here it gets one that
imports the compiler when it is called: 14 -> 6 seconds of processor time in each process that opens pictures.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COMPILER = "torch._dynamo.utils"


class _Forwarder(ModuleType):
    """Stands for a module whose functions are imported when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *values, **options: getattr(import_module(self.__name__), name)(*values, **options)


@contextmanager
def _deferred(module: str) -> Iterator[None]:
    """Let a module that is not imported yet be imported by the first call of one of its functions."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = _Forwarder(module)
    try:
        yield
    finally:
        del sys.modules[module]


with _deferred(_COMPILER):
    import torchvision
    from torchvision import transforms

__all__ = ["torchvision", "transforms"]
