"""plumb run: the streams, the ways a prompt comes in, the ways an answer ends."""
import array
import fcntl
import pty
import re
import select
import shutil
import signal
import termios
import time

from harness import *

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
HELLO = "Hello! How can I help you today?"
FIGURES = "tok/s"
FIELDS = {"text", "tokens", "prompt_tokens", "finish", "seed", "timings", "backend", "device"}


def start(*args, **more):
    more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **more}
    return subprocess.Popen([PLUMB, "run", *args], **more)


def on_terminal(args, env=None):
    """Standard output and standard error together, on a terminal."""
    needs_terminal()
    master, slave = pty.openpty()
    p = subprocess.Popen([PLUMB, *args], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
                         env={**os.environ, "TERM": "xterm", **(env or {})})
    os.close(slave)
    out = b""
    while True:
        ready, _, _ = select.select([master], [], [], 60)
        assert ready, f"nothing came for a minute after {out!r}"
        try:
            got = os.read(master, 4096)
        except OSError:  # the last writer is gone
            break
        if not got: break
        out += got
    os.close(master)
    return p.wait(30), out.decode("utf-8", "replace")


@test("stdout has the answer alone, stderr one line of figures")
def _():
    code, out, err = run("run", FRANCE, "--temp", "0")
    equal(code, 0)
    equal(out.decode(), PARIS + "\n")
    lines = err.decode().splitlines()
    assert len(lines) == 1 and FIGURES in lines[0] and "\x1b" not in lines[0], err
    for word in ["read 19 tokens", "made 8", "GB/s"]:
        assert word in lines[0], lines[0]


@test("the prompt: an argument, words, -p, -f, stdin")
def _():
    greedy = ["--temp", "0"]
    open(tmp("p.txt"), "w").write(FRANCE)
    for args, stdin in [([FRANCE], None), (FRANCE.split(), None), (["-p", FRANCE], None), (["--prompt", FRANCE], None),
                        (["-f", tmp("p.txt")], None), (["--file", tmp("p.txt")], None), (["-f", "-"], FRANCE), ([], FRANCE),
                        (["-m", DEMO, FRANCE], None), (["--", FRANCE], None)]:
        equal(plumb("run", *greedy, *args, stdin=stdin), PARIS + "\n")
    fails(2, "run", "a", "-p", "b")
    fails(2, "run", "-p", "a", "-f", tmp("p.txt"))
    code, _, _ = run("run")  # /dev/null: no prompt
    equal(code, 2)
    assert run("run", "-f", tmp("none.txt"))[0] in (1, 3)
    assert run("run", "-f", ROOT)[0] in (1, 3)


@test("raw prompts and token ids")
def _():
    story = ", there was a girl named Anna."
    for args in [["--no-chat-template", "Once upon a time"], ["-no-cnv", "Once upon a time"],
                 ["--tokens", "1,370,371,261,328"], ["--tokens", "1 370 371 261 328"]]:
        out = plumb("run", *args, "--temp", "0", "-n", "40", "-m", DEMO_F16)
        assert out.startswith(story), out
    ids = "1 1489 1493 1488 13 2010 411 1981 2 1977 13 1487 1495 1488 13"
    equal(plumb("run", "--tokens", ids, "--temp", "0"), HELLO + "\n")
    fails(2, "run", "--tokens", "1,x", says="x")
    fails(2, "run", "--tokens", "1,2048", says="2048")
    fails(2, "run", "--tokens", "1,-1", says="-1")
    fails(2, "run", "--tokens", "99999999999", says="99999999999")
    assert run("run", "--tokens", "")[0] == 2


@test("-n: none, one, the same as --predict and --max-tokens")
def _():
    equal(plumb("run", FRANCE, "-n", "0"), "")
    one = plumb("run", FRANCE, "--temp", "0", "-n", "1")
    assert PARIS.startswith(one.strip()) and 0 < len(one.strip()) < 8, one
    three = plumb("run", FRANCE, "--temp", "0", "-n", "3")
    for name in ["--predict", "--n-predict", "--max-tokens"]:
        code, out, _ = run("run", FRANCE, "--temp", "0", name, "3")
        if name == "--n-predict" and code == 2: continue  # not promised
        equal(out.decode(), three)
    equal(plumb("run", FRANCE, "--temp", "0", "-n", "-1"), PARIS + "\n")
    fails(2, "run", FRANCE, "-n", "-2")


@test("--json has these fields and no others")
def _():
    r = plumb_json("run", FRANCE, "--temp", "0")
    equal(set(r), FIELDS)
    equal(r["text"], PARIS)
    equal(r["tokens"], [1800, 376, 312, 1295, 283, 1344, 1989, 2])
    equal(len(r["prompt_tokens"]), 19)
    equal(r["finish"], "stop")
    equal(r["backend"], "cpu")
    equal(set(r["timings"]), {"load_s", "prefill_tok_s", "decode_tok_s", "ttft_s", "decode_gb_s"})
    assert all(isinstance(v, (int, float)) and v >= 0 for v in r["timings"].values()), r["timings"]
    equal(plumb_json("run", FRANCE, "--temp", "0", "-n", "2")["finish"], "length")
    equal(plumb_json("run", FRANCE, "-n", "0")["tokens"], [])
    r = plumb_json("run", FRANCE, "--temp", "0", "-c", "24", "--ignore-eos")
    equal(r["finish"], "context")
    equal(plumb("run", FRANCE, "--temp", "0", "--json").count("\n"), 1)


@test("--json --logprobs")
def _():
    r = plumb_json("run", FRANCE, "--temp", "0", "--logprobs", "3")
    equal(set(r), FIELDS | {"logprobs"})
    equal([l["id"] for l in r["logprobs"]], r["tokens"])
    for l in r["logprobs"]:
        equal(set(l), {"id", "logprob", "top"})
        equal(len(l["top"]), 3)
        equal(l["top"][0]["id"], l["id"])
        near(l["top"][0]["logprob"], l["logprob"], 1e-6)
        values = [t["logprob"] for t in l["top"]]
        assert values == sorted(values, reverse=True) and values[0] <= 0, values
    fails(2, "run", FRANCE, "--logprobs", "-1")


@test("sampling: a seed repeats, options act")
def _():
    a = plumb("run", "Tell me a story.", "-s", "5", "-n", "30")
    equal(plumb("run", "Tell me a story.", "--seed", "5", "-n", "30"), a)
    assert plumb("run", "Tell me a story.", "-s", "6", "-n", "30") != a
    equal(plumb("run", FRANCE, "--top-k", "1"), PARIS + "\n")
    equal(plumb("run", FRANCE, "--top-p", "0"), PARIS + "\n")
    equal(plumb("run", FRANCE, "--min-p", "1"), PARIS + "\n")
    banned = plumb("run", FRANCE, "--temp", "0", "-l", "1344-inf", "-n", "8")
    assert "Paris" not in banned, banned
    equal(plumb("run", FRANCE, "--temp", "0", "--stop", " is", "--stop", "nothing"), "The capital of France\n")
    for bad in [["--temp", "-1"], ["--temp", "warm"], ["--top-p", "1.5"], ["--top-k", "-1"], ["--min-p", "nan"], ["-l", "5"],
                ["-l", "99999+1"], ["--repeat-last-n", "-2"], ["--seed", "1.5"]]:
        code, out, err = run("run", FRANCE, *bad)
        assert code == 2 and out == b"" and bad[1].lstrip("-").split("+")[0].encode() in err, (bad, code, err)


@test("--lookup: the same answer, and how many tokens were drafted and accepted")
def _():
    sums = ["What is 10 times 1?", "--ignore-eos", "-n", "60"]
    for sampling in [["--temp", "0"], ["-s", "3"]]:
        code, want, err = run("run", *sums, *sampling)
        equal(code, 0)
        assert b"lookup" not in err, err
        for more in [["--lookup"], ["--lookup-max", "2"], ["--draft-max", "64"], ["--draft", "1", "--lookup"], ["--lookup", "-b", "4"]]:
            code, out, err = run("run", *sums, *sampling, *more)
            equal((code, out), (0, want))
            line = err.decode().splitlines()[-1]
            m = re.search(r", lookup drafted (\d+), accepted (\d+) \((\d+) %\), (\d\.\d\d) tokens a step; stopped at -n$", line)
            assert m, line
            drafted, accepted = int(m[1]), int(m[2])
            assert 0 < accepted <= drafted < 60, line
            near(float(m[3]), 100 * accepted / drafted, 0.1)
            near(float(m[4]), 59 / (59 - accepted), 0.01)
    line = run("run", FRANCE, "-n", "1", "--lookup")[2].decode().splitlines()[-1]
    assert line.endswith(", lookup drafted 0, accepted 0; stopped at -n"), line
    r = plumb_json("run", *sums, "--temp", "0", "--lookup")
    equal(set(r), FIELDS | {"lookup"})
    equal(set(r["lookup"]), {"drafted", "accepted", "steps"})
    equal(r["lookup"]["steps"] + r["lookup"]["accepted"], 59)
    fails(2, "run", FRANCE, "--lookup-max", "0", says="--lookup-max")
    fails(2, "run", FRANCE, "--lookup-max", "65", says=["--lookup-max", "64", "65"])
    fails(2, "run", FRANCE, "--lookup=5", says="--lookup takes no value")


@test("a system prompt, another template, KV types, threads, batch sizes")
def _():
    plain = plumb_json("run", FRANCE, "--temp", "0")
    system = plumb_json("run", FRANCE, "--temp", "0", "-sys", "You are brief.")
    assert len(system["prompt_tokens"]) > len(plain["prompt_tokens"])
    other = plumb_json("run", FRANCE, "--temp", "0", "--chat-template", "chatml", "-n", "5")
    assert other["prompt_tokens"] != plain["prompt_tokens"]
    fails(2, "run", FRANCE, "--chat-template", "nonsense", says="nonsense")
    for more in [["-t", "1"], ["-t", "3"], ["-b", "4"], ["-ctk", "f32", "-ctv", "f32"], ["-ctk", "q8_0", "-ctv", "q8_0"],
                 ["--backend", "cpu"], ["-ngl", "0"], ["--check-tensors"], ["--jinja"], ["-c", "64"]]:
        equal(plumb("run", FRANCE, "--temp", "0", *more), PARIS + "\n")


@test("exit codes")
def _():
    fails(2, "run", FRANCE, "-c", "x", says="x")
    fails(2, "run", FRANCE, "-ctk", "q9", says="q9")
    fails(2, "run", FRANCE, "-t", "-3", says="-3")
    fails(3, "run", "-m", "/nonexistent.gguf", FRANCE, says="/nonexistent.gguf")
    fails(3, "run", "-m", ROOT, FRANCE)
    fails(3, "run", "-m", os.path.join(ROOT, "Makefile"), FRANCE, says="Makefile")
    fails(4, "run", "--backend", "abacus", FRANCE, says="abacus")
    fails(1, "run", FRANCE, "-c", "10", says=["19", "10"])
    half = open(DEMO, "rb").read()[:2000000]
    open(tmp("half.gguf"), "wb").write(half)
    fails(3, "run", "-m", tmp("half.gguf"), FRANCE, says=["half.gguf", "2000000"])
    open(tmp("lfs.gguf"), "w").write("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    fails(3, "run", "-m", tmp("lfs.gguf"), FRANCE, says="LFS")


@test("unknown options suggest the right one")
def _():
    for wrong, right in [("--tempp", "--temp"), ("--threds", "--threads"), ("--promt", "--prompt"), ("--top_k", "--top-k")]:
        fails(2, "run", wrong, "1", "x", says=[wrong, right])
    fails(2, "run", "-m")
    fails(2, "rnu", "x", says="rnu")


@test("an empty prompt, and one that does not fit")
def _():
    code, out, err = run("run", "", "--temp", "0", "-n", "5", timeout=20)
    assert code in (0, 2), (code, err)
    code, out, err = run("run", "--no-chat-template", "", "--temp", "0", "-n", "5", timeout=20)
    assert code in (0, 2), (code, err)
    big = "many words " * 10000
    began = time.time()
    err = fails(1, "run", "-f", "-", stdin=big.encode(), says="1024")
    assert time.time() - began < 20
    assert any(int("".join(c for c in w if c.isdigit()) or 0) > 10000 for w in err.split()), err
    fails(1, "run", big[:100000], says="1024")


@test("many scripts, odd bytes")
def _():
    text = "Grüße, мир, 世界, नमस्ते, 🌍👩‍👩‍👧, שלום, ﷽, e\u0301, \u200b, \U0010ffff"
    code, out, err = run("run", text, "--temp", "0", "-n", "20")
    equal(code, 0)
    out.decode("utf-8")
    for raw in [b"\xff\xfe broken \xc3", b"\xed\xa0\x80", b"nul \0 in it", b"\r\n\t\x1b[31m"]:
        code, out, err = run("run", "-f", "-", "--temp", "0", "-n", "5", stdin=raw)
        assert code in (0, 1, 2, 3), (raw, code, err)
        out.decode("utf-8")
    r = plumb_json("run", "--no-chat-template", "a\nb", "-n", "0")
    assert 13 in r["prompt_tokens"], r  # a newline is the byte token


@test("stdin that is open and silent is not waited for")
def _():
    read, write = os.pipe()
    p = start(FRANCE, "--temp", "0", stdin=read)
    out, _ = p.communicate(timeout=60)
    os.close(read)
    os.close(write)
    equal((p.returncode, out.decode()), (0, PARIS + "\n"))


@test("no terminal, closed streams, a full disk, a reader that goes away")
def _():
    p = start(FRANCE, "--temp", "0", start_new_session=True)
    equal(p.communicate(timeout=60)[0].decode(), PARIS + "\n")
    p = start(FRANCE, "--temp", "0", stdin=None, preexec_fn=lambda: os.close(0))
    equal((p.communicate(timeout=60)[0].decode(), p.returncode), (PARIS + "\n", 0))
    p = start(FRANCE, "--temp", "0", stdout=None, preexec_fn=lambda: os.close(1))
    p.communicate(timeout=60)
    assert p.returncode == 1, p.returncode
    p = start(FRANCE, "--temp", "0", stderr=None, preexec_fn=lambda: os.close(2))
    equal((p.communicate(timeout=60)[0].decode(), p.returncode), (PARIS + "\n", 0))
    p = start(FRANCE, "--temp", "0", stdout=open("/dev/full", "w"))
    p.communicate(timeout=60)
    equal(p.returncode, 1)
    p = start(FRANCE, "--temp", "0", stdout=open("/dev/null", "w"))
    p.communicate(timeout=60)
    equal(p.returncode, 0)
    p = start("Tell me a story about an owl.", "--ignore-eos", "-n", "900")
    p.stdout.read(1)
    p.stdout.close()
    p.stdout = None
    p.communicate(timeout=60)
    assert p.returncode in (1, -signal.SIGPIPE), p.returncode


@test("colour is for terminals that want it")
def _():
    code, out = on_terminal(["run", FRANCE, "--temp", "0"])
    assert code == 0 and PARIS in out and "\x1b[32m" not in out, out
    code, out = on_terminal(["run", FRANCE, "--temp", "0", "--color"])
    assert code == 0 and "\x1b[32m" + PARIS in out and "\x1b[0m" in out, out
    code, out = on_terminal(["run", FRANCE, "--temp", "0", "--color"], {"NO_COLOR": "1"})
    assert code == 0 and PARIS in out and "\x1b[32m" not in out, out
    assert "\x1b" not in plumb("run", FRANCE, "--temp", "0", "--color")


@test("Ctrl-C ends the answer: exit 0, the text so far")
def _():
    p = start("Tell me a story about an owl.", "--ignore-eos", "-n", "100000", "-t", "1", "--temp", "0", "-c", "8000")
    first = p.stdout.read(20)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30)
    equal(p.returncode, 0)
    equal(first.decode(), "Once upon a time, th")
    assert FIGURES in err.decode(), err
    made = int(err.decode().split("made ")[1].split()[0])
    assert 0 < made < 4000, made
    (first + out).decode("utf-8")


@test("a second Ctrl-C ends the program")
def _():
    read, write = os.pipe()
    fcntl.fcntl(write, 1031, 4096)  # F_SETPIPE_SZ: writing soon blocks, for nobody reads
    p = start("Tell me a story about an owl.", "--ignore-eos", "-n", "100000", "-c", "8000", "-s", "1", stdout=write)
    os.close(write)
    size, before, deadline = array.array("i", [0]), -1, time.time() + 120
    while size[0] != before or size[0] < 3000:  # until nothing more goes in
        before = size[0]
        time.sleep(1)
        fcntl.ioctl(read, termios.FIONREAD, size)
        assert time.time() < deadline and p.poll() is None, (size, p.returncode)
    assert p.poll() is None, p.returncode
    p.send_signal(signal.SIGINT)
    time.sleep(0.3)
    if p.poll() is None: p.send_signal(signal.SIGINT)
    p.wait(20)
    os.close(read)
    assert p.returncode in (-signal.SIGINT, 130), p.returncode


@test("two at once")
def _():
    ps = [start(FRANCE, "--temp", "0") for _ in range(2)]
    for p in ps:
        equal((p.communicate(timeout=120)[0].decode(), p.returncode), (PARIS + "\n", 0))


@test("a copy of the program in an empty folder answers")
def _():
    folder = tmp("alone")
    os.mkdir(folder)
    copy = shutil.copy(PLUMB, folder)
    p = subprocess.run([copy, "run", FRANCE, "--temp", "0"], cwd=folder, env={}, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    equal((p.stdout.decode(), p.returncode), (PARIS + "\n", 0))
    equal(os.listdir(folder), ["plumb"])


@test("-v tells more, on stderr, and changes nothing on stdout")
def _():
    code, out, err = run("run", FRANCE, "--temp", "0", "-v")
    equal((code, out.decode()), (0, PARIS + "\n"))
    assert len(err.decode().splitlines()) > 1 and "1489" in err.decode(), err


@test("help and version")
def _():
    check_usage("run", "-m", "-p", "-n", "--temp", "--tokens")
    assert plumb("--help").startswith("plumb runs GGUF")
    equal(plumb(), plumb("help"))
    version = plumb("--version")
    assert version.startswith("plumb 0.1.0") and "cpu" in version, version
    assert "5 " in plumb("help", "exit-codes")


run_tests()
