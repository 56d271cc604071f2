"""Known weights by name: the table zoo.json, and the cache folder that they are downloaded to."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mxrcnn.weights.download import by_hand, check_file, download, mirrored, say
from mxrcnn.weights.formats import WeightsError
from symnet.machine.install import install_extra

TABLE = Path(__file__).with_name("zoo.json")


@dataclass(frozen=True)
class Entry:
    """A known file of weights.

    name: what users type; gluoncv's end in @gluoncv. kind: detector, or body (a classifier, which
    brings a detector's body). url: its public address; of gluoncv, a zip with the file. mebibytes:
    its size, None if unknown. hash: the start of its hash, as in "sha256:258fb6c6". score: what its
    project published, in percent, by metric. networks: those here that can take it.
    """

    name: str
    project: str
    kind: str
    title: str
    url: str
    mebibytes: float | None
    hash: str
    trained_on: str
    score: dict[str, float]
    networks: tuple[str, ...]
    licence: str
    source: str | None

    @property
    def path(self) -> Path:
        """Where the file is, or would be, in the cache."""
        folder = home() / "weights"
        if self.project == "gluoncv":  # its own downloader uses MXNET_HOME if that is set
            mxnet_home = os.environ.get("MXNET_HOME")
            folder = Path(mxnet_home).absolute() / "models" if mxnet_home else folder
            return folder / Path(self.url).with_suffix(".params").name
        return folder / self.url.rpartition("/")[2]

    @property
    def run(self) -> Path:
        """Where a detector's converted run is, or would be, in the cache.

        The name holds the hashes of its file and of the code, so other code makes another run.
        """
        return home() / "runs" / f"{self.name}-{self.hash.partition(':')[2]}-{code_hash()}"

    def old_runs(self) -> list[Path]:
        """The converted runs of this detector that other code made."""
        made = (home() / "runs").glob(f"{self.name}-*")
        return sorted(path for path in made if path != self.run and (path / "config.json").exists())

    def report(self) -> dict[str, Any]:
        """The entry for JSON, with its place in the cache and whether it is there."""
        return {**vars(self), "path": str(self.path), "cached": self.path.is_file()}


def home() -> Path:
    """The cache folder: MXRCNN_HOME, or mxrcnn in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("MXRCNN_HOME")
    if own:
        return Path(own).expanduser().absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if not cache.is_absolute():  # the XDG specification: relative paths are to be ignored
        cache = Path("~/.cache").expanduser()
    return cache / "mxrcnn"


@functools.cache
def code_hash() -> str:
    """A hash of the code that a converted run depends on: networks, configs, converters.

    Takes some milliseconds; imports nothing.
    """
    folders = [Path(find_spec("symnet").origin).parent]
    folders += [Path(__file__).parents[1] / name for name in ("config", "weights")]
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:8]


@functools.cache
def entries() -> dict[str, Entry]:
    """All known weights by name, in the table's order."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    made = [
        Entry(**{**row, "networks": tuple(row["networks"])}, **table["projects"][row["project"]])
        for row in table["entries"]
    ]
    return {entry.name: entry for entry in made}


def find(name: str) -> Entry:
    """The entry of a name; WeightsError with similar names if it is unknown."""
    known = entries()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise WeightsError(
        f"{name}: no such file or run, and no known weights have this name; {hint}"
        "`mxrcnn weights list` names all"
    )


def known(text: str | Path) -> Entry | None:
    """The entry that a text names; None if it is a path. A file or folder of that name wins.

    A text with a slash or a file ending is a path. Raises WeightsError for other unknown names.
    """
    entry = entries().get(str(text))
    if Path(text).exists():
        if entry:
            say(
                f"{text}: using {Path(text).absolute()}, not the known weights of that name; to "
                "use those, rename it or start elsewhere"
            )
        return None
    if entry is None and (Path(text).suffix or len(Path(text).parts) != 1):
        return None
    return entry or find(str(text))


def locate(text: str | Path) -> Path:
    """The file or folder that a path or a name of known weights means; downloads it if needed.

    Raises WeightsError for unknown names and failed downloads.
    """
    entry = known(text)
    return fetch(entry) if entry else Path(text)


def fetch(entry: Entry) -> Path:
    """The file of known weights: from the cache, or downloaded to it. Its hash is checked.

    Raises WeightsError if it cannot be downloaded, or has another hash.
    """
    path = entry.path
    if not path.is_file():
        if entry.project == "gluoncv":
            _fetch_by_gluoncv(entry)
        else:
            # the table's size is rounded: at most 1 MiB more is accepted
            download(entry.url, path, entry.hash, int((entry.mebibytes + 1) * 2**20))
    check_file(path, entry.hash)
    return path


def _fetch_by_gluoncv(entry: Entry) -> None:
    """Download by gluoncv's model_store, which checks the whole SHA-1. It cannot resume."""
    try:
        from gluoncv.model_zoo import model_store
    except ImportError as error:
        raise WeightsError(
            f"{entry.name}: needs gluoncv ({error}): {install_extra('gluoncv')}"
        ) from None
    url = mirrored(entry.url)
    if url != entry.url:
        os.environ["MXNET_GLUON_REPO"] = url.partition("gluon/models/")[0]
    say(f"downloading {url} to {entry.path}")
    try:
        model_store.get_model_file(entry.name.partition("@")[0], root=str(entry.path.parent))
    except Exception as error:  # requests, zipfile and portalocker raise errors of their own
        help_by_hand = by_hand(f"{url} (and unpack it)", entry.path, entry.hash)
        raise WeightsError(f"{entry.name}: {error}\n{help_by_hand}") from None
