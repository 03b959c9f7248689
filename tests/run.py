#!/usr/bin/env python3
"""Runs every test program, as many at once as there are cores, and counts.

A test program is BUILD/tests/test_* (cmocka, told to speak TAP) or tests/cli/test_*.py (TAP too). Any
argument is a substring of the names of the programs to run. The last line is
`N passed, N failed, N skipped`. Exit 1 when something failed or nothing ran.

What the programs find in their environment: PLUMB_BUILD, the build directory; PLUMB_CC, the compiler;
PLUMB_SANITIZE=1 in a sanitizer build, where loops over many random cases are cut short.
"""
import argparse
import concurrent.futures
import glob
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def execute(program, build, timeout):
    """The exit code (or what stopped the program) and all it printed."""
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP", PLUMB_BUILD=build, LC_ALL="C.UTF-8",
               UBSAN_OPTIONS="print_stacktrace=1",
               ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=1")
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        env.pop(name, None)  # a test that runs make runs its own
    argv = [sys.executable, program] if program.endswith(".py") else [program]
    try:
        p = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             start_new_session=True)
    except OSError as e:
        return f"not started: {e}", ""
    try:
        out, code = p.communicate(timeout=timeout)[0], p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)  # and what it started
        out, code = p.communicate()[0], f"none: stopped after {timeout:.0f} s"
    return code, out.decode("utf-8", "replace")


def run(program, build, timeout):
    start = time.time()
    code, out = execute(program, build, timeout)
    passed, failed, skipped, plan = 0, 0, [], None
    for line in out.splitlines():
        m = re.match(r"(not )?ok\b(.*)", line)
        if m and re.search(r"#\s*skip", m.group(2), re.I):
            skipped.append(m.group(2).strip(" -"))
        elif m and m.group(1):
            failed += 1
        elif m:
            passed += 1
        elif re.match(r"1\.\.\d+$", line):
            plan = (plan or 0) + int(line[3:])
    # A program that died, or ran another number of tests than it planned, failed once more.
    if (code != 0 and failed == 0) or plan is None or plan != passed + failed + len(skipped):
        failed += 1
    return dict(name=os.path.relpath(program, ROOT), code=code, out=out, passed=passed,
                failed=failed, skipped=skipped, seconds=time.time() - start)


def report(r):
    print(f"{'FAIL' if r['failed'] else 'ok  '} {r['name']}: {r['passed']} passed, "
          f"{r['failed']} failed, {len(r['skipped'])} skipped ({r['seconds']:.1f} s)")
    if r["failed"]:
        for line in [l for l in r["out"].splitlines() if not l.startswith("ok ")][-80:]:
            print("    " + line)
        print(f"    exit code {r['code']}")
    for s in r["skipped"]:
        print(f"    skipped: {s}")
    sys.stdout.flush()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--build", default="build")
    ap.add_argument("--jobs", type=int, default=cores())
    ap.add_argument("--timeout", type=float, default=600, help="seconds that one program may take")
    ap.add_argument("only", nargs="*", help="part of a program's name")
    a = ap.parse_args()

    build = os.path.join(ROOT, a.build)
    names = [os.path.basename(s)[:-2] for s in glob.glob(os.path.join(ROOT, "tests/unit/test_*.c"))]
    programs = sorted(os.path.join(build, "tests", n) for n in names)
    # On a simulated Metal, where that could be built; tests/cli/test_metal.py says where it could not.
    programs += sorted(glob.glob(os.path.join(build, "tests", "test_metal_*")))
    programs += sorted(glob.glob(os.path.join(ROOT, "tests/cli/test_*.py")))
    programs = [p for p in programs
                if not a.only or any(o in os.path.basename(p) for o in a.only)]
    if os.environ.get("PLUMB_SANITIZE"):
        print("under sanitizers: loops over many random cases are cut short")

    results, start = [], time.time()
    with concurrent.futures.ThreadPoolExecutor(max(a.jobs, 1)) as pool:
        futures = [pool.submit(run, p, build, a.timeout) for p in programs]
        for f in concurrent.futures.as_completed(futures):
            results.append(f.result())
            report(results[-1])
    passed = sum(r["passed"] for r in results)
    failed = sum(r["failed"] for r in results)
    print(f"{len(results)} programs in {time.time() - start:.0f} s")
    print(f"{passed} passed, {failed} failed, {sum(len(r['skipped']) for r in results)} skipped")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
