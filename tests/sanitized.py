"""Run tests on a core built with sanitizers: `sanitized.py <its file> <arguments of pytest>`."""

import importlib.util
import sys

import pytest


def main(core: str, *arguments: str) -> int:
    spec = importlib.util.spec_from_file_location("gistrec._native", core)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["gistrec._native"] = module  # before gistrec looks for its own
    return pytest.main(list(arguments))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
