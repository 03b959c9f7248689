"""Building and installing: what lands where, what the libraries export, a program against them, and
builds that lack the optional libraries."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CC = os.environ.get("PLUMB_CC", "gcc")
MODEL = os.path.join(ROOT, "models/demo.gguf")
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
VERSION = re.search(r"^VERSION := (.*)$", open(os.path.join(ROOT, "Makefile")).read(), re.M)[1]


class Skip(Exception):
    pass


def sh(*argv, stdin="", cwd=ROOT, code=0, **env):
    """stdout of a command; its failure is the test's."""
    p = subprocess.run(argv, cwd=cwd, env=dict(os.environ, **env), input=stdin, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.returncode == code, f"{' '.join(argv)}: exit {p.returncode}\n{p.stdout}{p.stderr}"
    sh.stderr = p.stderr
    return p.stdout


def make(build, *args):
    return sh("make", "--no-print-directory", "-j2", f"CC={CC}", "WERROR=1", f"BUILD={build}", *args)


def listing(root):
    return sorted(os.path.relpath(os.path.join(base, name), root)
                  for base, _, names in os.walk(root) for name in names)


FILES = sorted(["bin/plumb", "include/plumb.h", "lib/libplumb.a", "lib/libplumb.so",
                "lib/libplumb.so.0", f"lib/libplumb.so.{VERSION}", "lib/pkgconfig/plumb.pc",
                "share/doc/plumb/LICENSE", "share/doc/plumb/README.md", "share/man/man1/plumb.1"])


def check_names(folder):
    """plumb_* and nothing else is visible in both libraries, and all of plumb.h is."""
    header = open(os.path.join(ROOT, "include/plumb.h")).read()
    promised = set(re.findall(r"PLUMB_API [^;(]*?(plumb_\w+)\(", header))
    assert len(promised) > 20
    for argv in (["-D", "libplumb.so"], ["-g", "libplumb.a"]):
        out = sh("nm", "--defined-only", *argv, cwd=folder)
        names = {line.split()[2] for line in out.splitlines() if len(line.split()) == 3}
        assert names == promised, f"{argv}: {sorted(names ^ promised)}"


def names_exported(tmp):
    check_names(f"{tmp}/prefix/lib")
    dynamic = sh("objdump", "-p", f"{tmp}/prefix/lib/libplumb.so")
    assert re.search(r"SONAME +libplumb\.so\.0$", dynamic, re.M), dynamic
    needed = set(re.findall(r"NEEDED +(\S+?)\.so", dynamic))
    assert needed <= {"libc", "libm", "libpcre2-8", "ld-linux-x86-64", "ld-linux-aarch64"}, needed


def files_installed(tmp):
    assert listing(f"{tmp}/prefix") == FILES, listing(f"{tmp}/prefix")
    out = sh(f"{tmp}/prefix/bin/plumb", "run", "--temp", "0", QUESTION, cwd="/")
    assert out == ANSWER + "\n", out
    assert VERSION in sh(f"{tmp}/prefix/bin/plumb", "--version")


def destdir_and_uninstall(tmp):
    """DESTDIR goes before every path and into none of the files; uninstall leaves nothing."""
    where = ["PREFIX=/opt/a", f"DESTDIR={tmp}/stage"]
    make(f"{tmp}/build", "install", *where)
    assert listing(f"{tmp}/stage/opt/a") == FILES
    pc = open(f"{tmp}/stage/opt/a/lib/pkgconfig/plumb.pc").read()
    assert pc.startswith("prefix=/opt/a\nlibdir=${prefix}/lib\n") and "@" not in pc, pc
    make(f"{tmp}/build", "uninstall", *where)
    assert listing(f"{tmp}/stage") == [] and not os.path.exists(f"{tmp}/stage/opt/a/share/doc/plumb")
    make(f"{tmp}/build", "install", "PREFIX=/usr", "LIBDIR=/usr/lib/triplet", f"DESTDIR={tmp}/stage")
    assert "lib/triplet/libplumb.a" in listing(f"{tmp}/stage/usr")
    pc = open(f"{tmp}/stage/usr/lib/triplet/pkgconfig/plumb.pc").read()
    assert "prefix=/usr\nlibdir=${prefix}/lib/triplet\n" in pc, pc


def compile_example(tmp, name, *static):
    if not shutil.which("pkg-config"):
        raise Skip("pkg-config is not installed")
    flags = sh("pkg-config", "--cflags", "--libs", *static[:1], "plumb",
               PKG_CONFIG_PATH=f"{tmp}/prefix/lib/pkgconfig").split()
    sh(CC, "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "examples/chat.c", "-o",
       f"{tmp}/{name}", *flags, *static[1:])
    return f"{tmp}/{name}"


def chat(program, **env):
    out = sh(program, MODEL, stdin=f"{QUESTION}\n\nWhat is 7 + 8?\n", cwd="/", **env)
    lines = out.splitlines()
    assert lines[0] == ANSWER and len(lines) == 2 and "15" in lines[1], out


def example_shared(tmp):
    program = compile_example(tmp, "chat-shared")
    assert "libplumb.so.0" in sh("objdump", "-p", program)
    chat(program, LD_LIBRARY_PATH=f"{tmp}/prefix/lib")


def example_static(tmp):
    chat(compile_example(tmp, "chat-static", "--static", "-static"))


def example_errors(tmp):
    """What goes wrong is one line on stderr and the status of plumb.h as the exit code."""
    program = compile_example(tmp, "chat-errors", "--static", "-static")
    assert sh(program, code=2) == "" and sh.stderr.startswith("usage: ")
    assert sh(program, f"{tmp}/absent.gguf", code=3) == "" and sh.stderr.count("\n") == 1
    assert sh(program, os.path.join(ROOT, "LICENSE"), code=3) == "" and sh.stderr.count("\n") == 1
    assert sh(program, MODEL, stdin="") == "" and sh.stderr == ""


def bare_build(tmp):
    """Without any optional library: no warning, and the program works."""
    for cc in ("gcc", "clang"):
        if not shutil.which(cc):
            print(f"# {cc} is not installed: not tried")
            continue
        none = ["HAVE_PCRE2=", "HAVE_JANSSON=", "HAVE_LIBEDIT=", f"CC={cc}", "OPT=-O0"]
        make(f"{tmp}/bare", *none)
        assert "warning" not in sh.stderr, sh.stderr
        check_names(f"{tmp}/bare")
        assert sh(f"{tmp}/bare/plumb", "run", "--temp", "0", QUESTION) == ANSWER + "\n"
        linked = sh("objdump", "-p", f"{tmp}/bare/plumb")
        assert not re.search(r"NEEDED +lib(pcre2|jansson|edit)", linked), linked


def missing_packages(tmp):
    """Named once for a build directory, each with its price; a compiler that finds nothing is said so."""
    os.mkdir(f"{tmp}/cc")
    compiler = f"{tmp}/cc/blind"
    with open(compiler, "w") as f:  # finds no optional header
        f.write('#!/bin/sh\nfor a; do case $a in *.c) grep -qE "pcre2|jansson|histedit" "$a" && exit 1;; '
                f'esac; done\nexec {CC} "$@"\n')
    os.chmod(compiler, 0o755)
    args = ["make", "-n", f"CC={compiler}", f"BUILD={tmp}/blind"]
    sh(*args)
    for package in ("libpcre2-dev", "libjansson-dev", "libedit-dev"):
        assert sh.stderr.count(package) == 1, sh.stderr
    assert len(sh.stderr.splitlines()) == 3, sh.stderr
    sh(*args)
    assert sh.stderr == "", "said again: " + sh.stderr
    sh("make", "-n", "CC=/nowhere/cc", f"BUILD={tmp}/none", code=2)
    assert "/nowhere/cc cannot build a C program" in sh.stderr, sh.stderr


def warm_make(tmp):
    """Nothing is built twice; other flags build all again."""
    target = f"{tmp}/build/src/base/utf8.o"
    before = os.stat(target).st_mtime_ns
    make(f"{tmp}/build")
    assert os.stat(target).st_mtime_ns == before, "rebuilt for nothing"
    make(f"{tmp}/build", "CFLAGS=-DOTHER", target)
    assert os.stat(target).st_mtime_ns != before, "not rebuilt for other flags"


TESTS = [files_installed, names_exported, example_shared, example_static, example_errors,
         destdir_and_uninstall, warm_make, bare_build, missing_packages]


def main():
    if os.environ.get("PLUMB_SANITIZE"):
        print("1..1\nok 1 - installing # SKIP a sanitizer build is not for installing")
        return 0
    print(f"1..{len(TESTS)}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="plumb-install-") as tmp:
        make(f"{tmp}/build", "install", f"PREFIX={tmp}/prefix")
        for i, test in enumerate(TESTS, 1):
            try:
                test(tmp)
                print(f"ok {i} - {test.__name__}")
            except Skip as e:
                print(f"ok {i} - {test.__name__} # SKIP {e}")
            except Exception as e:
                failed += 1
                print(f"not ok {i} - {test.__name__}")
                print("\n".join("# " + line for line in f"{type(e).__name__}: {e}".splitlines()))
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
