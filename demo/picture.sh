#!/usr/bin/env bash
# docs/demo.svg: a run of the demo as a terminal shows it.
#
#   demo/picture.sh SIDEKICK WORKER >docs/demo.svg     as `make picture` calls it
#
# It begins with the first command; what is said of this machine's engine and etcd before that is left out.
set -euo pipefail
here=$(dirname -- "$(realpath -- "$0")")

main() {
    local text
    text=$(DEMO_SECONDS=0 "$here/demo.sh" "$@" | sed -n '/^\$ /,$p' | sed '/^taking everything down$/,$d')
    [[ $text == *'no reload'* ]] || { echo "picture.sh: the demo did not come to its end" >&2 && exit 1; }
    # No path of the machine that it ran on; /services is etcd's.
    if grep -nE '(^|[ =:"])/' <<<"$text" | grep -vE '[ =]/services/'; then
        echo "picture.sh: these lines show a path" >&2 && exit 1
    fi
    svg <<<"$text"
}

# One <text> for each line. Commands are bright, and so is each time that was measured.
svg() {
    awk '
        function escaped(text) { gsub(/&/, "\\&amp;", text); gsub(/</, "\\&lt;", text); gsub(/>/, "\\&gt;", text); return text }
        { lines[NR] = $0; if (length($0) > columns) columns = length($0) }
        END {
            width = columns * 7.85 + 32; height = NR * 18 + 52
            printf "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n", width, height, width, height
            print "<title>make demo: one of two Redis is killed and started again; the client goes on</title>"
            print "<style>text { font: 13px ui-monospace, \"DejaVu Sans Mono\", Menlo, Consolas, monospace; fill: #c9d1d9; white-space: pre } .command { fill: #fff; font-weight: bold } .time { fill: #7ee787 }</style>"
            print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>"
            print "<circle cx=\"20\" cy=\"18\" r=\"5\" fill=\"#ff5f56\"/><circle cx=\"38\" cy=\"18\" r=\"5\" fill=\"#ffbd2e\"/><circle cx=\"56\" cy=\"18\" r=\"5\" fill=\"#27c93f\"/>"
            for (i = 1; i <= NR; i++) {
                line = escaped(lines[i])
                class = lines[i] ~ /^\$ / ? " class=\"command\"" : ""
                if (match(line, /[0-9.]+ ms /))
                    line = substr(line, 1, RSTART - 1) "<tspan class=\"time\">" substr(line, RSTART, RLENGTH - 1) "</tspan>" substr(line, RSTART + RLENGTH - 1)
                printf "<text x=\"16\" y=\"%d\"%s xml:space=\"preserve\">%s</text>\n", i * 18 + 32, class, line
            }
            print "</svg>"
        }'
}

main "$@"
