"""Compile the CUDA kernels for the GPUs we mean, warnings being errors: ``make cuda-check``."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hyperlearn_dask.factorization import kernels

SOURCES = Path(kernels.__file__).parent
ARCHITECTURES = ("80", "90")
MODES = range(1, 9)


def instances() -> dict[str, list[str]]:
    """Per source file the kernels with template parameters: every order, dtype, index and width."""
    dtypes = list(itertools.product(("float", "double"), ("int", "long long")))
    widths = (32, 16, 8, 32)
    tensor = []
    for order in MODES:
        for (dtype, index), lanes in zip(dtypes, widths):
            tensor.append(f"mttkrp<{dtype}, {index}, {order}, {lanes}>")
            tensor.append(f"line<{dtype}, {index}, {order}, {lanes}, 128>")
        for context, (dtype, tile) in zip(("false", "true") * 2, (("float", 32), ("double", 16)) * 2):
            tensor.append(f"equations<{dtype}, int, {order}, {tile}, {context}>")
    dense = [f"solve_rows<{dtype}>" for dtype in ("float", "double")]
    for (dtype, index), lanes, product in itertools.product(dtypes, (8, 32), ("false", "true")):
        dense.append(f"graph_step<{dtype}, {index}, {lanes}, 128, {product}>")
    return {"tensor.cu": tensor, "dense.cu": dense}


def main() -> int:
    """0 when all compile, or where there is no nvcc, which is said; else nvcc's status."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("cuda-check: skipped, there is no nvcc on the PATH")
        return 0
    targets = [f"--generate-code=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    for file, kernels_of_file in instances().items():
        unit = f'#include "{SOURCES / file}"\n'
        unit += "extern const void* const kernels[];\nconst void* const kernels[] = {\n"
        unit += "".join(f"    (const void*)&{kernel},\n" for kernel in kernels_of_file) + "};\n"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "all.cu"
            path.write_text(unit)
            command = [nvcc, "--std=c++17", "--Werror", "all-warnings", "--threads", "2", *targets]
            done = subprocess.run([*command, "--compile", "--output-file", f"{folder}/all.o", str(path)])
        if done.returncode:
            return done.returncode
        print(f"cuda-check: {file}: {len(kernels_of_file)} kernels for sm_{' and sm_'.join(ARCHITECTURES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
