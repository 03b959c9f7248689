"""OpenCL's backend on whatever device is here: on a machine without a GPU that is PoCL, the processor."""
from harness import *

FRANCE = ["--temp", "0", "What is the capital of France?"]


def opencl(*args):
    """What plumb prints on the first device of OpenCL."""
    if os.environ.get("PLUMB_SANITIZE"):
        skip("OpenCL's libraries know nothing of sanitizers; the kernels run under them on the emulator")
    if not any(line.startswith("opencl:0 ") for line in plumb("--list-devices").splitlines()):
        skip("no device of OpenCL here (Debian: ocl-icd-libopencl1 and pocl-opencl-icd)")
    code, out, err = run(*args, "--backend", "opencl", timeout=900)
    assert code == 0, f"plumb {' '.join(args)}: exit {code}\n{out.decode()}\n{err.decode()}"
    return out.decode()


@test("answers as the processor does, with all layers and with some")
def _():
    want = plumb("run", *FRANCE, "--backend", "cpu")
    for layers in "99", "3", "6", "0":
        equal(opencl("run", *FRANCE, "-ngl", layers), want)


@test("a device that is not there is an error")
def _():
    opencl("run", *FRANCE, "-n", "1")
    fails(4, "run", *FRANCE, "--backend", "opencl", "--device", "99", says="opencl has no device 99")


@test("a type that the kernels do not decode is converted, and said so")
def _():
    opencl("run", *FRANCE, "-n", "1")
    plumb("quantize", DEMO_F16, tmp("q3.gguf"), "Q3_K_M")
    code, out, err = run("run", "-m", tmp("q3.gguf"), "--temp", "0", "Hello", "-n", "4", "--backend", "opencl")
    equal(code, 0)
    assert b"Q3_K weights are converted to F32" in err, err


for what, args in [
        ("Q4_K_M", []),
        ("Q8_0", ["-m", os.path.join(GOLDEN, "models", "demo-Q8_0.gguf")]),
        ("F16", ["-m", DEMO_F16])]:
    @test(f"every component and path is right: {what}")
    def _(args=args):
        assert "no divergence: " in opencl("verify", *args)


run_tests()
