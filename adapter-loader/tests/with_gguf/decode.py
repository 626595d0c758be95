"""Reads a GGUF with its makers' package: prints what its header says, and writes what its tensors hold.

Of each tensor NAME of floats of 32 bits also its Q8_0 and F16, to FOLDER/NAME.q8_0 and .f16; of each other one its numbers,
to FOLDER/NAME.f32.
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize

np.seterr(all="ignore")
reader = GGUFReader(sys.argv[1])
folder = Path(sys.argv[2])
tensors = []
for tensor in reader.tensors:
    kind = tensor.tensor_type
    tensors.append([tensor.name, [int(dim) for dim in tensor.shape], kind.name, tensor.data_offset])
    if kind == GGMLQuantizationType.F32:
        for target in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.F16):
            quantize(tensor.data, target).tofile(folder / f"{tensor.name}.{target.name.lower()}")
    else:
        dequantize(tensor.data, kind).astype(np.float32).tofile(folder / f"{tensor.name}.f32")
fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
print(json.dumps({"metadata": fields, "tensors": tensors}))
