# Sourced by tools/check and tools/demo: what a fresh Debian 12 machine lacks is installed from Debian's packages, and
# build directories are configured, each step saying what it does and what to do if it cannot.
# shellcheck shell=bash

papilio_packages=(
  g++ meson ninja-build pkg-config python3
  flatbuffers-compiler libflatbuffers-dev libuv1-dev liburing-dev libssl-dev libxxhash-dev libhwy-dev libzstd-dev libmimalloc-dev
  libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libspdlog-dev libsqlite3-dev
  libtorch-dev libopenblas0-pthread
)
# ccache: only what has changed is compiled again, in a fresh checkout, too. iproute2 and iperf3: faults of lines are
# tried on lines of their own; git: which files belong to the tree.
papilio_test_packages=(ccache libgtest-dev libgmock-dev libbenchmark-dev clang-format iproute2 iperf3 git openssl)
# The compiler that libFuzzer comes with: only for tools/fuzz.
papilio_fuzz_packages=(clang libclang-rt-14-dev)

# Where CUDA's own installer puts nvcc, without touching anybody's PATH.
if ! command -v nvcc >/dev/null && [[ -x /usr/local/cuda/bin/nvcc ]]; then PATH+=:/usr/local/cuda/bin; fi

say() { printf '%s\n' "$*" >&2; }

# Installs those of the named packages that are missing. Without any missing it needs neither a network nor rights.
install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "This is not a Debian system: nothing is installed. The build needs what Debian calls: $*"
    return 0
  fi
  local package missing=() as_root=()
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return 0

  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      say "Missing packages, and neither root nor sudo to install them. As root, run:"
      say "  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
      return 1
    fi
    as_root=(sudo)
    # Nobody is there to type a password: fail at once instead of waiting for one.
    if [[ -n ${CI:-} || ! -t 0 ]]; then as_root+=(-n); fi
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  say "Installing ${#missing[@]} packages: ${missing[*]}"
  "${apt[@]}" update </dev/null >&2 || say "apt-get update failed; trying with the lists that are there"
  if ! "${apt[@]}" install --yes --no-install-recommends "${missing[@]}" </dev/null >&2; then
    say "Installing failed (above). Check the network and the package sources, then run this again, or install by hand:"
    say "  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    return 1
  fi
}

# configure_build DIRECTORY OPTION...: a configured Meson build of this tree with these options. Quick if it is one.
configure_build() {
  local directory=$1 stamp="$1/papilio-options"
  shift
  local wanted
  wanted="$PWD $*"
  if [[ -f $directory/build.ninja && -f $stamp && $(<"$stamp") == "$wanted" ]]; then return 0; fi
  if [[ -f $directory/meson-info/meson-info.json ]] && ! grep -qF "\"source\": \"$PWD\"" "$directory/meson-info/meson-info.json"; then
    say "$directory/ was made for another tree: making it anew"
    rm -rf "$directory"
  fi
  local log
  log=$(mktemp)
  if [[ -f $directory/build.ninja ]]; then
    meson setup --reconfigure "$directory" "$@" >"$log" 2>&1
  else
    meson setup "$directory" "$@" >"$log" 2>&1
  fi || {
    cat "$log" >&2
    rm -f "$log"
    say "Configuring $directory/ failed (above). If it worked before, remove $directory/ and run this again."
    return 1
  }
  rm -f "$log"
  printf '%s' "$wanted" >"$stamp"
}

# How many compilers at once: one per core, but those that see LibTorch take more than 1 GB each.
build_jobs() {
  local cores memory_kib jobs
  cores=$(nproc)
  memory_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  jobs=$((memory_kib / (1536 * 1024)))
  ((jobs < 1)) && jobs=1
  ((jobs > cores)) && jobs=$cores
  echo "$jobs"
}

# build DIRECTORY [TARGET...]: compiles; what papilio-* the targets leave elsewhere is linked from DIRECTORY/tools.
build() {
  local directory=$1
  shift
  say "Building in $directory/"
  ninja -C "$directory" -j "$(build_jobs)" "$@" >&2 || {
    say "The build in $directory/ failed (above)."
    return 1
  }
  local program
  for program in "$directory"/bench/papilio-*; do
    if [[ -f $program && -x $program ]]; then ln -sf "../bench/${program##*/}" "$directory/tools/${program##*/}"; fi
  done
}
