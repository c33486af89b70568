#!/usr/bin/env bash
# Is that node alive? IS_ALIVE after docs/protocol.md, with bash 5, gzip (for its CRC-32), sed and the coreutils.
#
#     ./alive.sh HOST PORT
#
# Exit status: 0: alive; 1: the node says no; 2: wrong arguments; 3: no answer.
set -u -o pipefail

complain() { # STATUS TEXT
    echo "alive.sh: $2" >&2
    exit "$1"
}

# All bytes are kept as hex digits: a variable of the shell holds no zero byte.
to_hex() { od -An -v -tx1 | tr -d ' \n'; }
from_hex() { printf '%b' "$(sed 's/../\\x&/g' <<<"$1")"; }
# A gzip stream ends with the CRC-32 and the length, four bytes each, the lowest first, as checkSum has them too.
check_sum() { from_hex "$1" | gzip -c | tail -c 8 | head -c 4 | to_hex; }

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
seconds() { printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); }

# Both read on in `hex` from digit `at`, the caller's; a status other than 0: there is no such message.
varint() { # into number
    local shift byte
    number=0
    for ((shift = 0; shift < 64 && at < ${#hex}; shift += 7)); do
        byte=0x${hex:at:2}
        ((at += 2, number |= (byte & 127) << shift))
        ((byte & 128)) || return 0
    done
    return 1
}
parse() { # HEX: the last field of each number into fields[]: decimal, or hex digits
    local hex=$1 at=0 number tag length
    fields=()
    while ((at < ${#hex})); do
        varint || return 1
        tag=$number
        case $((tag & 7)) in
            0) varint || return 1; fields[tag >> 3]=$number; continue ;;
            1) length=8 ;;
            2) varint || return 1; length=$number ;;
            5) length=4 ;;
            *) return 1 ;;
        esac
        ((length >= 0 && length <= (${#hex} - at) / 2)) || return 1
        fields[tag >> 3]=${hex:at:2*length}
        ((at += 2 * length))
    done
}

# The errCode and overloadWaitTime that a datagram has for us, into fields[1] and [5].
is_answer() { # HEX
    local payload
    parse "$1" || return 1
    payload=${fields[2]-}
    [[ ${fields[1]-} == "$id" && ${fields[5]-} == 1 && ${fields[3]-} == "$(check_sum "$id$payload")00000000" ]] &&
        parse "$payload"
}

(($# == 2)) || complain 2 "HOST PORT"
server=$1:$2
unreachable="nothing listens at $server, or no way leads there"
{ exec 3<>"/dev/udp/$1/$2"; } 2>/dev/null || complain 2 "$server: no such host or port"

id=$(head -c 16 /dev/urandom | to_hex) # one for all tries
request=0806                           # command (field 1) is 6
message=0a10${id}1202${request}19$(check_sum "$id$request")00000000
timeouts_ms=(150 450 1350 2500 2000)
patience=$(($(now_ms) + 10000)) # with refusals
step=0
while ((step < ${#timeouts_ms[@]})); do
    # dd writes it as one datagram; bash itself would begin another one after each byte that is a line's end.
    from_hex "$message" | dd obs=16384 status=none >&3 2>/dev/null || complain 3 "$unreachable"
    due=$(($(now_ms) + timeouts_ms[step]))
    while left=$((due - $(now_ms))) && ((left > 0)); do
        datagram=$(timeout "$(seconds $left)" dd bs=16384 count=1 status=none <&3 2>/dev/null | to_hex)
        case $? in 0 | 124) ;; *) complain 3 "$unreachable" ;; esac
        is_answer "$datagram" || continue
        case ${fields[1]-0} in
            0) echo "$server is alive"; exit 0 ;;
            3) wait_ms=${fields[5]-0} ;;
            *) complain 1 "$server answers with error code ${fields[1]}" ;;
        esac
        ((wait_ms = wait_ms < 5 ? 5 : wait_ms > 7500 ? 7500 : wait_ms, wait_ms += wait_ms * (RANDOM % 250) / 1000))
        (($(now_ms) + wait_ms < patience)) || complain 1 "$server is overloaded"
        sleep "$(seconds $wait_ms)"
        continue 2 # it changes nothing, so however late the next try is, it does no harm
    done
    ((step += 1))
done
complain 3 "no answer from $server"
