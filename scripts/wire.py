"""Make the Python form of the wire's messages from ``headway.proto``.

python -m scripts.wire
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parents[1] / "src"
PROTO = "headway/runtime/wire/headway.proto"


def make(out: Path) -> None:
    """Write ``headway_pb2.py`` and its types.

    Args:
        out: The folder that stands for ``src``.
    """
    status = protoc.main(
        ["protoc", f"-I{SOURCE}", f"--python_out={out}", f"--pyi_out={out}", str(SOURCE / PROTO)]
    )
    if status:
        sys.exit(status)


if __name__ == "__main__":
    make(SOURCE)
