#!/bin/sh
# Installs the library as systems have theirs: shared with a versioned name, static, headers, pkg-config and CMake files,
# manual pages, licences. The installed tree can be moved: its files find each other relative to themselves.
#
# Variables: PREFIX (/usr/local), DESTDIR (none; put in front of PREFIX, for packages), LIBDIR (lib; below PREFIX), BUILD
# (target/release; where cargo has put the libraries).
set -eu
umask 022
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-lib}
build=${BUILD:-target/release}

fail() {
    echo "install: $*" >&2
    exit 1
}
case $prefix in /*) ;; *) fail "PREFIX is '$prefix'; it must start with /" ;; esac
case $libdir in /* | *..*) fail "LIBDIR is '$libdir'; it must be a path below PREFIX, such as lib64" ;; esac
[ -f "$build/libtinygptv.a" ] || fail "$build/libtinygptv.a is not there: run 'cargo build --release', or set BUILD"
command -v python3 >/dev/null || fail "python3 is needed for the manual pages and the licences"

version=$(sed -n 's/^#define TGV_VERSION "\(.*\)"$/\1/p' include/tinygptv.h)
major=${version%%.*}
root=${DESTDIR:-}$prefix
lib=$root/$libdir
doc=$root/share/doc/tinygptv
# From the library folder back to the prefix.
up=$(printf '%s\n' "$libdir" | sed 's|/*$||; s|[^/][^/]*|..|g')

mkdir -p "$lib/pkgconfig" "$lib/cmake/tinygptv" "$root/include" "$root/share/man/man3" "$doc"

# put MODE FROM TO: a whole file or none, in place of one that programs may have open.
put() {
    cp "$2" "$3.new"
    chmod "$1" "$3.new"
    mv -f "$3.new" "$3"
}

if [ "$(uname -s)" = Darwin ]; then
    # Untested.
    file=libtinygptv.$version.dylib soname=libtinygptv.$major.dylib plain=libtinygptv.dylib
    put 755 "$build/$plain" "$lib/$file"
    install_name_tool -id "@rpath/$soname" "$lib/$file"
    private="-lc++ -lm"
else
    file=libtinygptv.so.$version soname=libtinygptv.so.$major plain=libtinygptv.so
    put 755 "$build/$plain" "$lib/$file"
    private="-lstdc++ -lm -ldl -lpthread"
fi
ln -sf "$file" "$lib/$soname"
ln -sf "$soname" "$lib/$plain"
sh scripts/static-library.sh "$build/libtinygptv.a" "$lib/libtinygptv.a" include/tinygptv.h

put 644 include/tinygptv.h "$root/include/tinygptv.h"
put 644 include/tinygptv.hpp "$root/include/tinygptv.hpp"

# @NAME@ in the templates.
fill() {
    sed -e "s|@VERSION@|$version|g" -e "s|@UP@|$up|g" -e "s|@PRIVATE_LIBS@|$private|g" -e "s|@SHARED@|$file|g" \
        -e "s|@SONAME@|$soname|g" "$1" >"$2"
}
fill cmake/tinygptv.pc.in "$lib/pkgconfig/tinygptv.pc"
fill cmake/tinygptvConfig.cmake.in "$lib/cmake/tinygptv/tinygptvConfig.cmake"
fill cmake/tinygptvConfigVersion.cmake.in "$lib/cmake/tinygptv/tinygptvConfigVersion.cmake"
put 644 cmake/tinygptvTargets.cmake "$lib/cmake/tinygptv/tinygptvTargets.cmake"

python3 scripts/manual-pages.py include/tinygptv.h "$root/share/man/man3"
put 644 LICENSE-MIT "$doc/LICENSE-MIT"
put 644 LICENSE-APACHE "$doc/LICENSE-APACHE"
python3 scripts/third-party-licenses.py "$doc/THIRD-PARTY-LICENSES"
echo "install: tinygptv $version is in $root"
