# shellcheck shell=bash
# Sourced by every script here: where the cache is, how its entries are named,
# how a step reports itself, how a failure is worded.

QEMU_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # for the script that sources this
CHECKOUT=$(dirname "$QEMU_DIR")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ravel
# chroot and others live where an ordinary user's PATH may not lead.
PATH=$PATH:/usr/sbin:/sbin
MIRROR=${RAVEL_MIRROR:-http://deb.debian.org/debian}
SUITE=trixie
mkdir -p "$CACHE/logs" "$CACHE/work"

fail() {
	printf 'ravel: %s\n' "$*" >&2
	exit 1
}

# A line for the person who waits. Steps run with stdout in a log; RAVEL_UI is
# the descriptor that still leads to the terminal.
say() {
	local start=''
	[ -n "${RAVEL_TTY:-}" ] && start=$'\r\e[K'
	printf '%s      %s\n' "$start" "$*" >&"${RAVEL_UI:-1}"
}

# The name of a cache entry: a hash of the files and words that made it.
# Comments do not count, so that rewording one does not rebuild anything.
key() {
	local item
	for item; do
		if [ -f "$item" ]; then
			sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' "$item"
		else
			printf '%s\n' "$item"
		fi
	done | sha256sum | cut -c1-12
}

# The version of the module, the tools and the packages.
version() {
	sed -n 's/^version = "\([^"]*\)"$/\1/p' "$CHECKOUT/tools/Cargo.toml"
}

# When that version was released, by debian/changelog: the time stamp of reproducible archives.
source_date_epoch() {
	date -u -d "$(sed -n 's/^ -- .*>  //p' "$CHECKOUT/debian/changelog" | head -n 1)" +%s
}

# Words from the archive (7.3.4-1~bpo13+1) as a file name that no makefile or
# shell will misread.
filename() {
	printf '%s' "${1//[^A-Za-z0-9.-]/_}"
}

# A scratch directory beside the finished entries, so that a finished one can be
# renamed into place whole: an entry that exists is complete.
scratch() {
	mktemp -d "$CACHE/work/$1.XXXXXX"
}

# Files of the build root and of userlands belong to several mapped users, which
# an ordinary user can delete only from inside a user namespace.
remove() {
	if [ "$(id -u)" = 0 ]; then
		rm -rf --one-file-system "$@"
	else
		unshare --user --map-root-user --map-auto rm -rf --one-file-system "$@"
	fi
}

root_dir() {
	printf '%s/root-%s' "$CACHE" "$(key "$QEMU_DIR/root" "$QEMU_DIR/base" "$MIRROR" "$SUITE")"
}

# Where packages are built.
deb_root_dir() {
	printf '%s/root-deb-%s' "$CACHE" "$(key "$QEMU_DIR/deb-root" "$QEMU_DIR/base" "$MIRROR" "$SUITE")"
}

# "release version" of the kernel that is built for when nobody asks for another.
default_kernel_file() {
	printf '%s.kernel' "$(root_dir)"
}

# Sets KREL (what uname -r says) and KVERSION (what the archive calls it) from
# KVER= or from the recorded choice.
select_kernel() {
	local file
	if [ -n "${KVER:-}" ]; then
		file=$(root_dir).kernel-$(filename "$KVER")
	else
		file=$(default_kernel_file)
	fi
	[ -f "$file" ] || fail "no kernel is chosen yet; run 'make' first"
	# shellcheck disable=SC2034 # for the script that sources this
	read -r KREL KVERSION <"$file"
}

source_dir() {
	printf '%s/linux-%s' "$CACHE" "$(filename "$KVERSION")"
}

metadata_dir() {
	printf '%s/metadata-%s-%s' "$CACHE" "$(filename "$KREL")" \
		"$(key "$QEMU_DIR/metadata" "$CHECKOUT/dkms/metadata" "$CHECKOUT/dkms/symbols" "$KREL" "$KVERSION" "$(root_dir)")"
}

image_file() {
	printf '%s/image-%s.raw' "$CACHE" \
		"$(key "$QEMU_DIR/image" "$QEMU_DIR/base" "$MIRROR" "$SUITE")"
}

vm_kernel_dir() {
	printf '%s/boot-%s-%s' "$CACHE" "$(filename "$KREL")" \
		"$(key "$QEMU_DIR/vm-kernel" "$QEMU_DIR/initrd" "$QEMU_DIR/guest-boot" \
			"$QEMU_DIR/guest-init" "$KREL" "$KVERSION" "$(root_dir)")"
}

# A kernel built for debugging, what the VM boots it from, and this checkout's
# module for it; FLAVOUR is "debug" or the name of another .config here.
debug_kernel_dir() { # FLAVOUR
	printf '%s/kernel-%s-%s-%s' "$CACHE" "$1" "$(filename "$KVERSION")" \
		"$(key "$QEMU_DIR/debug-kernel" "$QEMU_DIR/debug-make" "$QEMU_DIR/debug.config" \
			"$QEMU_DIR/$1.config" "$KVERSION" "$(root_dir)")"
}

debug_boot_dir() { # FLAVOUR
	printf '%s/boot-%s-%s' "$CACHE" "$1" \
		"$(key "$QEMU_DIR/debug-boot" "$QEMU_DIR/vm-layout" "$QEMU_DIR/initrd" "$QEMU_DIR/guest-boot" \
			"$QEMU_DIR/guest-init" "$(debug_kernel_dir "$1")")"
}

debug_objects_dir() { # FLAVOUR
	printf '%s/objects-%s' "$CACHE" "$(key "$CHECKOUT" "$(debug_kernel_dir "$1")")"
}

# The kernel's own tests, by subject.
peers_dir() {
	printf '%s/peers-%s' "$CACHE" "$(key "$QEMU_DIR/peers" "$(root_dir)")"
}

selftests_dir() {
	printf '%s/selftests-%s-%s' "$CACHE" "$(filename "$KVERSION")" \
		"$(key "$QEMU_DIR/selftests" "$KVERSION" "$(root_dir)")"
}

# What came of the tests on the chosen kernel, or why it was rejected: one line.
kernel_record() {
	mkdir -p "$CACHE/archive/results"
	printf '%s/archive/results/%s-%s' "$CACHE" "$(filename "$KREL")" "$(filename "$KVERSION")"
}

# The C compiler that a kernel was built with, by the configuration in its output folder.
kernel_cc() { # DIR
	sed -n 's/^CONFIG_CC_VERSION_TEXT="\([^ "]*\).*/\1/p' "$1/.config"
}

# What a path in the cache is called inside the build root.
inside() {
	printf '/cache%s' "${1#"$CACHE"}"
}

elapsed() {
	local s=$1
	if [ "$s" -ge 60 ]; then
		printf '%dm%02ds' $((s / 60)) $((s % 60))
	else
		printf '%ds' "$s"
	fi
}

# step LABEL TITLE COMMAND...: run it with its output in a log, show that time
# passes, and on failure show the end of the log.
step() {
	local label=$1 title=$2 log begin now frame=0 pid rc=0 announced='' wheel=('|' / - \\)
	shift 2
	log=$CACHE/logs/$(filename "$title").log
	begin=$SECONDS
	[ -t 1 ] && export RAVEL_TTY=1
	exec 9>&1
	RAVEL_UI=9 "$@" >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		now=$((SECONDS - begin))
		if [ -n "${RAVEL_TTY:-}" ]; then
			printf '\r\e[K[%s] %s %s %s' "$label" "$title" "${wheel[frame++ % 4]}" "$(elapsed "$now")"
		elif [ "$now" -ge 2 ] && [ -z "$announced" ]; then
			printf '[%s] %s ...\n' "$label" "$title"
			announced=1
		fi
		sleep 0.2
	done
	wait "$pid" || rc=$?
	exec 9>&-
	[ -n "${RAVEL_TTY:-}" ] && printf '\r\e[K'
	if [ "$rc" != 0 ]; then
		printf '[%s] %s ... failed after %s\n' "$label" "$title" "$(elapsed $((SECONDS - begin)))"
		tail -n "${RAVEL_TAIL:-30}" "$log" | sed 's/^/      /'
		printf '      The whole log: %s\n' "$log"
		return "$rc"
	fi
	printf '[%s] %s ... %s\n' "$label" "$title" "$(elapsed $((SECONDS - begin)))"
}
