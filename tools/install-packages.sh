#!/bin/sh
# Installs the Debian packages that something needs and this machine lacks:
#
#   tools/install-packages.sh demo | check | sanitizers
#
# Looks first, and leaves apt-get alone when nothing is missing. Without an optional package the
# build leaves something out (see README.md); exits 1 when one that is needed cannot be had.
set -u
say() { echo "install-packages: $*" >&2; }

needed='libc6-dev' optional='libpcre2-dev libjansson-dev libedit-dev'
case ${1:-} in
demo) ;;
check)
    needed="$needed libcmocka-dev python3" optional="$optional pkg-config"
    # A browser, for the tests of the pages that plumb makes.
    optional="$optional chromium chromium-driver python3-selenium"
    # A simulated Metal: its kernels and Objective-C, both compiled by clang.
    optional="$optional clang gobjc libgnustep-base-dev"
    # OpenCL on the processor.
    optional="$optional ocl-icd-libopencl1 pocl-opencl-icd"
    # Arm, compiled and emulated.
    optional="$optional gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
    ;;
# clang does not bring its sanitizers' runtime; llvm has the symbolizer that names a finding's lines.
sanitizers) needed="clang libclang-rt-14-dev" optional="llvm" ;;
*) say 'usage: tools/install-packages.sh demo | check | sanitizers' && exit 2 ;;
esac

there() {
    case $1 in
    python3 | clang | pkg-config) command -v "$1" >/dev/null && return 0 ;;
    esac
    dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}
missing() { for p in "$@"; do there "$p" || printf ' %s' "$p"; done; }

# shellcheck disable=SC2086
wanted=$(missing $needed $optional)
[ -n "$wanted" ] || exit 0

if ! command -v apt-get >/dev/null; then
    say "this system has no apt-get; it may lack what Debian calls$wanted"
    exit 0 # under another name it may be there: the build will tell
fi
if [ "$(id -u)" = 0 ]; then
    root=''
elif command -v sudo >/dev/null; then
    root='sudo'
    [ -t 0 ] || root='sudo -n' # nobody is there to type a password
else
    root='false'
    say 'not root, and there is no sudo: cannot install'
fi
apt() {
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 \
        -o DPkg::Lock::Timeout=120 "$@" </dev/null >&2
}

if [ "$root" != false ]; then
    say "installing$wanted"
    apt update || say 'apt-get update failed; trying with the package lists that are there'
    # shellcheck disable=SC2086
    apt install --no-install-recommends $wanted ||
        for p in $wanted; do apt install --no-install-recommends "$p" || say "cannot install $p"; done
fi

# shellcheck disable=SC2086
left=$(missing $optional)
[ -z "$left" ] || say "going on without$left (as root: apt-get install$left)"
# shellcheck disable=SC2086
left=$(missing $needed)
[ -z "$left" ] || { say "needed and missing:$left (as root: apt-get install$left)" && exit 1; }
