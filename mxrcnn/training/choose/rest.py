"""The choices that need measurements: size, batch, epochs; and how long training will take."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Optional

from mxrcnn.config import Config, ConfigError
from mxrcnn.data.check.objects import TINY
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.records import Dataset
from mxrcnn.data.tiles import tile_dataset
from mxrcnn.program import command
from mxrcnn.training.choose import recipes
from mxrcnn.training.choose.fit import Job, Measured, pick_side, span
from mxrcnn.training.choose.photos import Photos
from mxrcnn.training.choose.recipes import Recipe, usual_updates
from mxrcnn.training.choose.rehearse import TooLargeError
from mxrcnn.training.choose.table import describe_time, settings_table
from mxrcnn.training.configure import (
    Chosen,
    Configuration,
    TrainRequest,
    configure,
    given_settings,
    with_classes,
)

#: measures a training: config, plan, images to validate on, `whole`, `limited`; see Rehearsal
Measure = Callable[[Config, TrainingPlan, Optional[Dataset], bool, bool], Measured]


@dataclass(frozen=True)
class Choice:
    """What was chosen, the seconds that the whole command should take, and lines for the user."""

    chosen: Chosen
    seconds: float
    lines: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """As JSON, for the other workers."""
        return json.dumps(asdict(self))

    def to_row(self) -> dict[str, Any]:
        """For log.jsonl: each setting's value and why, and the expected seconds."""
        settings, reasons = self.chosen.settings, self.chosen.reasons
        why = {name: [value, reasons[name]] for name, value in settings.items()}
        return {"seconds": round(self.seconds, 1), "settings": why}

    @classmethod
    def from_text(cls, text: str) -> Choice:
        """The inverse of to_text."""
        values = json.loads(text)
        return cls(Chosen(**values.pop("chosen")), **values)


def choose_rest(
    request: TrainRequest,
    first: Chosen,
    recipe: Recipe | None,
    dataset: Dataset,
    val: Dataset | None,
    measure: Measure,
    devices: int = 1,
    workers: int = 1,
) -> Choice:
    """Choose what `choose_first` left open; without a recipe only the epochs.

    dataset, val: the images to train and to validate on. devices: of this worker. workers: training
    together. Raises ConfigError if the time or the memory is too small, and what training raises.
    """
    chooser = _Chooser(request, first, recipe, dataset, val, measure, devices, workers)
    if recipe is not None:
        chooser.choose_size_and_batch()
    return chooser.choose_epochs()


class _Chooser:
    """The choices so far: `chosen` grows. What the user gives is in `given` and stays."""

    def __init__(
        self,
        request: TrainRequest,
        chosen: Chosen,
        recipe: Recipe | None,
        dataset: Dataset,
        val: Dataset | None,
        measure: Measure,
        devices: int,
        workers: int,
    ) -> None:
        self._request, self.chosen, self._recipe = request, chosen, recipe
        self._val, self._measure = val, measure
        self._devices, self._workers = devices, workers
        config = self._made().config
        self._given = given_settings(request, config)[0]
        if config.data.tile:  # its sides are the tile's
            sides = ("short_side", "long_side")
            self._given.update({f"data.{side}": getattr(config.data, side) for side in sides})
        self._photos = Photos.of(dataset, config) if recipe is not None else None
        self._dataset = tile_dataset(dataset, config.data).dataset
        self._notes: list[str] = []

    def _made(self) -> Configuration:
        return configure(self._request, self.chosen)

    def _config(self) -> Config:
        return with_classes(self._made().config, self._dataset)

    def _choose(self, name: str, value: object, why: str) -> None:
        if name not in self._given:
            self.chosen = self.chosen.add(name, value, why)

    @property
    def _elapsed(self) -> float:
        """The seconds since the command was started."""
        return time.monotonic() - self._request.began if self._request.began else 0.0

    @property
    def _limit(self) -> float | None:
        """The seconds that training may take from now on; None if no time is stated."""
        minutes = self._request.minutes
        if minutes is None:
            return None
        return minutes * 60 * recipes.FILL - recipes.BESIDES - self._elapsed

    def _minutes_for(self, seconds: float) -> int:
        """The --minutes within which a training of so many seconds ends."""
        whole = (seconds + recipes.BESIDES + self._elapsed) / recipes.FILL
        return math.ceil(whole / 60)

    def _take(self, whole: bool) -> tuple[TrainingPlan, Measured]:
        """Measure with the choices so far. The batch shrinks until it fits into the memory."""
        while True:
            config = self._config()
            plan = TrainingPlan(self._dataset, config, self._workers)
            some = self._sample()
            part = plan if some is self._dataset else TrainingPlan(some, config, self._workers)
            free = self._recipe is not None and "train.batch_size" not in self._given
            try:
                return plan, self._measure(config, part, self._val, whole, free)
            except TooLargeError as error:
                images = config.train.batch_size
                if not free or images <= self._devices:
                    raise _refused(error, config) from None
                self._choose_batch(max(self._devices, images // 2), "more does not fit into memory")

    def _sample(self) -> Dataset:
        """Images to measure with: planning an epoch of 100,000 takes seconds."""
        every = -(-len(self._dataset) // recipes.SAMPLE)
        if every == 1:
            return self._dataset
        return replace(self._dataset, records=self._dataset.records[::every])

    def _choose_batch(self, images: int, why: str) -> None:
        """Choose the batch and its learning rate. That is scaled later to a batch of the user's."""
        lr = self._recipe.lr
        self.chosen = self.chosen.add("train.batch_size", images, why)
        text = f"{lr:g} for {recipes.IMAGES} images a step"
        self.chosen = self.chosen.add("train.lr", lr * images / recipes.IMAGES, text)

    def _choose_side(self, short: int, why: str) -> None:
        photos = self._photos
        self._choose("data.short_side", short, why)
        short = self._given.get("data.short_side", short)
        long = photos.long_side(short)
        self._choose("data.long_side", long, f"nine in ten photos are {photos.ratio:.2f} : 1")
        smaller = short < photos.short / 2
        self._choose("data.reduced_jpeg", smaller, "photos are more than twice as large")

    def choose_size_and_batch(self) -> None:
        """Choose the size of network images, and how many a step has."""
        photos, (least, usual, most) = self._photos, self._recipe.sides
        sides = photos.sides(most)
        wanted = photos.wanted_side(sides, min(least, sides[-1]))
        self._choose_batch(recipes.IMAGES * self._devices, f"{recipes.IMAGES} a device")
        if {"data.short_side", "data.long_side"} & self._given.keys():
            long = self._given.get("data.long_side")
            fitting = [s for s in sides if not long or photos.long_side(s) <= long]
            self._choose_side(min(wanted, (fitting or sides)[-1]), "fits the long side")
            return
        self._choose_side(wanted, "for now")
        plan, measured = self._take(whole=False)
        side, why = self._side(plan, measured, sides, wanted, max(usual, wanted))
        self._choose_side(side, why)

    def _side(
        self, plan: TrainingPlan, measured: Measured, sides: list[int], wanted: int, most: int
    ) -> tuple[int, str]:
        """The short side and why. measured: at side `wanted`."""
        photos, updates = self._photos, self._usual_updates()

        def pixels(side: int) -> float:
            return side * photos.long_side(side) / (wanted * photos.long_side(wanted))

        def seconds(side: int, updates: float) -> float:
            step = measured.step * pixels(side)
            validating = 1 + recipes.VAL_TIME * (self._val is not None)
            return measured.start + max(updates, plan.steps) * step * validating

        def fits(side: int) -> bool:
            return side <= wanted or measured.memory * pixels(side) <= measured.allowed

        some = [side for side in sides if side <= most and fits(side)]
        stated = self._limit is not None
        limit = self._limit if stated else recipes.MINUTES * 60
        side = pick_side(some, wanted, updates, seconds, limit, stated)
        within = f"{self._request.minutes or recipes.MINUTES:g} minutes"
        if side == sides[-1] == photos.short // recipes.SIDE_STEP * recipes.SIDE_STEP:
            return side, "that of the photos"
        if seconds(side, updates) > limit:
            why = f"{updates:,} updates take more than {within}; "
            if side < wanted:
                return side, f"{why}small objects would need {wanted}"
            small = wanted > self._recipe.sides[0]
            return side, why + ("small objects need it" if small else "the smallest usual size")
        if side == most:
            return side, f"more is not worth the time; photos: {photos.short}"
        reason = f"{updates:,} updates within {within}" if fits(side + recipes.SIDE_STEP) else ""
        return side, f"the largest for {reason or 'this memory'}; photos: {photos.short}"

    def _usual_updates(self) -> int:
        train = self._made().config.train
        images = train.batch_size * train.accumulate * self._workers
        return usual_updates(len(self._dataset), images)

    def choose_epochs(self) -> Choice:
        """Choose how long to train, and say how long that takes."""
        plan, measured = self._take(whole=True)
        train = self._config().train
        job = Job(plan.steps, len(self._val) if self._val is not None else 0, train.val_every)
        updates, limit = self._usual_updates(), self._limit
        spaced = self._recipe is not None and "train.val_every" not in self._given
        most = max(1, recipes.MOST_UPDATES * updates // plan.steps)
        if "train.epochs" in self._given:
            epochs, why = train.epochs, "given"
        elif limit is None:
            epochs = max(1, round(updates / plan.steps))
            why = f"{updates:,} updates are usual for {len(self._dataset):,} images"
        else:
            epochs = replace(job, val_images=0).most_epochs(measured, limit, most)
        if spaced:
            job = job.spaced(epochs, measured)
        if limit is not None:
            epochs = job.most_epochs(measured, limit, most)
            why = self._check_epochs(job, measured, epochs, updates, most)
        self._choose("train.epochs", epochs, why)
        if spaced and job.val_images:
            share = job.validations(epochs) * job.validation(measured)
            why = f"they take about {share / job.seconds(epochs, measured):.0%} of the time"
            self._choose("train.val_every", min(job.every, epochs), why)
        self._choose_warmup(epochs * plan.steps)
        whole = self._elapsed + recipes.BESIDES + job.seconds(epochs, measured)
        return Choice(self.chosen, whole, self._lines(job, measured, epochs, whole))

    def _check_epochs(
        self, job: Job, measured: Measured, epochs: int, updates: int, most: int
    ) -> str:
        """Why there are so many epochs in the stated time; ConfigError if there are none."""
        minutes = f"{self._request.minutes:g}"
        if epochs < 1:
            one = job.seconds(1, measured)
            data = self._config().data
            raise ConfigError(
                f"--minutes {minutes}: too short. An epoch of {len(self._dataset):,} images takes "
                f"{span(one)} here at {data.short_side} x {data.long_side}; --minutes "
                f"{self._minutes_for(one)} has one, fewer images take less"
            )
        usual = max(1, round(updates / job.steps))
        if epochs * job.steps < recipes.ENOUGH_UPDATES * updates:
            self._notes.append(
                f"--minutes {minutes} has time for {epochs * job.steps:,} updates; {updates:,} are "
                f"usual for {len(self._dataset):,} images: --minutes "
                f"{self._minutes_for(job.seconds(usual, measured))}"
            )
        if epochs == most:
            return f"{recipes.MOST_UPDATES} times the usual updates; the time is not used up"
        return f"what fits into {minutes} minutes; {usual} are usual"

    def _choose_warmup(self, updates: int) -> None:
        if self._recipe is not None:
            steps = min(recipes.MOST_WARMUP, round(recipes.WARMUP * updates))
            self._choose("train.warmup_steps", steps, f"{recipes.WARMUP:.0%} of the updates")
        elif self._made().config.train.warmup_steps > updates / 2:
            steps = self._made().config.train.warmup_steps
            self._notes.append(
                f"the learning rate rises for {steps:,} of {updates:,} updates: --set warmup_steps="
                f"{round(recipes.WARMUP * updates)} is shorter"
            )

    def _lines(self, job: Job, measured: Measured, epochs: int, whole: float) -> list[str]:
        made, notes = self._made(), list(self._notes)
        tiny = self._photos.tiny_share(made.config.data.short_side) if self._photos else 0
        if tiny > recipes.SMALL / 100:
            tiles = "" if made.config.data.tile else ", or --tile N: tiles of the photos"
            notes.append(
                f"{tiny:.0%} of the objects have a side below {TINY} pixels at this size, which is "
                "hard to learn. Larger images (--set short_side=N long_side=N) take longer" + tiles
            )
        if self._workers > 1:
            notes.append("the time was measured by worker 0 alone: exchanging gradients adds to it")
        return [
            settings_table(made, self._recipe, len(self._dataset), self._val, measured),
            describe_time(job, measured, epochs, whole, self._request.minutes),
            *notes,
        ]


def _refused(error: TooLargeError, config: Config) -> ConfigError:
    """The error that says that a training does not fit into memory."""
    data, needed = config.data, f"{error.needed / 2**30:.1f} GiB" if error.needed else "more"
    return ConfigError(
        f"training {config.network} at {data.short_side} x {data.long_side} with batch "
        f"{config.train.batch_size} needs {needed} of memory, and may take "
        f"{error.allowed / 2**30:.1f} GiB here ({recipes.MEMORY:.0%} of what is free): end other "
        f"programs, or give all by hand ({command('train', '--network', 'NAME')} ...)"
    )
