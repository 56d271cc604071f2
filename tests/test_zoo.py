"""Known weights by name: the table, downloads from a local server, names instead of files."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.cli import main
from mxrcnn.inference.predictor import Predictor
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.weights import convert, download, zoo
from mxrcnn.weights.formats import WeightsError
from mxrcnn.weights.reading import Origin, match_params
from mxrcnn.weights.torchvision import resnet_networks
from symnet import list_detectors
from tests.test_convert import resnet18_state, slim_state
from tests.torch_files import write_pth

DATA = bytes(np.random.default_rng(0).integers(0, 256, 300_000, np.uint8))
SHA = f"sha256:{hashlib.sha256(DATA).hexdigest()[:8]}"


class Server(ThreadingHTTPServer):
    """Serves `files` by path. Each request takes one of `faults`, none when they are used up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/models/a.pth": DATA}
        self.faults: list[str] = []
        self.asked: list[tuple[str, str]] = []  # path, range
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "")
        server.asked.append((self.path, wanted))
        fault, _, value = (server.faults.pop(0) if server.faults else "").partition(" ")
        if fault == "redirect":
            self.head(302, Location=value)
            return
        data = server.files.get(self.path)
        if fault == "status" or data is None:
            self.head(int(value or 404))
            return
        start = 0
        if wanted and fault != "norange":
            start = int(wanted[len("bytes=") : -1])
            if start >= len(data):
                self.head(416)
                return
        said = {"Content-Length": str(len(data) - start)}
        if fault == "length":
            said["Content-Length"] = value
        if fault == "unsaid":
            said = {}
        if start:
            first = 7 if fault == "shifted" else start
            said["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.head(206 if start else 200, **said)
        body = data[start:]
        if fault == "cut":
            body = body[: int(value)]
        if fault == "wrong":
            body = bytes(len(body))
        self.wfile.write(body)

    def head(self, status: int, **said: str) -> None:
        self.send_response(status)
        for name, value in said.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.delenv("MXNET_HOME", raising=False)
    monkeypatch.setenv("MXRCNN_HOME", str(tmp_path / "home"))
    made = Server()
    monkeypatch.setenv("MXRCNN_MIRROR", made.url)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


URL = "https://nowhere.invalid/models/a.pth"


def get(tmp_path: Path, expected: str = SHA, most: int = 400_000) -> Path:
    path = tmp_path / "cache" / "a.pth"
    download.download(URL, path, expected, most)
    return path


def left(tmp_path: Path) -> set[str]:
    """The files that a download left, without its lock."""
    return {path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(
    ("faults", "requests", "said"),
    [
        ([], 1, "downloading"),
        (["cut 1000", "cut 5000"], 3, "cut after 1000 of 300000 bytes; trying again from byte"),
        (["cut 1000", "norange"], 2, "cannot resume"),
        (["cut 1000", "shifted"], 3, "another range"),
        (["unsaid"], 1, "downloading"),
        (["cut 1000", "wrong"], 3, "starting again"),  # the first part was right, the rest not
        (["status 503", "status 429"], 3, "answers 503"),
    ],
)
def test_a_download_lands_whole(server, tmp_path, capfd, faults, requests, said):
    server.faults = faults
    path = get(tmp_path)
    assert path.read_bytes() == DATA
    assert left(tmp_path) == {"a.pth"}
    assert len(server.asked) == requests
    assert said in capfd.readouterr().err
    get(tmp_path)  # it is there: no request
    assert len(server.asked) == requests


def test_only_the_rest_is_asked_for(server, tmp_path):
    server.faults = ["cut 1000"]
    get(tmp_path)
    assert [wanted for _, wanted in server.asked] == ["", "bytes=1000-"]
    (tmp_path / "cache" / "a.pth").rename(tmp_path / "cache" / "a.pth.part")
    get(tmp_path)  # complete, but not renamed yet
    assert server.asked[-1][1] == "bytes=300000-"


@pytest.mark.parametrize(
    ("faults", "most", "said", "kept"),
    [
        (["wrong"], 400_000, "its sha256 starts with", set()),
        (["length 500000"], 400_000, "at most 400000", set()),
        (["unsaid"], 200_000, "at most 200000", set()),
        (["redirect file:///etc/passwd"], 400_000, "file:///etc/passwd", set()),
        (["redirect ftp://127.0.0.1/a.pth"], 400_000, "ftp://127.0.0.1/a.pth, which is", set()),
        (["status 404"], 400_000, "answers 404", set()),
        (["cut 1000"] + ["cut 0"] * 9, 400_000, "attempts brought nothing new", {"a.pth.part"}),
    ],
)
def test_what_is_wrong_never_lands(server, tmp_path, faults, most, said, kept):
    server.faults = faults
    with pytest.raises(WeightsError, match=said):
        get(tmp_path, most=most)
    assert left(tmp_path) == kept


def test_https_is_not_left(monkeypatch):
    asked = download.urllib.request.Request("https://a.invalid/x")
    follow = download._SameScheme().redirect_request
    with pytest.raises(download._Unreachable, match=r"redirects to http://b\.invalid"):
        follow(asked, None, 302, "", {}, "http://b.invalid/x")
    assert follow(asked, None, 302, "", {}, "https://b.invalid/x").host == "b.invalid"


def test_a_slow_server_is_a_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    server.faults = ["length 300010"]  # the connection stays open, nothing more comes
    release = threading.Event()
    finish = Handler.finish
    monkeypatch.setattr(Handler, "finish", lambda self: (release.wait(5), finish(self)))
    start = time.monotonic()
    assert get(tmp_path).read_bytes() == DATA
    assert time.monotonic() - start < 2
    release.set()
    assert [wanted for _, wanted in server.asked] == ["", "bytes=300000-"]


def test_a_full_disk(server, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(download.os, "fsync", full)
        with pytest.raises(WeightsError, match=r"disk is full.*repeat the command"):
            get(tmp_path)
    assert left(tmp_path) == {"a.pth.part"}
    assert get(tmp_path).read_bytes() == DATA


def test_without_a_connection_it_says_which_file_goes_where(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MXRCNN_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(WeightsError) as error:
        get(tmp_path)
    for part in ("http://127.0.0.1:9/models/a.pth", str(tmp_path / "cache" / "a.pth"), SHA[7:]):
        assert part in str(error.value)
    monkeypatch.setenv("MXRCNN_MIRROR", "ftp://x")
    with pytest.raises(WeightsError, match="ftp://x: not an address"):
        get(tmp_path)


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("MXRCNN_MIRROR", "http://mirror.invalid/sub")
    address = "http://mirror.invalid/sub/models/a.pth"
    server.files[address] = DATA
    get(tmp_path)
    assert server.asked == [(address, "")]


def test_two_at_once_download_once(server, tmp_path):
    threads = [threading.Thread(target=get, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert left(tmp_path) == {"a.pth"}


# the table


def test_the_table():
    for entry in zoo.entries().values():
        kind, _, start = entry.hash.partition(":")
        assert len(start) == 8
        assert entry.url.startswith("https://")
        assert f"-{start}." in entry.url
        assert entry.kind in ("detector", "body")
        assert entry.networks
        assert set(entry.networks) <= set(list_detectors())
        if entry.kind == "body" and entry.name.startswith("resnet"):
            assert entry.networks == tuple(resnet_networks(entry.name.partition("_")[0]))
        if entry.project == "torchvision":
            assert kind == "sha256"
            assert entry.score
            assert entry.mebibytes


def test_gluoncvs_names_and_hashes_are_its_own():
    store = pytest.importorskip("gluoncv.model_zoo.model_store")
    ours = [entry for entry in zoo.entries().values() if entry.project == "gluoncv"]
    assert len(ours) > 10
    for entry in ours:
        name = entry.name.partition("@")[0]
        address = store._url_format.format(
            repo_url=store.apache_repo_url, file_name=f"{name}-{store.short_hash(name)}"
        )
        assert (entry.hash, entry.url) == (f"sha1:{store.short_hash(name)}", address)


def test_gluoncvs_downloader_is_used(server, tmp_path, monkeypatch):
    store = pytest.importorskip("gluoncv.model_zoo.model_store")
    monkeypatch.setenv("MXNET_GLUON_REPO", "")  # restored afterwards
    with pytest.raises(WeightsError, match=r"resnet50_v1b@gluoncv: .*\n.*resnet50_v1b-0ecdba34"):
        zoo.locate("resnet50_v1b@gluoncv")
    assert server.asked == [("/gluon/models/resnet50_v1b-0ecdba34.zip", "")]
    packed = io.BytesIO()
    sha1 = hashlib.sha1(DATA).hexdigest()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"resnet50_v1b-{sha1[:8]}.params", DATA)
    path = f"/gluon/models/resnet50_v1b-{sha1[:8]}.zip"
    server.files[path] = packed.getvalue()
    monkeypatch.setitem(store._model_sha1, "resnet50_v1b", sha1)
    entry = zoo.find("resnet50_v1b@gluoncv")
    entry = replace(entry, hash=f"sha1:{sha1[:8]}", url=store.apache_repo_url + path[1:])
    for _ in range(2):  # the second time without a request
        assert zoo.fetch(entry).read_bytes() == DATA
        assert len(server.asked) == 2


# names instead of files


@pytest.fixture(scope="module")
def made_files(tmp_path_factory):
    """torchvision's resnet18 and a small Faster R-CNN, as files by name."""
    states = {
        "resnet18": resnet18_state(),
        "fasterrcnn_resnet50_fpn_coco": slim_state(num_classes=21),
    }
    folder = tmp_path_factory.mktemp("made")
    return {n: write_pth(folder / "a.pth", state).read_bytes() for n, state in states.items()}


@pytest.fixture
def known(server, monkeypatch, tmp_path, made_files):
    """The table with two entries, whose files the server has."""

    def serve(name: str, data: bytes) -> zoo.Entry:
        server.files[f"/models/{name}.pth"] = data
        return replace(
            zoo.entries()[name],
            url=f"https://nowhere.invalid/models/{name}.pth",
            hash=f"sha256:{hashlib.sha256(data).hexdigest()[:8]}",
        )

    table = {name: serve(name, data) for name, data in made_files.items()}
    monkeypatch.setattr(zoo, "entries", lambda: table)
    monkeypatch.chdir(tmp_path)
    return table


def runs_of_commands(name: str, monkeypatch) -> dict[str, tuple[str, str | None]]:
    """The run, and where results go, of each command that takes a run, when it is given a name."""
    seen = {}

    def see(command, run, out=None):
        seen[command] = run, out
        raise WeightsError("enough")

    places = {
        "mxrcnn.evaluation.run.run_test": lambda request, _: see("test", request.run, request.out),
        "mxrcnn.evaluation.quantized.quantize_and_test": (
            lambda request: see("quantize", request.run, request.out)
        ),
        "mxrcnn.inference.detector.Detector.load": lambda run, _: see("export", run),
    }
    for place, replacement in places.items():
        monkeypatch.setattr(place, replacement)
    for words in (["test", name], ["quantize", name], ["export", name, "--to", "a.onnx"]):
        with pytest.raises(SystemExit):
            main(words)
    return seen


def test_names_are_taken_for_files(server, known, tmp_path, capfd, monkeypatch):
    assert Origin.open("resnet18").source.title == "torchvision's ResNet-18 classifier"
    used, report = match_params("resnet18", {"backbone.body.conv1_weight": (64, 3, 7, 7)})
    assert (list(used), report.path) == (["backbone.body.conv1_weight"], known["resnet18"].path)
    assert main(["convert", "resnet18", "--to", str(tmp_path / "run")]) == 0
    assert RunFolder(tmp_path / "run").config().model.body == "resnet18"
    assert len(server.asked) == 1
    with pytest.raises(WeightsError, match="--pretrained resnet18"):
        Predictor.load("resnet18")
    name = "fasterrcnn_resnet50_fpn_coco"
    for _ in range(2):  # the second time without a request or a conversion
        predictor = Predictor.load(name)
        assert predictor.config.network == "faster_rcnn_r18_fpn"  # it is made slim
        assert len(server.asked) == 2
    assert capfd.readouterr().err.count("20 classes: assumed") == 1
    assert [known[name].run] == list((zoo.home() / "runs").glob("f*"))
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "code_hash", lambda: "0ther")  # as if the code had changed
        assert Predictor.load(name).source.startswith(str(known[name].run))
        assert [path.name[-5:] for path in (zoo.home() / "runs").glob("f*")] == ["0ther"]
        assert len(server.asked) == 2
    assert "which another version of mxrcnn had made" in capfd.readouterr().err
    assert runs_of_commands(name, monkeypatch) == {
        "test": (str(known[name].run), f"test_{name}"),
        "quantize": (str(known[name].run), f"{name}_int8"),
        "export": (str(known[name].run), None),
    }
    known[name].path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="delete it"):
        zoo.fetch(known[name])


def test_an_existing_file_of_that_name_wins(server, known, tmp_path, capfd):
    (tmp_path / "resnet18").write_bytes(b"")
    assert zoo.locate("resnet18") == Path("resnet18")
    assert f"using {tmp_path / 'resnet18'}" in capfd.readouterr().err
    assert not server.asked


def test_unknown_names_and_paths():
    with pytest.raises(WeightsError, match="did you mean resnet50"):
        zoo.locate("resnet5O")
    with pytest.raises(WeightsError, match="did you mean resnet50_v1b@gluoncv"):
        convert.known_run("resnet50_v1b@gluonvc")
    for path in ("missing.pth", "runs/missing"):
        assert zoo.locate(path) == Path(path)


@pytest.mark.parametrize(
    ("own", "xdg", "home"),
    [
        ("/own", "/xdg", "/own"),
        ("", "/xdg", "/xdg/mxrcnn"),
        ("", "relative", "/user/.cache/mxrcnn"),
        ("", "", "/user/.cache/mxrcnn"),
    ],
)
def test_the_cache_folder(monkeypatch, own, xdg, home):
    for name, value in {"MXRCNN_HOME": own, "XDG_CACHE_HOME": xdg, "HOME": "/user"}.items():
        monkeypatch.setenv(name, value)
    assert zoo.home() == Path(home)


def test_the_command(server, known, capsys):
    assert main(["weights", "list"]) == 0
    assert "resnet18" in capsys.readouterr().out
    assert main(["weights", "fetch", "resnet18"]) == 0
    path = known["resnet18"].path
    assert capsys.readouterr().out == f"{path}\n"
    assert path.is_file()
    assert main(["weights", "list", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["cached"] for name, row in listed.items()} == {
        "resnet18": True,
        "fasterrcnn_resnet50_fpn_coco": False,
    }
    assert main(["weights", "show", "resnet18"]) == 0
    shown = capsys.readouterr().out
    for part in ("BSD-3-Clause", "69.758", "fcos_r50_fpn", f"{path} (there)"):
        assert part in shown
    with pytest.raises(SystemExit) as stopped:  # nothing is fetched if one name is wrong
        main(["weights", "fetch", "fasterrcnn_resnet50_fpn_coco", "resnet81"])
    assert stopped.value.code == 1
    assert len(server.asked) == 1
    assert "did you mean resnet18" in capsys.readouterr().err
