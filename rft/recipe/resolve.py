"""From a name in a recipe to the thing itself, told apart by shape, never guessed.

    package.module:Attribute     any importable module
    ./graders.py:Near            a file beside the recipe
    exact                        an installed entry point in `rft.evaluators` or `rft.environments`

Ours are entry points like anyone else's. Folders are appended to the import path, never put first, so a
user's file cannot hide an installed package. Nothing is imported before it is named.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from pydantic import ValidationError

from rft.environment import Environment
from rft.errors import Problem, RecipeError, ResolveError, UserError
from rft.evaluator import Evaluator, FunctionEvaluator
from rft.recipe import userfile
from rft.recipe.problems import did_you_mean, from_pydantic
from rft.recipe.schema import Use


def resolve_evaluator(use: Use, base: Path | None = None) -> Evaluator:
    """The evaluator that `use` names, with its arguments.

    Args:
        base: where relative files start and `module:Class` is looked for last. A loaded recipe's paths are
            absolute, so it needs none.

    Raises ResolveError when the name leads nowhere, RecipeError when the arguments are wrong.
    """
    found = _find(use.use, "evaluator", base)
    if isinstance(found, FunctionEvaluator):
        return _configured(found, use)
    if isinstance(found, Evaluator):
        if use.with_:
            told = "takes no arguments: it is already made; name its class to configure it"
            raise RecipeError(use.use, [Problem("evaluator.with", told)])
        return found
    if isinstance(found, type) and issubclass(found, Evaluator):
        return _make_evaluator(found, use, base)
    hint = "; put @evaluator above it" if callable(found) and not isinstance(found, type) else ""
    raise ResolveError(f"evaluator {use.use!r} is {_what(found)}, not an Evaluator{hint}")


def resolve_environment(use: Use, base: Path | None = None) -> Callable[[], Environment]:
    """A factory: each call makes a fresh environment, one for each rollout.

    Raises ResolveError when the name leads nowhere, RecipeError when the arguments are wrong.
    """
    found = _find(use.use, "environment", base)
    if not (isinstance(found, type) and issubclass(found, Environment)):
        raise ResolveError(f"environment {use.use!r} is {_what(found)}, not a subclass of Environment")
    _make(found, use, "environment")  # wrong arguments come out now, not in the first rollout
    return lambda: found(**use.with_)


def resolve_callable(name: str, base: Path | None = None) -> Callable[..., Any]:
    """The function `module:function` or `./file.py:function`. Raises ResolveError."""
    if ":" not in name:
        raise ResolveError(f"{name!r} is not a function's name; write module:function or ./file.py:function")
    found: Callable[..., Any] = _find(name, "function", base)
    if not callable(found):
        raise ResolveError(f"{name!r} is {_what(found)} and cannot be called")
    return found


def resolve_object(name: str, base: Path | None = None) -> Any:
    """Whatever `module:name` or `./file.py:name` is. Raises ResolveError."""
    if ":" not in name:
        raise ResolveError(f"{name!r} does not say where it is; write module:name or ./file.py:name")
    return _find(name, "object", base)


def _find(name: str, kind: str, base: Path | None) -> Any:
    module_name, colon, attribute = name.rpartition(":")
    if not colon:
        return _entry_point(name, kind)
    module = (
        _file(module_name, name, base) if module_name.endswith(".py") else _module(module_name, name, base)
    )
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        public = [known for known in vars(module) if not known.startswith("_")]
        hint = did_you_mean(attribute, public)
        raise ResolveError(f"{name!r}: {module_name} has no {attribute!r}{hint}") from None


def _file(file: str, name: str, base: Path | None) -> ModuleType:
    path = (base or Path.cwd()) / Path(file).expanduser()
    if not path.is_file():
        hint = did_you_mean(path.name, [other.name for other in path.parent.glob("*.py")])
        raise ResolveError(f"{name!r}: no file {path}{hint}")
    return _import(userfile.module_name(path), name)


def _module(module: str, name: str, base: Path | None) -> ModuleType:
    for folder in filter(None, (base, Path.cwd())):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return _import(module, name)


def _import(module: str, name: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may be newer than Python's view of its folder
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            told = f"no module {error.name!r} is installed or in {Path.cwd()}"
            hint = f"; a file beside the recipe is written ./{module}.py:{name.rpartition(':')[2]}"
            raise ResolveError(f"{name!r}: {told}{hint}") from error
        _broke(f"{name!r} cannot be imported", error)
    except (Exception, SystemExit) as error:
        _broke(f"{name!r} cannot be imported", error)


def _broke(what: str, error: BaseException) -> NoReturn:
    """One line with the innermost place where the user's code raised, or called what raised.

    What others have put in between (the import system, a package that replaces `sys.exit`) is passed over.
    """
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
        ]
        # The first is `_import`'s own.
        own = [frame for frame in frames[1:] if "site-packages" not in frame.filename]
        last = (own or frames)[-1]
        place = f"{last.filename}:{last.lineno}"
    said = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    raise ResolveError(f"{what}: {type(error).__name__}: {said} ({place})") from error


def _entry_point(name: str, kind: str) -> Any:
    group = f"rft.{kind}s"
    known = {point.name: point for point in entry_points(group=group)}
    if name not in known:
        raise ResolveError(f"no {kind} is called {name!r}{_nearest(name, known, group)}")
    try:
        return known[name].load()
    except AttributeError as error:
        raise ResolveError(f"{kind} {name!r}: {known[name].value} does not exist: {error}") from error
    except (Exception, SystemExit) as error:
        _broke(f"{kind} {name!r} cannot be imported ({_loaded_from(group)})", error)


def _nearest(name: str, known: Iterable[str], group: str) -> str:
    close = difflib.get_close_matches(name, list(known), 3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    listed = ", ".join(sorted(known)) or "none"
    return f"; installed are {listed} ({_loaded_from(group)}). Your own: ./file.py:Name or module:Name"


def _loaded_from(group: str) -> str:
    """Which file is behind `rft.evaluators`: another folder called rft may have come first on the path."""
    try:
        return f"{group} is {importlib.import_module(group).__file__}"
    except ImportError as error:
        return f"{group} cannot be imported: {error}"


def _make_evaluator(found: type[Evaluator], use: Use, base: Path | None) -> Evaluator:
    def nested(name: str, options: Mapping[str, Any]) -> Evaluator:
        return resolve_evaluator(Use.model_validate({"use": name, "with": options}), base)

    made: Evaluator = _make(found, use, "evaluator", lambda **options: found.from_recipe(options, nested))
    return made


def _make(found: Any, use: Use, kind: str, make: Callable[..., Any] | None = None) -> Any:
    try:
        return (make or found)(**use.with_)
    except UserError:  # of an evaluator named inside this one
        raise
    except ValidationError as error:
        fields = [field.alias or name for name, field in found.Config.model_fields.items()]

        def nearest(path: str) -> str | None:
            return next(iter(difflib.get_close_matches(path.rpartition(".")[2], fields, 1)), None)

        problems = from_pydantic(error, use.with_, f"{kind}.with", nearest)
        raise RecipeError(f"{kind} {use.use}", problems) from error
    except TypeError as error:
        raise RecipeError(f"{kind} {use.use}", [Problem(f"{kind}.with", str(error))]) from error
    except Exception as error:
        _broke(f"{kind} {use.use!r} cannot be made", error)


def _configured(function: FunctionEvaluator, use: Use) -> FunctionEvaluator:
    unknown = [key for key in use.with_ if key not in function.parameters]
    if unknown:
        options = [name for name, one in function.parameters.items() if one.default is not one.empty]
        problems = [
            Problem(f"evaluator.with.{key}", f"unknown key{did_you_mean(key, options)}") for key in unknown
        ]
        raise RecipeError(f"evaluator {use.use}", problems)
    return function.configured(**use.with_)


def _what(found: Any) -> str:
    kind = "class" if isinstance(found, type) else type(found).__name__
    return f"the {kind} {getattr(found, '__name__', repr(found)[:60])}"
