#!/bin/sh
# Debian's rustc with the libraries that were unpacked beside it.
here=$(dirname "$0")/usr
LD_LIBRARY_PATH=$here/lib/x86_64-linux-gnu exec "$here/bin/rustc" "$@"
