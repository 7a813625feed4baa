#!/bin/sh
# Builds the QUIC program of the tests against a version of quic-go, from packages of Debian, with an apt that has its own
# state below the output folder. Nothing is installed.
#
#     build.sh FOLDER VERSION
#
# Prints the program's path, which has a hash of what it is made of, so that it is built again when that changes. Exit status 77: it
# prints why there is none instead, because there is no mirror or no package.
set -eu
sources=$(dirname "$(realpath "$0")")
mkdir -p "$1"
out=$(realpath "$1")
version=$2
package=golang-github-lucas-clemente-quic-go-dev

. "$sources/../debian.sh"

# Suite, the version of Go that its quic-go is packaged for, and the tag of what that version's interface is.
case $version in
0.29) suite=bookworm go=1.19 tag=quic029 ;;
0.46) suite=bookworm-backports go=1.23 tag= ;;
0.50) suite=trixie go=1.24 tag= ;;
0.59) suite=trixie-backports go=1.27 tag= ;;
0.64) suite=experimental go=1.27 tag= ;;
*)
    echo "no suite is known to have quic-go $version" >&2
    exit 2
    ;;
esac

hash=$(cat "$sources"/*.go "$sources/build.sh" "$sources/../debian.sh" | sha256sum | cut -c -16)
program=$out/$version-$hash
if [ -x "$program" ]; then
    echo "$program"
    exit
fi

echo "building a QUIC program with quic-go $version" >&2
state=$(mktemp -d "$out/XXXXXX")
trap 'rm -rf "$state"' EXIT
trap 'exit 1' HUP INT TERM
apt_of "$suite" "$state"
simulated=$(apt-get install -s "$package" "golang-$go-go" "golang-$go-src") || left_out "$suite has no quic-go or no Go $go"
case $simulated in
*"Inst $package ($version."*) ;;
*) left_out "$suite has another version of quic-go than $version" ;;
esac
# Go's own libraries are all that is wanted of the dependencies.
names=$(printf '%s\n' "$simulated" | sed -n 's/^Inst \(golang-[^ ]*\) .*/\1/p')
# shellcheck disable=SC2086 # a list of names
(cd "$state/cache" && apt-get download -qq $names >&2)
for file in "$state"/cache/*.deb; do
    dpkg -x "$file" "$state/root"
done
(
    cd "$sources"
    export GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=
    export GOPATH="$state/root/usr/share/gocode" GOROOT="$state/root/usr/lib/go-$go" GOCACHE="$state/gocache"
    # Without the symbol table, as programs are often shipped.
    "$GOROOT/bin/go" build -ldflags '-s -w' -tags "$tag" -o "$state/program" . >&2
)
rm -f "$out/$version"-*
mv "$state/program" "$program"
echo "$program"
