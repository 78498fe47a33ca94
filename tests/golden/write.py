"""Write the golden files that are missing; never change one that is there (`make golden`).

Every test class with a `write_golden` says itself where its files are and what goes into them.
"""

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def main() -> None:
    for path in sorted(TESTS.glob("*/test_*.py")):
        spec = importlib.util.spec_from_file_location(
            f"golden_{path.parent.name}_{path.stem}", path
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # inspect finds a class's file through it
        spec.loader.exec_module(module)
        for case in vars(module).values():
            is_own = getattr(case, "__module__", "") == spec.name
            if is_own and hasattr(case, "write_golden") and not case.folder().exists():
                case.write_golden()
                print(f"wrote {case.folder().relative_to(TESTS)}")


if __name__ == "__main__":
    main()
