#!/bin/sh
# From gibberish to its causes, as README.md walks it. PLUMB: the program; the argument: where the
# traces go (a folder of its own under /tmp without one).
set -u
plumb=${PLUMB:-plumb}
dir=${1:-$(mktemp -d /tmp/gibberish-XXXXXX)}
prompt="What is the capital of France?"

# What an engine with these faults writes (P1: the seven projections, L3: the head), then what verify
# says to that: 0 right, 5 wrong.
look() {
    echo "--- $1"
    "$plumb" trace --fault "$1" -p "$prompt" -o "$dir/$2.gguf" --force || exit 1
    "$plumb" verify --against "$dir/$2.gguf" --html "$dir/$2.html" >"$dir/$2.txt"
    [ $? -eq 5 ] || { cat "$dir/$2.txt"; echo "run.sh: $2: verify found nothing wrong"; exit 1; }
    sed -n '/^first/,$p' "$dir/$2.txt"
}

look P1,L3,F1,X3,T3,T4,T5 gibberish  # the engine as it was
look P1,L3,F1,X3 prompt              # its prompts mended
look F1,X3 products                  # its products too
look X3 activation                   # and the activation: what is left is the clipped residual
echo "traces and pages: $dir"
