"""plumb trace: what it writes, what it refuses."""
import hashlib

from harness import *

IDS = "1,1489,1493,1488,13,2010,411,1981,2,1977,13,1487,1495,1488,13"  # golden prompt "hello"


def read_trace(path):
    """(metadata, tensors name -> (dims, floats)) of a GGUF of strings, integers and F32 tensors."""
    with open(path, "rb") as f:
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

    assert data[:8] == b"GGUF\3\0\0\0"
    n_tensors, n_keys = take("QQ")
    meta, tensors = {}, []
    for _ in range(n_keys):
        key, kind = text(), take("I")
        if kind == STR: meta[key] = text()
        elif kind == U32: meta[key] = take("I")
        else:
            assert (kind, take("I")) == (ARRAY, 5)
            meta[key] = [take("i") for _ in range(take("Q"))]
    for _ in range(n_tensors):
        name = text()
        dims = [take("Q") for _ in range(take("I"))]
        kind, offset = take("IQ")
        assert kind == 0
        tensors.append((name, dims, offset))
    at += -at % 32
    return meta, {name: (dims, struct.unpack_from(f"<{dims[0] * dims[1]}f", data, at + offset))
                  for name, dims, offset in tensors}


def nmse(got, want):
    return sum((a - b) ** 2 for a, b in zip(got, want)) / sum(b * b for b in want)


@test("options, errors")
def _():
    check_usage("trace", "-o", "--components", "--name", "--tokens")
    out = tmp("never.gguf")
    fails(2, "trace", "-p", "x", says="-o FILE")
    fails(2, "trace", "-p", "x", "--tokens", "1", "-o", out, says="one prompt")
    fails(2, "trace", "-p", "x", "-o", out, "--components", "q,gate",
          says=["no component 'gate'", "ffn_gate", "kq_soft_max", "k_cache", "probs"])
    fails(2, "trace", "-p", "x", "-o", out, "--components", "token", says="no component 'token'")
    fails(2, "trace", "-p", "x", "-o", out, "--components", ",", says="nothing to keep")
    fails(2, "trace", "-p", "x", "-o", out, "--components", "kq", "--no-scores", says="nothing")
    fails(2, "trace", "-p", "x", "-o", out, "--name", "blk", says="cannot be named")
    fails(2, "trace", "-p", "x", "-o", out, "--json", says="--json")
    fails(2, "trace", "--tokens", "1,2048", "-o", out, says="2048")
    fails(2, "trace", "--tokens", ",", "-o", out, says="no token")
    fails(1, "trace", "--tokens", IDS, "-c", "8", "-o", out, says="context of 8")
    fails(1, "trace", "--tokens", "1", "-o", tmp("no/such/folder.gguf"), says="no/such")
    fails(3, "trace", "-m", tmp("none.gguf"), "--tokens", "1", "-o", out, says="none.gguf")
    fails(4, "trace", "--tokens", "1", "-o", out, "--backend", "abacus", says="abacus")
    assert not os.path.exists(out)


@test("the golden prompt gives the golden components")
def _():
    path = tmp("hello.gguf")
    plumb("trace", "-m", DEMO_F16, "--tokens", IDS, "-o", path, "--name", "hello", "-ctk", "f32",
          "-ctv", "f32", "-b", "4")
    meta, tensors = read_trace(path)
    golden = read_trace(os.path.join(GOLDEN, "demo-golden.gguf"))[1]
    compared = 0
    for name, (dims, want) in golden.items():
        if name.startswith("hello."):
            got = tensors[name]
            equal(got[0], dims)
            assert nmse(got[1], want) < 1e-10, name
            compared += 1
    equal(len(tensors), compared + 4 * 6)  # scores, weights, caches
    equal(tensors["hello.blk.3.k_cache"], tensors["hello.blk.3.k_rope"])  # in float32
    equal(tensors["hello.blk.3.v_cache"], tensors["hello.blk.3.v"])
    equal(tensors["hello.blk.5.kq"][0], [15, 15 * 4])
    equal(meta["trace.hello.tokens"], [int(i) for i in IDS.split(",")])
    logits = tensors["hello.logits"][1][-2048:]
    equal(meta["trace.hello.chosen"], logits.index(max(logits)))
    assert meta["trace.hello.sampling"].startswith("temp=0 top_k=0 top_p=1 "), meta
    equal(meta["general.architecture"], "trace")
    equal(meta["trace.kv_type_k"], "F32")
    equal(meta["trace.backend"], "cpu")
    equal(meta["trace.model.n_heads"], "4")
    equal(meta["trace.model.rope_pairing"], "norm")
    equal(meta["trace.activation.F16"], "none")
    assert meta["trace.build"].startswith("plumb ")
    with open(DEMO_F16, "rb") as f:
        equal(meta["trace.model_sha256"], hashlib.sha256(f.read()).hexdigest())


@test("text goes through the chat template as in run; without it, as it is")
def _():
    for options in (["--chat"], []):
        argv = ["-p", "What is the capital of France?"]
        path = tmp("text.gguf")
        plumb("trace", *argv, *(() if options else ["--no-chat-template"]), "-o", path, "--force",
              "--components", "embd")
        ids = plumb("tokenize", *argv, "--ids", *options)
        meta, tensors = read_trace(path)
        equal(meta["trace.tokens"], [int(i) for i in ids.split()])
        equal(list(tensors), ["embd"])
        equal(meta.get("trace.text"), None if options else argv[1])


@test("what the cache gives back, and what the token is drawn from, where asked for")
def _():
    path = tmp("cache.gguf")
    plumb("trace", "--tokens", "1,2,3", "-o", path, "--components", "v_cache,probs")
    meta, tensors = read_trace(path)
    equal(sorted(tensors), sorted([f"blk.{i}.v_cache" for i in range(6)] + ["probs"]))
    equal(tensors["blk.0.v_cache"][0], [128, 3])
    equal(tensors["probs"][0], [2048, 1])
    equal([i for i, p in enumerate(tensors["probs"][1]) if p], [meta["trace.chosen"]])


@test("one line on stderr; an output that exists is kept without --force")
def _():
    path = tmp("twice.gguf")
    code, out, err = run("trace", "--tokens", "1,2,3", "-o", path, "--no-scores")
    equal((code, out), (0, b""))
    assert err.startswith(f"plumb: {path}: 3 tokens, 105 arrays, ".encode()), err
    with open(path, "rb") as f:
        before = f.read()
    fails(2, "trace", "--tokens", "1", "-o", path, says="--force")
    with open(path, "rb") as f:
        equal(f.read(), before)
    plumb("trace", "--tokens", "1,2,3", "-o", path, "--no-scores", "--force")
    with open(path, "rb") as f:
        equal(f.read(), before)  # the same run, the same bytes


@test("the model itself is never overwritten")
def _():
    path = tmp("own.gguf")
    with open(DEMO, "rb") as f:
        model = f.read()
    with open(path, "wb") as f:
        f.write(model)
    fails(2, "trace", "-m", path, "--tokens", "1", "-o", path, "--force", says="own.gguf")
    with open(path, "rb") as f:
        assert f.read() == model


@test("a trace is no model")
def _():
    path = tmp("model.gguf")
    plumb("trace", "--tokens", "1", "-o", path)
    fails(3, "run", "-m", path, "x", says="trace")


run_tests()
