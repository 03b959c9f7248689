#!/bin/sh
# What bench/README.md says of GPUs, from one run on a machine that has one:
#
#   make && bench/gpu.sh build/plumb
#
# Proves each GPU backend that can run on the demo model (Q4_K_M, Q8_0, F16, and with caches of f32
# and q8_0) and on a model of TinyLlama's shape with random weights, then times that model.
set -u
plumb=${1:?usage: bench/gpu.sh PLUMB}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
status=0

"$plumb" backends
for type in Q4_K_M Q8_0 F16; do
    "$plumb" synth --shape tinyllama-1.1b --type $type -o "$dir/tinyllama-$type.gguf" 2>/dev/null
done

# prove NAME OPTION...: the report's sums, or all of it where something is wrong.
prove() {
    name=$1
    shift
    if "$plumb" verify "$@" >"$dir/report" 2>&1; then
        echo "$name: $(grep -E '^(components|paths) ' "$dir/report" | tr -s ' ' | tr '\n' ' ')" \
            "$(tail -n 1 "$dir/report" | sed 's/.*; //')"
    else
        status=1
        echo "$name: WRONG"
        cat "$dir/report"
    fi
}

for backend in cuda opencl metal; do
    "$plumb" backends | grep -A1 "^$backend " | grep -q "$backend:0" || continue
    echo
    prove "$backend, demo Q4_K_M" --backend $backend
    for model in tests/golden/models/demo-Q8_0.gguf tests/golden/models/demo-f16.gguf; do
        [ -f $model ] && prove "$backend, $(basename $model)" --backend $backend -m $model
    done
    prove "$backend, demo Q4_K_M, caches f32" --backend $backend -ctk f32 -ctv f32
    prove "$backend, demo Q4_K_M, caches q8_0" --backend $backend -ctk q8_0 -ctv q8_0
    for type in Q4_K_M Q8_0 F16; do
        prove "$backend, tinyllama $type" --backend $backend --quick -m "$dir/tinyllama-$type.gguf"
        "$plumb" bench --backend $backend -m "$dir/tinyllama-$type.gguf" -p 128,512 -n 128 \
            --context 0,1500 2>/dev/null | grep -E '^(prefill|decode)'
    done
done
exit $status
