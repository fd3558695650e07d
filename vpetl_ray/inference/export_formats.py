"""A model in the formats that others read, each with a way to run what was written.

What is exported takes clips as bytes, uint8 (B, T, H, W, 3), any B, and gives logits (B, K), all in
fp32: normalising is part of it, so nobody has to know how.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from vpetl_ray.errors import VpetlError
from vpetl_ray.inference.video_model import VideoModel, load_model
from vpetl_ray.inference.whole_model import save_whole
from vpetl_ray.models.preprocess import clips_to_input
from vpetl_ray.petl.method import Backbone

Run = Callable[[Tensor], Tensor]
"""Clips to logits, both on the CPU."""

FACTS_ENTRY: Final = "vpetl.json"
"""Among a torch-export file's extra files, and an ONNX file's metadata: classes, clip, size."""
_INPUT, _OUTPUT = "clips", "logits"
_MAX_BATCH = 1024


class ClipsToLogits(nn.Module):
    """What is exported."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips_u8_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 to (B, K)."""
        logits_BK: Tensor = self.model(clips_to_input(clips_u8_BTHWC))
        return logits_BK


def run_original(model: VideoModel) -> Run:
    """Give the model as it is, in fp32, to compare with."""
    network = ClipsToLogits(model.attached.model)
    device = model.attached.model.head.weight.device

    def run(clips_u8_BTHWC: Tensor) -> Tensor:
        with torch.no_grad():
            logits_BK: Tensor = network(clips_u8_BTHWC.to(device))
        return logits_BK.cpu()

    return run


def export_safetensors(model: VideoModel, path: Path) -> Run:
    """Write one file with every tensor, which `vpetl_ray.load` reads without any other."""
    save_whole(model.attached, model.facts, path)
    return run_original(load_model(path, device="cpu"))


def export_torch(model: VideoModel, path: Path) -> Run:
    """Write what `torch.export` makes; `torch.export.load` reads it without this package."""
    network, example, shapes = _traced(model)
    with _quiet(), torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=shapes)
        torch.export.save(program, path, extra_files={FACTS_ENTRY: facts_text(model)})
        loaded = torch.export.load(path).module()

    def run(clips_u8_BTHWC: Tensor) -> Tensor:
        with torch.no_grad():
            logits_BK: Tensor = loaded(clips_u8_BTHWC)
        return logits_BK

    return run


def export_onnx(model: VideoModel, path: Path) -> Run:
    """Write ONNX, and run it with onnxruntime.

    Raises:
        VpetlError: the packages that it takes are not installed.

    """
    try:
        import onnxruntime  # noqa: PLC0415 - of an optional extra
        import onnxscript  # noqa: F401, PLC0415 - torch imports it
    except ImportError as error:
        raise VpetlError(
            f"--format onnx: needs {error.name}, which is not installed; "
            "pip install 'vpetl_ray[onnx]' brings it"
        ) from error
    network, example, shapes = _traced(model)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[FACTS_ENTRY] = facts_text(model)
        program.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(clips_u8_BTHWC: Tensor) -> Tensor:
        [logits_BK] = session.run([_OUTPUT], {_INPUT: clips_u8_BTHWC.numpy()})
        return torch.from_numpy(logits_BK)

    return run


FORMATS: Mapping[str, Callable[[VideoModel, Path], Run]] = MappingProxyType(
    {"torch-export": export_torch, "onnx": export_onnx, "safetensors": export_safetensors}
)
SUFFIXES: Mapping[str, str] = MappingProxyType(
    {"torch-export": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}
)


def facts_text(model: VideoModel) -> str:
    """Say as JSON what its user has to know: classes in order, what of a video is read."""
    return json.dumps(asdict(model.facts))


def _traced(model: VideoModel) -> tuple[ClipsToLogits, Tensor, Any]:
    example = torch.zeros((2, *model.clips.shape), dtype=torch.uint8)  # of one, B would be fixed
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    return ClipsToLogits(model.attached.model).cpu().eval(), example, ({0: batch},)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters say to each other off the screen; what they raise is one sentence."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, TypeError) as error:  # the exporters' own errors are of these
        first = str(error).strip().partition("\n")[0]
        raise VpetlError(f"--format: torch cannot export this model: {first}") from error
    finally:
        logging.disable(disabled)
