#!/bin/sh
# Builds the listener of this folder with a version of Go, from packages of Debian, with an apt that has its own state below
# the output folder. Nothing is installed.
#
#     build.sh FOLDER VERSION
#
# Prints the program's path, which has a hash of what it is made of. Exit status 77: it prints why there is none instead.
set -eu
sources=$(dirname "$(realpath "$0")")
mkdir -p "$1"
out=$(realpath "$1")
version=$2
. "$sources/../debian.sh"

case $version in
1.24) suite=trixie ;;
*) suite=trixie-backports ;;
esac

# For guests and for the tests on this machine at once: the second one waits, and finds it.
exec 9>"$out/lock"
flock 9
hash=$(cat "$sources"/* "$sources/../debian.sh" | sha256sum | cut -c -16)
program=$out/$version-$hash
if [ -x "$program" ]; then
    echo "$program"
    exit
fi

echo "building a listener with Go $version" >&2
state=$(mktemp -d "$out/XXXXXX")
trap 'rm -rf "$state"' EXIT
trap 'exit 1' HUP INT TERM
apt_of "$suite" "$state"
(cd "$state/cache" && apt-get download -qq "golang-$version-go" "golang-$version-src" >&2) ||
    left_out "$suite has no Go $version"
for file in "$state"/cache/*.deb; do
    dpkg -x "$file" "$state/root"
done
# Without a go.mod, its defaults (GODEBUG) are those of the version of Go. The folder is on no path to one.
(
    cd "$sources"
    export GO111MODULE=on GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=
    export GOPATH="$state/gopath" GOROOT="$state/root/usr/lib/go-$version" GOCACHE="$state/gocache"
    "$GOROOT/bin/go" build -ldflags '-s -w' -o "$state/program" listener.go >&2
)
rm -f "$out/$version"-*
mv "$state/program" "$program"
echo "$program"
