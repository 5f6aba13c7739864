"""The programs that the base64 rung runs on a node: POSIX sh, base64, dd and sha256sum; nothing is installed.

Each is one remote command. It reads requests, answers each with a line ``#<mark> <words>``, and ends when its input
ends. Files are held open and read on from where they are, so that a frame costs no search. Offsets and lengths come
with each request: the node counts nothing. dash, bash and busybox run them alike.
"""

from __future__ import annotations

import shlex
from typing import Final

BLOCK_BYTES: Final = 64 << 10
"""Frames of a fetch are whole blocks, but for the last."""

TEXT_BLOCK_BYTES: Final = 16 << 10
"""Text of a push is filled up with line ends to whole blocks, so that the node can take it off its input exactly."""

# A program that is not there is named before anything moves.
_HEAD: Final = """
LC_ALL=C; export LC_ALL
m={mark} f={path} at={start}
say() {{ echo "$m $*"; }}
for p in base64 dd sha256sum; do
  command -v "$p" >/dev/null 2>&1 || {{ say missing "$p"; exit 0; }}
done
"""

# Two descriptors read the same frame, one to hash it and one to send it, at the same time. A request for another offset
# than the next (a frame is asked again) opens the file anew.
_FETCH: Final = """
[ -e "$f" ] || { say gone; exit 0; }
[ -f "$f" ] && [ -r "$f" ] || { say refused; exit 0; }
block() { dd bs=BLOCK count="$blocks" 2>/dev/null; }
w=; base64 -w0 </dev/null >/dev/null 2>&1 && w=-w0
say ready
read -r at blocks next || exit 0
while :; do
  {
    dd bs=1 skip="$at" count=0 <&3 >/dev/null 2>&1
    dd bs=1 skip="$at" count=0 <&4 >/dev/null 2>&1
    here=$at
    while [ "$at" = "$here" ]; do
      s=$(block <&4 | sha256sum & block <&3 | base64 $w >&5)
      say frame "$at" "${s%% *}"
      here=$next
      read -r at blocks next || exit 0
    done
  } 3<"$f" 4<"$f" 5>&1 || { say gone; exit 0; }
done
""".replace("BLOCK", str(BLOCK_BYTES))

# Reading a pipe exactly: dd where it can fill a block, else a head that takes no more than it is told, else byte by
# byte. Each frame is written where it belongs and not at the end, so that others who push the same artifact now, or
# whose connection has not ended yet, only write the same bytes once more. After a frame that is not what was sent, the
# part is cut to where the last good frame ended, unless somebody else is ahead of us; the line "end" proves that the
# frame came whole. When the connection breaks within a frame, what came of it stays.
_PUSH: Final = """
if [ "$(echo abc | dd bs=4 count=1 iflag=fullblock 2>/dev/null)" = abc ]; then
  take() { dd bs=BLOCK count="$blocks" iflag=fullblock 2>/dev/null; }
elif [ "$(echo 'ab
cd' | { head -c 3 >/dev/null; read -r x; echo "$x"; })" = cd ]; then
  take() { head -c "$length"; }
else
  take() { dd bs=1 count="$length" 2>/dev/null; }
fi
there() { [ -n "$(dd bs=1 skip="$1" count=1 2>/dev/null | base64)" ]; }
cut() { [ ! -e "$f" ] || there "$next" <"$f" || dd if=/dev/null of="$f" bs=1 seek="$at" count=0 2>/dev/null; }
hello=ready
while :; do
  {
    [ "$at" = 0 ] || there $((at - 1)) <&4 || { say shorter; exit 0; }
    dd bs=1 seek="$at" count=0 </dev/null >&5 2>/dev/null
    [ -z "$hello" ] || say "$hello"
    hello=
    while :; do
      read -r off blocks length next sum || exit 0
      if [ "$off" != "$at" ]; then
        take >/dev/null
        read -r end || exit 0
        say skipped "$off"
        continue
      fi
      e=$(take | { base64 -d 2>&1 >&5 || dd of=/dev/null bs=BLOCK 2>/dev/null; })
      read -r end || exit 0
      [ "$end" = end ] || { say lost; exit 0; }
      s=$(dd bs=$((next - at)) count=1 <&4 2>/dev/null | sha256sum)
      if [ "${s%% *}" != "$sum" ]; then break; fi
      at=$next
      say kept "$off"
    done
    cut
    case $e in
      *"No space left"*|*"uota exceeded"*) say full "$off" ;;
      *) say bad "$off" ;;
    esac
  } 5<>"$f" 4<"$f" || { say refused; exit 0; }
done
""".replace("BLOCK", str(TEXT_BLOCK_BYTES))


def fetch_command(mark: str, path: str) -> str:
    """Give the remote command that reads a file.

    It says ``ready``, ``missing PROGRAM``, ``gone`` or ``refused``. Each request ``OFFSET BLOCKS NEXT`` is answered by
    the text of that many blocks and ``frame OFFSET SHA256``, the digest being that of the bytes; ``NEXT`` is the
    offset behind them.

    Args:
        mark: What begins its answers.
        path: Absolute path on the node.

    """
    return _command(mark, path, 0, _FETCH)


def push_command(mark: str, path: str, start: int) -> str:
    """Give the remote command that appends to a file, which it makes if it is not there.

    It says ``ready``, ``missing PROGRAM``, ``refused`` or ``shorter``. Each request ``OFFSET BLOCKS LENGTH NEXT
    SHA256`` is followed by ``LENGTH`` bytes of text, which are ``BLOCKS`` whole blocks, and a line ``end``; the answer
    is ``kept``, ``bad``, ``full`` or ``skipped`` with the offset. Frames that follow a bad one are skipped until its
    offset is sent again.

    Args:
        mark: What begins its answers.
        path: Absolute path on the node.
        start: Length that the file must have at least; what is behind it is written over.

    """
    return _command(mark, path, start, _PUSH)


def _command(mark: str, path: str, start: int, program: str) -> str:
    """Whatever shell the login has, ``sh`` runs it."""
    head = _HEAD.format(mark=shlex.quote(mark), path=shlex.quote(path), start=start)
    return f"exec sh -c {shlex.quote(head + program)}"
