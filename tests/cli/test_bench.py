"""plumb bench: its fields and their ranges; speed is no test."""
from harness import *

SMALL = ("-r", "3", "-p", "8,16", "-n", "4", "--context", "0,20")


@test("usage")
def _():
    check_usage("bench", "-m", "-r", "--context")
    fails(2, "bench", "-p", "8,x", says="'8,x'")
    fails(2, "bench", "-p", "-5", says="'-5'")
    fails(2, "bench", "-p", "0", "-n", "0", says="nothing to measure")
    fails(2, "bench", "-c", "10", "-p", "11", says="-c 10")
    fails(2, "bench", "-r", "0", says="-r")
    fails(3, "bench", "-m", "/nonexistent.gguf", says="/nonexistent.gguf")


@test("--json")
def _():
    j = plumb_json("bench", *SMALL, "-t", "2", "--backend", "cpu")
    equal((j["model"], j["backend"], j["threads"], j["runs"]), ("the demo model", "cpu", 2, 3))
    assert isinstance(j["isa"], str) and j["isa"] in j["device"]
    assert 0.1 < j["read_gb_s"] < 5000, j["read_gb_s"]
    equal([(r["tokens"], r["context"]) for r in j["prefill"]], [(8, 0), (16, 0)])
    equal([(r["tokens"], r["context"]) for r in j["decode"]], [(4, 0), (4, 20)])
    for r in j["prefill"] + j["decode"]:
        assert 0 < r["min"] <= r["tok_s"] <= r["max"], r
        near(r["ms_token"], 1000 / r["tok_s"], 1e-6)
        equal([min(r["samples"]), r["tok_s"], max(r["samples"])], sorted(r["samples"]))
        equal([r["min"], r["max"]], [min(r["samples"]), max(r["samples"])])
    d = j["decode"][0]
    near(d["gb_s"], d["tok_s"] * j["model_info"]["decode_bytes"] / 1e9, 1e-6)
    near(j["decode_share"], d["gb_s"] / j["read_gb_s"], 1e-6)
    assert j["build"].startswith("plumb ") and j["machine"]
    equal(j["model_info"]["file_type"], "Q4_K_M")


@test("only prefill: no share")
def _():
    j = plumb_json("bench", "-r", "1", "-p", "4", "-n", "0", "-m", DEMO_F16)
    equal((j["model"], j["decode"], j["decode_share"]), (DEMO_F16, [], None))
    equal(j["prefill"][0]["min"], j["prefill"][0]["max"])


@test("the table")
def _():
    out = plumb("bench", *SMALL)
    lines = [l.split() for l in out.splitlines()]
    equal([l[:3] for l in lines if l and l[0] in ("prefill", "decode")],
          [["prefill", "8", "0"], ["prefill", "16", "0"], ["decode", "4", "0"], ["decode", "4", "20"]])
    for word in ["tok/s", "ms/token", "GB/s", "share", "memory reads"]:
        assert word in out, word


run_tests()
