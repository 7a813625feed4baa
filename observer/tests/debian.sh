# Packages of a suite of Debian, by an apt that has its own state. Nothing is installed. Sourced by the scripts that get
# programs for tests; the exit status 77 says that a program cannot be had, and why is what was printed.

left_out() {
    echo "$1" >&2
    echo "$1"
    exit 77
}

# Has apt take packages from suite $1, with all its state in folder $2, to which packages are to be unpacked as $2/root.
apt_of() {
    # The part before /dists of the mirror that this machine's apt uses.
    mirror=${OBSERVER_VM_MIRROR:-$(
        cat /etc/apt/sources.list.d/* /etc/apt/sources.list 2>/dev/null |
            sed -n '/^deb /p; /^URIs:/p' | tr ' ' '\n' | sed 's,/*$,,' | grep '://.*/debian$' | head -n 1
    )}
    [ -n "$mirror" ] || left_out "this machine's apt has no source of Debian: name a mirror in OBSERVER_VM_MIRROR"
    mkdir -p "$2/lists/partial" "$2/cache/archives/partial" "$2/root"
    # Nothing is installed there, so apt names every dependency.
    : >"$2/status"
    : >"$2/sources.list"
    # Backports take their dependencies from the release, and experimental from unstable.
    case $1 in
    experimental) release=sid ;;
    *) release=${1%-backports} ;;
    esac
    for name in $(printf '%s\n' "$release" "$1" | uniq); do
        echo "deb [arch=$(dpkg --print-architecture)] $mirror $name main" >>"$2/sources.list"
    done
    cat >"$2/apt.conf" <<CONF
Dir::Etc::sourcelist "$2/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::Lists "$2/lists";
Dir::State::status "$2/status";
Dir::Cache "$2/cache";
APT::Sandbox::User "root";
APT::Default-Release "$1";
APT::Install-Recommends "false";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Debug::NoLocking "true";
CONF
    export APT_CONFIG="$2/apt.conf" LC_ALL=C
    apt-get update -qq -o APT::Update::Error-Mode=any >&2 || left_out "the mirror cannot be read, or has no $1"
}
