"""The public names: there, sorted, and loaded only when used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gistrec


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_public_names_are_sorted_and_few():
    assert gistrec.__all__ == sorted(gistrec.__all__)
    assert len(gistrec.__all__) <= 12
    assert set(dir(gistrec)) == {*gistrec.__all__, "__version__"}


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("name", gistrec.__all__)
def test_a_public_name_can_be_imported_first(name: str):
    assert run(f"from gistrec import {name}; print({name}.__doc__ is not None)") == "True"


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(gistrec.__file__).read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    imports = [n for n in block.body if isinstance(n, ast.ImportFrom)]
    seen = {
        alias.asname or alias.name: f"{n.module}.{alias.name}".removeprefix("gistrec.")
        for n in imports
        for alias in n.names
    }
    assert seen == gistrec._HOMES


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'duckdb', 'numpy', 'cyclopts'}"
    assert run(f"import sys, gistrec; print({heavy} & set(sys.modules))") == "set()"


def test_a_function_stands_before_the_module_of_its_name():
    code = "from gistrec.train import Model; from gistrec import train, evaluate; import gistrec"
    assert run(f"{code}; print(train.__name__, evaluate.__name__, gistrec.train is train)") == (
        "train evaluate True"
    )


def test_other_modules_are_attributes_as_usual():
    assert run("import gistrec.errors; print(gistrec.errors.__name__)") == "gistrec.errors"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'recommender_'"):
        _ = gistrec.recommender_
