"""plumb synth: models of known shapes that load and run."""
from harness import *


def synth(*args):
    got, out, err = run("synth", *args)
    assert got == 0 and out == b"", (got, out, err)
    return err.decode()


@test("usage")
def _():
    check_usage("synth", "--shape", "--type", "-o", "-s")
    fails(2, "synth", says="--shape")
    fails(2, "synth", "--shape", "tiny", says="-o FILE")
    fails(2, "synth", "--shape", "gpt-5", "-o", tmp("x.gguf"), says="gpt-5")
    fails(2, "synth", "--shape", "tiny", "--type", "Q9", "-o", tmp("x.gguf"), says="Q9")
    fails(1, "synth", "--shape", "tiny", "-o", tmp("absent/x.gguf"), says="absent")
    names = [l.split()[0] for l in plumb("synth", "--list").splitlines()]
    assert {"tinyllama-1.1b", "tiny", "tiny-256"} <= set(names), names


@test("a tiny model: it loads, nothing is odd but that nobody trained it to chat, it runs and can be measured")
def _():
    for shape, kind in [("tiny", "F16"), ("tiny-256", "Q4_K_M")]:
        out = tmp(shape + ".gguf")
        err = synth("--shape", shape, "--type", kind, "-o", out)
        assert err.count("\n") == 1 and kind in err and "bits a weight" in err, err
        j = plumb_json("inspect", out, "--check-tensors")
        assert j["supported"] and all("chat template" in w for w in j["warnings"]), j["warnings"]
        equal(j["file_type"], kind)
        plumb("run", "-m", out, "--tokens", "1,5,6", "-n", "3", "--ignore-eos")
        assert plumb_json("bench", "-m", out, "-r", "1", "-p", "4", "-n", "2")["decode"][0]["tok_s"] > 0


@test("the same seed gives the same file, another one another")
def _():
    for name, seed, threads in [("a", "7", "1"), ("b", "7", "2"), ("c", "8", "2")]:
        synth("--shape", "tiny", "-o", tmp(name), "-s", seed, "-t", threads)
    a, b, c = (open(tmp(n), "rb").read() for n in "abc")
    assert a == b and len(a) == len(c) and a != c


@test("an output that exists needs --force")
def _():
    out = tmp("there.gguf")
    open(out, "w").write("precious")
    fails(2, "synth", "--shape", "tiny", "-o", out, says="--force")
    equal(open(out).read(), "precious")
    synth("--shape", "tiny", "-o", out, "--force")
    assert open(out, "rb").read(4) == b"GGUF"


run_tests()
