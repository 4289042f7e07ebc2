#!/bin/bash
# The first process of a test machine: mounts what a node has, runs what /etc/orders says, and turns the machine off.
# Lines that begin with @@ are for `cargo xtask vm`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp RUST_TEST_THREADS=1
export IMDS_GUARD_ATTACK_TABLE=/tmp/attacks.jsonl
# Of all kinds the two that most pods are of; all of them are tested on the machine itself.
export IMDS_GUARD_ATTACK_PODS='pod-default host-default'

bb() { busybox "$@"; }
bb mount -t devtmpfs none /dev
bb mount -t proc none /proc
bb mount -t sysfs none /sys
bb mount -t tmpfs none /tmp
bb mount -t tmpfs none /run
bb mount -t cgroup2 none /sys/fs/cgroup
bb mount -t bpf none /sys/fs/bpf
bb mount -t tracefs none /sys/kernel/tracing
bb mount -t securityfs none /sys/kernel/security
bb ln -s /proc/self/fd /dev/fd
ip link set lo up
# Together; those that this kernel has not are passed over.
modprobe --all --quiet $(cat /etc/modules)

echo "@@ kernel $(uname -r)"
while read -r name arguments; do
    echo "@@ begin $name"
    # shellcheck disable=SC2086 # several arguments
    "/guard/deps/$name" --nocapture $arguments 2>&1 </dev/null
    echo "@@ end $name $?"
done </etc/orders
if [ -s "$IMDS_GUARD_ATTACK_TABLE" ]; then
    while read -r line; do echo "@@ attack $line"; done <"$IMDS_GUARD_ATTACK_TABLE"
fi
bb dmesg | bb grep -E 'BUG:|Oops|general protection|Call Trace' | while read -r line; do echo "@@ complaint $line"; done
echo "@@ done"
bb poweroff -f
