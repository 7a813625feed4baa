#!/bin/sh
# Builds the QUIC program of the tests against several versions of quic-go, from packages of Debian, with an apt that has
# its own state below the output folder. Nothing is installed.
#
#     build.sh FOLDER
#
# Each program is FOLDER/VERSION. What is there is not built again.
set -eu
sources=$(dirname "$(realpath "$0")")
mkdir -p "$1"
out=$(realpath "$1")
package=golang-github-lucas-clemente-quic-go-dev

# The part before /dists of the mirror that this machine's apt uses.
mirror=${OBSERVER_VM_MIRROR:-$(
    cat /etc/apt/sources.list.d/* /etc/apt/sources.list 2>/dev/null |
        sed -n '/^deb /p; /^URIs:/p' | tr ' ' '\n' | sed 's,/*$,,' | grep '://.*/debian$' | head -n 1
)}
if [ -z "$mirror" ]; then
    echo "this machine's apt has no source of Debian: name a mirror in OBSERVER_VM_MIRROR" >&2
    exit 1
fi

# build VERSION SUITE GO TAG: quic-go of the suite, with the version of Go that it is packaged for.
build() {
    version=$1 suite=$2 go=$3 tag=$4
    [ ! -x "$out/$version" ] || return 0
    state=$out/$version.state
    rm -rf "$state"
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
    apt-get update -qq -o APT::Update::Error-Mode=any
    # Go's own libraries are all that is wanted of the dependencies.
    names=$(apt-get install -s "$package" "golang-$go-go" "golang-$go-src" |
        sed -n 's/^Inst \(golang-[^ ]*\) .*/\1/p')
    # shellcheck disable=SC2086 # a list of names
    (cd "$state/cache" && apt-get download -q=1 $names)
    for file in "$state"/cache/*.deb; do
        dpkg -x "$file" "$state/root"
    done
    (
        cd "$sources"
        export GO111MODULE=off GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=
        export GOPATH="$state/root/usr/share/gocode" GOROOT="$state/root/usr/lib/go-$go" GOCACHE="$state/gocache"
        # Without the symbol table, as programs are often shipped.
        "$GOROOT/bin/go" build -ldflags '-s -w' -tags "$tag" -o "$state/program" .
    )
    mv "$state/program" "$out/$version"
    rm -rf "$state"
}

build 0.29 bookworm 1.19 quic029
build 0.46 bookworm-backports 1.23 ""
build 0.50 trixie 1.24 ""
build 0.59 trixie-backports 1.27 ""
