# shellcheck shell=bash
# What the scripts share that build our programs. Source it after common.sh.

# need_build_tools: a C compiler (aws-lc, libusb) and Cargo
need_build_tools() {
  need_packages build-essential pkg-config
  command -v cargo >/dev/null ||
    die "Rust's cargo is not on the PATH." "Install Rust (https://rustup.rs), then run this again."
}

# find_softhsm: the path of SoftHSM's PKCS#11 module
find_softhsm() {
  local module
  for module in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so; do
    [ ! -e "$module" ] || { echo "$module"; return; }
  done
  die "SoftHSM's module libsofthsm2.so was not found." "Install it: apt-get install softhsm2"
}
