"""What was chosen and why, as a table for the user; and how long training will take."""

from __future__ import annotations

from mxrcnn.data.records import Dataset
from mxrcnn.data.transforms import expand
from mxrcnn.tables import aligned
from mxrcnn.training.choose.fit import Job, Measured, span
from mxrcnn.training.choose.recipes import VAL_FROM, Recipe
from mxrcnn.training.configure import Configuration
from symnet.machine.cores import logical_cores


def _why(made: Configuration, *names: str) -> str:
    """Why settings have their values: the reasons of the first, unless the user gave some."""
    sources = [made.sources.get(name, "default") for name in names]
    own = sorted({source for source in sources if source.startswith("--")})
    return f"yours ({', '.join(own)})" if own else sources[0].partition("chosen: ")[2] or sources[0]


def settings_table(
    made: Configuration, recipe: Recipe | None, images: int, val: Dataset | None, measured: Measured
) -> str:
    """The settings, their values and why, a line each; without a recipe only the epochs.

    images: to train on. val: images to validate on.
    """
    data, train = made.config.data, made.config.train
    epochs = ("epochs", str(train.epochs), _why(made, "train.epochs"))
    if recipe is None:
        return aligned([("setting", "value", "why"), epochs], rule=True, words=True)
    network = f"{made.config.network}, preset {recipe.preset}"
    schedule, decays = train.schedule, ", ".join(map(str, train.lr_decay_epoch))
    if schedule == "step":
        schedule = f"a tenth after epoch {decays}" if decays else "constant"
    memory = f"{measured.memory / 2**30:.1f} of {measured.allowed / 2**30:.1f} GiB that it may take"
    augment = ", ".join(word.partition(":")[0] for word in data.augment)
    if data.augment == expand(("strong",), data.masks):
        augment = "strong"
    rows = [
        ("setting", "value", "why"),
        ("network", network, f"{recipe.why} ({logical_cores()} cores); or --network NAME"),
        _images(made, images, val),
        (
            "image size",
            f"{data.short_side} x {data.long_side}",
            _why(made, "data.short_side", "data.long_side"),
        ),
        ("batch", str(train.batch_size), f"{_why(made, 'train.batch_size')}; {memory}"),
        ("augmentation", augment, _why(made, "data.augment")),
        ("learning rate", f"{train.lr:g}", _why(made, "train.lr")),
        ("schedule", schedule, _why(made, "train.schedule")),
        ("warm-up", f"{train.warmup_steps} steps", _why(made, "train.warmup_steps")),
        ("averaging", f"{train.ema:g}", _why(made, "train.ema")),
        epochs,
    ]
    if val is not None:
        every = f"every {train.val_every} epochs" if train.val_every > 1 else "every epoch"
        rows.append(("validations", every, _why(made, "train.val_every")))
    return aligned(rows, rule=True, words=True)


def _images(made: Configuration, images: int, val: Dataset | None) -> tuple[str, str, str]:
    """The row of the images to train and to validate on."""
    data = made.config.data
    if val is None:
        few = f"; fewer than {VAL_FROM} are not divided" if images < VAL_FROM else ""
        why = f"no validation (--val){few}"
        if not made.config.train.val_every:
            why = "no validation (--val-every 0)"
        return "images", f"{images:,} to train on", why
    value = f"{images:,} to train, {len(val):,} to validate on"
    if not data.val_share:
        return "images", value, f"{data.imageset} and {data.val_imageset}"
    return "images", value, f"--val {data.val_share:g}: {_why(made, 'data.val_share')}"


def describe_time(
    job: Job, measured: Measured, epochs: int, whole: float, minutes: float | None
) -> str:
    """How long training takes, and what makes it up. whole: seconds of the whole command."""
    about = span(whole)
    if minutes is not None:
        about = f"{whole / 60:.1f} of {minutes:g} minutes"
    count = job.validations(epochs)
    steps = epochs * job.steps
    parts = [f"{steps:,} step{'s' * (steps > 1)} of {span(measured.step)}"]
    if count:
        each = span(job.validation(measured))
        parts.append(f"{count} validation{'s' * (count > 1)} of {each}")
    return f"about {about}: {', '.join(parts)}, as measured on this machine now"
