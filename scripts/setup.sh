#!/bin/sh
# Installs what the build and its tests need and the machine lacks: a C and C++ compiler, cmake, libclang (for bindgen),
# pkg-config; and for every two arguments, a command and the packages that have it: setup.sh [COMMAND PACKAGES]...
# Does nothing, and needs no rights and no network, where all of it is there.
set -eu

missing=""
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }

need cc gcc
need c++ g++
need cmake cmake
need pkg-config pkg-config
while [ $# -ge 2 ]; do
    need "$1" "$2"
    shift 2
done
# libclang-cpp, which some other package may have brought, is not it.
if [ -z "${LIBCLANG_PATH:-}" ] && ! ldconfig -p 2>/dev/null | grep -q 'libclang[-.0-9]*\.so' &&
    ! ls /usr/lib/llvm-*/lib/ 2>/dev/null | grep -q '^libclang[-.0-9]*\.so'; then
    missing="$missing libclang-dev"
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: Rust is missing; install it (see rust-lang.org) and run this again" >&2
    exit 1
fi
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: please install:$missing" >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
    sudo="sudo"
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list of package names
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
