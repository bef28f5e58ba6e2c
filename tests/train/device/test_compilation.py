"""The kernels compiled for an H200, which needs no GPU: that they compile, and how they reach the memory."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
# In a process of its own, because Triton's interpreter cannot be switched off.
SCRIPT = """
import json, re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from embedall_spark.train.device import glove_kernel, sgns_kernel

INTS, FLOATS = "*i32", "*fp32"
SGNS = {name: INTS for name in ("rows", "centers", "first", "stop", "skip", "bounds")}
SGNS |= {"part": "i32", "negatives": INTS, "size": "i32", "cursor": "i32"}
SGNS |= {"inputs": FLOATS, "outputs": FLOATS, "figures": FLOATS, "alpha": "fp32"}
GLOVE = {"rows": INTS, "columns": INTS, "counts": FLOATS, "size": "i32"}
GLOVE |= {"inputs": FLOATS, "outputs": FLOATS, "figures": FLOATS}
GLOVE |= {name: "fp32" for name in ("x_max", "alpha", "eta", "clip")}

def compiled(kernel, signature, warps, **constants):
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*"}
    types = signature | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}).asm
    adds = set(re.findall(r"(?:red|atom)[.]global[.\\w]*", code["ptx"]))
    return {"cubin": len(code["cubin"]), "adds": sorted(adds), "wide": "v4" in code["ptx"]}

sizes = {"NEGATIVE": 5, "TARGETS": 8, "BATCH": 32, "DRAWS": 5, "LOSS_EVERY": 64}
print(json.dumps([
    compiled(sgns_kernel._sgns, SGNS, sgns_kernel.warps(128, 5), DIM=128, BLOCK=128, **sizes),
    compiled(sgns_kernel._sgns, SGNS, sgns_kernel.warps(304, 5), DIM=304, BLOCK=512, **sizes),
    compiled(glove_kernel._glove, GLOVE, 1, DIM=100, HALF=112, BLOCK=128),
]))
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for kernel in json.loads(done.stdout.splitlines()[-1]):
        assert kernel["cubin"] > 1000
        # 128 bits at a time, also what is added.
        assert kernel["wide"]
        assert kernel["adds"] == ["atom.global.gpu.relaxed.add.v4.f32"]
