#!/bin/sh
# Follow the master, found by DNS or by the environment variables of its Service.
host=redis-master
[ "$GET_HOSTS_FROM" = env ] && host=$REDIS_MASTER_SERVICE_HOST
exec redis-server --bind 0.0.0.0 --protected-mode no --save '' --replicaof "$host" 6379
