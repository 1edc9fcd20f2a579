"""numpy's core and nothing of the rest, for a process that does nothing but answer a delta.

``import numpy`` takes 45 ms, for a hundred modules in Python; the one in C that does all the work takes 4. That one
stands in ``numpy/core`` before numpy 2, in ``numpy/_core`` since::

    sys.modules   numpy                            this stand-in, with the names that are used here
                  numpy._core                      an empty one; its own would import all others
                  numpy._core._multiarray_umath    numpy's own

    numpy._globals, numpy._utils                     stand-ins: enum and functools take longer than the core

Where it is not found there, or answers a known question wrongly, numpy is imported as it always is.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

_TYPES = {
    "bool_": "?",
    "int8": "i1",
    "int64": "i8",
    "intp": "p",
    "uint8": "u1",
    "uint32": "u4",
    "uint64": "u8",
}
_NAMES = (
    "add",
    "arange",
    "array",
    "ascontiguousarray",
    "concatenate",
    "empty",
    "frombuffer",
    "logical_and",
    "logical_or",
    "maximum",
    "minimum",
    "zeros",
)
_PLACES = ("_core", "core")
_KEPT = 1 << 20


def leave_out() -> None:
    """Before numpy is imported, if ever it is: who imports it later in this process gets its core."""
    if "numpy" not in sys.modules:
        sys.modules["numpy"] = _Core("numpy")


class _Core(ModuleType):
    """Loads when it is asked for something, which is not when it is imported."""

    def __getattr__(self, name: str) -> Any:
        if name not in _NAMES and name not in _TYPES:
            raise AttributeError(f"module 'numpy' without its other parts has no {name}")
        if not self._load():
            _leave_in(self)
        return vars(self)[name]

    def _load(self) -> bool:
        core = _loaded(self)
        if core is None:
            return False
        vars(self).update((name, getattr(core, name)) for name in _NAMES)
        vars(self).update((name, core.dtype(code).type) for name, code in _TYPES.items())
        if not _works(self):
            return False
        # glibc keeps for later what is as large as the largest that was ever freed; else much is given back to the
        # kernel after each batch, and got again from it page by page.
        core.empty(_KEPT)
        return True


def _loaded(package: ModuleType) -> Any:
    """The module in C; None where it cannot be had."""
    from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, PathFinder

    found = PathFinder.find_spec("numpy")
    for place in found.submodule_search_locations or () if found is not None else ():
        for name in _PLACES:
            spec = FileFinder(f"{place}/{name}", (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec(
                f"numpy.{name}._multiarray_umath"
            )
            if spec is None or spec.loader is None:
                continue
            if name == "_core":
                _stand_in()
            core = ModuleType(f"numpy.{name}")
            # It imports some of its neighbours in Python, by their names.
            package.__path__, core.__path__ = [place], [f"{place}/{name}"]
            sys.modules[core.__name__] = core
            try:
                module = spec.loader.create_module(spec)
                if module is not None:
                    sys.modules[spec.name] = module
                    spec.loader.exec_module(module)
                    return module
            except ImportError:
                return None
    return None


def _stand_in() -> None:
    """What the core's own neighbours want of numpy's helpers, and one thread for an algebra that nobody asks for here.

    PyPI's numpy brings OpenBLAS, which starts a thread for each processor when it is loaded; it reads C's environment.
    """
    from posix import environ, putenv

    if b"OPENBLAS_NUM_THREADS" not in environ:
        putenv(b"OPENBLAS_NUM_THREADS", b"1")
    helpers = ModuleType("numpy._utils")
    vars(helpers)["set_module"] = lambda _name: lambda found: found
    values = ModuleType("numpy._globals")
    for name in ("_NoValue", "_CopyMode", "_signature_descriptor"):
        vars(values)[name] = type(name, (), {"ALWAYS": True, "NEVER": False, "IF_NEEDED": 2})
    sys.modules.update({"numpy._utils": helpers, "numpy._globals": values})


def _works(np: Any) -> bool:
    """Whether it does without the rest what is asked of it here."""
    try:
        words = np.frombuffer(bytes(range(64)), dtype="<u8")
        places = (words[1:] > words[:-1]).nonzero()[0]
        return (
            bool(np.logical_and.reduce(places == np.arange(7)))
            and int(np.maximum.reduce(words)) >> 56 == 63
            and int((words[places] ^ np.uint64(1)).searchsorted(words[3])) == 3
            and int(np.add.reduce(np.concatenate((places, places)).astype(np.int64))) == 42
            and places.argsort(kind="stable").tolist() == list(range(7))
        )
    except (AttributeError, ImportError, TypeError, ValueError):
        return False


def _leave_in(stand_in: ModuleType) -> None:
    """All of numpy after all, under the stand-in's name as well."""
    for name in ("numpy", "numpy._utils", "numpy._globals", *(f"numpy.{name}" for name in _PLACES)):
        sys.modules.pop(name, None)
    import numpy

    vars(stand_in).update(vars(numpy))
