# Packs programs and the libraries they need:  sh -c "$(cat image.sh)" TAR PROGRAM...
set -e
libraries=$(for program; do ldd "$program"; done | grep -o '/[^ ]*' | sort -u)
# shellcheck disable=SC2086 # one library a word
tar --create --dereference --file="$0" --absolute-names --transform='s,^/,,' \
    --transform='s,^usr/local/bin/,usr/bin/,' "$@" $libraries
