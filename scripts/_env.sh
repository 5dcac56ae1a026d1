# Sourced by the scripts beside it. `environment DIR LOCK` leaves in DIR a virtual environment with exactly the packages
# of LOCK and this checkout on its path: made on the first start, merely looked at on later ones. It may be killed at any
# instant and started twice at once: one file, DIR/jaxsde-stamp, empty while DIR is being made and written last, says
# whether DIR is whole and still right (this lock, this place, this Python). Anything else is thrown away and made anew.
#
#   JAXSDE_VENV     where the environment goes; .venv beside the checkout's README if unset
#   JAXSDE_PYTHON   the Python to make it from; the first fitting one on PATH if unset
#
# POSIX sh, and nothing is taken from the caller's environment: no PATH, HOME or locale is needed.
set -eu
PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}
export PATH
unset PYTHONPATH PYTHONHOME CDPATH
root=$(dirname "$(dirname "$(readlink -f "$0")")")
venv=${JAXSDE_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
if [ -d "$venv" ]; then venv=$(cd "$venv" && pwd -P); fi

# without a home the caches of pip and matplotlib have no place of their own
if [ ! -w "${HOME:-/nonexistent}" ]; then
  export PIP_NO_CACHE_DIR=1 MPLCONFIGDIR="${MPLCONFIGDIR:-$venv/matplotlib}"
fi

say() { printf 'jaxsde: %s\n' "$*" >&2; }
die() { status=$1; shift; say "error: $*"; exit "$status"; }

stamp() {  # what jaxsde-stamp holds when all is well
  printf '%s\n' 'layout 1' "$env" "$root" "$("${JAXSDE_PYTHON:-$env/bin/python}" -V 2>&1)" "$(sha256sum <"$lock")"
}
ready() { [ "$(cat "$env/jaxsde-stamp" 2>/dev/null)" = "$(stamp)" ] && [ -x "$env/bin/python" ]; }

find_python() {  # sets python
  if [ -n "${JAXSDE_PYTHON:-}" ]; then set -- "$JAXSDE_PYTHON"; else
    set -- python3 python3.13 python3.12 python3.14 python3.11; fi
  for python; do
    "$python" -I -c 'if 1:
      import platform, sys, sysconfig
      sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"
               and not sysconfig.get_config_var("Py_GIL_DISABLED") and sys.platform == "linux"
               and platform.machine() in ("x86_64", "aarch64") and sys.maxsize > 2**32))' 2>/dev/null && return
  done
  die 69 "no Python 3.11 to 3.14 for 64-bit Linux on x86-64 or arm64 among: $*;" \
    "install one (Debian: apt-get install python3 python3-venv) or name it in JAXSDE_PYTHON"
}

take_lock() {  # on descriptor 9; pip inherits it, so that if this shell is killed the lock lasts as long as pip does
  "$python" -I -c 'if 1:
    import fcntl, signal, sys
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
      fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print("jaxsde: waiting for another start that is setting up", sys.argv[1], file=sys.stderr)
      fcntl.flock(0, fcntl.LOCK_EX)
    except OSError:
      pass  # a file system without locks' "$env" <&9 || exit
}

build() {
  if [ -n "$(ls -A "$env" 2>/dev/null)" ]; then
    [ -f "$env/jaxsde-stamp" ] ||
      die 73 "$env was not made by this script: remove it, or set JAXSDE_VENV to another folder"
    mv "$env" "$env.old.$$"
  fi
  rm -rf "$env".old.*
  mkdir -p "$env" && true >"$env/jaxsde-stamp" || die 73 "cannot write $env"
  log=$env/install.log

  # pip of the environment itself, else one from outside it: Debian's python3 can do the first only with python3-venv
  if "$python" -I -m venv "$env" >"$log" 2>&1; then set -- "$env/bin/python" -I -m pip
  elif ! "$python" -I -m venv --without-pip "$env" >>"$log" 2>&1; then set --
  elif "$python" -I -m pip --python "$env/bin/python" --version >>"$log" 2>&1; then
    set -- "$python" -I -m pip --python "$env/bin/python"
  elif command -v uv >/dev/null; then set -- env UV_PYTHON="$env/bin/python" uv pip
  else set --; fi
  if [ $# -eq 0 ]; then
    explain "$python cannot make a virtual environment (Debian: apt-get install python3-venv)"
  fi
  PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$@" install --quiet --only-binary :all: --require-hashes -r "$lock" >>"$log" 2>&1 ||
    explain "could not install the packages of $lock on $("$python" -V), $(uname -m)"

  packages=$("$env/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  printf '%s\n' "$root" >"$packages/jaxsde.pth"
  stamp >"$env/jaxsde-stamp.new"
  mv "$env/jaxsde-stamp.new" "$env/jaxsde-stamp"
}

explain() {  # the likely cause, from the log, in one sentence
  has() { grep -qiE "$1" "$log"; }
  if has 'no space left|disk quota'; then die 74 "$1: the disk is full"; fi
  if has 'do not match the hashes|hash mismatch'; then die 69 "$1: a download is not the file that was locked; see $log"; fi
  if has 'connection|name resolution|network is unreachable|timed out|error sending request'; then
    die 69 "$1: no network, which the first start needs; see $log"
  fi
  die 69 "$1; see $log"
}

environment() {  # DIR LOCK
  env=$1 lock=$2
  if ready; then return; fi
  find_python
  { mkdir -p "$(dirname "$env")" && touch "$env.lock"; } 2>/dev/null ||
    die 73 "cannot write $(dirname "$env"): set JAXSDE_VENV to a folder that can be written"
  trap 'exit 130' INT
  exec 9>"$env.lock"
  take_lock
  if ! ready; then
    say "setting up $env, once (up to 300 MB to download, 1 GB on disk, about a minute)"
    build
  fi
  exec 9>&-
  trap - INT
}
