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
step "its log has priorities and fields" \
    'journalctl -u observer -o json | grep OBSERVER_TARGET | grep -c "\"PRIORITY\":\"6\""'

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
systemctl reload observer
step "a bad configuration is in the status" 'show StatusText | grep -q "last reload failed"'
step "and keeps the daemon running" 'active && ! another'
echo 'fd-batch = 9' >/etc/observer/observer.toml
systemctl reload observer
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
systemctl daemon-reload
systemctl start observer
step "runs before the upgrade" active
pid=$(show MainPID)
echo "@@ begin upgrade"
# Otherwise dpkg would leave the file alone because the package did not change it.
dpkg-deb -R /newer.deb /run/newer
echo "# Of a newer version." >>/run/newer/etc/observer/observer.toml
dpkg-deb -Znone -b /run/newer /newer.deb
rm -r /run/newer
# If dpkg asks, it gets no answer and fails.
dpkg --force-confold -i /newer.deb || failed "the upgrade by dpkg"
step "the upgrade starts the newer package" \
    'another && ! kill -0 "$pid" && [ "$(dpkg-query -W -f "\${Version}" observer)" = "$(cat /newer.version)" ]'
step "and keeps the configuration" 'grep -qx "fd-batch = 9" /etc/observer/observer.toml'
step "and puts its own next to it" 'grep -qx "# Of a newer version." /etc/observer/observer.toml.dpkg-dist'
echo "@@ begin purge"
dpkg -P observer || failed "the purge by dpkg"
step "the purge ends the daemon" '! pgrep -x observer'
step "and removes its user" '! getent passwd observer && ! getent group observer'
step "and its unit" '[ "$(show LoadState)" = not-found ]'
step "and every file" '[ ! -e /run/observer ] && [ -z "$(find / -xdev -name "*observer*")" ]'

echo "@@ done"
sleep 1
systemctl poweroff --force --force
