#!/bin/sh
# The domains to play with: two that hold the same data, and one with data of its own.
echo "Making three domains, one after the other (some 15 seconds each)..."
guest a1 1 11 8192 && guest a2 1 12 8192 2 && guest b1 2 13 8192
xl list
