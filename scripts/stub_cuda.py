#!/usr/bin/env python3
"""Lets `import torch` work without the CUDA libraries (about 2 GB of wheels that a CPU never calls).

PyTorch's Linux wheel is linked against cuBLAS, cuDNN and their like, and does not load without them. This puts empty
libraries of those names beside libtorch: every function that libtorch asks of them exists, and aborts if it is called.
Run it with the Python of the environment that torch was installed into. Needs `cc` and `nm`.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

LIBRARIES = ("cublas", "cublasLt", "cudnn", "cufft", "cusparse", "cusparseLt", "nccl", "nvrtc", "nvshmem_host")
FUNCTIONS = re.compile(r"(cublas|cudnn|cufft|cusparse|nccl|nvrtc|nvshmem)\w*$")


def needed(library):
    """The SONAMEs that a library is linked against."""
    listing = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", listing)


def symbols(library, which):
    listing = subprocess.run(["nm", "-D", which, library], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in listing.splitlines()}


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                            epilog="example: venv/bin/python scripts/stub_cuda.py").parse_args()
    folder = Path(sysconfig.get_path("purelib"), "torch/lib")
    ours = sorted(folder.glob("libtorch*.so")) + sorted(folder.glob("libc10*.so"))
    if not ours:
        sys.exit(f"stub_cuda: no torch under {folder.parent}")
    wanted = {name for library in ours for name in needed(library) if name.split(".so")[0].removeprefix("lib") in LIBRARIES}
    if not wanted:
        print("stub_cuda: this torch needs no CUDA library")
        return
    missing = set().union(*(symbols(library, "--undefined-only") for library in ours))
    missing -= set().union(*(symbols(library, "--defined-only") for library in ours))
    functions = sorted(name for name in missing if FUNCTIONS.match(name))

    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "stub.c")
        for i, name in enumerate(sorted(wanted)):
            # one library defines them all: the loader looks in every one
            defined = functions if i == 0 else []
            body = "".join(f"void {function}(void) {{ abort(); }}\n" for function in defined)
            source.write_text("#include <stdlib.h>\n" + body)
            command = ["cc", "-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{name}", "-o", folder / name, source]
            subprocess.run(command, check=True)
    print(f"stub_cuda: {len(wanted)} libraries, {len(functions)} functions")


if __name__ == "__main__":
    main()
