#!/bin/sh
# Speed on this machine: a model of TinyLlama's shape with random weights, made once, no download.
#
#   tools/bench.sh build/plumb [options of `plumb bench`]
set -eu
plumb=$1
shift
model=$(dirname "$plumb")/tinyllama-1.1b-Q4_K_M.gguf
[ -f "$model" ] || "$plumb" synth --shape tinyllama-1.1b --type Q4_K_M -o "$model"
"$plumb" bench -m "$model" "$@"
