# Passes on what Mosquitto logs, without its packets: what was refused, and what it says of itself. So the log does not
# grow with traffic, and python -m broker.refusals counts in it what it would count in the whole of it.
#
#     awk -v rules=access.acl -f without-packets.awk

function read_rules(   line, words, name) {
    split("", granted); split("", number)
    while ((getline line < rules) > 0) {
        split(line, words, " ")
        if (words[1] == "user") name = words[2]
        if (words[1] == "topic" && words[2] == "read") granted[name, ++number[name]] = words[3]
    }
    close(rules)
}

# As covers() in broker/access.py.
function covers(rule, asked,   allowed, wanted, levels, deep, at) {
    levels = split(rule, allowed, "/"); deep = split(asked, wanted, "/")
    if (wanted[1] ~ /^\$/ && (allowed[1] == "+" || allowed[1] == "#")) return 0
    for (at = 1; at <= levels; at++) {
        if (allowed[at] == "#") return 1
        if (at > deep || wanted[at] == "#" || (allowed[at] != "+" && allowed[at] != wanted[at])) return 0
    }
    return levels == deep
}

function may_read(name, asked,   at) {
    if (asked ~ /^\$share\//) sub(/^\$share\/[^\/]*\//, "", asked)
    for (at = 1; at <= number[name]; at++) if (covers(granted[name, at], asked)) return 1
    return 0
}

BEGIN { read_rules() }

{ text = substr($0, index($0, ": ") + 2) }

text ~ /^Reloading config/ { read_rules() }

# Whoever connects says which last will it has: its topic may be one that it has no rule for.
text ~ /^New client connected from / { connects = 1 }
text ~ /^Sending CONNACK/ { if (connects) { connects = 0; print; fflush() } next }
text ~ /^\t/ && !connects { next }

text ~ /^(Received |Sending |No will message|Will message )/ { next }

# A subscription is logged as NAME QOS FILTER, and nodes repeat theirs while nothing comes.
text ~ /^[^ ]+ [0-2] / {
    place = index(text, " ")
    if (may_read(substr(text, 1, place - 1), substr(text, place + 3))) next
}

{ print; fflush() }
