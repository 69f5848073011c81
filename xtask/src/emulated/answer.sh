#!/bin/sh
# Runs the commands that come line by line, "ID COMMAND", and answers each with "begin ID", what it
# printed (compressed, in base64) and "end ID CODE".
echo "huddle-host: ready"
while read -r id command; do
    # A file of its own: what an earlier command left running may still write to the earlier one.
    rm -f /tmp/answer
    # A session, so that all of it can be ended. Its leader is not the command, which may open the console
    # of a domain: that would become the leader's terminal, and be hung up with it.
    setsid sh -c 'sh -c "$1"; exit $?' sh "$command" </dev/null >/tmp/answer 2>&1 &
    wait $!
    code=$?
    # Killed, for want of time or memory: what it started goes with it.
    [ $code = 137 ] && kill -KILL -$! 2>/dev/null
    echo "begin $id"
    gzip -c /tmp/answer | base64
    echo "end $id $code"
done
