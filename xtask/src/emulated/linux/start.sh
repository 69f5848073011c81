#!/bin/sh
# What there is to see first.
huddle doctor
echo "huddle-workload --help tells which guests and loads there are; huddle run --help goes on from there."
