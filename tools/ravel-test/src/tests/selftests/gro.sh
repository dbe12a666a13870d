#!/bin/bash
# gro.sh PROGRAM PROTOCOL: the kernel's net/lib/gro between two network namespaces, as its driver
# drivers/net/gro.py runs it where GRO is the kernel's own; one line of TAP for each test.
program=$1 protocol=$2
near=gro-near-$$ far=gro-far-$$
ready=$(mktemp -u)
mkfifo "$ready"
exec 5<>"$ready"
trap 'ip netns del $near; ip netns del $far; rm -f "$ready"' EXIT
set -e
ip netns add "$near"
ip netns add "$far"
ip link add eth0 address 02:00:00:00:00:01 mtu 4096 netns "$near" type veth \
	peer name eth0 address 02:00:00:00:00:02 mtu 4096 netns "$far"
# ends: "address of near, address of far" of a version of IP.
ends4='192.0.2.1 192.0.2.2' ends6='2001:db8::1 2001:db8::2'
up() {
	ip -n "$1" address add "$2/24" dev eth0
	ip -n "$1" address add "$3/64" dev eth0 nodad
	ip -n "$1" link set eth0 up
}
up "$near" "${ends4% *}" "${ends6% *}"
up "$far" "${ends4#* }" "${ends6#* }"
# With GRO, veth receives by NAPI; and the kernel holds on to what it merges for 20 ms (there
# 0.2), as a slow machine has to. Between bursts are 100.
ip netns exec "$near" ethtool -K eth0 gro on
# From a device that takes large segments, it would not merge anything.
ip netns exec "$far" ethtool -K eth0 tso off
ip netns exec "$near" sh -c 'cd /sys/class/net/eth0 && echo 20000000 >gro_flush_timeout && echo 10 >napi_defer_hard_irqs'
set +e

version=${protocol: -1}
[ "$protocol" != ipip ] || version=4
ends=ends$version
# attempt TEST
attempt() {
	local receiver
	local args=("--$protocol" --dmac 02:00:00:00:00:01 --smac 02:00:00:00:00:02
		--daddr "${!ends% *}" --saddr "${!ends#* }" --test "$1")
	KSFT_READY_FD=5 ip netns exec "$near" "$program" "${args[@]}" --rx --iface eth0 &
	receiver=$!
	# It says so, unless it fails before.
	read -r -t 20 -u 5
	ip netns exec "$far" "$program" "${args[@]}" --iface eth0
	wait "$receiver"
}
tests=(data_same data_lrg_sml data_sml_lrg data_lrg_1byte data_burst ack
	flags_psh flags_syn flags_rst flags_urg flags_cwr tcp_csum tcp_seq tcp_ts tcp_opt
	ip_ecn ip_tos large_max large_rem)
only4=(ip_csum ip_ttl ip_opt ip_frag4 ip_id_df1_inc ip_id_df1_fixed ip_id_df0_inc
	ip_id_df0_fixed ip_id_df1_inc_fixed ip_id_df1_fixed_inc)
only6=(ip_frag6 ip_v6ext_same ip_v6ext_diff)
case $protocol in
ipv4 | ipip) tests+=("${only4[@]}") ;;
ipv6) tests+=("${only6[@]}") ;;
esac
n=0
for test in "${tests[@]}"; do
	n=$((n + 1)) verdict='not ok'
	# Packets that come too late are not merged: as there, it may take six attempts. 42 is that
	# too many were, which no delay explains.
	for _ in 1 2 3 4 5 6; do
		attempt "$test" >&2
		rc=$?
		[ $rc = 0 ] && verdict=ok
		[ $rc = 0 ] || [ $rc = 42 ] && break
	done
	echo "$verdict $n $test"
done
