import json
from pathlib import Path

import pytest

from gistrec.cli import main


def test_keys_are_made_listed_and_revoked(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = str(tmp_path / "keys.jsonl")
    assert main(["keys", "add", file, "--name", "shop", "--scope", "write", "--scope", "read"]) == 0
    key = capsys.readouterr().out.strip()
    assert main(["keys", "add", file, "--name", "ops", "--scope", "admin", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["name"] == "ops"
    assert main(["keys", "list", file]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[:-1] for line in listed.splitlines()] == [
        ["shop", "read", "write"],
        ["ops", "admin"],
    ]
    assert not {key, made["key"]} & set(listed.split())
    assert main(["keys", "revoke", file, "--name", "shop"]) == 0
    assert main(["keys", "list", file, "--json"]) == 0
    assert '"shop"' not in capsys.readouterr().out.partition("revoked")[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "keys", "--name", "a", "--scope", "root"], "root"),
        (["add", "keys", "--name", "a"], "scope"),
        (["revoke", "nowhere", "--name", "a"], "nowhere can't be read as a key file"),
        (["list", "nowhere"], "nowhere can't be read as a key file"),
    ],
)
def test_wrong_use(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
):
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *words]) == 2
    assert said in capsys.readouterr().err
