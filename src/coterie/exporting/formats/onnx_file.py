"""``model.onnx``: for ONNX Runtime and whatever else reads ONNX, with normalization inside."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.errors import UserError
from coterie.exporting.formats.deployed import traced
from coterie.exporting.formats.exportable import Exportable, Written

FILE = "model.onnx"
_LARGEST = 2**31 - 2**24  # bytes of a protobuf, less its structure; weights of larger networks lie beside


def write_onnx(what: Exportable, folder: Path, *, bytes_in: bool = False) -> Written:
    """Write ``model.onnx`` and open it in ONNX Runtime.

    The batch may have any number of images. Classes, threshold and preprocessing are in the file's metadata, as JSON.

    Args:
        what: the model.
        folder: where to.
        bytes_in: whether it takes uint8 ``[B, H, W, C]``.

    Raises:
        UserError: the extra ``export`` is not installed, or this network cannot be traced.
    """
    runtime = require_onnx()
    program, module, any_size = traced(what, bytes_in=bytes_in)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about libraries that torch itself uses
        graph = torch.onnx.export(
            program, (), dynamo=True, verbose=False, input_names=["images"], output_names=[module.output]
        )
        assert graph is not None
        axes = ("batch", "height", "width", "channels") if bytes_in else ("batch", "channels", "height", "width")
        shape = graph.model.graph.inputs[0].shape
        assert shape is not None
        graph.rename_axes({side: name for side, name in zip(shape, axes, strict=True) if not isinstance(side, int)})
        about = {"preprocessing": what.model.preprocessing.facts() | {"resized": what.model.preprocessing.resized}}
        graph.model.metadata_props["coterie"] = json.dumps(about | dict(what.about_classes()))
        size = sum(each.numel() * each.element_size() for each in module.state_dict().values())
        graph.save(str(folder / FILE), external_data=size > _LARGEST)
    session = runtime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> Tensor:
        (found,) = session.run(None, {"images": module.batch(pixels).numpy()})
        return torch.from_numpy(found)

    images = "np.uint8 [B, H, W, C]" if bytes_in else "np.float32 [B, C, H, W], from 0 to 1"
    usage = f"""\
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/{FILE}")
({module.output},) = session.run(None, {{"images": images}})  # {images}, resized and cropped
"""
    library = f"onnxruntime {runtime.__version__}"
    return Written(library, run, module.output, 1e-4, usage, any_size, bytes_in, inside=True)


def require_onnx() -> Any:
    """ONNX Runtime, where torch's exporter and what it needs are installed too.

    Raises:
        UserError: one of them is not.
    """
    try:
        import onnx  # noqa: F401 -- torch's exporter needs both
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install 'coterie[export]'") from error
    return onnxruntime
