#!/bin/sh
# Runs the commands that come line by line, "ID COMMAND", and answers each with "begin ID", what it
# printed (compressed, in base64) and "end ID CODE".
echo "huddle-xen-host: ready"
while read -r id command; do
    sh -c "$command" </dev/null >/tmp/answer 2>&1
    code=$?
    echo "begin $id"
    gzip -c /tmp/answer | base64
    echo "end $id $code"
done
