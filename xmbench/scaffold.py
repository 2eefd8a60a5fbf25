"""The files that a method of one's own begins with: a small complete one, whose lines are to be replaced."""

import importlib.util
import keyword
from importlib.resources import files
from pathlib import Path

from xmbench.datasets import dataset_names
from xmbench.registry import method_names

_NAME, _CLASS, _PROJECT = "my_method", "MyMethod", "my-method"  # as the templates have it


def write_method(name: str, folder: Path) -> list[Path]:
    """Write the method `name`, its test and its pyproject.toml into a folder, which is made; return the files.

    Raises:
        ValueError: a name that no module can have, or that is taken.
        FileExistsError: one of the files is there already; none is written then.
    """
    check_name(name)
    files_by_template = {"method.py": f"{name}.py", "test_method.py": f"test_{name}.py", "pyproject.toml": "pyproject.toml"}
    contents = {folder / file: _filled(template, name) for template, file in files_by_template.items()}
    if there := [path for path in contents if path.exists()]:
        raise FileExistsError(f"{there[0]} is there already and is not written over; give another name, or --out FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    return list(contents)


def check_name(name: str) -> None:
    """Raise ValueError where no method can have this name."""
    if not (name.isidentifier() and name.isascii() and name == name.lower()) or keyword.iskeyword(name) or name[0] == "_":
        raise ValueError(f"a method's name must be lower-case letters, digits and _, a letter first, got {name!r}")
    if name in method_names():
        raise ValueError(f"there is a method {name!r} already; give yours another name")
    if name in (*dataset_names(), "noise"):
        raise ValueError(f"{name!r} means something else in --set {name}.PARAM=VALUE; give the method another name")
    if not Path(f"{name}.py").exists() and importlib.util.find_spec(name) is not None:
        raise ValueError(f"there is a module {name!r} already, which a file {name}.py would hide; give the method another name")


def _filled(template: str, name: str) -> str:
    text = files(__package__).joinpath("templates", "method", f"{template}.txt").read_text("utf-8")
    camel = "".join(part.capitalize() for part in name.split("_"))
    return text.replace(_CLASS, camel).replace(_PROJECT, name.replace("_", "-")).replace(_NAME, name)
