#!/bin/busybox sh
# The first process of the guest: sets up what a system has, loads modules, runs what is in
# /job and switches the machine off. Lines that begin with "@@ " are for the host.

/bin/busybox mkdir -p /bbin /dev /proc /sys /tmp /run /root /var/run /var/log /var/lib
/bin/busybox --install -s /bbin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/bbin HOME=/root TMPDIR=/tmp LC_ALL=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr

# The first serial port is the kernel's console; the second is the host's.
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1

hostname guest
ulimit -n 65536
sysctl -qw vm.panic_on_oom=0 kernel.watchdog_thresh=60 2>/dev/null
ip link set lo up
for module in /modules/*.ko; do
    [ -e "$module" ] || continue
    insmod "$module" || echo "@@ note insmod ${module##*/} failed"
done

export OBSERVER_BIN=/job/observer RUST_BACKTRACE=0
. /job/environment
. /job/part

echo "@@ release $(uname -r)"
# What goes wrong on purpose, to test the host: see fault.rs.
case $FAULT in
panic) echo c >/proc/sysrq-trigger ;;
lockup)
    sysctl -qw kernel.watchdog_thresh=1
    # An idle processor does not notice that it was stopped.
    for _ in 1 2 3 4; do
        while :; do :; done &
    done
    sleep 2
    echo "@@ stop"
    sleep 30
    ;;
silence) sleep 10000 ;;
esac

if [ -n "$CHECK" ]; then
    echo "@@ begin check"
    $OBSERVER_BIN check --json
    printf '\n@@ end check %s\n' $?
fi

cd /tmp
while read -r name timeout program args; do
    printf '\n@@ begin %s\n' "$name"
    # shellcheck disable=SC2086
    timeout -s KILL "$timeout" "/job/$program" $args --include-ignored --test-threads=1 \
        --nocapture $TEST_ARGS </dev/null
    printf '\n@@ end %s %s\n' "$name" "$?"
    # What a killed test left behind must not disturb the next.
    killall -q -9 observer python3 nginx strace
done </job/list
echo "@@ done"
# The serial port sends on for a moment.
sleep 1
poweroff -f
