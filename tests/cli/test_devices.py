"""Which device computes: --backend, --device, -ngl, --list-devices, on every command that takes them."""
import re

from harness import *

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris.\n"
COMMANDS = {  # arguments that make each of them run soon
    "run": (FRANCE, "-n", "1"),
    "chat": (),
    "bench": ("-p", "4", "-n", "0", "-r", "1"),
    "perplexity": ("-f", STORIES, "-c", "16", "--chunks", "1"),
    "trace": ("--tokens", "1,2", "--components", "logits", "-o", tmp("t.gguf"), "--force"),
}


def stderr_of(*args):
    code, out, err = run(*args)
    assert code == 0, (args, code, err)
    return out.decode(), err.decode()


def gpu_by_default():
    """Does something else than the CPU compute where nobody names a backend?"""
    _, err = stderr_of("run", FRANCE, "-n", "1")
    return not err.startswith("plumb: read")


@test("--list-devices: one line a device, whatever else is said")
def _():
    lines = plumb("--list-devices").splitlines()
    for line in lines:
        assert re.fullmatch(r"[a-z]+:\d+ \S.*", line), line
    equal([l for l in lines if l.startswith("cpu:")], [lines[-1]])
    assert lines[-1].startswith("cpu:0 ") and "kernels:" in lines[-1]
    for command in [*COMMANDS, "verify", "backends"]:
        equal(plumb(command, "--list-devices").splitlines(), lines)
        fails(2, command, "--list-devices=1", says="takes no value")
    equal(plumb("perplexity", "-m", "/nonexistent.gguf", "--list-devices", "--no-such-option").splitlines(), lines)
    equal(plumb("verify", "--quick", "--list-devices").splitlines(), lines)
    shown = plumb("backends")
    for line in lines:
        assert f"    {line}\n" in shown, shown


@test("the options that each command takes")
def _():
    for command, args in COMMANDS.items():
        for option in ["--device", "-ngl", "--gpu-layers", "--n-gpu-layers", "--backend"]:
            fails(2, command, *args, option, says=f"{option} needs a value")
        fails(2, command, *args, "--device", "-1", says="--device")
        fails(2, command, *args, "-ngl", "-2", says="-ngl")
        fails(2, command, *args, "-ngl", "some", says="some")
        fails(2, command, *args, "--backend", "cpu", "-ngl", "5", says=["-ngl 5", "--backend cpu"])
        fails(4, command, *args, "--backend", "cpu", "--device", "1", says=["no device 1", "--list-devices"])
        fails(4, command, *args, "-ngl", "0", "--device", "1", says="no device 1")
        fails(4, command, *args, "--backend", "abacus", "-ngl", "3", says="abacus")
        plumb(command, *args, "-ngl", "0", "--device", "0", stdin="")
        plumb(command, *args, "--backend", "cpu", "-ngl", "-1", stdin="")


@test("-ngl 0 and --backend cpu are the CPU, and nothing is said of it")
def _():
    for args in [("-ngl", "0"), ("--backend", "cpu"), ("--backend", "cpu", "-ngl", "0"), ("--n-gpu-layers=0",)]:
        out, err = stderr_of("run", FRANCE, "--temp", "0", *args)
        equal(out, PARIS)
        assert err.startswith("plumb: read") and err.count("\n") == 1, err
    has_json()
    for command in ["run", "bench", "perplexity"]:
        j = plumb_json(command, *COMMANDS[command], "-ngl", "0", "-t", "2")
        equal(j["backend"], "cpu")
        assert j["device"].startswith("2 threads, "), j


@test("-ngl 5 without a GPU: a notice, and the CPU computes")
def _():
    if gpu_by_default():
        skip("there is a GPU")
    out, err = stderr_of("run", FRANCE, "--temp", "0", "-ngl", "5")
    equal(out, PARIS)
    first, second = err.splitlines()
    assert "-ngl 5" in first and "CPU" in first and "plumb backends" in first, first
    assert second.startswith("plumb: read"), second
    fails(4, "run", FRANCE, "--device", "1", says="no device 1")
    fails(4, "verify", "-ngl", "99", says="no GPU")


@test("a GPU says what it is, and may share the layers with the CPU")
def _():
    if not gpu_by_default():
        skip("there is no GPU")
    for args in [(), ("-ngl", "99"), ("-ngl", "7")]:
        out, err = stderr_of("run", FRANCE, "--temp", "0", *args)
        equal(out, PARIS)
        assert re.match(r"plumb: [a-z]+:0 \S", err) and "cpu" not in err.splitlines()[0], err
    for n, gpu, cpu in [(6, "(6 layers)", "(the output)"), (2, "(2 layers)", "(4 layers and the output)"),
                        (1, "(1 layer)", "(5 layers and the output)")]:
        out, err = stderr_of("run", FRANCE, "--temp", "0", "-ngl", str(n))
        equal(out, PARIS)
        assert f"{gpu}, cpu: " in err and cpu in err, err
    has_json()
    j = plumb_json("bench", *COMMANDS["bench"], "-n", "2")
    assert j["backend"] != "cpu" and j["decode_share"] is None and j["read_gb_s"] is None, j
    j = plumb_json("run", FRANCE, "-ngl", "2")
    assert j["backend"] != "cpu" and "cpu: " in j["device"], j


@test("verify judges whole backends")
def _():
    check_usage("verify", "--device", "-ngl")
    for n in ["1", "6"]:
        fails(2, "verify", "--quick", "-ngl", n, says=["whole backend", f"-ngl {n}", "-ngl 7"])
        fails(2, "verify", "--quick", "--backend", "cpu", "-ngl", n, says="whole backend")
    fails(2, "verify", "--quick", "--backend", "cpu", "-ngl", "7", says=["-ngl 7", "--backend cpu"])
    fails(2, "verify", "--quick", "--backend", "cpu", "--device", "1", says="--device 1")
    fails(2, "verify", "--against", tmp("t.gguf"), "-ngl", "0", says="-ngl")
    fails(2, "verify", "--against", tmp("t.gguf"), "--device", "0", says="--device")
    fails(2, "verify", "--self-test", "-ngl", "0", says="-ngl")
    for args in [("-ngl", "0"), ("--backend", "cpu", "--device", "0"), ("--backend", "cpu", "-ngl", "0")]:
        assert "no divergence" in plumb("verify", "--quick", *args)


run_tests()
