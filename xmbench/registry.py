"""Names to classes: a name maps to a module, and importing the module registers what it defines.

Built-ins map by file name, plug-ins by an entry-point group. Listing imports nothing; a name given twice is an error.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import logging
import math
import pkgutil
import sys
import textwrap
import traceback
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from xmbench.method import Method, MethodInfo, Needs
from xmbench.published import REPORTED

M = TypeVar("M", bound=type[Method])

MOST_POINTS = 12  # of a search space, so that tuning costs every method about the same

_METHODS: dict[str, type[Method]] = {}


def register_method(
    name: str,
    *,
    needs: set[str] | Callable[[Any], set[str]],
    version: int = 1,
    max_modalities: int | None = None,
    retrieval: bool | Callable[[Any], bool] = True,
    multi_label: bool = False,
    from_description: bool = False,
    search: Mapping[str, typing.Sequence[Any]] | None = None,
    smoke: Mapping[str, Any] | None = None,
) -> Callable[[M], M]:
    """Class decorator that registers a method under `name`; see `MethodInfo` for the arguments."""

    def decorate(cls: M) -> M:
        if not is_dataclass(cls):
            raise TypeError(f"{cls.__name__} must be a dataclass: put @dataclass(kw_only=True) below @register_method")
        previous = _METHODS.get(name)
        if previous is not None and previous.__module__ != cls.__module__:
            raise ValueError(f"method {name!r} is defined twice, in {previous.__module__} and in {cls.__module__}")
        declared: Needs | Callable[[Any], Needs] = needs if callable(needs) else frozenset(needs)
        space = _search_space(name, cls, search or {})
        cls.info = MethodInfo(
            name, declared, version, max_modalities, retrieval, multi_label, from_description, space, dict(smoke or {})
        )
        _METHODS[name] = cls
        return cls

    return decorate


@cache
def modules(package: str, group: str) -> dict[str, str]:
    """Name -> module of everything that `package` holds or the entry-point group `group` provides; imports nothing."""
    spec = importlib.util.find_spec(package)
    paths = list(spec.submodule_search_locations or []) if spec is not None else []
    found = {m.name: f"{package}.{m.name}" for m in pkgutil.iter_modules(paths) if not m.name.startswith("_")}
    for point in entry_points(group=group):
        if point.name in found and found[point.name] != point.value:
            raise ValueError(f"{point.name!r} is provided twice, by {found[point.name]} and by {point.value}; uninstall one")
        found[point.name] = point.value
    return dict(sorted(found.items()))


def closest(kind: str, name: str, known: typing.Iterable[str]) -> LookupError:
    """The error for an unknown name: what was asked for, and what comes closest."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return LookupError(f"no {kind} named {name!r}; {hint}")


def method_names() -> list[str]:
    """Names of all methods, built in and plugged in."""
    return sorted(set(modules("baselines", "xmbench.methods")) | set(_METHODS))


def find_method(name: str) -> type[Method]:
    """The class of method `name`; LookupError with the closest name where there is none."""
    if name not in _METHODS:
        module = modules("baselines", "xmbench.methods").get(name)
        if module is None and name in REPORTED:
            raise LookupError(
                f"{name} is known by its published numbers only, there is no network of it here; see: xmbench info {name}"
            )
        if module is None:
            raise closest("method", name, method_names())
        importlib.import_module(module)
        if name not in _METHODS:
            raise LookupError(f"module {module!r} must register a method {name!r}: @register_method({name!r}, ...)")
    return _METHODS[name]


def load_plugin(path: str | Path) -> list[str]:
    """Execute a Python file and return the names of the methods that it registers; another time, only return them.

    Beside the entry points of installed packages this is the only way for code to come in, and by the same rule: its methods
    have names of their own, are not built in, and have the file for their source.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no Python file, an error in it, no method, or a name that is taken.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"there is no plug-in {path}; give the path of a Python file")
    name = f"_xmbench_plugin_{_digest(str(file))}"
    if name in sys.modules:
        return _registered_by(name)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"plug-in {path} must be a Python file, whose name ends in .py")
    known = modules("baselines", "xmbench.methods")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        registered = _registered_by(name)
        if taken := [method for method in registered if method in known]:
            raise ValueError(f"method {taken[0]!r} is provided already, by {known[taken[0]]}; give it another name")
        if not registered:
            raise ValueError("it must register a method: @register_method(NAME, ...)")
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        for method in _registered_by(name):
            del _METHODS[method]
        raise ValueError(f"plug-in {path} cannot be used{line_in(file, error)}: {type(error).__name__}: {error}") from error
    return registered


def _registered_by(module: str) -> list[str]:
    return [method for method, cls in _METHODS.items() if cls.__module__ == module]


def line_in(file: Path, error: BaseException) -> str:
    """Where in a file an error came from, the innermost line; "" where in none of its own."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


@contextmanager
def registered(classes: Iterable[type[Method]]) -> Iterator[None]:
    """Have these classes be the methods of their names for a while, beside all others.

    One that is not registered goes by its class name; it is as what it is derived from, or is given vectors, labels and pairs.

    Raises:
        ValueError: two of one name, or a name of a method that is built in or installed.
    """
    before, known = dict(_METHODS), modules("baselines", "xmbench.methods")
    own: dict[str, type[Method]] = {}
    try:
        for cls in dict.fromkeys(classes):
            if "info" not in vars(cls):
                _register_as_it_is(cls)
            name = cls.info.name
            if name in own or (name in known and before.get(name) is not cls):
                where = own[name].__module__ if name in own else known[name]
                raise ValueError(f"every method must have a name of its own, {name!r} is one of {where} too; give another")
            _METHODS[name] = own[name] = cls
        yield
    finally:
        for name in own:
            _METHODS.pop(name)
        _METHODS.update({name: cls for name, cls in before.items() if name in own})


def _register_as_it_is(cls: type[Method]) -> None:
    inherited: MethodInfo | None = getattr(cls, "info", None)
    if inherited is not None:
        cls.info = replace(inherited, name=cls.__name__)
        return
    register_method(cls.__name__, needs={"vectors", "labels", "pairs"})(cls)
    del _METHODS[cls.__name__]


def is_built_in(name: str) -> bool:
    """Whether method `name` comes with this package."""
    return find_method(name).__module__.startswith("baselines.")


def build_method(name: str, **parameters: Any) -> Method:
    """Method `name` with its hyper-parameters; ValueError for one that does not exist or has the wrong type."""
    cls = find_method(name)
    return cls(**typed_parameters(name, cls, parameters))


def parameters_of(cls: type) -> dict[str, Any]:
    """Parameter -> default of a dataclass."""
    return {f.name: f.default if f.default is not MISSING else None for f in fields(cls)}


def typed_parameters(owner: str, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with every value turned into its field's type; text as on a command line is read as that type.

    Raises:
        ValueError: an unknown parameter (with the closest name), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = parameters_of(cls)
    typed = {}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {owner}.{close[0]}?" if close else f"known: {', '.join(known) or 'none'}"
            raise ValueError(f"{owner} has no parameter {name!r}; {hint}")
        typed[name] = typed_value(f"{owner}.{name}", hints[name], value)
    return typed


def typed_value(where: str, kind: Any, value: Any) -> Any:
    """`value` as `kind`: bool, int, float, str, a Literal, or one of these or None."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        if value in options:
            return value
        raise ValueError(f"{where} must be one of {', '.join(map(str, options))}, got {value!r}")
    if typing.get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}")
        return tuple(typed_value(where, options[0], item) for item in items)
    if isinstance(kind, types.UnionType):
        if value is None or value == "none":
            return None
        kind = next(option for option in options if option is not type(None))
    if isinstance(value, str) and kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        if kind in (int, float) and isinstance(value, str):
            value = kind(value)
    except ValueError:
        raise ValueError(f"{where} must be of type {kind.__name__}, got {value!r}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 63 else math.inf
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value!r}")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be of type {kind.__name__}, got {value!r}")
    return value


def _search_space(name: str, cls: type, given: Mapping[str, typing.Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """A declared search space, its values typed; the whole grid must not be larger than `MOST_POINTS`."""
    space = {key: tuple(typed_parameters(name, cls, {key: value})[key] for value in values) for key, values in given.items()}
    if (points := math.prod(map(len, space.values()))) > MOST_POINTS:
        raise ValueError(f"the search space of {name} must have at most {MOST_POINTS} points, got {points}")
    return space


def source_sha(cls: type) -> str:
    """Hash of the source file that defines `cls`, 16 hex digits: a run whose method's file changed is stale.

    Comments, docstrings, layout, and the search space and smoke setting that a method is registered with do not count. Of a
    class that is in no file, as in a notebook, its own source counts; where that cannot be had, every process has another
    hash, and a warning says so.
    """
    path = source_file(cls)
    return _sha(path) if path is not None else _sha_without_file(cls)


def source_file(cls: type) -> Path | None:
    """The file that defines `cls`; None of a class that was typed into an interpreter or a notebook."""
    path = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(path).resolve() if path is not None and Path(path).is_file() else None


@cache
def _sha_without_file(cls: type) -> str:
    try:
        return _source_digest(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        message = "the source of %s cannot be read: its stored runs count as stale and are done again in every session; "
        logging.getLogger("xmbench").warning(message + "save it as a file to keep them", cls.__qualname__)
        return _digest(f"{cls.__qualname__} {uuid.uuid4()}")


def module_sha(name: str) -> str | None:
    """`source_sha` of method `name` without importing it; None where its file cannot be found."""
    module = modules("baselines", "xmbench.methods").get(name)
    if module is None and name in _METHODS:  # of a plug-in file
        return source_sha(_METHODS[name])
    try:
        spec = importlib.util.find_spec(module) if module is not None else None
    except ImportError:
        return None
    return _sha(Path(spec.origin)) if spec is not None and spec.origin is not None else None


def _sha(path: Path) -> str:
    return _file_digest(path, path.stat().st_mtime_ns)


@lru_cache
def _file_digest(path: Path, changed: int) -> str:
    """Digest of a source file as it was `changed` at."""
    return _source_digest(path.read_text("utf-8"))


def _source_digest(content: str) -> str:
    try:
        tree = ast.parse(content)
    except SyntaxError:
        return _digest(content)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register_method":
            node.keywords = [k for k in node.keywords if k.arg not in ("search", "smoke")]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return _digest(ast.unparse(tree))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
