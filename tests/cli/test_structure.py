"""The law of dependencies and the ceilings hold (tools/check-arrows.py); the man page is complete."""
import importlib.util
import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
spec = importlib.util.spec_from_file_location("arrows", os.path.join(ROOT, "tools/check-arrows.py"))
arrows = importlib.util.module_from_spec(spec)
spec.loader.exec_module(arrows)


def broken_laws():
    """What the checker must say about files that break the law, so that its silence means something."""
    cases = [
        ("backend/cpu/cpu.c", '#include "engine/forward.h"', "backend may not include engine"),
        ("backend/cpu/cpu.c", '#include "backend/gpu/gpu.h"', "belongs to backend/gpu alone"),
        ("backend/cpu/cpu.c", '#include "backend/cpu/cpu.h"', None),
        ("backend/backend.c", '#include "backend/cpu/cpu.h"', None),
        ("base/file.c", '#include "formats/gguf.h"', "base may not include formats"),
        ("oracle/oracle.c", '  #  include "backend/backend.h"', "oracle may not include backend"),
        ("oracle/oracle.c", '#include "engine/rope.h"', "oracle may not include engine"),
        ("engine/plumb.c", '#include "oracle/oracle.h"', "engine may not include oracle"),
        ("engine/plumb.c", '#include "plumb.h"', None),
        ("model/model.c", '#include "plumb.h"', "model may not include plumb.h"),
        ("model/model.c", '#include <base/file.h>', "one of ours"),
        ("model/model.c", '#include "model.h"', "neither from src/"),
        ("attic/old.c", "", "does not know"),
        ("cli/json.c", "#ifdef HAVE_JANSSON", "write #if"),
        ("cli/json.c", "#if HAVE_JANSSON", None),
    ]
    for path, line, want in cases:
        said = " ".join(what for _, what in arrows.check_includes(path, [line]))
        if (want or "") not in said or (want is None and said):
            yield f"{path} with {line}: said '{said}', not '{want}'"
    body = ["static int f(int a,", "             int b) {"] + ["    a += b;"] * 99 + ["}"]
    sizes = [(["int x;"] * 800, None), (["int x;"] * 801, "801 lines"),
             (["x" * 100], None), (["x" * 101], "101 columns"),
             (body[:2] + body[4:], None), (body, "f has 102 lines"),
             (["enum { A = 1 };", "static const struct {", "    int a;", "} t[] = {", "    {1},", "};"]
              + body, "f has 102 lines")]
    for lines, want in sizes:
        said = " ".join(what for _, what in arrows.check_size("a.c", lines))
        if (want or "") not in said or (want is None and said):
            yield f"{len(lines)} lines: said '{said}', not '{want}'"


def missing_in_man():
    """Commands and options that the program knows and docs/plumb.1 does not name."""
    def read(path):
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            return f.read()

    man = read("docs/plumb.1").replace("\\-", "-")
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", man))
    cli = os.path.join(ROOT, "src/cli")
    known = {}
    for name in sorted(os.listdir(cli)):
        for names in re.findall(r'\{"(-[^"]*)", ARG_(?!IGNORE)', read(f"src/cli/{name}")):
            known[names] = name
    if len(known) < 40:
        yield f"only {len(known)} options found in src/cli: has their table another form now?"
    for names, where in known.items():
        if not named & set(names.split(", ")):  # one of the spellings will do
            yield f"{where}: {names}"
    for option in sorted(set(re.findall(r"--[a-z][a-z-]*", read("src/cli/help.c"))) - named):
        yield f"help.c: {option}"
    for command in re.findall(r'\{"(\w+)", cmd_\w+\}', read("src/cli/main.c")):
        if not re.search(rf"^\.B {command}$", man, re.M):
            yield f"main.c: {command}"


advice = []
results = arrows.check(advice)
results["the checker sees what is broken"] = list(broken_laws())
results["the man page names every command and option"] = list(missing_in_man())
print(f"1..{len(results)}")
for i, (name, errors) in enumerate(results.items(), 1):
    print(f"{'not ' if errors else ''}ok {i} - {name}")
    for line in errors:
        print("#", line)
for line in advice:
    print("# advice:", line)
