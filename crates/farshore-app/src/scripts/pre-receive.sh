#!/bin/sh
# Asks the node whether branches may move now. Written by the node; changes are lost.
[ -p "$FARSHORE_PUSH/says" ] || exit 1
exec 3<"$FARSHORE_PUSH/says"
cat >/dev/null
echo '?' >"$FARSHORE_PUSH/pushed"
read -r answer <&3
[ "$answer" = yes ] && exit 0
printf '%s\n' "$answer" >&2
exit 1
