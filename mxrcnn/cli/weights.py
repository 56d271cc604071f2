"""List, fetch and show known weights, which other commands take by name.

examples:
  mxrcnn weights list
  mxrcnn weights show fasterrcnn_resnet50_fpn_coco
  mxrcnn weights fetch resnet50 vgg16
  mxrcnn predict fasterrcnn_resnet50_fpn_coco street.jpg
  mxrcnn train --pretrained resnet50 --network fcos_r50_fpn ...

MXRCNN_HOME chooses the cache folder, MXRCNN_MIRROR=https://HOST another server.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mxrcnn.weights.zoo import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", required=True, metavar="list|fetch|show")
    listing = parts.add_parser("list", help="a table of all known weights")
    listing.add_argument("--json", action="store_true", help="print JSON")
    fetching = parts.add_parser("fetch", help="download files into the cache")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    showing = parts.add_parser("show", help="what they are, licence, networks, place in the cache")
    showing.add_argument("names", nargs="+", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.errors import report_user_errors
    from mxrcnn.weights.zoo import entries, fetch, find

    with report_user_errors():
        if args.part == "list":
            known = list(entries().values())
            print(json.dumps([e.report() for e in known], indent=1) if args.json else _table(known))
            return 0
        chosen = [find(name) for name in args.names]  # before anything is downloaded
        for entry in chosen:
            print(fetch(entry) if args.part == "fetch" else _page(entry))
    return 0


def _table(known: list[Entry]) -> str:
    from mxrcnn.tables import aligned
    from mxrcnn.weights.zoo import home

    rows = [("name", "kind", "trained on", "published", "MiB", "here")]
    for entry in known:
        score = " / ".join(str(value) for value in entry.score.values())
        size = f"{entry.mebibytes:.1f}" if entry.mebibytes else "-"
        here = "yes" if entry.path.is_file() else "no"
        rows.append((entry.name, entry.kind, entry.trained_on, score or "-", size, here))
    return "\n".join(
        [
            aligned(rows, rule=True),
            "published: box AP / mask AP on COCO val2017 of detectors, top-1 accuracy on "
            "ImageNet-1K of bodies, in percent, as their project published them",
            f"here: in {home()}",
        ]
    )


def _page(entry: Entry) -> str:
    scores = [f"{metric} {value}" for metric, value in entry.score.items()]
    here = "there" if entry.path.is_file() else "not there yet"
    lines = {
        "what": f"{entry.title} of {entry.project}, a {entry.kind}, trained on {entry.trained_on}",
        "published": f"{', '.join(scores)} ({entry.source})" if scores else "not in our table",
        "licence": entry.licence,
        "networks": ", ".join(entry.networks),
        "address": entry.url,
        "size": f"{entry.mebibytes} MiB" if entry.mebibytes else "not in our table",
        "hash": f"{entry.hash}...",
        "file": f"{entry.path} ({here})",
    }
    if entry.kind == "detector":
        made = "there" if entry.run.exists() else "made at the first prediction"
        lines["run"] = f"{entry.run} ({made})"
    return "\n".join([entry.name, *(f"  {what:<10}{text}" for what, text in lines.items())])
