#!/bin/sh
# preStop of a worker pod: Ray puts nothing new on this node, and its workers leave; then the pod may end.
# Waits at most DRAIN_S, which is longer than a worker's calls may take (LEAVE_S in actors/pool.py) and shorter than the
# pod's terminationGracePeriodSeconds.
DRAIN_S=60
node=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | sed -n 's/^--node[_-]id=//p' | head -n 1)
ray drain-node --address "$FQ_RAY_IP:6379" --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "the pod ends" --deadline-remaining-seconds "$DRAIN_S"
busy() { cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep '^ray::' | grep -Eqv '^ray::(IDLE|[A-Za-z]*Agent)'; }
waited=0
while busy && [ "$waited" -lt "$DRAIN_S" ]; do
    sleep 1
    waited=$((waited + 1))
done
