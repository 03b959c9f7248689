"""tools/bench-peer.py: the order of the programs, the ratios, and what it says of a peer that fails."""
import statistics

from harness import *

DRIVER = os.path.join(ROOT, "tools", "bench-peer.py")

# A peer that speaks as llama-bench does: writes down how it was called, and is as fast as it is told.
PEER = r'''#!%(python)s
import json, sys, time
if "--help" in sys.argv:
    print("usage: ...\n  %(help)s <n>  (default: 0)")
    sys.exit(0)
with open(%(log)r, "a") as f:
    f.write("%(name)s " + " ".join(sys.argv[1:]) + "\n")
%(first)s
args, pairs = {}, []
for flag, value in zip(sys.argv[1::2], sys.argv[2::2]):
    if flag == "-gp":
        pairs.append([int(n) for n in value.split(",")])
    args[flag] = value
runs, depth = int(args["-r"]), int(args.get("-d", 0))
tests = [(int(n), 0, 0) for n in args["-p"].split(",")]
tests += [(0, int(n), depth) for n in args["-n"].split(",")]
rows = []
for prompt, gen, depth in [t for t in tests if t[0] or t[1]] + [(p, g, 0) for p, g in pairs]:
    speed = %(speed)s
    rows.append({"build_commit": "c0ffee", "build_number": 7, "cpu_info": "a fake",
                 "n_threads": int(args["-t"]) + %(more_threads)d, "n_prompt": prompt, "n_gen": gen,
                 %(depth)s "avg_ts": speed, "samples_ts": [speed * (i + 1) for i in range(runs)]})
print("a line that is no JSON")
print(json.dumps(rows, indent=1))
'''


def peer(name, help="-gp", first="", speed="100.0 * (1 + (prompt > 0))", more_threads=0):
    path = tmp(name)
    with open(path, "w", encoding="utf-8") as f:
        depth = '"n_depth": depth,' if help == "-d, --n-depth" else ""
        f.write(PEER % dict(python=sys.executable, log=tmp("log"), name=name, help=help, depth=depth,
                            first=first, speed=speed, more_threads=more_threads))
    os.chmod(path, 0o755)
    return path


def logging_plumb():
    """A plumb that writes into the peers' log, too."""
    path = tmp("logging-plumb")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"#!/bin/sh\necho \"plumb $*\" >>'{tmp('log')}'\nexec '{PLUMB}' \"$@\"\n")
    os.chmod(path, 0o755)
    return path


def quick_plumb():
    """A plumb that says again what it once said of SMALL: measuring takes a second."""
    path, said = tmp("quick-plumb"), tmp("said.json")
    if not os.path.exists(path):
        j = plumb("bench", "--json", "-m", DEMO, "-t", "2", "-r", "1", "-p", "8,16", "-n", "4")
        with open(said, "w", encoding="utf-8") as f:
            f.write(j)
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\ncat '{said}'\n")
        os.chmod(path, 0o755)
    return path


def drive(*args, model=DEMO, plumb=PLUMB, code=0, timeout=300):
    """(stdout, what the programs were called with)"""
    open(tmp("log"), "w").close()
    argv = [sys.executable, DRIVER, "--plumb", plumb, "-m", model, "-t", "2", *args]
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=timeout, cwd=ROOT)
    out, err = p.stdout.decode(), p.stderr.decode()
    assert p.returncode == code, f"exit {p.returncode}, expected {code}\n{out}{err}"
    if code:
        assert out == "" and err.startswith("bench-peer: ") and err.count("\n") == 1, (out, err)
        return err
    assert err == "", err
    with open(tmp("log"), encoding="utf-8") as f:
        return out, [l.split() for l in f.read().splitlines()]


def says(text, *args, code=1, **named):
    err = drive(*args, code=code, **named)
    for t in [text] if isinstance(text, str) else text:
        assert t in err, f"{err!r} does not say {t!r}"


SMALL = ("--prompt", "8,16", "--gen", "4", "-r", "3")


@test("the order is A B A B, with the same file, threads and lengths")
def _():
    has_json()
    _, calls = drive("--peer", peer("bee"), *SMALL, "--rounds", "3", plumb=logging_plumb())
    equal([c[0] for c in calls], ["plumb", "bee"] * 3)
    plumb_says = "bench --json -m {} -t 2 -r 3 -p 8,16 -n 4 --context 0".format(DEMO)
    equal(calls[0][1:], plumb_says.split())
    equal(calls[1][1:], "-m {} -t 2 -r 3 -p 8,16 -n 4 -o json".format(DEMO).split())


@test("several peers: A B C A B C; arguments go to the peer before them")
def _():
    has_json()
    out, calls = drive("--peer", peer("bee"), "--peer-args", "-rtr 1 -thp 1", "--peer",
                       "sea=" + peer("cee"), *SMALL, "--rounds", "2", "--plumb-args", "-ctk f32",
                       plumb=logging_plumb())
    equal([c[0] for c in calls], ["plumb", "bee", "cee"] * 2)
    equal(calls[0][-2:], ["-ctk", "f32"])
    equal(calls[1][-4:], ["-rtr", "1", "-thp", "1"])
    equal(calls[2][-2:], ["-o", "json"])
    assert "sea: build c0ffee (7); a fake" in out and "bee: build c0ffee (7) -rtr 1 -thp 1" in out, out


@test("--json: every timing, medians and ratios; the table has the same")
def _():
    has_json()
    result = tmp("result.json")
    out, _ = drive("--peer", peer("bee"), *SMALL, "--rounds", "3", "--json", result)
    with open(result, encoding="utf-8") as f:
        j = json.load(f)
    equal((j["model"], j["threads"], j["rounds"], j["runs"], j["order"]),
          (DEMO, 2, 3, 3, ["plumb", "bee"]))
    equal(len(j["read_gb_s"]), 3)
    assert f"load before {j['load_before']:.1f}" in out, out
    assert j["machine"] in out and j["plumb"]["build"] in out and "memory reads" in out, out
    equal([(t["test"], t["tokens"], t["context"]) for t in j["tests"]],
          [("prefill", 8, 0), ("prefill", 16, 0), ("decode", 4, 0)])
    table = [l for l in out.splitlines() if "bee" in l and l.endswith(")") and "build" not in l]
    equal(len(table), 3)
    for t, line in zip(j["tests"], table):
        ours, theirs = t["programs"]
        base = 100 if t["test"] == "decode" else 200
        equal(theirs["samples"], [[base, 2 * base, 3 * base]] * 3)
        equal(theirs["round_medians"], [2 * base] * 3)
        equal(theirs["tok_s"], {"median": 2 * base, "min": base, "max": 3 * base})
        equal([len(s) for s in ours["samples"]], [3, 3, 3])
        equal(ours["round_medians"], [statistics.median(s) for s in ours["samples"]])
        all_ours = sum(ours["samples"], [])
        equal(ours["tok_s"]["median"], statistics.median(all_ours))
        want = [m / (2 * base) for m in ours["round_medians"]]
        r = theirs["ratio"]
        equal(r["rounds"], want)
        equal((r["median"], r["min"], r["max"]), (statistics.median(want), min(want), max(want)))
        assert f"{r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" in line, line
        assert "ratio" not in ours
        if t["test"] == "decode":
            step = j["model_info"]["decode_bytes"]
            near(theirs["gb_s"], 2 * base * step / 1e9, 1e-9)
            near(theirs["share"], theirs["gb_s"] / max(j["read_gb_s"]), 1e-9)


@test("a decode after a context, in both languages")
def _():
    has_json()
    args = ("--prompt", "8", "--gen", "2,4", "--context", "0,20,30", "-r", "1", "--rounds", "1")
    _, calls = drive("--peer", peer("bee"), *args)
    equal([" ".join(c[7:-2]) for c in calls],
          ["-p 8 -n 2,4", "-p 0 -n 0 -gp 20,2 -gp 20,4", "-p 0 -n 0 -gp 30,2 -gp 30,4"])
    out, calls = drive("--peer", peer("bee", help="-d, --n-depth"), *args)
    equal([" ".join(c[7:-2]) for c in calls],
          ["-p 8 -n 2,4", "-p 0 -n 2,4 -d 20", "-p 0 -n 2,4 -d 30"])
    equal([l.split()[:3] for l in out.splitlines() if l.startswith(("prefill", "decode"))][1:],
          [["decode", str(n), str(c)] for c in (0, 20, 30) for n in (2, 4)])
    _, calls = drive("--peer", peer("bee"), "--prompt", "0", "--gen", "2", "--context", "20", "-r",
                     "1", "--rounds", "1")
    equal([" ".join(c[7:-2]) for c in calls], ["-p 0 -n 0 -gp 20,2"])
    says(["-gp", "--n-depth", "--context 0"], "--peer", peer("bee", help="-x"), *args)


@test("a peer that is missing, fails, dies, or hangs")
def _():
    has_json()
    says("no such program", "--peer", tmp("nobody"), code=3)
    says("not executable", "--peer", DEMO, code=3)
    one = (*SMALL, "--rounds", "1", "--plumb", quick_plumb())
    says(["exit code 3", "out of luck"], "--peer",
         peer("bee", first='sys.stderr.write("so\\nout of luck\\n"); sys.exit(3)'), *one)
    says(["SIGILL", "instructions that this processor does not have"], "--peer",
         peer("bee", first="import os; os.kill(os.getpid(), 4)"), *one)
    says("--timeout", "--peer", peer("bee", first="time.sleep(100)"), "--timeout", "2", *one)
    text = tmp("text")
    with open(text, "w", encoding="utf-8") as f:
        f.write("\x7fELF no program")
    os.chmod(text, 0o755)
    says("cannot be run", "--peer", text, *one)


@test("a peer that prints rubbish")
def _():
    has_json()
    one = (*SMALL, "--rounds", "1", "--plumb", quick_plumb())
    for rubbish in ["hello", "", "[1, 2]", "[{}]", '[{"n_prompt": 8, "n_gen": 0}]', "[",
                    '[{"n_prompt": 8, "n_gen": 0, "avg_ts": 0}]',
                    '[{"n_prompt": 8, "n_gen": 0, "avg_ts": NaN}]',
                    '[{"n_prompt": "x", "n_gen": 0, "avg_ts": 1}]']:
        says(["not llama-bench's JSON", tmp("bee")], "--peer",
             peer("bee", first=f"print({rubbish!r}); sys.exit(0)"), *one)
    says("no prefill of 8 tokens", "--peer", peer("bee", first="print('[]'); sys.exit(0)"), *one)
    says("3 threads, not 2", "--peer", peer("bee", more_threads=1), *one)


@test("usage, and plumb's own errors")
def _():
    has_json()
    bee = peer("bee")
    says("no such file", "--peer", bee, model="/nonexistent.gguf", code=3)
    says("no such program", "--peer", bee, plumb="/nonexistent", code=3)
    says("--peer", code=2)
    says("the --peer before it", "--peer-args", "-rtr 1", "--peer", bee, code=2)
    says("two programs are called 'bee'", "--peer", bee, "--peer", bee, code=2)
    says("two programs are called 'plumb'", "--peer", "plumb=" + bee, code=2)
    says("'8,x'", "--peer", bee, "--prompt", "8,x", code=2)
    says("'0'", "--peer", bee, "--rounds", "0", code=2)
    says("nothing to measure", "--peer", bee, "--prompt", "0", "--gen", "0", code=2)
    says("its folder is missing", "--peer", bee, "--json", "/nonexistent/x.json", code=3)
    says("no-such-kernels", "--peer", bee, *SMALL, "--cpu-isa", "no-such-kernels")
    p = subprocess.run([sys.executable, DRIVER, "--help"], stdout=subprocess.PIPE)
    assert p.returncode == 0 and b"--peer-args" in p.stdout


run_tests()
