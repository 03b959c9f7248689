"""Metal's backend on the simulated GPUs (tests/metal): the kernels as Metal's compiler gets them, and every call that
is made of Metal. A rule of Metal that is broken ends the program."""
from harness import *

SIM = os.path.join(os.path.dirname(PLUMB), "plumb-metal-sim")


def sim(kind, *args):
    """What a plumb with the simulation prints. kind: unified or discrete memory."""
    if not os.path.exists(SIM):
        skip("the simulated Metal needs clang, gobjc and libgnustep-base-dev, and no sanitizer")
    p = subprocess.run([SIM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
                       stdin=subprocess.DEVNULL, timeout=900, text=True,
                       env=dict(os.environ, PLUMB_METAL_SIM=kind))
    assert p.returncode == 0, f"plumb {' '.join(args)}: exit {p.returncode}\n{p.stdout}\n{p.stderr}"
    assert "without pool" not in p.stderr, p.stderr  # as GNUstep says when an object is left to nobody
    return p.stdout


@test("lists what it finds")
def _():
    assert "0 Simulated GPU with unified memory, 8.0 GiB" in sim("unified", "backends")
    assert "0 Simulated GPU with its own memory, 8.0 GiB" in sim("discrete", "backends")


for kind in "unified", "discrete":
    @test(f"answers as the processor does, {kind} memory")
    def _(kind=kind):
        args = ["run", "--temp", "0", "-n", "24", "What is the capital of France?"]
        equal(sim(kind, *args, "--backend", "metal"), plumb(*args, "--backend", "cpu"))


for kind, what, args in [
        ("unified", "Q4_K_M, all prompts", []),
        ("discrete", "Q4_K_M", ["--quick"]),
        ("unified", "F16", ["--quick", "-m", DEMO_F16]),
        ("discrete", "Q8_0, a cache of Q8_0",
         ["--quick", "-ctk", "q8_0", "-ctv", "q8_0", "-m", os.path.join(GOLDEN, "models", "demo-Q8_0.gguf")]),
        ("discrete", "Qwen 3, F32",
         ["--quick", "-ctk", "f32", "-ctv", "f32", "-m", os.path.join(GOLDEN, "arch", "qwen3-1.gguf")])]:
    @test(f"every component is right: {what}, {kind} memory")
    def _(kind=kind, args=args):
        assert "no divergence: " in sim(kind, "verify", "--backend", "metal", *args)


run_tests()
