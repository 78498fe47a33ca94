"""A running server asked what its own OpenAPI allows and forbids, by schemathesis."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from gistrec.testing.chaos import Served

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
"""What every answer must keep to; callers need no key here."""


class Asked(NamedTuple):
    """What came of it."""

    cases: int
    failures: list[str]
    """What an operation did that its description does not allow."""
    resident_bytes: int
    """Of the server, afterwards."""
    seconds: float


def ask(server: Served, *, examples: int, seed: int = 0) -> Asked:
    """Ask every operation.

    Args:
        server: A running server.
        examples: Of random requests, of each operation; about 500 planned ones come first.
        seed: Of the requests.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli", "run"]
        command += [f"http://127.0.0.1:{server.port}/openapi.json", "--no-color"]
        command += ["--max-examples", str(examples), "--seed", str(seed)]
        command += ["--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing"]
        command += ["--suppress-health-check", "all", "--continue-on-failure"]
        command += ["--generation-database", "none"]
        command += ["--report", "json", "--report-json-path", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert report.is_file(), done.stdout[-2000:] + done.stderr[-2000:]
        found = json.loads(report.read_bytes())
    failures = [f"{f['title']}: {', '.join(f['operations'])}" for f in found["failures"]]
    failures += [str(error) for error in found["errors"]]
    if found["stop_reason"] != "completed":
        failures.append(f"it stopped: {found['stop_reason']}")
    cases = found["test_cases"]["generated"]
    return Asked(cases, failures, server.resident_bytes, time.monotonic() - begun)
