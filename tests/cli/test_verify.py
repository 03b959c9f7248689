"""plumb verify: our own backend, traces right and wrong, what it prints and how it ends."""
import re
import shutil

from harness import *

GOLDEN_TRACE = os.path.join(GOLDEN, "demo-golden.gguf")
STAGES = ["file", "prompt", "components", "paths"]


def verify_json(*args, code=0):
    has_json()
    return json.loads(plumb("verify", *args, "--json", code=code))


def golden_arrays():
    """(name, position of its first float, floats) of each tensor of the golden trace."""
    with open(GOLDEN_TRACE, "rb") as f:
        data = f.read()
    at = 8

    def take(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return v[0] if len(v) == 1 else v

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        nonlocal at
        if kind == STR: return text()
        if kind == ARRAY:
            elem, n = take("IQ")
            return [value(elem) for _ in range(n)]
        return take({0: "B", 1: "b", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}[kind])

    n_tensors, n_keys = take("QQ")
    for _ in range(n_keys):
        text(), value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name = text()
        dims = [take("Q") for _ in range(take("I"))]
        assert take("I") == 0
        infos.append((name, take("Q"), dims))
    at += -at % 32
    return data, {name: (at + offset, dims) for name, offset, dims in infos}


def prompt_ids(prompt):
    with open(GOLDEN_TRACE, "rb") as f:
        data = f.read()
    key = f"trace.{prompt}.tokens".encode()
    at = data.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
    kind, elem, n = struct.unpack_from("<IIQ", data, at)
    assert (kind, elem) == (ARRAY, 5)
    return list(struct.unpack_from(f"<{n}i", data, at + 16))


def write_npy(path, dtype, shape, raw):
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + raw)


@test("options, errors")
def _():
    check_usage("verify", "--against", "--qk-layout", "--html", "--fault", "-ctk", "--backend")
    fails(2, "verify", "--quick", "--full", says="--quick and --full")
    fails(2, "verify", "-p", "Hello", says="--against")
    fails(2, "verify", "--qk-layout", "hf", says="--against")
    fails(2, "verify", "--allow-odd-prompt", says="--against")
    fails(2, "verify", "--fault", "P1.q", says="--self-test")
    fails(2, "verify", "--self-test", "--against", GOLDEN_TRACE, says="--self-test")
    fails(2, "verify", "--against", GOLDEN_TRACE, "--backend", "cpu", says="--backend")
    fails(2, "verify", "--against", GOLDEN_TRACE, "-ctk", "f32", says="-ctk")
    fails(2, "verify", "--against", GOLDEN_TRACE, "--qk-layout", "odd", says="gguf, hf or auto")
    fails(2, "verify", "-ctk", "q4_0", says="f32, f16 or q8_0")
    fails(2, "verify", "-t", "9999", says="9999 threads")
    fails(2, "verify", "--cpu-isa", "abacus", says="abacus")
    fails(2, "verify", "Hello", says="Hello")
    fails(2, "verify", "--against", GOLDEN_TRACE, "-m", DEMO_F16, "-p", "x", says="5 prompts")
    fails(3, "verify", "-m", tmp("none.gguf"), says="none.gguf")
    fails(3, "verify", "--against", tmp("none.gguf"), says="none.gguf")
    fails(3, "verify", "--against", DEMO_F16, says="demo-f16.gguf")  # a model is no trace
    fails(4, "verify", "--backend", "abacus", says="no backend named 'abacus'")


@test("the demo model on every backend: quick")
def _():
    r = verify_json("--quick")
    equal(r["verdict"], "pass")
    equal(r["first"], None)
    equal(list(r["stages"]), STAGES)
    equal(set(r["stages"].values()), {"pass"})
    equal(r["backend"], "cpu")
    assert r["build"].startswith("plumb ") and re.fullmatch("[0-9a-f]{64}", r["model_sha256"])
    equal(len(r["prompts"]), 1)
    names = [c["component"] for c in r["components"]]
    equal(len(names), 6 * 19 + 4)
    for name in ["embd", "blk.0.attn_norm", "blk.5.kq_soft_max", "blk.3.v_cache", "logits", "token"]:
        assert name in names, name
    equal(names[0], "embd")
    equal(names[-1], "token")
    assert all(c["outcome"] == "pass" and c["ratio"] < 0.5 for c in r["components"])
    equal(r["command"], "plumb verify --quick --json")


@test("the default and the full list of prompts")
def _():
    if sanitized(): skip("slow under sanitizers")
    r = verify_json("-m", DEMO_F16)
    equal((r["verdict"], r["first"]), ("pass", None))
    equal([p["name"] for p in r["prompts"]], ["bos", "chat", "chunks", "repeat", "long"])
    ids = {f["id"] for f in r["findings"] if f["stage"] == "paths" and f["outcome"] == "pass"}
    for name in ["twice", "taps", "token by token", "33 | rest", "chunks of 9", "sequences mixed",
                 "shared prefix", "cache F32", "cache Q8_0", "threads 1", "sampler draws"]:
        assert name in ids, (name, ids)
    small = os.path.join(GOLDEN, "arch", "llama3-1.gguf")
    full = verify_json("-m", small, "--full", "-ctk", "q8_0", "-ctv", "f32")
    equal((full["verdict"], full["first"]), ("pass", None))
    chat = [c for c in full["components"] if c["prompt"] == "chat"]
    for c in chat:  # the oracle's own pass has no cache and chooses nothing
        equal("drift" in c, not c["component"].endswith(("cache", "token")))
    assert 0 < chat[-2]["drift"] < 0.01


def bare_model():
    """A model with no tokenizer: one layer, dim 8, two heads on one, 60 tokens, random weights."""
    state = 1

    def some(n):
        nonlocal state
        out = []
        for _ in range(n):
            state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            out.append((state >> 40) / (1 << 23) - 1)
        return out

    shapes = {"token_embd": (8, 60), "output_norm": (8,), "output": (8, 60), "blk.0.attn_norm": (8,),
              "blk.0.attn_q": (8, 8), "blk.0.attn_k": (8, 4), "blk.0.attn_v": (8, 4),
              "blk.0.attn_output": (8, 8), "blk.0.ffn_norm": (8,), "blk.0.ffn_gate": (8, 12),
              "blk.0.ffn_up": (8, 12), "blk.0.ffn_down": (12, 8)}
    keys = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 12,
            "attention.head_count": 2, "attention.head_count_kv": 1, "vocab_size": 60}
    meta = [("general.architecture", STR, "llama")]
    meta += [(f"llama.{k}", U32, v) for k, v in keys.items()]
    meta += [("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)]
    tensors = []
    for name, dims in shapes.items():
        n = dims[0] * (dims[1] if len(dims) > 1 else 1)
        tensors.append((name + ".weight", dims, [1.0] * n if "norm" in name else some(n)))
    return write_gguf(tmp("bare.gguf"), meta, tensors)


@test("models of every architecture, and one with no tokenizer")
def _():
    for name in ["llama", "llama3", "qwen2", "qwen3"]:
        r = verify_json("-m", os.path.join(GOLDEN, "arch", f"{name}-1.gguf"), "--quick")
        equal((name, r["verdict"], r["first"]), (name, "pass", None))
    r = verify_json("-m", bare_model())
    equal((r["verdict"], r["first"]), ("pass", None))
    equal(r["stages"]["prompt"], "skipped: the file has no tokenizer")
    equal(len(r["prompts"]), 5)


@test("the same result with other threads, and other kernels that are right too")
def _():
    a = verify_json("--quick", "-t", "1")["components"]
    b = verify_json("--quick", "-t", "3")["components"]
    equal([c["ratio"] for c in a], [c["ratio"] for c in b])
    r = verify_json("--quick", "-t", "1", "--cpu-isa", "generic")
    equal((r["verdict"], r["first"]), ("pass", None))


@test("the golden trace is right")
def _():
    r = verify_json("-m", DEMO_F16, "--against", GOLDEN_TRACE, "--allow-odd-prompt")
    equal((r["verdict"], r["first"]), ("pass", None))
    equal(r["stages"]["paths"], "skipped: a trace shows one path")
    equal({c["prompt"] for c in r["components"]}, {p["name"] for p in r["prompts"]})
    assert all(c["ratio"] < 0.5 for c in r["components"])
    for arch in ["llama", "llama3", "qwen2", "qwen3"]:
        base = os.path.join(GOLDEN, "arch", f"{arch}-1")
        r = verify_json("-m", base + ".gguf", "--against", base + "-golden.gguf")
        equal((arch, r["verdict"], r["first"]), (arch, "pass", None))


@test("a damaged array is named, whichever it is")
def _():
    data, arrays = golden_arrays()
    path = tmp("damaged.gguf")
    prompt = next(n.split(".")[0] for n in arrays)
    for component in ["embd", "blk.0.attn_norm", "blk.2.k", "blk.5.ffn_act", "blk.3.l_out",
                      "norm", "logits"]:
        at, dims = arrays[f"{prompt}.{component}"]
        row = dims[1] - 1
        place = at + 4 * (row * dims[0] + 5)
        x, = struct.unpack_from("<f", data, place)
        with open(path, "wb") as f:
            f.write(data[:place] + struct.pack("<f", x + 0.1 * (1 + abs(x))) + data[place + 4:])
        r = verify_json("-m", DEMO_F16, "--against", path, "--allow-odd-prompt", code=5)
        equal(r["verdict"], "fail")
        equal(r["first"]["component"], component)
        equal(r["stages"]["components"], "fail")
        said = plumb("verify", "-m", DEMO_F16, "--against", path, "--allow-odd-prompt", code=5)
        assert component in said and "first divergence" in said, said


@test("a folder of .npy files, in transformers' pairing")
def _():
    data, arrays = golden_arrays()
    folder = tmp("npy")
    os.mkdir(folder)
    prompt = next(n.split(".")[0] for n in arrays)
    for name in ["embd", "blk.0.attn_norm", "blk.0.q", "blk.0.k", "blk.0.v", "blk.0.q_rope", "blk.0.k_rope",
                 "blk.0.attn"]:
        at, (width, rows) = arrays[f"{prompt}.{name}"]
        raw = data[at:at + 4 * width * rows]
        if name.startswith(("blk.0.q", "blk.0.k")):  # neighbours to halves, in each head of 64
            x = struct.unpack(f"<{width * rows}f", raw)
            x = [x[h + 2 * (i % 32) + i // 32] for h in range(0, len(x), 64) for i in range(64)]
            raw = struct.pack(f"<{width * rows}f", *x)
        write_npy(os.path.join(folder, f"{name}.npy"), "<f4", (rows, width), raw)
    ids = prompt_ids(prompt)
    write_npy(os.path.join(folder, "tokens.npy"), "<i8", (len(ids),), struct.pack(f"<{len(ids)}q", *ids))
    for layout in ["auto", "hf"]:
        r = verify_json("-m", DEMO_F16, "--against", folder, "--allow-odd-prompt", "--qk-layout", layout)
        equal((layout, r["verdict"], r["first"]), (layout, "pass", None))
        said = [f for f in r["findings"] if f["id"] == "qk-layout"]
        equal(len(said), 1 if layout == "auto" else 0)
    # Read as neighbours, q and k are in another order and rotated alike: the scores are the same.
    r = verify_json("-m", DEMO_F16, "--against", folder, "--allow-odd-prompt", "--qk-layout", "gguf")
    equal((r["verdict"], r["first"]), ("pass", None))
    other = [c["component"] for c in r["components"] if "equivalent" in c]
    equal(other, ["blk.0.q", "blk.0.k", "blk.0.q_rope", "blk.0.k_rope"])


@test("ids that the model does not have")
def _():
    folder = tmp("outside")
    os.mkdir(folder)
    write_npy(os.path.join(folder, "embd.npy"), "<f4", (2, 256), b"\0" * 2048)
    write_npy(os.path.join(folder, "tokens.npy"), "<i8", (2,), struct.pack("<2q", 1, 32000))
    r = verify_json("-m", DEMO_F16, "--against", folder, code=5)
    equal((r["first"]["component"], r["first"]["cause_id"]), ("prompt", "ids-outside"))
    assert r["stages"]["components"].startswith("skipped: there are ids"), r["stages"]


@test("two prompts of the same ids are the same run twice")
def _():
    data, arrays = golden_arrays()
    prompt = next(n.split(".")[0] for n in arrays)
    ids = prompt_ids(prompt)
    for by, outcome, verdict in [(0, "pass", "pass"), (1.2e-7, "pass", "pass"), (0.01, "fail", "fail")]:
        folder = tmp(f"twins-{by:g}")
        os.mkdir(folder)
        for twin in "ab":
            for name in ["embd", "blk.0.attn_norm", "blk.0.q"]:
                at, (width, rows) = arrays[f"{prompt}.{name}"]
                x = list(struct.unpack_from(f"<{width * rows}f", data, at))
                if twin == "b" and name == "blk.0.q":  # of token 2
                    x[2 * width:3 * width] = [v * (1 + by) for v in x[2 * width:3 * width]]
                write_npy(os.path.join(folder, f"{twin}.{name}.npy"), "<f4", (rows, width),
                          struct.pack(f"<{width * rows}f", *x))
            write_npy(os.path.join(folder, f"{twin}.tokens.npy"), "<i4", (len(ids),),
                      struct.pack(f"<{len(ids)}i", *ids))
        r = verify_json("-m", DEMO_F16, "--against", folder, code=0 if verdict == "pass" else 5)
        said, = [f for f in r["findings"] if f["id"] == "twice"]
        equal((r["verdict"], said["outcome"], r["stages"]["paths"]), (verdict, outcome, outcome))
        equal("equal to the bit" in said["text"], by == 0)
        equal(said["warning"], outcome == "pass" and by > 0)
        if by: assert "blk.0.q of token 2" in said["text"], said


@test("a trace of ours, and the prompt's text")
def _():
    path = tmp("ours.gguf")
    plumb("trace", "-p", "Hello", "-o", path, "--force")
    r = verify_json("--against", path)
    equal((r["verdict"], r["first"], r["backend"]), ("pass", None, "cpu"))
    plumb("trace", "--tokens", "1,1489,1493,1488,2", "-o", path, "--force")
    r = verify_json("--against", path, code=5)
    equal(r["first"]["component"], "prompt")
    equal(r["stages"]["prompt"], "fail")
    equal(verify_json("--against", path, "--allow-odd-prompt")["verdict"], "pass")
    # Another model than the trace's is no mismatch of numbers: it is said.
    r = verify_json("-m", DEMO_F16, "--against", path, "--allow-odd-prompt", code=5)
    equal(r["first"]["component"], "file")


@test("text, page and streams")
def _():
    page = tmp("report.html")
    code, out, err = run("verify", "--quick", "--html", page)
    equal((code, err), (0, b""))  # no progress where there is no terminal
    assert b"\x1b" not in out and b"PASS" in out, out
    with open(page) as f:
        html = f.read()
    assert html.startswith("<!") and "</html>" in html and "http://" not in html.lower().replace(
        "http://www.w3.org", "")
    shutil.copy(DEMO, tmp("model.gguf"))
    fails(2, "verify", "-m", tmp("model.gguf"), "--html", tmp("model.gguf"), says="the input itself")
    equal(os.path.getsize(tmp("model.gguf")), os.path.getsize(DEMO))
    code, _, err = run("verify", "--quick", "--html", tmp("no/such.html"))
    equal(code, 1)
    assert b"no/such.html" in err


run_tests()
