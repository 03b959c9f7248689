"""plumb inspect: what is in a file and what is odd about it."""
from harness import *

TOKENS = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
KINDS = [2, 3, 3] + [6] * 256
VOCABULARY = [("tokenizer.ggml.model", STR, "llama"), ("tokenizer.ggml.tokens", ARRAY, (STR, TOKENS)),
              ("tokenizer.ggml.scores", ARRAY, (F32, [0.0] * len(TOKENS))),
              ("tokenizer.ggml.token_type", ARRAY, (U32, KINDS))]


def warnings(path, *args):
    return plumb_json("inspect", path, *args)["warnings"]


def one(lines, *texts):
    """The only warning that holds all texts."""
    found = [l for l in lines if all(t in l for t in texts)]
    assert len(found) == 1, f"{texts}: {lines}"
    return found[0]


@test("usage")
def _():
    check_usage("inspect", "-m", "-c")
    fails(2, "inspect", "a", "b", says="one file")
    fails(3, "inspect", "/nonexistent.gguf", says="/nonexistent.gguf")
    fails(3, "inspect", os.path.join(ROOT, "LICENSE"), says="LICENSE")


@test("a good model: metadata, tensors, needs, nothing odd")
def _():
    j = plumb_json("inspect", DEMO)
    equal(j["warnings"], [])
    equal((j["version"], j["parts"], j["alignment"], j["supported"]), (3, 1, 32, True))
    equal((j["bytes"], j["file_type"], j["chat_template"]), (os.path.getsize(DEMO), "Q4_K_M", "zephyr"))
    m = j["metadata"]
    equal((m["general.architecture"], m["llama.block_count"]), ("llama", 6))
    tokens = m["tokenizer.ggml.tokens"]
    equal((tokens["type"], tokens["length"], len(tokens["digest"])), ("str", 2048, 16))
    assert "for message in messages" in m["tokenizer.chat_template"]
    by_name = {t["name"]: t for t in j["tensors"]}
    t = by_name["token_embd.weight"]
    equal((t["type"], t["shape"], t["bytes"]), ("Q4_K", [256, 2048], 256 * 2048 // 256 * 144))
    equal(sum(t["bytes"] for t in j["tensors"]), j["needs"]["weight_bytes"])
    equal(j["parameters"], 5770496)
    equal((j["needs"]["context"], j["needs"]["kv_bytes"]), (1024, 2 * 6 * 2 * 64 * 1024 * 2))
    equal(plumb_json("inspect", DEMO, "-c", "100")["needs"]["context"], 100)
    equal(plumb_json("inspect", "--check-tensors")["warnings"], [])


@test("tensors lie where it says")
def _():
    with open(DEMO_F16, "rb") as f:
        data = f.read()
    for t in plumb_json("inspect", "-m", DEMO_F16)["tensors"]:
        if t["name"] == "output_norm.weight":
            values = struct.unpack_from("<256f", data, t["offset"])
            assert all(0.01 < v < 100 for v in values), values


@test("digests tell files apart")
def _():
    a = write_gguf(tmp("a.gguf"), [("general.architecture", STR, "llama"), ("x", ARRAY, (U32, list(range(20))))])
    b = write_gguf(tmp("b.gguf"), [("general.architecture", STR, "llama"), ("x", ARRAY, (U32, list(range(1, 21))))])
    x, y, again = (plumb_json("inspect", p)["metadata"]["x"] for p in (a, b, a))
    equal(x, again)
    equal((x["type"], x["length"]), ("u32", 20))
    assert x["digest"] != y["digest"]
    raw, h = struct.pack("<20I", *range(20)), 0xcbf29ce484222325
    for byte in raw:
        h = (h ^ byte) * 0x100000001b3 % 2**64
    equal(x["digest"], f"{h:016x}")


@test("for people")
def _():
    out = plumb("inspect")
    for text in ["the demo model", "Q4_K_M", "llama.block_count", "blk.0.attn_q.weight", "KV cache", "Odd\n  nothing"]:
        assert text in out, text
    assert "blk.0.attn_q" in plumb("inspect", "--tensors", DEMO)


@test("vocabulary-only files; an architecture that is not supported is a warning")
def _():
    for name in ["ggml-vocab-falcon", "ggml-vocab-llama-spm"]:
        path = shared("tokenizers", name + ".gguf")
        w = warnings(path)
        one(w, "no tensors")
        if "falcon" in name: one(w, "falcon is not supported")
        assert "Metadata" in plumb("inspect", path)


@test("an unknown architecture, trailing bytes, a vocabulary that does not fit its rows")
def _():
    norm, rows = [1.0] * 8, [0.5] * 8 * 300
    path = write_gguf(tmp("odd.gguf"), [("general.architecture", STR, "gargle"), ("general.alignment", U32, 64),
                                        ("general.file_type", U32, 7)] + VOCABULARY,
                      [("output_norm.weight", [8], norm), ("token_embd.weight", [8, 300], rows)], tail=b"x" * 100)
    w = warnings(path)
    one(w, "gargle", "not supported")
    one(w, "gargle.context_length", "missing")
    one(w, "100 bytes follow")
    one(w, "259 tokens", "300 rows")
    one(w, "alignment is 64")
    one(w, "Q8_0", "F32")
    assert not any(path in l for l in w), w


@test("weights that are NaN, infinite or zero")
def _():
    nan, inf = float("nan"), float("inf")
    meta = [("general.architecture", STR, "gargle")]
    path = write_gguf(tmp("nan.gguf"), meta, [("a_norm.weight", [8], [1.0] * 5 + [nan, inf, 1.0]),
                                              ("b_norm.weight", [8], [0.0] * 8),
                                              ("c.weight", [8, 2], [1.0] * 11 + [-inf] + [1.0] * 4)])
    w = warnings(path)
    one(w, "a_norm.weight", "2 of 8", "column 5")
    one(w, "b_norm.weight", "zero")
    assert not any("c.weight" in l for l in w), w
    one(warnings(path, "--check-tensors"), "c.weight", "1 of 16", "row 1, column 3")


@test("an unused tensor, an unknown template, doubled tokens")
def _():
    small = os.path.join(GOLDEN, "arch", "llama-1.gguf")  # all F32, 300 rows
    j = plumb_json("inspect", small)
    with open(small, "rb") as f:
        data = f.read()
    tensors = [(t["name"], t["shape"], struct.unpack_from(f"<{t['bytes'] // 4}f", data, t["offset"]))
               for t in j["tensors"]]
    meta = [("general.architecture", STR, "llama")]
    meta += [(k, F32 if isinstance(v, float) else U32, v) for k, v in j["metadata"].items() if k.startswith("llama.")]
    more = 300 - len(TOKENS)
    tokens = TOKENS + [f"t{i}" for i in range(more - 1)] + ["t0"]
    meta += [("tokenizer.ggml.model", STR, "llama"), ("tokenizer.ggml.tokens", ARRAY, (STR, tokens)),
             ("tokenizer.ggml.scores", ARRAY, (F32, [0.0] * 300)),
             ("tokenizer.ggml.token_type", ARRAY, (U32, KINDS + [1] * more)),
             ("tokenizer.chat_template", STR, "{{ something new }}")]
    path = write_gguf(tmp("unused.gguf"), meta, tensors + [("blk.0.extra.weight", [4], [1.0] * 4)])
    j = plumb_json("inspect", path)
    w = j["warnings"]
    assert j["supported"]
    one(w, "not used", "blk.0.extra.weight")
    one(w, "chat template", "chatml")
    one(w, "the text of another", f"299 (that of {len(TOKENS)})")
    equal(len(w), 3)


@test("split models, by any part")
def _():
    parts = []
    for i in range(2):
        meta = [("split.no", U32, i), ("split.count", U32, 2), ("split.tensors.count", U32, 2)]
        meta += [("general.architecture", STR, "gargle")] if i == 0 else []
        parts.append(write_gguf(tmp(f"s-{i + 1:05}-of-00002.gguf"), meta, [(f"t{i}.weight", [4], [1.0] * 4)]))
    for path in parts:
        j = plumb_json("inspect", path)
        equal((j["parts"], [t["part"] for t in j["tensors"]]), (2, [0, 1]))
        equal(j["bytes"], sum(os.path.getsize(p) for p in parts))


@test("text of a hostile file reaches the terminal as text")
def _():
    path = write_gguf(tmp("esc.gguf"), [("general.architecture", STR, "a\x1b[31mb"), ("k", STR, b"\xff\x1b]0;x\x07")])
    out = plumb("inspect", path)
    assert "\x1b" not in out and "\x07" not in out, repr(out)
    one(warnings(path), "k is not valid UTF-8")


run_tests()
