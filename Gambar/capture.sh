#!/usr/bin/env bash
# Takes the pictures beside this script: two chats of three in real terminal windows, on a screen
# of their own, with the real commands, typed. To be run again when what the programs print changes.
# Needs a Rust toolchain, port 8080, and some Debian packages, which it names when they are missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rows=20     # more than the session needs; what stays empty below it is cut off
margin=10   # pixels around the text
patience=30 # seconds, for each wait
everyone=(server client-1 client-2 client-3) # the windows
declare -A ids                               # of the windows

fail() { echo "capture.sh: $1" >&2; exit 1; }
missing=()
for need in xvfb:Xvfb xterm:xterm xdotool:xdotool imagemagick:import; do
    command -v "${need#*:}" >/dev/null || missing+=("${need%:*}")
done
[[ -e /usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf ]] || missing+=(fonts-dejavu)
((${#missing[@]} == 0)) || fail "first: apt-get install ${missing[*]}"
magick=$(command -v magick || command -v convert) # ImageMagick 7, or 6
# The programs' default port: the pictures show them without flags.
(: </dev/tcp/127.0.0.1/8080) 2>/dev/null && fail 'port 8080 is taken: stop what listens there'

# Nothing from outside may change the programs or the prompt, and nothing that is typed here goes
# into anybody's shell history.
unset CHAT_LISTEN CHAT_URL CHAT_NAME CHAT_PRESENCE CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR PROMPT_COMMAND
export PS1='$ ' HISTFILE='' LC_ALL=C.UTF-8
cargo build --bins # before any window opens, so that cargo has little to say in it

tmp=$(mktemp -d)
cleanup() {
    trap '' INT TERM HUP
    # What this script started and what still runs, nothing else. The screen came first and goes
    # last. A window that goes hangs up on all that runs in it.
    jobs -pr >"$tmp/pids"
    for pid in $(tac "$tmp/pids"); do
        { kill "$pid" && wait "$pid"; } || true
    done 2>/dev/null
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT && trap 'exit 143' TERM HUP

wait_for() { # WHAT COMMAND...: until the command succeeds
    local end=$((SECONDS + patience))
    until "${@:2}"; do
        sleep 0.05
        ((SECONDS < end)) && continue
        tail -n 5 "$tmp"/*.log | cat -v >&2
        fail "waited $patience s for $1"
    done
}

# Each xterm logs what it shows, so a text can be waited for while the command in the window is
# just the one that people type.
shows() { sed 's/\x1b\[[0-9;?]*[a-zA-Z]//g' "$tmp/$1.log" | grep -aiE "$2" >/dev/null; } # without colours
expect() { wait_for "'$2' in the window $1" shows "$1" "$2"; } # WINDOW REGEX
at_prompt() { [[ $(tail -c 2 "$tmp/$1.log" 2>/dev/null) == "$PS1" ]]; }      # WINDOW
prompt() { wait_for "the prompt in the window $1" at_prompt "$1"; }          # WINDOW
known() { ids[$1]=$(xdotool search --onlyvisible --name "^$1\$"); }          # WINDOW
window() { # WINDOW POSITION: a terminal with a shell in it
    xterm -T "$1" -geometry "80x$rows$2" -fa 'DejaVu Sans Mono' -fs 12 -b "$margin" -bw 0 +sb \
        -bg '#1c1f24' -fg '#e8e8e8' -cr '#e8e8e8' -l -lf "$tmp/$1.log" -e bash --norc &
    prompt "$1"
    wait_for "the window $1" known "$1"
}

still() { # WINDOW: looks as it did a moment ago
    mv -f "$tmp/$1.ppm" "$tmp/before.ppm" 2>/dev/null
    import -silent -window "${ids[$1]}" "$tmp/$1.ppm" && cmp -s "$tmp/before.ppm" "$tmp/$1.ppm"
}
settle() { # WINDOW: gives it the keyboard and waits until everything in it is drawn
    xdotool windowfocus --sync "${ids[$1]}"
    rm -f "$tmp/$1.ppm" "$tmp/before.ppm"
    wait_for "the window $1 to be still" still "$1"
}
press() { settle "$1"; xdotool key "$2"; }                                 # WINDOW KEY
enter() { settle "$1"; xdotool type --delay 20 "$2"; xdotool key Return; } # WINDOW LINE

picture() { # WINDOW NAME: as wide as the window, as high as what is in it
    local shot=$tmp/$1.ppm text top height bottom
    settle "$1"
    IFS='x+ ' read -r _ text _ top height < <("$magick" "$shot" -format '%@ %h\n' info:)
    bottom=$((top + text + margin))
    # Something in the last row may mean that something else has scrolled out of the first.
    ((bottom <= height - (height - 2 * margin) / rows)) || fail "the window $1 is full: raise rows"
    "$magick" "$shot" -crop "x$bottom+0+0" +repage -strip +dither -colors 32 "png8:$tmp/$2.png"
}

# Xvfb finds a free display and says which. No key repeats (-r), however slow the machine is. The
# windows lie side by side: what is covered cannot be captured.
Xvfb -displayfd 3 -screen 0 2000x1200x24 -dpi 96 -r -noreset 3>"$tmp/display" 2>"$tmp/Xvfb.log" &
wait_for 'a display' test -s "$tmp/display"
export DISPLAY && DISPLAY=:$(<"$tmp/display")
at=(+0+0 +1000+0 +0+600 +1000+600)
for n in 0 1 2 3; do window "${everyone[n]}" "${at[n]}"; done

enter server 'cargo run --bin server'
expect server 'listening'
for client in "${everyone[@]:1}"; do
    enter "$client" 'cargo run --bin client'
    expect "$client" 'connected to'
done
! grep -aqE 'Blocking|Compiling' "$tmp"/*.log || fail 'cargo was busy elsewhere: run this again'

# Nobody types before all have the line before: nothing arrives in the middle of a word.
while read -r speaker line; do
    enter "$speaker" "$line"
    for other in "${everyone[@]}"; do
        [[ $other == "$speaker" ]] || expect "$other" "127\.0\.0\.1:[0-9]+: $line"
    done
done <<'END'
client-1 hello from client 1
client-2 hello from client 2
client-3 hello from client 3
client-1 nice to see you both
client-2 I have to go, see you soon
END
for name in "${everyone[@]}"; do picture "$name" "$name"; done

press client-2 ctrl+d
expect server 'disconnected'
picture server server-client-leaves
press server ctrl+c
prompt client-1
picture client-1 client-server-down

# A second session in the same windows: three people with names in one room.
for name in "${everyone[@]}"; do
    prompt "$name"
    truncate -s 0 "$tmp/$name.log" # What is waited for now was in the first session, too.
    enter "$name" clear
    prompt "$name"
done
enter server 'cargo run --bin server -- --presence'
expect server 'listening'
join() { # WINDOW NAME
    enter "$1" "cargo run --bin client -- 127.0.0.1/rust --name $2"
    expect "$1" 'here'
    for other in "${@:3}"; do expect "$other" "$2 joined"; done
}
join client-1 ana
join client-2 budi client-1
join client-3 citra client-1 client-2
while read -r speaker name line; do
    enter "$speaker" "$line"
    for other in "${everyone[@]}"; do
        [[ $other == "$speaker" ]] || expect "$other" "$name.*: $line"
    done
done <<'END'
client-1 ana hello, who else reads about async today
client-2 budi me, chapter eight
client-3 citra me too
END
picture client-1 names
press server ctrl+c
prompt client-1

# Only now: a session that fails halfway leaves the old pictures as they are.
mv "$tmp"/*.png Gambar/ && wc -c Gambar/*.png
