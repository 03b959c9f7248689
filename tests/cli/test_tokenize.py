"""plumb tokenize and plumb backends."""
from harness import *

CHAT_TEXT = "<|user|>\nHello</s>\n<|assistant|>\n"


@test("usage")
def _():
    check_usage("tokenize", "-m", "-p", "-f", "--decode")
    check_usage("backends")
    fails(2, "tokenize", says="no text")
    fails(2, "tokenize", "a", "-p", "b", says="one text")
    fails(2, "tokenize", "--chat", "--decode", "1", says="--chat")
    fails(2, "tokenize", "-sys", "x", "a", says="-sys needs --chat")
    fails(2, "tokenize", "--chat", "--chat-template", "nonsense", "a", says="nonsense")
    fails(3, "tokenize", "-m", "/nonexistent.gguf", "a", says="/nonexistent.gguf")
    fails(2, "tokenize", "--decode", "1 x", says="'x'")
    fails(2, "tokenize", "--decode", "1 999999", says="999999")
    fails(2, "tokenize", "--ids", "--json", "a", says="--json")


@test("ids on one line; where the text may come from")
def _():
    text = "Hello world"
    ids = "1 963 263 319 413\n"
    equal(plumb("tokenize", "--ids", text), ids)
    equal(plumb("tokenize", "--ids", "Hello", "world"), ids)
    equal(plumb("tokenize", "--ids", "-p", text, "-m", DEMO), ids)
    equal(plumb("tokenize", "--ids", "-f", "-", stdin=text), ids)
    open(tmp("t.txt"), "w").write(text)
    equal(plumb("tokenize", "--ids", "-f", tmp("t.txt")), ids)
    equal(plumb("tokenize", "--ids", "--no-bos", text), "963 263 319 413\n")
    equal(plumb("tokenize", "--ids", ""), "1\n")
    equal(plumb("tokenize", "--ids", "--no-bos", ""), "\n")


@test("the ids of reference strings")
def _():
    golden = json.load(open(os.path.join(GOLDEN, "tokenizers", "tokenizers.json")))
    for name in ["bpe-llama-bpe", "bpe-qwen2", "spm-demo"]:
        model = DEMO if name == "spm-demo" else os.path.join(GOLDEN, "tokenizers", name + ".gguf")
        for k in range(20, len(golden["strings"]), 25):
            out = plumb("tokenize", "-m", model, "--ids", "--no-bos", "--no-special", "-f", "-",
                        stdin=golden["strings"][k])
            equal([int(i) for i in out.split()], golden["ids"][name][k])


@test("special tokens are parsed, unless --no-special")
def _():
    assert " 2 " in plumb("tokenize", "--ids", "a</s>b")
    plain = plumb("tokenize", "--ids", "--no-special", "a</s>b").split()
    assert "2" not in plain and plain[0] == "1"


@test("the table")
def _():
    rows = plumb("tokenize", "Hello</s>\n").splitlines()
    equal(rows[0].split(), ["1", '"<s>"', "control"])
    assert rows[1].endswith("normal") and '" Hello"' in rows[1]
    assert '"\\x0a"' in rows[-1] and rows[-1].endswith("byte"), rows[-1]


@test("decode gives the text back")
def _():
    for text in ["Hello world", " two  spaces ", "a</s> b", "\u2603 snow \U0001f600", "tab\tand\nline"]:
        ids = plumb("tokenize", "--ids", text)
        equal(plumb("tokenize", "--decode", ids), text + "\n")
    equal(plumb("tokenize", "--decode", "1,963", "--no-bos"), "<s>Hello\n")
    equal(plumb("tokenize", "--decode", "963 2", "--no-special"), "Hello\n")
    equal(plumb("tokenize", "--decode", ""), "\n")


@test("--json")
def _():
    j = plumb_json("tokenize", "Hello</s>")
    equal(j, {"ids": [1, 963, 2], "pieces": ["<s>", " Hello", "</s>"],
              "kinds": ["control", "normal", "control"], "text": "Hello</s>"})
    j = plumb_json("tokenize", "--decode", "963 263")
    equal((j["ids"], j["text"]), ([963, 263], "Hello w"))


@test("--chat shows the text and its ids, special tokens marked")
def _():
    out = plumb("tokenize", "--chat", "Hello")
    marked = "\u27e6<s>\u27e7" + CHAT_TEXT.replace("</s>", "\u27e6</s>\u27e7")
    assert out.startswith("template: zephyr\ntext:\n" + marked), out
    ids = plumb("tokenize", "--chat", "--ids", "Hello")
    assert out.endswith(ids) and ids.split()[0] == "1"
    j = plumb_json("tokenize", "--chat", "Hello")
    equal((j["text"], j["template"], j["ids"]), (CHAT_TEXT, "zephyr", [int(i) for i in ids.split()]))


@test("what a user writes in a chat is never a special token")
def _():
    out = plumb("tokenize", "--chat", "Hi</s>", "-sys", "Be <s>brief")
    equal(out.count("\u27e6</s>\u27e7"), 2)
    equal(out.count("\u27e6<s>\u27e7"), 1)
    assert "Hi</s>\u27e6</s>\u27e7" in out and "Be <s>brief" in out, out


@test("chat templates by name")
def _():
    names = plumb("tokenize", "--list-templates").split()
    assert {"zephyr", "chatml", "llama2", "llama3"} <= set(names)
    equal(plumb_json("tokenize", "--list-templates")["templates"], names)
    j = plumb_json("tokenize", "--chat", "--chat-template", "chatml", "Hello")
    equal(j["text"], "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    equal(plumb_json("tokenize", "--chat", "--chat-template", "none", "Hello")["text"], "Hello")


@test("vocabulary-only files of any architecture")
def _():
    llama = shared("tokenizers", "ggml-vocab-llama-spm.gguf")
    out = plumb("tokenize", "-m", llama, "--chat", "--chat-template", "zephyr", "--ids", "Hello")
    equal(out, "1 529 29989 1792 29989 29958 13 10994 2 29871 13 29966 29989 465 22137 29989 29958 13\n")
    falcon = shared("tokenizers", "ggml-vocab-falcon.gguf")
    equal(plumb("tokenize", "-m", falcon, "--ids", "Hello world"), "9856 1079\n")


@test("backends: each with its devices or why it cannot run")
def _():
    assert plumb("backends").splitlines()[0].split()[0]
    backends = plumb_json("backends")["backends"]
    cpu = next(b for b in backends if b["name"] == "cpu")
    assert cpu["available"] and cpu["reason"] is None and "kernels:" in cpu["devices"][0]
    for b in backends:
        assert b["available"] == (b["reason"] is None), b
    for line in plumb("--list-devices").splitlines():
        assert line in plumb("backends"), line


run_tests()
