#!/bin/sh
# Tells the node what was pushed and shows the pusher what the node says of it. Written by the node; changes are lost.
[ -p "$FARSHORE_PUSH/says" ] || exit 0
exec 3<"$FARSHORE_PUSH/says"
{ cat; echo .; } >"$FARSHORE_PUSH/pushed"
exec cat <&3
