"""plumb perplexity, held against llama.cpp's numbers for the same files."""
from harness import *

SLOW = sanitized()
Q8 = os.path.join(GOLDEN, "models", "demo-Q8_0.gguf")


@test("usage")
def _():
    check_usage("perplexity", "-m", "-f", "--chunks", "--kl-base", "--kl-against")
    fails(2, "perplexity", says="-f FILE")
    fails(2, "perplexity", "-f", STORIES, "-c", "2", says="-c 2")
    fails(2, "perplexity", "-f", STORIES, "--chunks", "0", says="--chunks")
    assert run("perplexity", "-f", "/nonexistent.txt")[0] != 0


@test("a text that is too short: how many tokens are there and needed")
def _():
    fails(2, "perplexity", "-f", "-", stdin=b"Hello world", says=["5 tokens", "512"])
    fails(2, "perplexity", "-f", "-", stdin=b"", says=["1 token", "512"])


@test("Q4_K_M, chunks of 512: 1.7744")
def _():
    if SLOW: skip("the whole text takes minutes under sanitizers")
    j = plumb_json("perplexity", "-f", STORIES, "-c", "512")
    near(j["ppl"], 1.7744, 0.005)
    equal((j["tokens"], j["chunks"]), (41 * 255, 41))
    assert 0.01 < j["stderr"] < 0.1 and "kl_mean" not in j


@test("Q4_K_M, chunks of 128: 1.8237")
def _():
    if SLOW: skip("the whole text takes minutes under sanitizers")
    out = plumb("perplexity", "-f", STORIES, "-c", "128", "-t", "2")
    assert out.startswith("perplexity ") and "10395 tokens scored" in out, out
    near(float(out.split()[1]), 1.8237, 0.005)


@test("a real model, chunks of 256: 5.7077")
def _():
    path = shared("models", "stories260K.gguf")
    near(plumb_json("perplexity", "-m", path, "-f", STORIES, "-c", "256")["ppl"], 5.7077, 0.005)


@test("--batch-size and --threads change nothing")
def _():
    args = ("perplexity", "-f", STORIES, "--chunks", "1", "-c", "128")
    equal(plumb(*args, "-b", "7", "-t", "1"), plumb(*args))


@test("KL divergence: of a model against itself 0, of Q4_K_M and Q8_0 against F16 small")
def _():
    base, same, n = tmp("f16.kl"), tmp("again.kl"), 2 if SLOW else 6
    args = ("perplexity", "-f", STORIES, "--chunks", str(n))
    plumb(*args, "-m", DEMO_F16, "--kl-base", base)
    equal(os.path.getsize(base), 32 + n * (8 + 255 * (4 + 2 * 2048)))
    j = plumb_json("perplexity", "-f", STORIES, "--chunks", "2", "-m", DEMO_F16, "--kl-against", base, "--kl-base", same)
    assert 0 <= j["kl_mean"] < 1e-6 and j["same_top"] == 1, j
    with open(base, "rb") as a, open(same, "rb") as b:
        equal(a.read()[32:32 + 2 * (8 + 255 * 4100)], b.read()[32:])
    q4 = plumb_json(*args, "--kl-against", base)
    assert 0.0003 < q4["kl_mean"] < 0.0015 and 0.90 < q4["same_top"] < 0.97, q4
    q8 = plumb_json("perplexity", "-f", STORIES, "--chunks", "2", "-m", Q8, "--kl-against", base)
    assert 0 < q8["kl_mean"] < q4["kl_mean"], (q8, q4)
    out = plumb("perplexity", "-f", STORIES, "--chunks", "1", "--kl-against", base)
    assert "KL divergence 0.000" in out, out


@test("--kl-against refuses what cannot be compared")
def _():
    base, bad = tmp("base.kl"), tmp("bad.kl")
    args = ("perplexity", "-f", STORIES, "-c", "64", "--chunks", "2")
    plumb(*args, "--kl-base", base)
    fails(3, *args, "--kl-against", "/nonexistent.kl", says="/nonexistent.kl")
    fails(3, *args, "--kl-against", DEMO, says="--kl-base")
    fails(3, "perplexity", "-f", STORIES, "-c", "32", "--chunks", "2", "--kl-against", base, says=["64", "32", "-c 64"])
    fails(3, "perplexity", "-f", STORIES, "-c", "64", "--chunks", "3", "--kl-against", base, says="--chunks 2")
    with open(STORIES, "rb") as f:
        text = f.read()
    fails(3, "perplexity", "-f", "-", "-c", "64", "--chunks", "2", "--kl-against", base, stdin=text[900:], says="another text")
    other = run("perplexity", "-f", STORIES, "-c", "64", "--chunks", "2", "--kl-against", base,
                "-m", os.path.join(GOLDEN, "arch", "llama-1.gguf"))  # besides, it is no chat model
    assert other[0] == 3 and b"2048 tokens, this model has 300" in other[2], other
    with open(base, "rb") as f:
        data = f.read()
    for cut in [0, 5, 31, 32, len(data) - 1]:
        open(bad, "wb").write(data[:cut])
        fails(3, *args, "--kl-against", bad, says="bad.kl")
    open(bad, "wb").write(data[:8] + b"\x09" + data[9:])
    fails(3, *args, "--kl-against", bad, says="version 9")


@test("an output that cannot be written")
def _():
    args = ("perplexity", "-f", STORIES, "-c", "64", "--chunks", "1", "--kl-base")
    fails(1, *args, tmp("absent/base.kl"), says="absent")
    assert not os.path.exists(tmp("absent"))


run_tests()
