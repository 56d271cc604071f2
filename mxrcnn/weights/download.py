"""Downloads of large files: resumed after a cut, checked by hash, landed whole or not at all.

urllib of the standard library does what is needed: it verifies certificates, takes proxies from
the environment and streams. Which redirects it follows is decided here.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from mxrcnn.weights.formats import WeightsError

#: seconds without a byte after which a connection counts as cut
TIMEOUT = 30.0
#: attempts in a row without a new byte before giving up; seconds before the second attempt
TRIES, PAUSE = 4, 1.0
#: bytes read at once
CHUNK = 1 << 18
MIRROR = "MXRCNN_MIRROR"


class _Cut(Exception):
    """The connection broke; the next attempt goes on from what has arrived."""


class _Unreachable(Exception):
    """The server cannot be reached, or does not have the file."""


def say(text: str) -> None:
    """Print a message to stderr, where it does not mix with a command's output."""
    print(text, file=sys.stderr, flush=True)


def mirrored(url: str) -> str:
    """The address that is asked: MXRCNN_MIRROR replaces the scheme and host. WeightsError if bad.

    A mirror may have a path of its own; the file's path follows it.
    """
    mirror = os.environ.get(MIRROR, "").strip().rstrip("/")
    if not mirror:
        return url
    parts = urlsplit(mirror)
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise WeightsError(f"{MIRROR}={mirror}: not an address like https://mirror.example/models")
    return mirror + urlsplit(url).path


def check_file(path: Path, expected: str) -> None:
    """Raise WeightsError unless a file's hash starts as expected: "sha256:258fb6c6".

    Reads the whole file: about half a second for VGG16's 528 MiB.
    """
    digest = _digest_of(path, expected.partition(":")[0])
    _check(path, digest.hexdigest(), expected, "delete it, and it is downloaded again")


def _check(path: Path, found: str, expected: str, advice: str) -> None:
    kind, _, start = expected.partition(":")
    if not found.startswith(start):
        raise WeightsError(
            f"{path}: its {kind} starts with {found[: len(start)]}, not with {start}: {advice}"
        )


def _digest_of(path: Path, kind: str) -> Any:
    digest = hashlib.new(kind)
    if path.exists():
        with open(path, "rb") as handle:
            for chunk in iter(lambda: handle.read(CHUNK), b""):
                digest.update(chunk)
    return digest


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Keep other processes and threads from making the same file; they wait until it is done.

    Yields False, and says so, if the file system has no locks.
    """
    import fcntl  # not on Windows, where nothing else needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as handle:
        locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path}: waiting for another process that is making it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            say(f"{path.parent}: its file system has no locks ({error.strerror})")
            locked = False
        yield locked


def download(url: str, path: Path, expected: str, most: int) -> None:
    """Download a file to `path`, unless it is there; what arrives before a cut is kept and resumed.

    expected: the start of its hash, "sha256:258fb6c6". most: the largest size in bytes that is
    accepted. Raises WeightsError if the address cannot be reached, or the file is too large, has
    another hash or does not fit on the disk. Then nothing is at `path`.
    """
    with alone(path) as locked:
        if path.is_file():
            return
        unique = "" if locked else f".{uuid.uuid4().hex}"
        part = path.with_name(f"{path.name}{unique}.part")
        asked = mirrored(url)
        say(f"downloading {asked} to {path}")
        try:
            _complete(asked, part, expected, most)
            os.replace(part, path)
        except WeightsError:
            part.unlink(missing_ok=True)
            raise
        except _Unreachable as error:
            raise WeightsError(f"{asked}: {error}\n{by_hand(asked, path, expected)}") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise WeightsError(f"{part}: {error}") from None
            raise WeightsError(
                f"{path.parent}: the disk is full ({error.strerror}). Free up to "
                f"{most / 2**20:.0f} MiB and repeat the command: it resumes. MXRCNN_HOME chooses "
                "another folder"
            ) from None


def by_hand(url: str, path: Path, expected: str) -> str:
    """What to do without a connection: which file belongs where."""
    kind, _, start = expected.partition(":")
    return (
        f"  without a connection: download {url} elsewhere and put it at {path} "
        f"(its {kind} starts with {start}), or set {MIRROR}=https://HOST to a mirror"
    )


def _complete(url: str, part: Path, expected: str, most: int) -> None:
    """Download until `part` is complete and its hash is right. Raises WeightsError."""
    failures, restarted = 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            found = _stream(url, part, expected.partition(":")[0], most)
        except _Cut as cut:
            arrived = part.stat().st_size if part.exists() else 0
            failures = 0 if arrived > before else failures + 1
            if failures >= TRIES:
                raise _Unreachable(f"{cut}; {TRIES} attempts brought nothing new") from None
            say(f"{cut}; trying again from byte {arrived}")
            time.sleep(PAUSE * 2**failures)
            continue
        try:
            _check(part, found, expected, f"removed. {url} sent another file, or it was changed")
            return
        except WeightsError as error:
            part.unlink()
            if not before or restarted:
                raise
            restarted = True
            say(f"{error}; a part of it was from an earlier attempt: starting again")


def _stream(url: str, part: Path, kind: str, most: int) -> str:
    """One attempt: append what the server sends to `part`; returns the hash of all of it.

    Raises _Cut, _Unreachable, WeightsError, and OSError for the file.
    """
    digest = _digest_of(part, kind)
    done = part.stat().st_size if part.exists() else 0
    response = _ask(url, done)
    if response is None:  # there is nothing after `done`
        return digest.hexdigest()
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.unlink(missing_ok=True)
            raise _Cut("the server sent another range than was asked for")
        if done and not resumed:
            say(f"{url}: the server cannot resume; starting again")
            digest, done = hashlib.new(kind), 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        if total is not None and total > most:
            raise WeightsError(_too_large(url, total, most))
        bar = tqdm(
            desc=part.stem, total=total, initial=done, disable=None,
            unit="B", unit_scale=True, unit_divisor=1024,
        )  # fmt: skip
        with open(part, "ab" if resumed else "wb") as out, bar:
            for chunk in _chunks(response):
                done += len(chunk)
                if done > most:
                    raise WeightsError(_too_large(url, done, most))
                out.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
    if total is not None and done < total:
        raise _Cut(f"the connection was cut after {done} of {total} bytes")
    return digest.hexdigest()


def _too_large(url: str, size: int, most: int) -> str:
    return f"{url}: {size} bytes or more, but the file has at most {most}: not downloaded"


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(f"the connection was cut ({error!r})") from None
        if not chunk:
            return
        yield chunk


def _ask(url: str, done: int) -> http.client.HTTPResponse | None:
    """The response to a request for the bytes from `done` on; None if there are none."""
    headers = {"User-Agent": "mxrcnn", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        return _opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:
            return None
        if error.code == 429 or error.code >= 500:
            raise _Cut(f"the server answers {error.code} {error.reason}") from None
        raise _Unreachable(f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Unreachable(f"cannot be reached: {getattr(error, 'reason', error)}") from None


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the same scheme, or to https; no file://, ftp:// or https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str):
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise _Unreachable(f"redirects to {newurl}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https only, with proxies from the environment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
        _SameScheme,
    ):
        opener.add_handler(handler())
    return opener
