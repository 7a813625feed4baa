#!/bin/sh
# Takes the web server Caddy of a suite of Debian out of its package.
#
#     caddy.sh FOLDER SUITE
#
# Prints the program's path. Exit status 77: it prints why there is none instead.
set -eu
sources=$(dirname "$(realpath "$0")")
mkdir -p "$1"
out=$(realpath "$1")
suite=$2
# shellcheck source-path=SCRIPTDIR
. "$sources/../debian.sh"

program=$out/caddy-$suite
if [ -x "$program" ]; then
    echo "$program"
    exit
fi

echo "getting Caddy of $suite" >&2
state=$(mktemp -d "$out/XXXXXX")
trap 'rm -rf "$state"' EXIT
trap 'exit 1' HUP INT TERM
apt_of "$suite" "$state"
(cd "$state/cache" && apt-get download -qq caddy >&2) || left_out "$suite has no Caddy"
dpkg -x "$state"/cache/caddy_*.deb "$state/root"
mv "$state/root/usr/bin/caddy" "$program"
echo "$program"
