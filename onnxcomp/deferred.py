"""Puts off importing sympy, which `onnx_ir` needs only for algebra that nothing here asks of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# Half a second of start-up: sympy, and the module of `onnx_ir` that reads its functions.
DEFERRED = frozenset({"sympy", "onnx_ir._symbolic_shapes"})


class _Finder:
    """Finds the deferred modules as the standard library's lazy loader offers them."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec whose module is executed when something is first asked of it."""
        if name not in DEFERRED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def defer_sympy() -> None:
    """Make `import sympy` wait for its first use; call before `onnx_ir` is imported."""
    if "onnx_ir" not in sys.modules and not any(item is _Finder for item in sys.meta_path):
        sys.meta_path.insert(0, _Finder)
