"""What the tests of the command line share: running plumb, TAP output, small GGUF files.

    from harness import *

    @test("prints the ids")
    def _():
        equal(plumb("tokenize", "--ids", "Hello"), "1 963\\n")

    run_tests()
"""
import json
import os
import struct
import subprocess
import sys
import tempfile
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLUMB = os.path.join(os.environ.get("PLUMB_BUILD") or os.path.join(ROOT, "build"), "plumb")
GOLDEN = os.path.join(ROOT, "tests", "golden")
SHARED = os.path.join(os.path.dirname(ROOT), "shared")
DEMO = os.path.join(ROOT, "models", "demo.gguf")
DEMO_F16 = os.path.join(GOLDEN, "models", "demo-f16.gguf")
STORIES = os.path.join(GOLDEN, "ppl-stories.txt")

_tests = []
_tmp = None


class Skip(Exception):
    pass


def skip(why):
    raise Skip(why)


def test(name):
    def keep(function):
        _tests.append((name, function))
        return function
    return keep


def tmp(name):
    """A path in a folder that lives as long as this run."""
    global _tmp
    _tmp = _tmp or tempfile.TemporaryDirectory(prefix="plumb-test-")
    return os.path.join(_tmp.name, name)


def shared(*path):
    """A file beside the checkout; the test is skipped where it is missing."""
    full = os.path.join(SHARED, *path)
    if not os.path.exists(full):
        skip(f"../shared/{'/'.join(path)} is not there")
    return full


def run(*args, stdin=None, timeout=300):
    """(exit code, stdout, stderr), as bytes."""
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    p = subprocess.run([PLUMB, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
                       timeout=timeout, **given)
    return p.returncode, p.stdout, p.stderr


def plumb(*args, stdin=None, code=0):
    """Standard output, as text; fails unless the exit code is `code`."""
    got, out, err = run(*args, stdin=stdin.encode() if isinstance(stdin, str) else stdin)
    what = f"plumb {' '.join(args)}: exit {got}, expected {code}\n{err.decode('utf-8', 'replace')}"
    assert got == code, what
    return out.decode("utf-8", "replace")


def fails(code, *args, says=(), stdin=None):
    """The command fails with `code`, one line on stderr that holds every text of `says`, and no output."""
    got, out, err = run(*args, stdin=stdin)
    err = err.decode("utf-8", "replace")
    assert got == code, f"plumb {' '.join(args)}: exit {got}, expected {code}\n{err}"
    lines = [l for l in err.splitlines() if "Sanitizer" not in l]
    assert len(lines) == 1 and lines[0].startswith("plumb: "), f"not one line: {err!r}"
    for text in [says] if isinstance(says, str) else says:
        assert text in err, f"{err!r} does not say {text!r}"
    assert out == b"", f"output besides the error: {out!r}"
    return err


def needs_terminal():
    """Skips the test where the system gives no pseudo-terminals (a bare container, say)."""
    try:
        for fd in os.openpty(): os.close(fd)
    except OSError as e:
        skip(f"no pseudo-terminal: {e}")


def has_json():
    code, _, err = run("backends", "--json")
    if code == 4 and b"jansson" in err:
        skip("this build has no JSON (libjansson-dev)")


def plumb_json(*args, stdin=None):
    has_json()
    return json.loads(plumb(*args, "--json", stdin=stdin))


def sanitized():
    """Is plumb built with the sanitizers, and so ten times slower?"""
    with open(PLUMB, "rb") as f:
        return b"__asan_init" in f.read()


def equal(a, b):
    assert a == b, f"{a!r} is not {b!r}"


def near(a, b, relative):
    assert abs(a - b) <= relative * abs(b), f"{a} is not within {100 * relative:g} % of {b}"


def check_usage(command, *needed):
    """What every command does: --help on stdout, an error for an option it does not have."""
    out = plumb(command, "--help")
    assert out.startswith(f"plumb {command}"), out
    assert len(out.splitlines()) <= 40 and all(len(l) <= 110 for l in out.splitlines())
    fails(2, command, "--no-such-option", says="unknown option --no-such-option")
    for option in needed:
        fails(2, command, option, says=f"{option} needs a value")


# --- small GGUF files -------------------------------------------------------------------------------

U32, F32, BOOL, STR, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def _string(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def _value(kind, v):
    if kind == STR: return _string(v)
    if kind == ARRAY:
        elem, items = v
        return struct.pack("<IQ", elem, len(items)) + b"".join(_value(elem, i) for i in items)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<B", U64: "<Q"}[kind], v)


def write_gguf(path, metadata, tensors=(), tail=b""):
    """metadata: (key, kind, value); tensors: (name, dims, floats), as F32."""
    align = next((v for k, _, v in metadata if k == "general.alignment"), 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, kind, v in metadata:
        head += _string(key) + struct.pack("<I", kind) + _value(kind, v)
    data = b""
    for name, dims, floats in tensors:
        data += b"\0" * (-len(data) % align)
        head += _string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        head += struct.pack("<IQ", 0, len(data))
        data += struct.pack(f"<{len(floats)}f", *floats)
    if tensors:
        head += b"\0" * (-len(head) % align)
        data += b"\0" * (-len(data) % align)
    with open(path, "wb") as f:
        f.write(head + data + tail)
    return path


def run_tests():
    failed = 0
    for i, (name, function) in enumerate(_tests, 1):
        try:
            function()
            print(f"ok {i} - {name}", flush=True)
        except Skip as e:
            print(f"ok {i} - {name} # skip {e}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {i} - {name}", flush=True)
            print("".join("# " + l + "\n" for l in traceback.format_exc().splitlines()), flush=True)
    print(f"1..{len(_tests)}")
    if _tmp:
        _tmp.cleanup()
    sys.exit(1 if failed else 0)
