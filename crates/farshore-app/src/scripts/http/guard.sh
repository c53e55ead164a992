# Runs git as the leader of this group. When the node dies, the pipe $1 closes and the group is ended; git is asked
# first, so that it takes its lock files with it.
exec 3<"$1" || exit 1
( trap '' TERM; read -r _ <&3; kill -TERM 0; sleep 2; kill -KILL 0 ) </dev/null >/dev/null 2>&1 &
exec 3<&-
exec git http-backend
