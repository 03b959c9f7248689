"""plumb quantize: what it writes loads and answers; what it refuses."""
from harness import *

QUESTION = "What is the capital of France?"


def quantize(*args, code=0):
    got, out, err = run("quantize", *args)
    assert got == code and out == b"", (got, out, err)
    return err.decode()


@test("usage")
def _():
    check_usage("quantize", "-t")
    fails(2, "quantize", says="an input, an output and a type")
    fails(2, "quantize", DEMO_F16, tmp("x.gguf"), says="an input, an output and a type")
    fails(2, "quantize", DEMO_F16, tmp("x.gguf"), "Q4_X", says=["Q4_X", "Q4_K_M"])
    fails(3, "quantize", "/nonexistent.gguf", tmp("x.gguf"), "Q8_0", says="/nonexistent.gguf")
    names = [l.split()[0] for l in plumb("quantize", "--list").splitlines()]
    assert {"F32", "F16", "Q4_0", "Q4_K_M", "Q6_K", "Q8_0"} <= set(names), names
    assert not os.path.exists(tmp("x.gguf"))


@test("F16 to Q4_K_M and Q8_0: the file loads, is smaller, and answers the same")
def _():
    answer = plumb("run", "--temp", "0", "-m", DEMO_F16, QUESTION)
    for kind, bits in [("Q4_K_M", 4.9), ("q8_0", 8.5)]:
        out = tmp(kind + ".gguf")
        err = quantize(DEMO_F16, out, kind)
        size = os.path.getsize(out)
        assert err.count("\n") == 1 and f"{size / 2**20:.1f} MiB" in err and kind.upper() in err, err
        j = plumb_json("inspect", out, "--check-tensors")
        equal((j["warnings"], j["file_type"], j["parameters"]), ([], kind.upper(), 5770496))
        near(j["needs"]["weight_bytes"] * 8 / j["parameters"], bits, 0.02)
        equal(plumb("run", "--temp", "0", "-m", out, QUESTION), answer)


@test("every type there is")
def _():
    for line in plumb("quantize", "--list").splitlines():
        kind = line.split()[0]
        quantize(os.path.join(GOLDEN, "arch", "qwen2-1.gguf"), tmp("any.gguf"), kind, "--force")
        equal(plumb_json("inspect", tmp("any.gguf"), "--check-tensors")["file_type"], kind)
        plumb("run", "--temp", "0", "-n", "2", "--ignore-eos", "-m", tmp("any.gguf"), "--tokens", "5,6,7")


@test("the same bytes with any number of threads")
def _():
    quantize(DEMO_F16, tmp("t1.gguf"), "Q4_K_M", "-t", "1")
    quantize(DEMO_F16, tmp("t3.gguf"), "Q4_K_M", "-t", "3")
    equal(open(tmp("t1.gguf"), "rb").read(), open(tmp("t3.gguf"), "rb").read())


@test("an output that exists needs --force")
def _():
    out = tmp("there.gguf")
    open(out, "w").write("precious")
    fails(2, "quantize", DEMO_F16, out, "Q8_0", says=["there.gguf exists", "--force"])
    equal(open(out).read(), "precious")
    quantize(DEMO_F16, out, "Q8_0", "--force")
    assert open(out, "rb").read(4) == b"GGUF"


@test("the input is never the output, under any name")
def _():
    model, link = tmp("in.gguf"), tmp("link.gguf")
    data = open(DEMO_F16, "rb").read()
    open(model, "wb").write(data)
    os.link(model, link)
    os.symlink(model, tmp("soft.gguf"))
    for out in [model, link, tmp("soft.gguf"), os.path.join(os.path.dirname(model), ".", "in.gguf")]:
        fails(2, "quantize", model, out, "Q8_0", "--force", says="is the input itself")
    assert open(model, "rb").read() == data


@test("a part of a split input is never the output")
def _():
    parts = []
    for i in range(2):
        meta = [("split.no", U32, i), ("split.count", U32, 2), ("general.architecture", STR, "gargle")]
        parts.append(write_gguf(tmp(f"p-{i + 1:05}-of-00002.gguf"), meta, [(f"t{i}.weight", [32, 2], [0.5] * 64)]))
    for out in parts:
        fails(2, "quantize", parts[0], out, "Q8_0", "--force", says="is the input itself")
    quantize(parts[1], tmp("joined.gguf"), "Q8_0")
    equal([t["name"] for t in plumb_json("inspect", tmp("joined.gguf"))["tensors"]], ["t0.weight", "t1.weight"])


@test("quantized input is refused, unless --allow-requantize")
def _():
    fails(2, "quantize", DEMO, tmp("re.gguf"), "Q8_0", says=["Q6_K already", "--allow-requantize"])
    quantize(DEMO, tmp("re.gguf"), "Q8_0", "--allow-requantize")
    equal(plumb_json("inspect", tmp("re.gguf"))["file_type"], "Q8_0")


@test("what cannot be written leaves nothing behind")
def _():
    fails(1, "quantize", DEMO_F16, tmp("absent/x.gguf"), "Q8_0", says="absent")
    fails(1, "quantize", DEMO_F16, os.path.dirname(tmp("x")), "Q8_0")
    if os.path.exists("/dev/full"):
        fails(1, "quantize", DEMO_F16, "/dev/full", "Q8_0", says="disk is full")
    folder = tmp("closed")
    os.mkdir(folder, 0o555)
    if os.geteuid() != 0:
        fails(1, "quantize", DEMO_F16, os.path.join(folder, "x.gguf"), "Q8_0", says="closed")
    equal(os.listdir(folder), [])


@test("a vocabulary-only file has nothing to quantize")
def _():
    fails(3, "quantize", os.path.join(GOLDEN, "tokenizers", "bpe-qwen2.gguf"), tmp("v.gguf"), "Q8_0", says="no tensors")


run_tests()
