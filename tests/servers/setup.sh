#!/usr/bin/env bash
# Fetches the real servers and analysers that the tests and captures/make.sh use,
# as Debian packages unpacked into a folder. Nothing is installed system-wide and
# root is not needed.
#
#   tests/servers/setup.sh [--require] [--force]
#
# Result, below target/servers (or $REPLAY_SERVERS_DIR):
#   bin/TOOL   wrappers: nginx haproxy prometheus promtool tshark tcpdump dumpcap capinfos
#   tree/      the unpacked packages
#   lib/       libpcap, to link the feature `live` with, and what it needs that this machine has not
#   VERSIONS   one line per tool: what it says about itself
#   MISSING    only when something could not be had: "TOOL: reason", one per line
#
# Exit status 0 even when a tool is missing (tests that need it are skipped);
# with --require, 1 when anything is missing. A finished folder is left alone, also
# one with a MISSING file (so an offline machine is not slowed down on each call):
# --force, or --require with something missing, tries again.
set -euo pipefail

# Raise this when the packages or the wrappers change: it invalidates old folders.
VERSION=6

# package -> the programs wanted from it
PACKAGES=(nginx haproxy prometheus tshark tcpdump faketime wrk nghttp2-client)
declare -A TOOLS=(
  [nginx]="nginx" [haproxy]="haproxy" [prometheus]="prometheus promtool"
  [tshark]="tshark dumpcap capinfos" [tcpdump]="tcpdump" [faketime]="faketime" [wrk]="wrk" [nghttp2-client]="h2load"
)
declare -A VERSION_FLAG=([nginx]=-V [haproxy]=-v [tshark]=-v [dumpcap]=-v [capinfos]=-v [wrk]=-v)

require=0 force=0
for arg in "$@"; do
  case $arg in
    --require) require=1 ;;
    --force) force=1 ;;
    *) echo "usage: $0 [--require] [--force]" >&2; exit 2 ;;
  esac
done

# In the repository root, wherever it is called from.
cd "$(dirname "$(readlink -f "$0")")/../.."
dest=${REPLAY_SERVERS_DIR:-target/servers}
mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
say() { echo "servers: $*" >&2; }

# Parallel test binaries may all call this: the first works, the others wait for it.
if command -v flock >/dev/null; then
  exec 9>"$dest/.lock"
  flock -n 9 || { say "waiting for another setup.sh"; flock 9; }
fi

report() { # says what is missing, and leaves with the right status
  if [ -s "$dest/MISSING" ]; then
    say "missing (what needs these is skipped):"
    sed 's/^/  /' "$dest/MISSING" >&2
    exit "$require"
  fi
  exit 0
}

stamp="version $VERSION: ${PACKAGES[*]}"
if [ "$force" = 0 ] && [ "$(cat "$dest/STAMP" 2>/dev/null)" = "$stamp" ]; then
  if [ ! -s "$dest/MISSING" ] || [ "$require" = 0 ]; then report; fi
fi

rm -f "$dest/STAMP"
work=$(mktemp -d "$dest/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache/archives,debs,missing,new/tree,new/bin}
mkdir -p "$work"/{lists,cache/archives}/partial
: >"$work/status"

# miss TOOL REASON: one reason per tool, the first wins
miss() { [ -e "$work/missing/$1" ] || echo "$1: $2" >"$work/missing/$1"; }

# A private apt state lets `apt-get update` work without root and leaves the
# machine's own alone. The sandbox user could not enter our folders. An empty dpkg
# status makes the answers the same on every machine: whatever is installed here, the
# versions are those of the archive, and the closure is the whole one.
apt_opts=(-q -o "Dir::Cache=$work/cache" -o "Dir::State::status=$work/status" -o Debug::NoLocking=1 -o APT::Sandbox::User=
  -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20
  -o Acquire::Languages=none)

have_apt=1
for need in apt-get dpkg; do
  command -v "$need" >/dev/null || { have_apt=0; lack=$need; }
done

if [ "$have_apt" = 1 ]; then
  say "updating a private package list"
  # update exits 0 when only some lists came, so look for a list as well
  if timeout 120 apt-get "${apt_opts[@]}" -o "Dir::State::Lists=$work/lists" update \
       >"$work/update.log" 2>&1 && compgen -G "$work/lists/*Packages*" >/dev/null; then
    apt_opts+=(-o "Dir::State::Lists=$work/lists")
  else
    say "update failed, using the lists the system has: $(grep -m1 -E '^[EW]:' "$work/update.log" || echo 'no message')"
  fi
fi

# The dependency closure: what apt would install on a machine that has nothing. Unlike
# `apt-cache depends --recurse` this takes one of each set of alternatives, not all.
closure() {
  apt-get "${apt_opts[@]}" --no-install-recommends -s install "$1" | awk '/^Inst /{print $2}'
}

# Of the closure we want the programs and the shared libraries they load.
wanted() {
  local p
  while read -r p; do
    p=${p%%:*}
    case $p in
      # the host's libc, loader and compiler runtimes must not be shadowed: a second
      # libc6 next to the host's ld.so crashes. A host without libstdc++6 gets it.
      libc6 | libgcc-s1 | libcrypt1) ;;
      libstdc++6) compgen -G "/usr/lib/*-linux-gnu*/libstdc++.so.6" >/dev/null || echo "$p" ;;
      nginx | haproxy | prometheus | tshark | tcpdump | faketime | wrk | nghttp2-client | wireshark-common | libwireshark-data) echo "$p" ;;
      # dependencies of maintainer scripts and of web pages, loaded by no program here
      libperl* | lib*-perl | libjs-* | libpam* | libsemanage* | libsepol* | libcap2-bin | lib*-common | libgdbm* | libdb5*) ;;
      lib* | zlib1g) echo "$p" ;;
    esac
  done
}

declare -A unpacked=()
get_package() { # get_package PACKAGE: unpacks it and its libraries into new/tree
  local pkg=$1 p todo=() deb
  if ! closure "$pkg" >"$work/closure" 2>"$work/err"; then
    why="no installable package '$pkg' in the lists: $(grep -m1 '^E:' "$work/err" || true)"
    return 1
  fi
  while read -r p; do
    [ -n "${unpacked[$p]:-}" ] || todo+=("$p")
  done < <(wanted <"$work/closure")
  say "$pkg: downloading ${#todo[@]} packages"
  if ! (cd "$work/debs" && timeout 300 apt-get "${apt_opts[@]}" download "${todo[@]}") >"$work/err" 2>&1; then
    rm -f "$work"/debs/*.deb
    why="download failed: $(grep -m1 '^E:' "$work/err" || echo 'timed out')"
    return 1
  fi
  for deb in "$work"/debs/*.deb; do
    dpkg -x "$deb" "$work/new/tree" 2>"$work/err" || { why="dpkg -x failed: $(head -1 "$work/err")"; return 1; }
    rm -f "$deb"
  done
  for p in "${todo[@]}"; do unpacked[$p]=1; done
}

# Wrappers find the folder from $0, so it may be moved; they `exec`, so that the pid
# a test sees (and kills) is the server's own.
write_wrapper() { # write_wrapper TOOL FILE-BELOW-ROOT
  {
    cat <<'WRAPPER'
#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")/tree
WRAPPER
    # shellcheck disable=SC2016 # expanded by the wrapper
    printf 'LD_LIBRARY_PATH=%s\nexport LD_LIBRARY_PATH\n' "$libpath"
    case $1 in
      tshark | dumpcap | capinfos)
        # Compiled-in places are under /usr: point them here (as root, wireshark
        # ignores these two and does without: they hold only optional dictionaries and
        # plugins). Preferences of whoever runs the tests must not change the output.
        cat <<'WRAPPER'
export WIRESHARK_DATA_DIR="$root/usr/share/wireshark"
WRAPPER
        # shellcheck disable=SC2016
        printf 'export WIRESHARK_PLUGIN_DIR="$root/%s"\n' "$plugins"
        cat <<'WRAPPER'
export WIRESHARK_CONFIG_DIR="${WIRESHARK_CONFIG_DIR:-$root/etc/wireshark-no-profile}"
WRAPPER
        ;;
    esac
    # shellcheck disable=SC2016
    printf 'exec "$root/%s" "$@"\n' "$2"
  } >"$work/new/bin/$1"
  chmod 755 "$work/new/bin/$1"
}

for pkg in "${PACKAGES[@]}"; do
  why="$pkg: '${lack:-}' is not on this machine (not a Debian-like system?)"
  if [ "$have_apt" = 0 ] || ! get_package "$pkg"; then
    for tool in ${TOOLS[$pkg]}; do miss "$tool" "$why"; done
  fi
done

# Library folders in the unpacked tree, written relative to $root.
libpath='' plugins=usr/lib/wireshark/plugins
while read -r dir; do
  # shellcheck disable=SC2016
  libpath+="${libpath:+:}"'$root/'"$dir"
done < <(cd "$work/new/tree" && find . -maxdepth 4 -path '*/lib/*-linux-gnu*' -name 'lib*.so*' -printf '%h\n' \
         | sed 's|^\./||' | sort -u)
found=$(cd "$work/new/tree" && find . -type d -path '*/wireshark/plugins' -print -quit)
[ -z "$found" ] || plugins=${found#./}

for pkg in "${PACKAGES[@]}"; do
  for tool in ${TOOLS[$pkg]}; do
    bin=
    for dir in usr/bin usr/sbin; do
      [ ! -x "$work/new/tree/$dir/$tool" ] || bin=$dir/$tool
    done
    if [ -n "$bin" ]; then
      write_wrapper "$tool" "$bin"
    elif sys=$(PATH=$PATH:/usr/sbin:/sbin command -v "$tool"); then
      # Not downloadable, but the machine has one of its own: better than skipping.
      printf '#!/bin/sh\nexec "%s" "$@"\n' "$sys" >"$work/new/bin/$tool"
      chmod 755 "$work/new/bin/$tool"
      rm -f "$work/missing/$tool"
    else
      miss "$tool" "not in the package '$pkg'"
    fi
  done
done

# Believe a tool only when it starts.
: >"$work/new/VERSIONS"
for pkg in "${PACKAGES[@]}"; do
  for tool in ${TOOLS[$pkg]}; do
    [ -x "$work/new/bin/$tool" ] || continue
    if "$work/new/bin/$tool" "${VERSION_FLAG[$tool]:---version}" >"$work/out" 2>&1 || grep -q '^wrk ' "$work/out"; then
      echo "$tool: $(grep -m1 -i -E 'version|tshark|dumpcap|capinfos|^wrk|nghttp2' "$work/out" || head -1 "$work/out")" >>"$work/new/VERSIONS"
    else
      miss "$tool" "does not start: $(head -1 "$work/out")"
      rm -f "$work/new/bin/$tool"
    fi
  done
done

# libpcap by its name for linking, and those of its libraries that only the unpacked tree has: a folder that holds nothing
# else, because programs of this machine may come to look into it.
mkdir -p "$work/new/lib"
pcap=$(cd "$work/new" && find tree -name 'libpcap.so.0.8' -print -quit)
if [ -n "$pcap" ]; then
  ln -s "../$pcap" "$work/new/lib/libpcap.so"
  ln -s "../$pcap" "$work/new/lib/libpcap.so.0.8"
  LD_LIBRARY_PATH= ldd "$work/new/$pcap" | awk '/not found/{print $1}' >"$work/lacking" || true
  while [ -s "$work/lacking" ]; do
    read -r lib <"$work/lacking"
    found=$(cd "$work/new" && find tree -name "$lib" -print -quit)
    [ -n "$found" ] || { say "libpcap needs $lib, which is not here"; break; }
    ln -s "../$found" "$work/new/lib/$lib"
    LD_LIBRARY_PATH="$work/new/lib" ldd "$work/new/$pcap" | awk '/not found/{print $1}' >"$work/lacking" || true
  done
fi

rm -rf "$dest/tree" "$dest/bin" "$dest/lib"
mv "$work/new/tree" "$work/new/bin" "$work/new/lib" "$work/new/VERSIONS" "$dest/"
cat "$work"/missing/* 2>/dev/null >"$dest/MISSING" || rm -f "$dest/MISSING"
echo "$stamp" >"$dest/STAMP"
say "done: $(ls -x -w 0 "$dest/bin" | tr -s " ") ($(du -sh "$dest/tree" | cut -f1))"
report
