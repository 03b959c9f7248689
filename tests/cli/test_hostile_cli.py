"""The command line against a hostile or careless caller: damaged models, closed streams, options that clash."""
import random
import signal
import time

from harness import *

with open(DEMO, "rb") as f:
    DEMO_BYTES = f.read()
META = DEMO_BYTES.rfind(b"blk.") + 64  # about where the tensors' data begin
CASES = 40 if os.environ.get("PLUMB_SANITIZE") else 150


def survives(data, *args):
    """Runs a damaged model: an answer or one-line errors with a known exit code, soon."""
    path = tmp("damaged.gguf")
    with open(path, "wb") as out:
        out.write(data)
    code, _, err = run("run", "-m", path, "-n", "2", "-t", "2", *args, "Hi", timeout=60)
    assert code in (0, 1, 3, 4), f"exit {code}: {err[-400:]}"
    for line in err.decode("utf-8").splitlines():
        assert line.startswith("plumb: "), line
        assert not any(ord(c) < 32 for c in line), repr(line)


def shell(command, code):
    p = subprocess.run(["bash", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    assert p.returncode == code, f"{command}: exit {p.returncode}\n{p.stderr}"
    return p.stdout, p.stderr


@test("a model with flipped bits in its metadata")
def _():
    rng = random.Random(1)
    for _ in range(CASES):
        data = bytearray(DEMO_BYTES)
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(META)] ^= 1 << rng.randrange(8)
        survives(data)


@test("a model with hostile numbers in its keys")
def _():
    keys = [b"context_length", b"embedding_length", b"block_count", b"feed_forward_length",
            b"attention.head_count", b"attention.head_count_kv", b"rope.dimension_count",
            b"rope.freq_base", b"attention.layer_norm_rms_epsilon"]
    for key in keys:
        at = DEMO_BYTES.find(b"llama." + key)
        if at < 0:
            continue
        at += len(b"llama." + key) + 4
        for value in (0, 1, 3, 1 << 16, 1 << 20, 1 << 24, (1 << 31) - 1, (1 << 32) - 1, 0x7fc00000):
            survives(DEMO_BYTES[:at] + struct.pack("<I", value) + DEMO_BYTES[at + 4:])


@test("a model whose weights are NaN, infinite or noise")
def _():
    rng = random.Random(2)
    for i in range(CASES // 3):
        data = bytearray(DEMO_BYTES)
        for _ in range(rng.choice([1, 30, 1000])):
            at = rng.randrange(META, len(data) - 2)
            data[at:at + 2] = rng.choice([b"\x00\x7c", b"\xff\x7f", b"\x00\xfc", b"\xff\xff"])
        survives(data, *(["-ctk", "q8_0", "-ctv", "q8_0"] if i % 2 else []))


@test("a vocabulary that spells a space with three tokens")
def _():
    space = struct.pack("<Q", 3) + "▁".encode()
    assert space in DEMO_BYTES
    path = tmp("spaces.gguf")
    with open(path, "wb") as out:
        out.write(DEMO_BYTES.replace(space, struct.pack("<Q", 3) + "▂".encode()))
    ids = plumb_json("run", "--no-chat-template", "-m", path, "-n", "1", " " * 100)["prompt_tokens"]
    assert len(ids) > 300, ids


@test("closed or full standard streams")
def _():
    quiet = f"'{PLUMB}' run -n 2 --temp 0"
    shell(f"{quiet} hi 0<&-", 0)
    shell(f"{quiet} 0<&-", 2)
    shell(f"{quiet} </dev/null", 2)
    shell(f"{quiet} -f - </dev/null", 0)
    for end in (">&-", ">/dev/full"):
        for command in (f"{quiet} hi", f"echo hi | '{PLUMB}' chat -n 2",
                        f"'{PLUMB}' help", f"'{PLUMB}' --version"):
            _, err = shell(f"{command} {end}", 1)
            assert b"cannot write the output: " in err and b"Success" not in err, err
    shell(f"{quiet} hi 0<&- >&- 2>&-", 1)


@test("what is said on a closed stream lands in no file")
def _():
    whole, closed = tmp("whole.gguf"), tmp("closed.gguf")
    shell(f"'{PLUMB}' quantize '{DEMO_F16}' '{whole}' Q4_0", 0)
    shell(f"'{PLUMB}' quantize '{DEMO_F16}' '{closed}' Q4_0 >&- 2>&-", 0)
    with open(whole, "rb") as a, open(closed, "rb") as b:
        assert a.read() == b.read()


@test("options that would do nothing are refused")
def _():
    fails(2, "run", "--tokens", "1,2", "-sys", "x", says=["-sys"])
    fails(2, "run", "--no-chat-template", "-sys", "x", "hi", says=["-sys"])
    fails(2, "run", "--no-chat-template", "--chat-template", "chatml", "hi",
          says=["--no-chat-template"])
    fails(2, "chat", "--no-chat-template", "--chat-template", "chatml", says=["--no-chat-template"])


@test("a prompt file that cannot be read is no bad model")
def _():
    fails(1, "run", "-f", tmp("none.txt"), says=["none.txt", "no such file"])
    fails(1, "run", "-f", ROOT, says=["directory"])


@test("chat says what a saved file or a line holds without controls")
def _():
    path = tmp("chat.json")
    for text in ('{"messages": [{"role": "\\u001b[31m\\n", "content": ""}]}', '[\x1b[31m'):
        with open(path, "w") as out:
            out.write(text)
        code, _, err = run("chat", stdin=f"/load {path}\n".encode())
        assert code == 1 and b"\x1b" not in err and err.count(b"\n") == 1, (code, err)
    code, _, err = run("chat", stdin=b"\0\n")
    assert code == 2 and b"NUL" in err, (code, err)
    assert run("chat", stdin=b"/system a\n/system b\n/clear\n")[0] == 0


@test("Ctrl-C at any moment ends the answer or the program")
def _():
    rng = random.Random(3)
    for _ in range(12):
        p = subprocess.Popen([PLUMB, "run", "--ignore-eos", "-n", "900", "Hello"], cwd=ROOT,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        time.sleep(rng.random() * 0.4)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
        assert p.returncode in (0, -signal.SIGINT), (p.returncode, err)


@test("help has help")
def _():
    equal(plumb("help", "--help"), plumb("help"))
    equal(plumb("help", "help"), plumb("--help"))


@test("an interrupt that arrives twice at once is one: the answer ends, the program does not")
def _():
    for gap in [0, 0.0001, 0.0002, 0.0003, 0.0005] * 3:
        p = subprocess.Popen([PLUMB, "run", "-n", "5000", "--ignore-eos", "--temp", "0", "Tell me a story"], cwd=ROOT,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first = p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        until = time.perf_counter() + gap
        while time.perf_counter() < until: pass
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        # A second one that comes when the answer has ended already meets the default, which ends the program.
        if b"interrupted" in err: continue
        assert p.returncode == 0 and first and out.endswith(b"\n"), (gap, p.returncode, err)


run_tests()
