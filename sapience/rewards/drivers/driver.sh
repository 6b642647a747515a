
# Calls one function; its arguments stand on standard input, each ended by a byte of zero. Its answer is all that it writes.
mapfile -d '' -t SAPIENCE_ARGUMENTS
ENTRY_POINT "${SAPIENCE_ARGUMENTS[@]}" < /dev/null
