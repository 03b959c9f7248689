#!/usr/bin/env python3
"""Times Plumb and other engines' benchmark programs in turn on one file, and says how they compare.

    tools/bench-peer.py --plumb build/plumb --peer PATH/llama-bench -m model.gguf -t 2
    tools/bench-peer.py --peer one=PATH/llama-bench --peer two=PATH/llama-bench --peer-args "-rtr 1" \\
        -m model.gguf -t 2 --prompt 128,512 --gen 32 --context 0,2000 --cpu-isa avx2 --json result.json

A round runs every program once, Plumb first, and --rounds of them follow each other, so that what
else the machine does meets all alike. A ratio is made within a round (Plumb's median over the
peer's); shown is the median of the rounds' ratios with the least and the most. A peer speaks
llama-bench's language: -m -t -p -n -r -o json, and -gp or -d for a decode after a context.
"""
import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys


class Failure(Exception):
    """One line for the user."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Failure(f"{message}; --help shows the options", 2)


class Peer:
    def __init__(self, text):
        name, sep, path = text.partition("=")
        if not sep or os.sep in name:
            name, path = os.path.basename(text), text
        self.name, self.path, self.args = name, path, []
        self.build = self.cpu = None
        self.context_flag = None  # how it takes a decode's context, once that is known


class AddPeer(argparse.Action):
    def __call__(self, parser, ns, value, option_string=None):
        ns.peers = ns.peers + [Peer(value)]


class AddPeerArgs(argparse.Action):
    def __call__(self, parser, ns, value, option_string=None):
        if not ns.peers:
            parser.error("--peer-args belongs to the --peer before it, and there is none")
        ns.peers[-1].args += shlex.split(value)


def lengths(text):
    try:
        numbers = [int(n) for n in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not whole numbers separated by commas")
    return list(dict.fromkeys(numbers))


def count(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 on")
    return int(text)


def read_args(argv):
    ap = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--plumb", default="build/plumb", help="default: build/plumb")
    ap.add_argument("--peer", action=AddPeer, metavar="[NAME=]PATH", required=True,
                    help="a program that speaks as llama-bench does; may be given again")
    ap.add_argument("--peer-args", action=AddPeerArgs, metavar="'ARGS'",
                    help="further arguments of the --peer before it")
    ap.add_argument("--plumb-args", type=shlex.split, default=[], metavar="'ARGS'",
                    help="further arguments of `plumb bench`")
    ap.add_argument("-m", "--model", required=True, metavar="FILE")
    ap.add_argument("-t", "--threads", type=count, required=True, metavar="N")
    ap.add_argument("--prompt", type=lengths, default="128,512", metavar="LIST",
                    help="prefill lengths (128,512); 0: none")
    ap.add_argument("--gen", type=lengths, default="32", metavar="LIST",
                    help="decode lengths (32); 0: none")
    ap.add_argument("--context", type=lengths, default="0", metavar="LIST",
                    help="tokens in the cache before a decode (0)")
    ap.add_argument("--rounds", type=count, default=3, metavar="N", help="default: 3")
    ap.add_argument("-r", "--runs", type=count, default=5, metavar="N",
                    help="timings of each test in each round (5)")
    ap.add_argument("--cpu-isa", metavar="NAME", help="Plumb's kernels; default: the best")
    ap.add_argument("--timeout", type=count, default=1800, metavar="SECONDS",
                    help="what one program may take in one round (1800)")
    ap.add_argument("--json", metavar="FILE", help="every single timing, the medians, the ratios")
    ap.set_defaults(peers=[])
    # A value that begins with a dash ("-rtr 1") would be taken for options of ours.
    joined, argv = [], list(argv)
    while argv:
        word = argv.pop(0)
        if word in ("--peer-args", "--plumb-args") and argv:
            word += "=" + argv.pop(0)
        joined.append(word)
    a = ap.parse_args(joined)
    a.prompt, a.gen = [n for n in a.prompt if n], [n for n in a.gen if n]
    if not a.prompt and not a.gen:
        ap.error("--prompt 0 --gen 0 leaves nothing to measure")
    return a


def check_before(a):
    """What can be wrong without running anything for minutes."""
    if not os.path.isfile(a.model):
        raise Failure(f"{a.model}: no such file; -m takes a GGUF file", 3)
    programs = [("--plumb", a.plumb, "`make` builds it")]
    programs += [("--peer", p.path, "it takes the path of a built llama-bench") for p in a.peers]
    for flag, path, cure in programs:
        if not os.path.isfile(path):
            raise Failure(f"{flag} {path}: no such program; {cure}", 3)
        if not os.access(path, os.X_OK):
            raise Failure(f"{flag} {path}: not executable; chmod +x it, or name another", 3)
    names = ["plumb"] + [p.name for p in a.peers]
    for name in names:
        if names.count(name) > 1:
            raise Failure(f"two programs are called '{name}'; name them: --peer NAME=PATH", 2)
    if a.json and not os.access(os.path.dirname(os.path.abspath(a.json)), os.W_OK):
        raise Failure(f"--json {a.json}: its folder is missing or may not be written", 3)


def last_line(text):
    lines = [l.strip() for l in text.splitlines() if l.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def execute(path, args, timeout):
    """Standard output of a program that ended well."""
    argv = [os.path.join(".", path) if os.sep not in path else path, *args]
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=timeout, check=False)
    except OSError as e:
        raise Failure(f"{path}: cannot be run: {e.strerror}") from e
    except subprocess.TimeoutExpired as e:
        raise Failure(f"{path}: stopped after {timeout} s; --timeout gives it more") from e
    out, err = (b.decode("utf-8", "replace") for b in (p.stdout, p.stderr))
    if p.returncode < 0:
        name = signal.Signals(-p.returncode).name
        cure = last_line(err)
        if name == "SIGILL":
            cure = "it was built for instructions that this processor does not have"
        raise Failure(f"{path}: killed by {name}: {cure}")
    if p.returncode:
        raise Failure(f"{path} {shlex.join(args)}: exit code {p.returncode}: {last_line(err)}")
    return out


def run_plumb(a):
    """plumb bench's object, and {(kind, tokens, context): timings}."""
    args = ["bench", "--json", "-m", a.model, "-t", str(a.threads), "-r", str(a.runs), "-p",
            ",".join(map(str, a.prompt or [0])), "-n", ",".join(map(str, a.gen or [0])),
            "--context", ",".join(map(str, a.context))]
    if a.cpu_isa:
        args += ["--cpu-isa", a.cpu_isa]
    out = execute(a.plumb, args + a.plumb_args, a.timeout)
    try:
        j = json.loads(out)
        times = {(kind, r["tokens"], r["context"]): [float(s) for s in r["samples"]]
                 for kind in ("prefill", "decode") for r in j[kind]}
    except (ValueError, KeyError, TypeError) as e:
        raise Failure(f"{a.plumb}: `bench --json` did not print what this script knows "
                      f"({type(e).__name__}: {e}); is it of the same version?") from e
    return j, times


def find_context_flag(peer, timeout):
    """How the peer takes a context: both ways are in use among llama-bench's descendants."""
    said = execute(peer.path, ["--help"], timeout)
    for flag in ("-gp", "--n-depth"):
        if f"{flag} " in said:
            peer.context_flag = flag
            return
    raise Failure(f"{peer.path}: its --help names neither -gp nor --n-depth, so it cannot decode "
                  "after a context; measure it with --context 0")


def peer_calls(a, peer):
    """The argument lists of one round: a context other than 0 is a call of its own, so that no
    prefill is measured behind one."""
    def numbers(list_): return ",".join(map(str, list_ or [0]))
    plain = a.gen if 0 in a.context else []
    if a.prompt or plain:
        yield ["-p", numbers(a.prompt), "-n", numbers(plain)]
    for context in [c for c in a.context if c and a.gen]:
        if peer.context_flag == "-gp":
            pairs = [word for n in a.gen for word in ("-gp", f"{context},{n}")]
            yield ["-p", "0", "-n", "0", *pairs]
        else:
            yield ["-p", "0", "-n", numbers(a.gen), "-d", str(context)]


def read_rows(peer, out, threads):
    """{(kind, tokens, context): timings} of llama-bench's array, which other lines may surround."""
    rows = None
    try:
        rows = json.loads(out[out.index("["):out.rindex("]") + 1])
        times = {}
        for r in rows:
            if r.get("n_threads", threads) != threads:
                raise Failure(f"{peer.path}: ran with {r['n_threads']} threads, not {threads}; "
                              "look at its --peer-args")
            n, gen = int(r["n_prompt"]), int(r["n_gen"])
            key = ("decode", gen, n + int(r.get("n_depth", 0))) if gen else ("prefill", n, 0)
            times[key] = [float(s) for s in r.get("samples_ts") or [r["avg_ts"]]]
            for speed in times[key]:
                if not 0 < speed < float("inf"):
                    raise ValueError(f"a speed of {speed}")
            peer.build = f"{r.get('build_commit', 'unknown')} ({r.get('build_number', '?')})"
            peer.cpu = r.get("cpu_info")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Failure(f"{peer.path}: not llama-bench's JSON ({type(e).__name__}: {e}); it began: "
                      f"'{out.strip()[:60]}'") from e
    return times


def run_peer(a, peer):
    times = {}
    for call in peer_calls(a, peer):
        args = ["-m", a.model, "-t", str(a.threads), "-r", str(a.runs), *call, "-o", "json"]
        times.update(read_rows(peer, execute(peer.path, args + peer.args, a.timeout), a.threads))
    return times


def measure(a, tests):
    """Plumb's objects, and for each program its timings, round by round."""
    objects, rounds = [], {name: [] for name in ["plumb"] + [p.name for p in a.peers]}
    for n in range(a.rounds):
        for who in [None] + a.peers:
            if sys.stderr.isatty():
                print(f"round {n + 1} of {a.rounds}: {who.name if who else 'plumb'}",
                      file=sys.stderr)
            if who:
                times = run_peer(a, who)
            else:
                j, times = run_plumb(a)
                objects.append(j)
            for test in tests:
                if test not in times:
                    path = who.path if who else a.plumb
                    raise Failure(f"{path}: printed no {test[0]} of {test[1]} tokens after "
                                  f"{test[2]}; look at its arguments")
            rounds[who.name if who else "plumb"].append(times)
    return objects, rounds


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(a, tests, objects, rounds):
    j = objects[0]
    reads = [o["read_gb_s"] for o in objects if o.get("read_gb_s")]
    result = {
        "model": a.model, "model_info": j.get("model_info"), "threads": a.threads,
        "rounds": a.rounds, "runs": a.runs, "order": list(rounds), "machine": j.get("machine"),
        "read_gb_s": reads,
        "plumb": {"path": a.plumb, "args": a.plumb_args, "build": j.get("build"),
                  "device": j.get("device"), "isa": j.get("isa")},
        "peers": [{"name": p.name, "path": p.path, "args": p.args, "build": p.build,
                   "cpu_info": p.cpu} for p in a.peers],
        "tests": [],
    }
    step_bytes = (j.get("model_info") or {}).get("decode_bytes", 0)
    for test in tests:
        kind, tokens, context = test
        row = {"test": kind, "tokens": tokens, "context": context, "programs": []}
        ours = [statistics.median(r[test]) for r in rounds["plumb"]]
        for name, of_rounds in rounds.items():
            samples = [r[test] for r in of_rounds]
            p = {"name": name, "tok_s": spread([s for r in samples for s in r]),
                 "round_medians": [statistics.median(s) for s in samples], "samples": samples}
            if name != "plumb":
                each = [x / y for x, y in zip(ours, p["round_medians"])]
                p["ratio"] = dict(spread(each), rounds=each)
            if kind == "decode" and step_bytes:
                p["gb_s"] = p["tok_s"]["median"] * step_bytes / 1e9
                p["share"] = p["gb_s"] / max(reads) if reads else None
            row["programs"].append(p)
        result["tests"].append(row)
    return result


def show(s):
    info = s["model_info"] or {}
    print(f"{s['model']}: {info.get('architecture')} {info.get('file_type')}; {s['threads']} "
          f"threads; {s['rounds']} rounds of {s['runs']} runs, in turn: {', '.join(s['order'])}")
    busy = ": other programs were running" if s["load_before"] > 0.5 else ""
    print(f"machine: {s['machine']}; load before {s['load_before']:.1f}{busy}")
    if s["read_gb_s"]:
        r = spread(s["read_gb_s"])
        print(f"memory reads {r['median']:.1f} GB/s ({r['min']:.1f} to {r['max']:.1f})")
    print(f"plumb: {s['plumb']['build']}; {s['plumb']['device']}")
    for p in s["peers"]:
        print(f"{p['name']}: build {p['build']}{' '.join(['', *p['args']])}; {p['cpu_info']}")
    width = max(len(n) for n in s["order"] + ["program"])
    print(f"\n{'test':<8} {'tokens':>6} {'context':>7}  {'program':<{width}} {'tok/s':>9} "
          f"{'min':>9} {'max':>9} {'GB/s':>6} {'share':>6}  plumb is x times as fast")
    for t in s["tests"]:
        head = f"{t['test']:<8} {t['tokens']:>6} {t['context']:>7}"
        for p in t["programs"]:
            v = p["tok_s"]
            line = (f"{head}  {p['name']:<{width}} {v['median']:>9.2f} {v['min']:>9.2f} "
                    f"{v['max']:>9.2f}")
            line += f" {p['gb_s']:>6.1f}" if "gb_s" in p else " " * 7
            line += f" {100 * p['share']:>4.0f} %" if p.get("share") else " " * 7
            if "ratio" in p:
                r = p["ratio"]
                line += f"  {r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})"
            print(line.rstrip())
            head = " " * len(head)


def main():
    a = read_args(sys.argv[1:])
    check_before(a)
    tests = [("prefill", n, 0) for n in a.prompt]
    tests += [("decode", n, c) for c in a.context for n in a.gen]
    if any(a.context) and a.gen:
        for peer in a.peers:
            find_context_flag(peer, a.timeout)
    load = os.getloadavg()[0]  # before, since our own programs make one
    s = summary(a, tests, *measure(a, tests))
    s["load_before"] = load
    show(s)
    if a.json:
        try:
            with open(a.json + ".tmp", "w", encoding="utf-8") as f:
                json.dump(s, f, indent=1)
                f.write("\n")
            os.replace(a.json + ".tmp", a.json)
        except OSError as e:
            raise Failure(f"--json {a.json}: {e.strerror}", 3) from e


if __name__ == "__main__":
    try:
        main()
    except Failure as e:
        print(f"bench-peer: {e}", file=sys.stderr)
        sys.exit(e.code)
    except KeyboardInterrupt:
        sys.exit(130)
