"""This toolkit's side of mxrcnn bench; see sides.py for the protocol."""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.bench.export import to_torchvision
from mxrcnn.bench.flops import multiply_adds
from mxrcnn.bench.scene import bench_config, open_files
from mxrcnn.data.batches import Batch, make_training_batch
from mxrcnn.data.loader import Loader, default_workers, test_loader, training_loader
from mxrcnn.data.plans import BatchPlan, TrainingPlan, test_plans
from mxrcnn.inference.detector import Detector, inference_symbol
from mxrcnn.inference.quantize import quantize
from mxrcnn.runs.checkpoint import join_params, load_arrays, save_arrays, split_params
from mxrcnn.training.metrics import RunningMetrics
from mxrcnn.training.network import Network, first_value, step_seed
from mxrcnn.training.schedule import make_schedule
from symnet import get_detector
from symnet.detector import parameter_shapes
from symnet.geometry.masks import unpack
from symnet.machine import PATCHED, mx
from symnet.ops.precision import BFLOAT16

#: the side of the square matrices whose product is the machine's ceiling
MATRIX = 4096


class Bench:
    """The parts that all modes share: configuration, files, one batch."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.precision: str = spec["precision"]
        self.folder = Path(spec["folder"])
        self.config = bench_config(
            spec["network"], spec["settings"], tuple(spec["size"]), self.precision
        )
        self.dataset = open_files(self.folder, self.config)
        self.plan = TrainingPlan(self.dataset, self.config)
        first = next(plan for plan in self.plan.stream(0, 0) if not any(plan.flips))
        self.batch = make_training_batch(self.config, self.plan.capacity, first)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image without padding."""
        height, width, _ = self.batch.data["im_info"][0]
        return int(height), int(width)

    def symbol(self) -> mx.sym.Symbol:
        """The test graph in the requested precision; for int8, before quantization."""
        return inference_symbol(self.config, self.precision)

    def test_inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the test graph's inputs."""
        return {name: self.batch.data[name].shape for name in ("data", "im_info")}

    def first_params(self) -> dict[str, np.ndarray]:
        """The initial parameters of the float32 test graph by name."""
        args, auxs = parameter_shapes(inference_symbol(self.config, "fp32"))
        return {
            name: first_value(self.config, name, shape, scratch=True)
            for name, shape in {**args, **auxs}.items()
        }


def export(spec: dict[str, Any]) -> None:
    """Write image, objects and parameters for the peer."""
    bench = Bench(spec)
    data, (height, width) = bench.config.data, bench.size
    image = bench.batch.data["data"][0][:, :height, :width]
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (data.mean, data.std))
    boxes = bench.batch.data["gt_boxes"][0]
    arrays = {"image": (image * std + mean) / 255, "boxes": boxes[:, :4]}
    arrays["labels"] = boxes[:, 4].astype(np.int64)
    if data.masks:
        masks = unpack(bench.batch.data["gt_masks"][0], width)
        arrays["masks"] = masks[:, :height].astype(np.uint8)
    state = to_torchvision(bench.first_params())
    np.savez(spec["arrays"], **arrays, **{f"param:{name}": state[name] for name in state})


def write_int8(spec: dict[str, Any]) -> None:
    """Write the int8 graph and its parameters, calibrated on the bench's own files."""
    bench = Bench(spec)
    params = {name: mx.nd.array(value) for name, value in bench.first_params().items()}
    made = quantize(bench.config, params, "int8", bench.dataset)
    made.symbol.save(f"{spec['arrays']}-symbol.json", remove_amp_cast=False)
    save_arrays(Path(f"{spec['arrays']}.params"), join_params(made.args, made.auxs))


def _waited(
    loader: Loader, plans: Iterable[BatchPlan], work: Callable[[Batch], object]
) -> Iterator[tuple[float, float]]:
    """Do the work for each batch. Yields the time when done, and the seconds waited for data."""
    batches = loader.batches(plans)
    while True:
        before = time.perf_counter()
        batch = next(batches, None)
        waited = time.perf_counter() - before
        if batch is None:
            return
        work(batch)
        yield time.perf_counter(), waited


class Training(Bench):
    """One training step: from a batch on the host to updated parameters, waited for."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self.network = Network(self.config, self.plan, [mx.cpu()])
        params, _ = self.network.first_params()
        schedule = make_schedule(self.config.train, self.plan.steps)
        self.network.start(params, {}, schedule, 0)
        self.metrics = RunningMetrics(self.network.detector.losses)
        self.steps = 0

    def advance(self, batch: Batch) -> None:
        """Do with a batch what the training loop does."""
        pairs = self.network.step(batch, step_seed(0, self.steps))
        self.steps += 1
        self.metrics.add(self.steps, batch.image_ids, pairs)

    def step(self) -> dict[str, Any]:
        """Do a step and wait for it."""
        self.advance(self.batch)
        mx.nd.waitall()
        self.metrics.absorb(everything=True)
        return {"loss": sum(v for k, v in self.metrics.take().items() if k.endswith("Loss"))}

    def multiply_adds(self) -> int:
        """The multiply-adds of a step."""
        fixed = set(self.network.module._fixed_param_names)
        shapes = {desc.name: desc.shape for desc in self.network.module.data_shapes}
        shapes.update((desc.name, desc.shape) for desc in self.network.module.label_shapes)
        return multiply_adds(self.network.symbol, shapes, set(self.network.shapes) - fixed)

    def files(self, count: int) -> dict[str, float]:
        """Images per second over `count` steps from JPEG files, and the share of time waited."""
        warm = 2
        plans = itertools.islice(self.plan.stream(0, 0), warm + count)
        start = waited = 0.0
        with training_loader(self.config, self.plan, default_workers()) as loader:
            for number, (_, wait) in enumerate(_waited(loader, plans, self.advance), 1):
                waited += wait
                if number == warm:
                    mx.nd.waitall()
                    start, waited = time.perf_counter(), 0.0
            mx.nd.waitall()
            seconds = time.perf_counter() - start
        return {"images_per_second": count / seconds, "waiting": waited / seconds}


class Inference(Bench):
    """Inference, from one image tensor to boxes on the host."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        if self.precision == "int8":
            symbol = mx.sym.load(f"{spec['arrays']}-symbol.json")
            params, auxs = split_params(load_arrays(Path(f"{spec['arrays']}.params")))
        else:
            symbol, auxs = self.symbol(), {}
            params = {name: mx.nd.array(value) for name, value in self.first_params().items()}
        self.detector = Detector(symbol, params, auxs, self.config, precision=self.precision)

    def step(self) -> dict[str, Any]:
        """Detect in one image."""
        out = self.detector.forward(self.batch.data["data"], self.batch.data["im_info"])
        return {"detections": int((out["det_classes"] > 0).sum())}

    def multiply_adds(self) -> int:
        """The multiply-adds of an image."""
        return multiply_adds(self.symbol(), self.test_inputs())

    def files(self, count: int) -> dict[str, float]:
        """Images per second over at least `count` JPEG files, and the share of time waited."""
        data, stride = self.config.data, get_detector(self.config.network).stride
        plans = test_plans(self.dataset, data, stride, batch_size=1)
        plans = list(itertools.islice(itertools.cycle(plans), count + 1))

        def predict(batch: Batch) -> None:
            outputs = self.detector.forward(batch.data["data"], batch.data["im_info"])
            self.detector.detections(outputs, 0, *batch.data["im_info"][0, :2].astype(int))

        with test_loader(data, 0) as loader:
            times = list(_waited(loader, plans, predict))
        seconds = times[-1][0] - times[0][0]
        waited = sum(wait for _, wait in times[1:])
        return {"images_per_second": count / seconds, "waiting": waited / seconds}


def ceiling(precision: str, side: int = MATRIX, repeat: int = 5) -> float:
    """The machine's ceiling: multiply-adds per second of a square matrix product, the best of some.

    MXNet has no int8 matrix product, so int8 is compared with bf16's ceiling.
    """
    dtype = np.float32 if precision == "fp32" else BFLOAT16
    data = mx.nd.amp_cast(mx.nd.random.uniform(shape=(side, side)), dtype=dtype)
    weight = mx.nd.amp_cast(mx.nd.random.uniform(shape=(side, side)), dtype=dtype)
    layer = mx.sym.FullyConnected(
        mx.sym.Variable("data", dtype=dtype),
        mx.sym.Variable("weight", dtype=dtype),
        num_hidden=side,
        no_bias=True,
    )
    executor = layer.bind(mx.cpu(), {"data": data, "weight": weight}, grad_req="null")
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        executor.forward(is_train=False)[0].wait_to_read()
        seconds.append(time.perf_counter() - start)
    return side**3 / min(seconds[1:])


def operators(bench: Training | Inference, count: int) -> dict[str, float]:
    """Mean milliseconds per step of each kind of operator, the slowest first.

    Needs MXNET_EXEC_BULK_EXEC_TRAIN=0 and ..._INFERENCE=0: MXNet then runs operators one by one.
    """
    wanted = {"profile_symbolic": True, "profile_imperative": True, "aggregate_stats": True}
    # MXNet deletes and rewrites this file when the process ends, so it must not be /dev/null
    mx.profiler.set_config(filename=str(bench.folder / "profile.json"), **wanted)
    mx.profiler.set_state("run")
    for _ in range(count):
        bench.step()
    mx.nd.waitall()
    mx.profiler.set_state("stop")
    measured = json.loads(mx.profiler.dumps(format="json", sort_by="total"))["Time"]["operator"]
    totals = {name: value["Total"] / count for name, value in measured.items()}
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def reply(bench: Training | Inference, word: str) -> dict[str, Any]:
    """The answer to a word: step, rss, work; or ceiling, files, operators with a number."""
    word, _, number = word.partition(" ")
    if word == "step":
        start = time.perf_counter()
        found = bench.step()
        return {"seconds": time.perf_counter() - start, **found}
    answers = {
        "rss": lambda: {"max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024},
        "work": lambda: {"multiply_adds": bench.multiply_adds()},
        "files": lambda: bench.files(int(number)),
        "operators": lambda: operators(bench, int(number)),
        "ceiling": lambda: {"rate": ceiling(bench.precision, int(number))},
    }
    return answers[word]()


def main() -> None:
    """Answer until standard input closes."""
    spec = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep what libraries print out of the answers
    say = partial(print, file=answers, flush=True)
    if spec["mode"] in ("export", "int8"):
        {"export": export, "int8": write_int8}[spec["mode"]](spec)
        return say("{}")
    bench = {"train": Training, "infer": Inference}[spec["mode"]](spec)
    for _ in range(spec["warmup"]):
        bench.step()
    say(json.dumps({"size": bench.size, "patched": PATCHED}))
    for word in sys.stdin:
        say(json.dumps(reply(bench, word.strip())))
    return None


if __name__ == "__main__":
    main()
