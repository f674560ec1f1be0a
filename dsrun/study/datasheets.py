"""What makers say that a device can do: dense rates, without sparsity. No JAX."""

import re

# TFLOP/s by format. NVIDIA's data sheets of the products: H100 (SXM), H200, A100, V100 (SXM2, and PCIe), P100 (PCIe, and SXM2); the
# 8-bit and sparse rows left out. Titan X (Maxwell): 3072 cores, an FMA a cycle at 1 GHz, 6.1, as in the Deep Speech 2 paper. The kinds
# are matched as a whole: an H100 PCIe or NVL is a slower chip, a TITAN X (Pascal) another one.
DATASHEETS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"NVIDIA H100 80GB HBM3", {"float32": 67.0, "tensorfloat32": 495.0, "bfloat16": 989.0, "float16": 989.0}),
    (r"NVIDIA H200", {"float32": 67.0, "tensorfloat32": 495.0, "bfloat16": 989.0, "float16": 989.0}),
    (r"(NVIDIA )?A100-.*", {"float32": 19.5, "tensorfloat32": 156.0, "bfloat16": 312.0, "float16": 312.0}),
    (r"(Tesla )?V100-SXM2-.*", {"float32": 15.7, "float16": 125.0}),
    (r"(Tesla )?V100-PCIE-.*", {"float32": 14.0, "float16": 112.0}),
    (r"(Tesla )?P100-PCIE-.*", {"float32": 9.3, "float16": 18.7}),
    (r"(Tesla )?P100-SXM2-.*", {"float32": 10.6, "float16": 21.2}),
    (r"(NVIDIA )?GeForce GTX TITAN X", {"float32": 6.1}),
)


def datasheet(device_kind: str) -> dict[str, float]:
    """TFLOP/s of one device by format; empty for a device that is not in the table."""
    for pattern, peaks in DATASHEETS:
        if re.fullmatch(pattern, device_kind):
            return peaks
    return {}
