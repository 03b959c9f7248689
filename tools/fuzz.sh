#!/bin/sh
# Runs every fuzzer in a directory for some seconds each:
#
#   tools/fuzz.sh build-fuzz/fuzz 60
#
# fuzz_NAME starts from the files in tests/corpus/NAME and from what earlier runs found. What makes it
# fail is left beside it; it becomes a file in tests/corpus/NAME together with the cure.
set -u
dir=$1 seconds=$2 failed=0 ran=0
for fuzzer in "$dir"/fuzz_*; do
    [ -x "$fuzzer" ] && [ -f "$fuzzer" ] || continue
    name=${fuzzer##*/fuzz_}
    found=$dir/found-$name seeds=tests/corpus/$name
    mkdir -p "$found"
    [ -d "$seeds" ] || seeds=
    echo "== fuzz_$name, $seconds s"
    # shellcheck disable=SC2086
    "$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -verbosity=0 -artifact_prefix="$dir/$name-" "$found" $seeds </dev/null ||
        { echo "fuzz_$name failed; the input is in $dir/$name-*" && failed=$((failed + 1)); }
    ran=$((ran + 1))
done
echo "$ran fuzzers, $failed failed"
[ $failed = 0 ] && [ $ran -gt 0 ]
