"""Plumb for 64-bit Arm, cross-compiled and run under qemu: what it answers, to the bit, and the tests of its kernels."""
import functools
import glob
import re
import shutil

from harness import *

CROSS, EMULATOR = "aarch64-linux-gnu-", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"  # of Debian's libc6-arm64-cross
BUILD = os.path.join(os.path.dirname(PLUMB), "aarch64")
FRANCE = ["--temp", "0", "-n", "24", "What is the capital of France?"]
STORY = ["-p", "Once upon a time there was a small dog that could not sleep."]
# Processors that lack all, have the dot product, have the matrix product.
OLD, MIDDLE, NEW = "cortex-a72", "neoverse-n1", "max"
# Tests of threads, of which there are more than cores: emulated they take minutes. The others' long
# loops are cut short, as under sanitizers.
LEFT_OUT = " any_way_to_the_bit "


def kernel_tests():
    """The unit tests that look at every set of kernels."""
    for source in sorted(glob.glob(os.path.join(ROOT, "tests", "unit", "test_*.c"))):
        with open(source) as f:
            if "host_kernels.h" in f.read():
                yield os.path.basename(source)[:-2]


@functools.lru_cache(None)
def build():
    """Makes the program and the tests of kernels; what went wrong, or None."""
    if os.environ.get("PLUMB_SANITIZE"):
        return "skip", "nothing of Arm runs under these sanitizers"
    for program in CROSS + "gcc", EMULATOR:
        if not shutil.which(program):
            return "skip", f"{program} is not there (Debian: gcc-aarch64-linux-gnu and qemu-user)"
    if not os.path.exists(os.path.join(LIBRARIES, "lib", "ld-linux-aarch64.so.1")):
        return "skip", "no C library for Arm (Debian: libc6-dev-arm64-cross)"
    # cmocka.h is the one of tests/aarch64.
    tools = [f"{name}={CROSS}{name.lower()}" for name in ("AR", "LD", "OBJCOPY")]
    goals = [os.path.join(BUILD, "plumb")] + [os.path.join(BUILD, "tests", t) for t in kernel_tests()]
    p = subprocess.run(
        ["make", f"-j{os.cpu_count()}", f"BUILD={BUILD}", f"CC={CROSS}gcc", *tools, "OPT=-O1",
         "CFLAGS=-g0 -Itests/aarch64", "HAVE_PCRE2=", "HAVE_JANSSON=", "HAVE_LIBEDIT=",
         "HAVE_CMOCKA=1", "LIBS_CMOCKA=", *goals],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ("fail", p.stdout.decode("utf-8", "replace")) if p.returncode else None


def emulated(program, *args, cpu=NEW, code=0):
    """Standard output and error of a program of Arm's, on a processor that qemu knows."""
    wrong = build()
    if wrong and wrong[0] == "skip": skip(wrong[1])
    assert not wrong, "cannot be built:\n" + wrong[1]
    p = subprocess.run([EMULATOR, "-cpu", cpu, "-L", LIBRARIES, os.path.join(BUILD, program), *args],
                       cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=500, text=True,
                       env=dict(os.environ, PLUMB_SANITIZE="1", PLUMB_LEAVE_OUT=LEFT_OUT))
    what = f"{program} {' '.join(args)} on {cpu}: exit {p.returncode}, expected {code}"
    assert p.returncode == code, f"{what}\n{p.stdout}\n{p.stderr}"
    return p.stdout, p.stderr


def arm(*args, cpu=NEW):
    return emulated("plumb", *args, cpu=cpu)[0]


@test("chooses the best kernels that the processor runs")
def _():
    for cpu, isa in (OLD, "generic"), (MIDDLE, "neon"), (NEW, "i8mm"):
        assert f" kernels: {isa} (" in arm("backends", cpu=cpu)


@test("says what the processor lacks")
def _():
    out = arm("backends", cpu=MIDDLE)
    assert "no i8mm: I8MM is missing" in out and "no neon" not in out
    assert "no neon: the dot product of Armv8.2 is missing" in arm("backends", cpu=OLD)
    err = emulated("plumb", "run", *FRANCE, "--cpu-isa", "i8mm", cpu=MIDDLE, code=4)[1]
    assert "I8MM" in err, err


@test("answers with each set of kernels as this machine does")
def _():
    arm("backends")
    want = plumb("run", *FRANCE, "--backend", "cpu")
    for cpu, isa in (NEW, "i8mm"), (MIDDLE, "neon"), (OLD, "generic"):
        equal(arm("run", *FRANCE, "--cpu-isa", isa, cpu=cpu), want)


def floats(path):
    """The arrays of a trace; before them stands what made it."""
    with open(path, "rb") as f:
        data = f.read()
    return data[len(data) // 20:]


def trace(run, name, *args):
    path = tmp(name + ".gguf")
    run("trace", *STORY, "--backend", "cpu", "-o", path, *args)
    return floats(path)


@test("computes the same bits with both sets of vectors, and as this machine's vectors do")
def _():
    neon = trace(arm, "neon", "--cpu-isa", "neon")
    assert trace(arm, "i8mm", "--cpu-isa", "i8mm") == neon
    if " kernels: generic (" not in plumb("backends"):
        assert trace(plumb, "native") == neon


@test("computes the same bits in portable C as this machine does")
def _():
    assert trace(arm, "c", "--cpu-isa", "generic") == trace(plumb, "c-here", "--cpu-isa", "generic")


for model in ("models/demo.gguf", "tests/golden/models/demo-Q8_0.gguf", "tests/golden/arch/llama-1.gguf"):
    @test(f"every component is right: {os.path.basename(model)}")
    def _(model=model):
        assert "no divergence: " in arm("verify", "--backend", "cpu", "--quick", "-m", model)


for name in kernel_tests():
    @test(f"every set of kernels passes {name}")
    def _(name=name):
        out = emulated(f"tests/{name}")[0]
        assert re.search(r"^1\.\.[1-9]", out, re.M) and "not ok" not in out, out


run_tests()
