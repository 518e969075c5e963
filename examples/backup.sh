#!/bin/sh
# Runs where the leader is, and nowhere else:
#
#     elect run --config cluster.toml --id a --election backup -- ./backup.sh
#
# It is told to stop (SIGTERM) before another may lead.
: "${ELECTORATE_TERM:?usage: elect run --config cluster.toml --id a --election backup -- ./backup.sh}"
trap 'echo "$ELECTORATE_NODE stops"; exit 0' TERM
while :; do
    echo "$(cut -d" " -f1 /proc/uptime) $ELECTORATE_NODE works in term $ELECTORATE_TERM"
    sleep 0.1 &
    wait $!
done
