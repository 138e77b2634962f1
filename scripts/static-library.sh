#!/bin/sh
# static-library.sh IN.a OUT.a HEADER: makes of cargo's static library one that lends its host only the functions of the
# header. Everything else in it, llama.cpp and ggml above all, becomes local, so that the host may carry its own copies.
#
# Needs GNU binutils (LD, OBJCOPY, AR name others). On macOS, Apple's ld does the same; that branch is untested.
set -eu
in=$1 out=$2 header=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -oE '\<tgv_[a-z0-9_]+\(' "$header" | tr -d '(' | sort -u >"$work/functions"

if [ "$(uname -s)" = Darwin ]; then
    sed 's/^/_/' "$work/functions" >"$work/exported"
    roots=$(sed 's/^/-u /' "$work/exported")
    # shellcheck disable=SC2086 # a list of options
    ${LD:-ld} -r $roots -exported_symbols_list "$work/exported" "$in" -o "$work/tinygptv.o"
else
    roots=$(sed 's/^/-u /' "$work/functions")
    # As build.rs has it for the shared library.
    wraps=$(printf -- '--wrap=%s ' malloc calloc realloc free posix_memalign aligned_alloc \
        __cxa_thread_atexit_impl)
    # One object of all that the functions need. COMDAT groups are dissolved: the linker would drop ours for the host's of
    # the same name and leave our local symbols without their code.
    # shellcheck disable=SC2086
    ${LD:-ld} -r --gc-sections --force-group-allocation $wraps $roots "$in" -o "$work/all.o"
    # GNU's unique symbols are spared by --keep-global-symbols, weak ones are not. The sections hold LLVM bitcode of Rust's
    # standard library, which some versions of nm and ar stumble over.
    ${OBJCOPY:-objcopy} --strip-unneeded -R .llvmbc -R .llvmcmd --wildcard --weaken-symbol='_Z*' "$work/all.o"
    ${OBJCOPY:-objcopy} --keep-global-symbols="$work/functions" "$work/all.o" "$work/tinygptv.o"
fi

rm -f "$out"
${AR:-ar} rcs "$out" "$work/tinygptv.o"
