"""plumb chat: on a terminal, through a pipe, every command of it."""
import pty
import re
import select
import signal
import time

from harness import *

HELLO = "Hello! How can I help you today?"
PARIS = "The capital of France is Paris."
FRANCE = "What is the capital of France?"


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, *args):
        self.seen, self.at = "", 0
        env = {**os.environ, "HOME": tempfile.mkdtemp(dir=tmp("")), "TERM": "xterm", "XDG_STATE_HOME": "", "XDG_DATA_HOME": ""}
        needs_terminal()
        pid, self.fd = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.execve(PLUMB, [PLUMB, "chat", *args], env)
        self.pid, self.code = pid, None

    def read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready: return False
        try:
            got = os.read(self.fd, 4096)
        except OSError:
            return None
        self.seen += got.decode("utf-8", "replace")
        return None if not got else True

    def expect(self, text, seconds=60):
        """Waits until `text` comes after what was waited for before."""
        deadline = time.time() + seconds
        while True:
            at = self.seen.find(text, self.at)
            if at >= 0:
                self.at = at + len(text)
                return
            more = self.read(max(0, deadline - time.time()))
            assert more, f"{text!r} did not come after {self.seen[self.at:]!r}"

    def say(self, line):
        os.write(self.fd, line.encode() + b"\r")

    def end(self, seconds=30):
        """The exit code, of a chat that should end now."""
        deadline = time.time() + seconds
        while time.time() < deadline and self.read(0.1) is not None: pass
        while time.time() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"it does not end: {self.seen[-500:]!r}")


def greedy(*args):
    return Terminal("--temp", "0", *args)


@test("a line, an answer; /exit")
def _():
    t = greedy()
    t.say("Hello")
    t.expect(HELLO)
    t.say(FRANCE)
    t.expect(PARIS)
    t.say("/exit")
    equal(t.end(), 0)
    assert "\x1b[3" not in t.seen, "colour that nobody asked for"


@test("Ctrl-D ends it")
def _():
    t = greedy()
    t.say("Hello")
    t.expect(HELLO)
    time.sleep(0.2)
    os.write(t.fd, b"\x04")
    equal(t.end(), 0)


@test("/help names every command, /stats has figures")
def _():
    t = greedy()
    t.say("/help")
    t.expect("/load FILE")
    for command in ["/help", "/system", "/clear", "/save", "/stats", "/load", "/exit"]: assert command in t.seen, t.seen
    t.say("Hello")
    t.expect(HELLO)
    t.say("/stats")
    t.expect("tok/s")
    t.say("/nonsense")
    t.expect("/help")  # what there is instead
    t.say("/exit")
    equal(t.end(), 0)


@test("--lookup changes no answer; /stats and -v say what it spared")
def _():
    talk = "What is 7 + 8?\nWhat is 7 + 8?\nWhat is 7 + 8?\n/stats\n"
    code, out, err = run("chat", "--temp", "0", "-v", "--lookup", stdin=talk.encode())
    equal(code, 0)
    equal(out.decode().splitlines()[:-1], plumb("chat", "--temp", "0", stdin=talk).splitlines()[:-1])
    lines = [l for l in err.decode().splitlines() if "lookup drafted" in l]
    equal(len(lines), 4)
    assert int(lines[2].split("accepted ")[1].split()[0]) > 0 and "tokens a step" in lines[3], lines


@test("/save, /load, /clear, /system")
def _():
    path = tmp("talk.json")
    t = greedy()
    t.say("Hello")
    t.expect(HELLO)
    t.say(f"/save {path}")
    deadline = time.time() + 20
    while not os.path.exists(path) and time.time() < deadline: t.read(0.1)
    want = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": HELLO}]
    equal(json.load(open(path))["messages"], want)
    t.say("/clear")
    t.say("/save " + tmp("empty.json"))
    while not os.path.exists(tmp("empty.json")) and time.time() < deadline: t.read(0.1)
    equal(json.load(open(tmp("empty.json")))["messages"], [])
    t.say(f"/load {path}")
    t.say(FRANCE)
    t.expect(PARIS)
    t.say("/system You are brief.")
    t.say("/save " + tmp("system.json"))
    while not os.path.exists(tmp("system.json")) and time.time() < deadline: t.read(0.1)
    equal(json.load(open(tmp("system.json")))["messages"], [{"role": "system", "content": "You are brief."}])
    t.say("/load " + tmp("none.json"))
    t.expect("none.json")
    t.expect("none.json")  # the echo, then the error
    t.say("Hello")  # and it goes on
    t.say("/exit")
    equal(t.end(60), 0)


@test("Ctrl-C stops an answer, not the chat")
def _():
    t = greedy("--ignore-eos", "-n", "100000", "-c", "8000", "-t", "1")
    t.say("Tell me a story about an owl.")
    t.expect("Once upon a time")
    os.write(t.fd, b"\x03")
    began = time.time()
    t.say("/stats")
    t.expect("tok/s", 20)
    assert time.time() - began < 20
    t.say("/exit")
    equal(t.end(), 0)


@test("through a pipe each line is a message, and stdout has the answers alone")
def _():
    out = plumb("chat", "--temp", "0", stdin=f"Hello\n{FRANCE}\n")
    equal(out.split("\n"), [HELLO, PARIS, ""])
    equal(plumb("chat", "--temp", "0", stdin="Hello"), HELLO + "\n")  # no newline at the end
    equal(plumb("chat", stdin=""), "")
    equal(plumb("chat"), "")  # /dev/null
    equal(plumb("chat", "--temp", "0", stdin="Hello\n/exit\nHello\n"), HELLO + "\n")
    equal(plumb("chat", "--temp", "0", stdin="\n\nHello\n\n"), HELLO + "\n")  # empty lines say nothing


@test("the turns of a pipe are those of one conversation")
def _():
    path = tmp("piped.json")
    out = plumb("chat", "--temp", "0", "-sys", "You are brief.", stdin=f"Hello\n{FRANCE}\n/save {path}\n")
    messages = json.load(open(path))["messages"]
    equal([m["role"] for m in messages], ["system", "user", "assistant", "user", "assistant"])
    equal(messages[0]["content"], "You are brief.")
    assert messages[2]["content"] in out and messages[4]["content"] in out, out
    # Loaded afresh, the same question has the same answer.
    del messages[-2:]
    json.dump({"messages": messages}, open(tmp("part.json"), "w"))
    again = plumb("chat", "--temp", "0", stdin=f"/load {tmp('part.json')}\n{FRANCE}\n")
    assert again.strip().endswith(out.strip().split("\n")[-1]), (out, again)


@test("a conversation file that is no good changes nothing")
def _():
    for text in ["", "{", "[]", "{}", '{"messages": 5}', '{"messages": [5]}', '{"messages": [{"role": "user"}]}',
                 '{"messages": [{"role": "wizard", "content": "x"}]}', '{"messages": [{"role": "user", "content": 7}]}',
                 "[" * 200000, '{"messages": [{"role": "user", "content": "\\ud800"}]}']:
        open(tmp("bad.json"), "w").write(text)
        code, out, err = run("chat", "--temp", "0", stdin=f"/load {tmp('bad.json')}\nHello\n".encode())
        equal(out.decode(), HELLO + "\n")
        assert b"bad.json" in err and err.count(b"plumb: ") >= 1, (text[:40], err)
        assert code in (0, 1), code


@test("usage and exit codes")
def _():
    check_usage("chat", "-m", "-sys", "--temp")
    fails(2, "chat", "--tempp", "1", says=["--tempp", "--temp"])
    fails(2, "chat", "--chat-template", "nonsense", says="nonsense")
    fails(3, "chat", "-m", "/nonexistent.gguf", says="/nonexistent.gguf")
    fails(4, "chat", "--backend", "abacus", says="abacus")


@test("a message that does not fit is refused, and the chat goes on")
def _():
    code, out, err = run("chat", "--temp", "0", "-c", "40", stdin=("word " * 100 + "\nHello\n").encode())
    equal(out.decode(), HELLO + "\n")
    assert b"40" in err, err


run_tests()
