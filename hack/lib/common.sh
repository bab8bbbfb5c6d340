# shellcheck shell=bash
# What every script under hack/ shares. Source it first:
#
#   source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib/common.sh"
#
# Words for people go to stderr, so that a script's stdout holds only its result.

set -euo pipefail
shopt -s inherit_errexit

[ "${BASH_VERSINFO[0]}" -ge 5 ] || {
  echo "error: bash $BASH_VERSION is too old; 5.0 or later is needed." >&2
  exit 1
}

# --- Words ---------------------------------------------------------------------------------------

say() { printf '    %s\n' "$*" >&2; }

step() {
  if [ -t 2 ]; then printf '\033[1m==> %s\033[0m\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi
}

# die WHAT-HAPPENED [WHAT-TO-DO...]   one line each
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# = 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

# A usage error has an exit code of its own, as in our programs.
usage_error() {
  printf 'error: %s\n       See: %s help\n' "$1" "${0##*/}" >&2
  exit 2
}

# now: microseconds. EPOCHREALTIME's decimal sign depends on the locale.
now() { echo "${EPOCHREALTIME//[!0-9]/}"; }

# elapsed SINCE: seconds with one decimal since an earlier `now`
elapsed() {
  local tenths=$((($(now) - $1) / 100000))
  echo "$((tenths / 10)).$((tenths % 10)) s"
}

# --- What the machine must have ------------------------------------------------------------------

need_linux() {
  [ -r /proc/self/stat ] || die "This needs Linux (it looks into /proc)." "Run it on a Linux machine or in a virtual one."
}

_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

_apt_get() {
  # The lock's timeout: another apt on the machine is no reason to fail.
  _root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

# need_packages PACKAGE...   installs the Debian packages that are absent
need_packages() {
  local package log missing=()
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "This machine has no apt-get, so these cannot be installed here: $*" \
      "Install your distribution's packages of that kind, then run this again."
  fi
  for package; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    die "Debian packages are missing: ${missing[*]}" "Run as root: apt-get install ${missing[*]}"
  fi
  say "Installing Debian packages: ${missing[*]}"
  log=$(mktemp)
  # The package lists are fetched only if the ones at hand do not do: that takes longer than most installs.
  _apt_get install --no-install-recommends "${missing[@]}" >"$log" 2>&1 ||
    { _apt_get update && _apt_get install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || {
    tail -n 15 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: ${missing[*]}" "Its last lines are above. Check the network and /etc/apt, then run this again."
  }
  rm -f "$log"
}

# need_commands COMMAND[:PACKAGE]...   the package's name may be left out where it is the command's
need_commands() {
  local word packages=()
  for word; do
    command -v "${word%%:*}" >/dev/null || packages+=("${word#*:}")
  done
  [ ${#packages[@]} = 0 ] || need_packages "${packages[@]}"
}

# cache_dir: the folder for what is slow to make and the same for every checkout
cache_dir() {
  local dir=${HSM_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set; set HSM_CACHE to a folder}/.cache}/hsm-secrets-operator}
  mkdir -p "$dir" || die "Cannot make the cache folder $dir." "Set HSM_CACHE to a folder that you may write."
  (cd "$dir" && pwd -P)
}

# --- Waiting and ports ---------------------------------------------------------------------------

# wait_for SECONDS WHAT COMMAND...   runs the command until it succeeds; fails when the time is over
wait_for() {
  local seconds=$1 what=$2 end
  shift 2
  end=$(($(now) + seconds * 1000000))
  until "$@" >/dev/null 2>&1; do
    if [ "$(now)" -ge "$end" ]; then
      say "Waited $seconds s in vain for: $what"
      return 1
    fi
    sleep 0.1
  done
}

# port_in_use PORT: whether anything listens on it, in either address family
port_in_use() {
  local hex
  printf -v hex ':%04X' "$1"
  # Columns: number, local address:port, remote, state; 0A is LISTEN.
  awk -v hex="$hex" '$4 == "0A" && substr($2, length($2) - 4) == hex { found = 1 } END { exit !found }' \
    /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# free_port: a TCP port on which nothing listens now. Another process may be quicker: whoever binds it must be ready to
# try the next one. Below the range of outgoing connections and of node ports, which come and go by themselves.
free_port() {
  local port
  for _ in {1..200}; do
    port=$((20000 + RANDOM % 10000))
    port_in_use "$port" || {
      echo "$port"
      return
    }
  done
  die "Found no free TCP port between 20000 and 29999." "Look at: ss -ltn"
}

# --- Processes -----------------------------------------------------------------------------------
# A process is remembered by its id (FILE) and its start time (FILE.start). The kernel gives ids out again, so an id
# alone could name a stranger; the pair cannot. FILE holds nothing but the id, so that people can use it too.

# process_start PID: the start time in clock ticks since boot; fails if there is no such process or only its remains
process_start() {
  local stat
  { IFS= read -rd '' stat <"/proc/$1/stat" || [ -n "${stat:-}" ]; } 2>/dev/null || return 1
  # The name in brackets may hold anything, so count from the last bracket: state is first, start time twentieth.
  read -ra stat <<<"${stat##*) }"
  [[ ${stat[0]} != [ZX] ]] || return 1
  echo "${stat[19]}"
}

# record_pid PIDFILE PID
record_pid() {
  local start
  start=$(process_start "$2") || start=0
  echo "$start" >"$1.start"
  echo "$2" >"$1"
}

# is_running PIDFILE: whether the process that was recorded there still runs
is_running() {
  local pid start
  { read -r pid <"$1" && read -r start <"$1.start"; } 2>/dev/null || return 1
  [[ $pid =~ ^[1-9][0-9]*$ ]] && [ "$(process_start "$pid")" = "$start" ]
}

# start_process PIDFILE LOGFILE COMMAND...
# The process outlives this shell and holds none of its files: an inherited pipe would make `$(...)` in a caller wait
# for it, an inherited lock would never be free again.
start_process() {
  local pidfile=$1 log=$2
  shift 2
  (
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      # 255 is bash's own, and closes by itself.
      [ "$fd" -le 2 ] || [ "$fd" = 255 ] || exec {fd}>&- || true
    done
    exec setsid -- "$@"
  ) </dev/null >>"$log" 2>&1 &
  record_pid "$pidfile" $!
  # Else bash reports on the script's stderr how it ended.
  disown
}

# stop_pid PIDFILE [SECONDS]: ends the recorded process and no other: TERM, and KILL when it is not gone after SECONDS
# (default 10; 0 kills at once)
stop_pid() {
  local pidfile=$1 seconds=${2:-10} pid end
  if is_running "$pidfile"; then
    read -r pid <"$pidfile"
    [ "$seconds" = 0 ] || kill -TERM "$pid" 2>/dev/null || true
    end=$(($(now) + seconds * 1000000))
    while is_running "$pidfile" && [ "$(now)" -lt "$end" ]; do sleep 0.05; done
    if is_running "$pidfile"; then
      [ "$seconds" = 0 ] || say "Process $pid (${pidfile##*/}) did not end within $seconds s; it is killed."
      kill -KILL "$pid" 2>/dev/null || true
      end=$(($(now) + 5000000))
      while is_running "$pidfile"; do
        [ "$(now)" -lt "$end" ] ||
          die "Process $pid cannot be ended." "It may hang in the kernel. Look at: ps -o pid,stat,wchan,args -p $pid"
        sleep 0.05
      done
    fi
  fi
  rm -f "$pidfile" "$pidfile.start"
}
