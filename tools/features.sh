#!/bin/sh
# Asks a compiler which optional libraries it can link: prints makefile variables, and on stderr one
# line for each package that is missing. The arguments are the compiler and its flags.
#
# A static library is preferred, so that a copied `plumb` runs where the package is not installed.
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
compiler=$*

# links SOURCE LIBRARY...
links() {
    printf '%b\n' "$1" >"$dir/try.c"
    shift
    $compiler -o "$dir/try" "$dir/try.c" "$@" >/dev/null 2>&1
}

# look NAME SOURCE STATIC SHARED MISSING: the libraries as words
look() {
    for libs in "$3" "$4"; do
        # shellcheck disable=SC2086
        if links "$2" $libs; then
            printf 'HAVE_%s := 1\nLIBS_%s := %s\n' "$1" "$1" "$libs"
            return
        fi
    done
    printf 'HAVE_%s :=\n' "$1"
    if [ -n "$5" ]; then echo "$5" >&2; fi
}

links '#include <stdio.h>\nint main(void) { return puts("") < 0; }' || exit 1
echo 'COMPILER_WORKS := 1'
look PCRE2 '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <pcre2.h>\nint main(void) { return pcre2_config(PCRE2_CONFIG_JIT, 0); }' \
    -l:libpcre2-8.a -lpcre2-8 \
    'libpcre2-dev is not installed: no byte-level BPE tokenizers (Llama 3, Qwen, SmolLM)'
look JANSSON '#include <jansson.h>\nint main(void) { return !json_object(); }' \
    -l:libjansson.a -ljansson \
    'libjansson-dev is not installed: no --json output, no /save and /load in a chat'
look LIBEDIT '#include <histedit.h>\nint main(void) { return !history_init(); }' \
    '-l:libedit.a -l:libbsd.a -l:libmd.a -l:libtinfo.a' -ledit \
    'libedit-dev is not installed: chat without line editing and history'
look CMOCKA '#include <stdarg.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <setjmp.h>\n#include <cmocka.h>\nint main(void) { cmocka_set_message_output(CM_OUTPUT_TAP); return 0; }' \
    -lcmocka -lcmocka ''

# The simulated Metal of the tests: Objective-C with GNUstep, and C++ for OpenCL. clang alone has both
# (the headers of the runtime are gcc's).
objc='-fobjc-runtime=gcc -fno-objc-arc -fexceptions -fobjc-exceptions'
objc="$objc -fconstant-string-class=NSConstantString -isystem /usr/include/GNUstep"
objc="$objc -idirafter $(gcc -print-file-name=include 2>/dev/null)"
printf '#import <Foundation/Foundation.h>\nint main(void) { @autoreleasepool { return (int)@"".length; } }' >"$dir/try.m"
echo 'kernel void k(__global float *x) { x[0] = 0; }' >"$dir/try.cl"
# shellcheck disable=SC2086
if clang $objc -o "$dir/try" "$dir/try.m" -lgnustep-base -lobjc >/dev/null 2>&1 &&
    clang -x cl -cl-std=clc++ -cl-no-stdinc -fPIC -shared -o "$dir/try.so" "$dir/try.cl" \
        >/dev/null 2>&1; then
    printf 'HAVE_METAL_SIM := 1\nLIBS_METAL_SIM := -lgnustep-base -lobjc\nOBJC_FLAGS := %s\n' "$objc"
else
    echo 'HAVE_METAL_SIM :='
fi
