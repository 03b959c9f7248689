#!/usr/bin/env python3
"""Holds src/ to the law of dependencies and to the ceilings. Prints what breaks them; exit 1 then.

    tools/check-arrows.py [--advice]      --advice: also what is allowed but large

Arrows go one way: cli -> server, verify -> engine, oracle -> model, backend -> formats -> base.
The oracle and the engine are two implementations that share nothing above formats/ and model/; one
backend knows nothing of another.
"""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What a room may include besides itself.
LAW = {
    "base": set(),
    "formats": {"base"},
    "model": {"formats", "base"},
    "backend": {"formats", "base"},
    "engine": {"plumb.h", "model", "backend", "formats", "base"},
    "oracle": {"model", "formats", "base"},
    "verify": {"engine", "oracle", "model", "backend", "formats", "base"},
    "server": {"engine", "model", "backend", "formats", "base"},
    "cli": {"plumb.h", "server", "verify", "engine", "oracle", "model", "backend", "formats",
            "base"},
}
FILE_LINES, HEADER_LINES, COLUMNS = 800, 200, 100
FUNCTION_LINES, FUNCTION_MOST = 80, 100  # advice over the first, an error over the second
COLUMNS_ARE_ADVICE = False  # until all of src/ is formatted


def check_includes(path, lines):
    """path: below src/, as backend/cpu/cpu.c"""
    parts = path.split("/")
    room = parts[0]
    if room not in LAW:
        yield 1, f"src/{room} is a room that the law of dependencies does not know"
        return
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*#\s*ifn?def\s+HAVE_|.*\bdefined\b\W*HAVE_", line):
            yield number, "HAVE_NAME is always defined, as 0 or 1: write #if HAVE_NAME"
        m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if not m:
            continue
        name = m.group(2)
        target = name.split("/")
        ours = name == "plumb.h" or target[0] in LAW
        if m.group(1) == "<":
            if ours:
                yield number, f"<{name}> is one of ours: write it with quotes"
        elif not ours:
            yield number, f'"{name}" is named neither from src/ nor from include/'
        elif target[0] != room and target[0] not in LAW[room]:
            yield number, f"{room} may not include {target[0]}: \"{name}\""
        elif len(target) > 2 and target[:-1] != parts[:-1]:
            # backend/NAME/ is that backend's own; backend/backend.c lists them all.
            if path != f"{room}/{room}.c":
                yield number, f'"{name}" belongs to {"/".join(target[:-1])} alone'


def functions(lines):
    """(name, first line, number of lines) of each function, laid out as clang-format does: the head
    starts in column 0 and ends with an open brace, a line that is a closing one ends the body."""
    number = 0
    while number < len(lines):
        start = number
        number += 1
        if not re.match(r"[A-Za-z_]", lines[start]):
            continue
        while not re.search(r"[{};]\s*(//.*|/\*.*)?$", lines[number - 1]) and number < len(lines):
            number += 1
        head = " ".join(lines[start:number])
        m = re.match(r"[^={;]*?(\w+)\([^={;]*\)[^={;]*\{\s*(//.*)?$", head)
        if m:
            while number < len(lines) and lines[number] != "}":
                number += 1
            number += 1
            yield m.group(1), start + 1, number - start


def check_size(path, lines):
    # backend/gpu/kernels*.h are sources, in a language of their own that no file includes.
    source = not path.endswith(".h") or os.path.basename(path).startswith("kernels")
    most = FILE_LINES if source else HEADER_LINES
    if len(lines) > most:
        yield len(lines), f"{len(lines)} lines, the ceiling is {most}: has it two jobs?"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            yield number, f"{len(line)} columns, the ceiling is {COLUMNS}"
    for name, start, n in functions(lines):
        if n > FUNCTION_MOST:
            yield start, f"{name} has {n} lines, the ceiling is {FUNCTION_MOST}"


def check_test_names():
    rules = [("tests/unit", r"test_\w+\.c|\w+\.h"), ("tests/cli", r"(test_\w+|harness)\.py"),
             ("tests/fuzz", r"fuzz_\w+\.c|\w+\.h")]
    for folder, pattern in rules:
        for path in sorted(glob.glob(os.path.join(ROOT, folder, "*"))):
            name = os.path.basename(path)
            if os.path.isfile(path) and not re.fullmatch(pattern, name):
                yield f"{folder}/{name}: the runner does not know files of this name ({pattern})"


def sources(*folders):
    for folder in folders:
        for base, dirs, names in os.walk(os.path.join(ROOT, folder)):
            dirs.sort()
            for name in sorted(names):
                if name.endswith((".c", ".h", ".m")):
                    yield os.path.relpath(os.path.join(base, name), ROOT)


def check(advice):
    """Lists of errors, by what they break, and of advice."""
    errors = {"includes": [], "sizes": [], "test names": list(check_test_names())}
    for path in sources("src", "include", "examples"):
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            lines = f.read().split("\n")[:-1]
        if path.startswith("src/"):
            errors["includes"] += [f"{path}:{n}: {what}"
                                   for n, what in check_includes(path[4:], lines)]
        for n, what in check_size(path, lines):
            if COLUMNS_ARE_ADVICE and "columns" in what:
                advice.append(f"{path}:{n}: {what}")
            elif path != "include/plumb.h" or "columns" in what:
                # The public interface is one header, however long.
                errors["sizes"].append(f"{path}:{n}: {what}")
        for name, start, n in functions(lines):
            if FUNCTION_LINES < n <= FUNCTION_MOST:
                advice.append(f"{path}:{start}: {name} has {n} lines; {FUNCTION_LINES} should do")
    return errors


def main():
    advice = []
    errors = check(advice)
    for lines in errors.values():
        for line in lines:
            print(line)
    if "--advice" in sys.argv[1:]:
        for line in advice:
            print("advice:", line)
    sys.exit(1 if any(errors.values()) else 0)


if __name__ == "__main__":
    main()
