"""ONNX: the network with its strides and shortcuts in the graph; batch, height and width are free."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from trainer.publish.backbone import Facts
from trainer.publish.formats.base import Check, Format, NotInstalled, Publication, Source, only_file, package
from trainer.publish.golden import INPUT, LOGITS

OPSET = 18
NEEDED = ("onnx", "onnxscript")
_INPUT = "images"
_OUTPUT = "logits"


def refuse(facts: Facts, allow_v1_snippet: bool) -> str | None:
    """Where the exporter is not installed."""
    try:
        for name in NEEDED:
            package(name)
    except NotInstalled as missing:
        return f"{missing}: pip install {' '.join(NEEDED)}"
    return None


def write(source: Source, folder: Path) -> None:
    onnx, facts = package("onnx"), source.backbone.facts
    network, pixels = source.backbone.network(), torch.from_numpy(source.golden[INPUT])
    sizes = {0: "batch", 2: "height", 3: "width"}
    with _quiet():
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            dynamic_shapes=(dict.fromkeys(sizes, torch.export.Dim.DYNAMIC),),
            opset_version=OPSET,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for axis, name in sizes.items():
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = sizes[0]
    del model.graph.value_info[:]  # sizes by names that the exporter made up
    for node in model.graph.node:  # each says in which files of this machine it was made
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(model, facts.metadata())
    onnx.checker.check_model(model)
    (folder / f"{facts.file_name()}.onnx").write_bytes(model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter has to say about itself."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def check(folder: Path, publication: Publication) -> Check:
    runtime = package("onnxruntime")
    session = runtime.InferenceSession(only_file(folder, "*.onnx"), providers=["CPUExecutionProvider"])
    one_by_one = [session.run(None, {_INPUT: image[None]})[0] for image in publication.golden[INPUT]]  # any batch
    return Check(f"onnxruntime {runtime.__version__}", {LOGITS: np.concatenate(one_by_one)})


def usage(facts: Facts, file: str) -> str:
    return f"""    import onnxruntime

    session = onnxruntime.InferenceSession("onnx/{file}")
    (logits,) = session.run(None, {{"images": images}})  # float32 [N, 3, H, W], normalised as above
"""


FORMAT = Format("onnx", refuse, write, check, usage, stages=False)
