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

left_out() {
    echo "$1" >&2
    echo "$1"
    exit 77
}

# Suite, the version of Go that its quic-go is packaged for, and the tag of what that version's interface is.
case $version in
0.29) suite=bookworm go=1.19 tag=quic029 ;;
0.46) suite=bookworm-backports go=1.23 tag= ;;
0.50) suite=trixie go=1.24 tag= ;;
0.59) suite=trixie-backports go=1.27 tag= ;;
*)
    echo "no suite is known to have quic-go $version" >&2
    exit 2
    ;;
esac

hash=$(cat "$sources"/*.go "$sources/build.sh" | sha256sum | cut -c -16)
program=$out/$version-$hash
if [ -x "$program" ]; then
    echo "$program"
    exit
fi

# The part before /dists of the mirror that this machine's apt uses.
mirror=${OBSERVER_VM_MIRROR:-$(
    cat /etc/apt/sources.list.d/* /etc/apt/sources.list 2>/dev/null |
        sed -n '/^deb /p; /^URIs:/p' | tr ' ' '\n' | sed 's,/*$,,' | grep '://.*/debian$' | head -n 1
)}
[ -n "$mirror" ] || left_out "this machine's apt has no source of Debian: name a mirror in OBSERVER_VM_MIRROR"

echo "building a QUIC program with quic-go $version" >&2
state=$(mktemp -d "$out/XXXXXX")
trap 'rm -rf "$state"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/root"
# Nothing is installed there, so apt names every dependency.
: >"$state/status"
: >"$state/sources.list"
# Backports take their dependencies from the release.
for name in $(printf '%s\n' "${suite%-backports}" "$suite" | uniq); do
    echo "deb [arch=$(dpkg --print-architecture)] $mirror $name main" >>"$state/sources.list"
done
cat >"$state/apt.conf" <<EOF
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::Lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state/cache";
APT::Sandbox::User "root";
APT::Default-Release "$suite";
APT::Install-Recommends "false";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Debug::NoLocking "true";
EOF
export APT_CONFIG="$state/apt.conf" LC_ALL=C
apt-get update -qq -o APT::Update::Error-Mode=any >&2 || left_out "the mirror cannot be read, or has no $suite"
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
