#!/bin/sh
# Runs in a guest with systemd: tries what an operator and a bad day do to the unit. Lines that begin with "@@ "
# are for the host.
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw -echo
cd /

ok() { echo "@@ ok $*"; }
failed() {
    echo "@@ FAILED $*"
    systemctl status --no-pager --full observer | tail -n 20
}
show() { systemctl show --value -p "$1" observer; }
# Waits until a command succeeds, for three minutes.
wait_for() {
    for _ in $(seq 180); do
        if eval "$1"; then return 0; fi
        sleep 1
    done
    return 1
}
# A step with a name: what must hold within three minutes.
step() {
    echo "@@ begin $1"
    if wait_for "$2"; then ok "$1"; else failed "$1"; fi
}
# Adds lines to the unit until the next call.
with() {
    mkdir -p /run/systemd/system/observer.service.d
    printf '[Unit]\nStartLimitBurst=100\n[Service]\n%b\n' "$1" >/run/systemd/system/observer.service.d/trial.conf
    systemctl daemon-reload
}
active() { [ "$(show ActiveState)" = active ]; }
another() { active && [ "$(show MainPID)" != "$pid" ] && [ "$(show MainPID)" -gt 1 ]; }

# Where the package is removed, its documents are.
document=/run/operations.md
cp /usr/share/doc/observer/docs/operations.md $document
# Runs the command of docs/operations.md that begins with these words, without the remark after it.
documented() {
    command=$(sed -n "s/^    \($1\)/\1/p" $document | sed 's/  .*//' | sort -u)
    [ "$(echo "$command" | grep -c .)" = 1 ] || echo "@@ FAILED not one command begins with $1" >/dev/ttyS1
    eval "$command"
}
# The lines of docs/operations.md for `systemctl edit` that have these words.
drop_in() {
    mkdir -p "/run/systemd/system/$1.service.d"
    awk -v RS= -v words="$2" 'index($0, words)' $document | sed 's/^    //' >"/run/systemd/system/$1.service.d/documented.conf"
    systemctl daemon-reload
}

echo "@@ paranoid $(cat /proc/sys/kernel/perf_event_paranoid)"
step "started at the boot" active
echo "@@ status $(show StatusText)"
pid=$(show MainPID)
step "is the user observer" '[ "$(ps -o user= -p $pid)" = observer ]'
step "confines itself by seccomp" 'journalctl -u observer | grep -q "seccomp filter installed"'
step "confines itself by Landlock" 'case $(uname -r) in 5.10.*) ;; *) journalctl -u observer | grep -q "Landlock restricts" ;; esac'
step "has a socket for its group" '[ "$(stat -c "%U %G %a" /run/observer/observer.sock)" = "observer observer 660" ]'
step "a member of the group may ask it" \
    'setpriv --reuid 65534 --regid observer --clear-groups observer doctor >/run/doctor; [ $? -lt 3 ]'
# A server that leaks descriptors.
(
    ulimit -n 256
    exec perl -MSocket -e '
        socket(my $listener, PF_INET, SOCK_STREAM, 0);
        listen($listener, 1);
        while (1) {
            socket(my $new, PF_INET, SOCK_STREAM, 0);
            push @leaked, $new;
            select(undef, undef, undef, 0.2);
        }'
) &
leak=$!
step "root is told of a leak" 'documented "observer doctor" | grep -q "fd-leak *perl"'
step "and so by the status" 'documented "systemctl status" | grep "Status:.*perl"'
step "and by the log" 'documented "journalctl -u observer OBSERVER_ANOMALY" | grep "perl"'
kill $leak
step "its log has priorities and fields" \
    'documented "journalctl -u observer -o json" | grep OBSERVER_TARGET | grep -c "\"PRIORITY\":\"6\""'

# The same report as root, in the sandbox of the unit, and without each of its capabilities.
echo "@@ begin hooks"
systemctl stop observer
# echo would interpret escapes in strings.
report() {
    if [ -s "$2" ]; then
        printf '@@ report %s %s\n' "$1" "$(tr -d '\n' <"$2")"
    else
        failed "no report of $1"
    fi
}
observer check --json >/run/root.json
report root /run/root.json
# Runs `check` as the unit, without a capability.
check_as_unit() {
    # If the unit does not start, the report before is not taken for its own.
    rm -f /run/unit.json
    sed -e 's/^Type=.*/Type=oneshot/' -e '/^WatchdogSec/d' -e '/^Restart/d' -e '/^ExecReload/d' \
        -e "/^[A-Za-z]*Capabilit/s/ *$1 */ /" \
        -e 's,^ExecStart=.*,ExecStart=/usr/bin/observer check --json,' \
        -e 's,^\[Service\],&\nStandardOutput=truncate:/run/unit.json,' \
        /lib/systemd/system/observer.service >/run/systemd/system/check.service
    systemctl daemon-reload
    systemctl start check || true
}
# The pattern fits nothing.
check_as_unit CAP_NONE
report unit /run/unit.json
for capability in CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH; do
    echo "@@ begin hooks without $capability"
    check_as_unit $capability
    report "$capability" /run/unit.json
done
# What docs/operations.md says to do where hooks are refused.
echo "@@ begin hooks with CAP_SYS_ADMIN"
drop_in check CapabilityBoundingSet=CAP_SYS_ADMIN
check_as_unit CAP_NONE
report privileged /run/unit.json
rm -r /run/systemd/system/check.service.d
echo "@@ begin hooks with another perf_event_paranoid"
paranoid=$(cat /proc/sys/kernel/perf_event_paranoid)
documented "sysctl kernel.perf_event_paranoid"
check_as_unit CAP_NONE
report sysctl /run/unit.json
sysctl -q kernel.perf_event_paranoid="$paranoid"
step "starts again" 'systemctl start observer'

with 'RestartSec=1'
pid=$(show MainPID)
systemctl kill -s KILL observer
step "is restarted after SIGKILL" another

with 'RestartSec=1\nWatchdogSec=8'
systemctl restart observer
step "runs with a short watchdog" active
sleep 20
pid=$(show MainPID)
step "answers its watchdog" '[ "$(show NRestarts)" = 0 ]'
kill -STOP "$pid"
step "is restarted by its watchdog" another
step "the journal says why" 'journalctl -u observer | grep -qi watchdog'

with 'RestartSec=1'
systemctl restart observer
pid=$(show MainPID)
echo 'fd-batch = 0' >/etc/observer/observer.toml
documented "systemctl reload"
step "a bad configuration is in the status" 'show StatusText | grep -q "last reload failed"'
step "and in the log" 'documented "journalctl -u observer -p warning" | grep -q "fd-batch"'
step "and keeps the daemon running" 'active && ! another'
echo 'fd-batch = 9' >/etc/observer/observer.toml
documented "systemctl reload"
step "a good one takes its place" '! show StatusText | grep -q "last reload failed"'

dd if=/dev/zero of=/run/full bs=1M 2>/dev/null
systemctl restart observer
step "starts with a full disk" active
rm /run/full

with 'RestartSec=1\nMemoryMax=4M'
systemctl restart observer
step "is killed with too little memory" \
    'journalctl -u observer | grep -q "oom-kill"'
with 'RestartSec=1'
systemctl reset-failed observer
systemctl start observer
step "and runs again with enough" active

echo "@@ begin stop"
systemctl stop observer
step "ends cleanly" '[ "$(show Result)" = success ] && [ ! -e /run/observer ]'
# Packages come and go while systemd runs.
rm -r /run/systemd/system/observer.service.d
drop_in observer RestartSteps=
step "may wait longer after each restart" '[ "$(show RestartSteps)" = 5 ] || systemctl --version | grep -q "^systemd 252"'
rm -r /run/systemd/system/observer.service.d
systemctl daemon-reload
systemctl start observer
step "runs before the upgrade" active
upgraded() {
    another && ! kill -0 "$pid" && [ "$(dpkg-query -W -f "\${Version}" observer)" = "$(cat /newer.version)" ]
}
pid=$(show MainPID)
echo "@@ begin upgrade"
mkdir /run/upgrade && cd /run/upgrade
cp /newer.deb observer_NEWER_amd64.deb
# If dpkg asks, it gets no answer and fails.
documented "dpkg -i observer_NEWER" || failed "the upgrade by dpkg"
step "the upgrade starts the newer package" upgraded
step "and keeps the configuration" 'grep -qx "fd-batch = 9" /etc/observer/observer.toml'
# Otherwise dpkg would leave the file alone because the package did not change it.
dpkg-deb -R observer_NEWER_amd64.deb newer
echo "# Of a newer version." >>newer/etc/observer/observer.toml
dpkg-deb -Znone -b newer observer_NEWER_amd64.deb
rm -r newer
pid=$(show MainPID)
documented "dpkg --force-confold" || failed "the unattended upgrade by dpkg"
step "the unattended upgrade starts the newer package" upgraded
step "and keeps the configuration, too" 'grep -qx "fd-batch = 9" /etc/observer/observer.toml'
step "and shows how its own differs" 'documented diff | grep -qx "> # Of a newer version."'
cd /
rm -r /run/upgrade
echo "@@ begin removal"
# What apt asks is answered.
yes | documented "apt remove" || failed "the removal by apt"
step "the removal ends the daemon" '! pgrep -x observer'
step "and leaves its settings" '[ -e /etc/observer/observer.toml ]'
yes | documented "apt purge" || failed "the purge by apt"
step "the purge removes its user" '! getent passwd observer && ! getent group observer'
step "and its unit" '[ "$(show LoadState)" = not-found ]'
step "and every file" '[ ! -e /run/observer ] && [ -z "$(find / -xdev -name "*observer*")" ]'

echo "@@ begin tarball"
mkdir /run/tarball && cd /run/tarball
tar --strip-components=1 -xf /newer.tar
documented "cp -r usr etc"
documented systemd-sysusers
documented "systemctl daemon-reload"
documented "systemctl enable --now"
step "runs from the tarball" active
pid=$(show MainPID)
step "as its user" '[ "$(ps -o user= -p $pid)" = observer ]'

echo "@@ done"
sleep 1
systemctl poweroff --force --force
