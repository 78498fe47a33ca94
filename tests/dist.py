"""`make dist`: builds the sdist and a wheel of it, and tries both in clean environments.

    python tests/dist.py FOLDER [--extras serve redis ...]

In FOLDER are then the two files, and nothing of what they were tried in.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT_MS, HELP_MS = 300, 250
LOG = "synthetic(users=40, items=60, length=40)"
TRAIN = ["--backbone", "hstu(width=8, num_layers=1)", "--epochs", "1", "--codec", "recent(keep=8)"]
TRIED = {
    "serve": "import gistrec.server",
    "redis": "from gistrec import errors, stores\n"
    "try: stores.open_store('redis://127.0.0.1:9')\nexcept errors.StoreError: pass",
    "plan": "import gistrec.plan",
    "ray": "import ray, gistrec.build",
    "numba": "import os; os.environ['GISTREC_KERNELS'] = 'numba'\n"
    "from gistrec import kernels; assert kernels.chosen() == 'numba'",
    "mlflow": "from gistrec.trackers import tracker; tracker('mlflow')",
    "tensorboard": "from gistrec.trackers import tracker; tracker('tensorboard')",
    "demo": "from gistrec.events import read; read('completejourney')",
}
"""What an extra is for."""


class Environment:
    """A virtual environment with nothing in it, or with what another one has."""

    def __init__(self, folder: Path, below: "Environment | None" = None) -> None:
        venv.create(folder, with_pip=True)
        self.python = folder / "bin" / "python"
        (self.packages,) = folder.glob("lib/python*/site-packages")
        if below is not None:
            (self.packages / "below.pth").write_text(f"{below.packages}\n")
        self.variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self.variables |= {
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/m.db",
        }

    def run(self, *words: str, **more: str) -> str:
        """Of its Python, outside of the repository, so that what is installed is imported."""
        command = [str(self.python), *words]
        found = subprocess.run(
            command,
            cwd=self.packages.parent,
            env=self.variables | more,
            text=True,
            capture_output=True,
        )
        if found.returncode:
            sys.exit(f"{' '.join(command)}\n{found.stdout}\n{found.stderr}")
        return found.stdout

    def install(self, *what: str, **more: str) -> None:
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what, **more)

    def ms(self, *words: str) -> float:
        """Processor time of the fastest of ten runs: others share the machine."""
        took = []
        for _ in range(10):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            self.run(*words)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return 1000 * min(took)

    def checks(self) -> dict[str, dict[str, str]]:
        return {
            c["name"]: c
            for c in json.loads(self.run("-m", "gistrec", "doctor", "--json"))["checks"]
        }


def smoke(environment: Environment, folder: Path, kernels: tuple[str, ...]) -> None:
    """From a log to a recommendation, as the README has it."""
    found = environment.checks()["kernels"]["detail"]
    assert found.startswith(kernels), found
    log, model, store = folder / "log.parquet", folder / "model", f"lmdb://{folder / 'users'}"
    gistrec = ("-m", "gistrec")
    environment.run(*gistrec, "data", "make", LOG, "--out", str(log))
    environment.run(*gistrec, "train", "--data", str(log), "--out", str(model), *TRAIN)
    environment.run(*gistrec, "import", str(log), "--store", store)
    said = environment.run(
        *gistrec, "recommend", "3", "--model", str(model), "--store", store, "--json"
    )
    assert len(json.loads(said)["items"]) == 10, said
    print(f"  {found}: trains, stores and recommends")


def built(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=-3)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (r"gistrec/py\.typed", r"gistrec/_report\.html", r"gistrec/_native\..*\.so"):
        assert any(re.fullmatch(needed, name) for name in names), needed
    astray = [n for n in names if not re.match(r"gistrec/|gistrec-[\w.]+\.dist-info/", n)]
    assert not astray, astray
    for path in (sdist, wheel):
        print(f"{path.name}: {path.stat().st_size / 1024:,.0f} KB")
    return sdist, wheel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extras", nargs="*", default=[*TRIED])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for old in (*given.folder.glob("gistrec-*.whl"), *given.folder.glob("gistrec-*.tar.gz")):
        old.unlink()
    sdist, wheel = built(given.folder.resolve())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        core = Environment(folder / "core")
        core.install(str(wheel))
        print("wheel, without extras:")
        smoke(core, folder / "tried", ("native",))
        found = core.checks()
        extras = {name.strip("[]"): c["status"] for name, c in found.items() if name[0] == "["}
        assert extras.keys() == TRIED.keys(), extras
        assert set(extras.values()) == {"missing"}, extras
        code = "import gistrec, sys; sys.exit('torch' in sys.modules or 'duckdb' in sys.modules)"
        took, of_help = core.ms("-c", code), core.ms("-m", "gistrec", "--help")
        print(f"  import {took:.0f} ms, --help {of_help:.0f} ms of processor time")
        assert took < IMPORT_MS, took
        assert of_help < HELP_MS, of_help
        print("sdist, without a compiler:")
        # what it needs is there already: only gistrec itself is installed
        bare = Environment(folder / "bare", below=core)
        bare.install("--no-deps", "--force-reinstall", str(sdist), CC="false", CXX="false")
        smoke(bare, folder / "tried-bare", ("numba", "torch"))
        for extra in given.extras:
            alone = Environment(folder / extra, below=core)
            alone.install(f"{wheel}[{extra}]")
            alone.run("-c", TRIED[extra])
            status = alone.checks()[f"[{extra}]"]["status"]
            assert status == "ok", (extra, status)
            print(f"gistrec[{extra}]: works alone")


if __name__ == "__main__":
    main()
