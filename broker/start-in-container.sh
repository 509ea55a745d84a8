#!/bin/sh
# Starts Mosquitto in its official image as the first process of the container, which gets the signals. Its log goes
# through a filter: of the level at which it logs refusals it logs every packet too.
set -eu
packets=/mosquitto/log/packets
rm -f "$packets"
mkfifo -m 600 "$packets"
awk -v rules=/mosquitto/config/access.acl -f /mosquitto/config/without-packets.awk < "$packets" >&2 &
exec mosquitto -c /mosquitto/config/mosquitto.conf 2> "$packets"
