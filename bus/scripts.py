"""What must happen in Redis at one stroke, as Lua, and how the calls are packed.

Each process reads through a consumer group of its own, named after its incarnation; a partition's stream has one
group at a time. Taking a partition destroys the groups of others, so that whatever they still read or settle has no
effect, and begins at 0: settled entries are deleted, so what is there is what nobody has settled, in order.

The scripts go over the wire with each call (EVAL): SCRIPT FLUSH or a restart can't take them away.
"""

from collections.abc import Sequence

from callboard.bus.keys import epoch_key
from callboard.bus.link import pack

# KEYS: stream, epoch key. ARGV: epoch, group, and the last entry that this process has read from the stream: '' if
# it takes the partition, so that all comes again.
# Gives {outcome, entry}. `refused`: a higher epoch has it. `intact`: the group is there, and goes on behind the last
# entry read; what Redis sent after that and nobody received is sent again. `taken`: the group begins at 0, and the
# entry is the stream's newest at that moment.
# SET comes before all other writes: out of memory, the script fails there and has changed nothing.
CLAIM = """
local held = tonumber(redis.call('GET', KEYS[2]) or '0')
if held > tonumber(ARGV[1]) then return {'refused', ''} end
local groups = {}
if redis.call('EXISTS', KEYS[1]) == 1 then groups = redis.call('XINFO', 'GROUPS', KEYS[1]) end
if held == tonumber(ARGV[1]) and ARGV[3] ~= '' then
    for _, group in ipairs(groups) do
        if group[2] == ARGV[2] then
            redis.call('XGROUP', 'SETID', KEYS[1], ARGV[2], ARGV[3])
            return {'intact', ''}
        end
    end
end
redis.call('SET', KEYS[2], ARGV[1])
for _, group in ipairs(groups) do redis.call('XGROUP', 'DESTROY', KEYS[1], group[2]) end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[2], '0', 'MKSTREAM')
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {'taken', newest[1] and newest[1][1] or '0-0'}
"""

# KEYS: stream. ARGV: group, entries (at most MAX_SETTLED). A former owner's group is gone, so that it acknowledges and
# deletes nothing. An entry that the group does not have pending, while it has others, was settled before.
SETTLE = """
local settled = redis.call('XACK', KEYS[1], unpack(ARGV))
if settled > 0 then redis.call('XDEL', KEYS[1], unpack(ARGV, 2)) end
return settled
"""

MAX_SETTLED = 512  # entries in one call: Lua's unpack takes some thousands, and other clients wait meanwhile


def claim(stream: str, epoch: int, group: str, last: bytes | str) -> bytes:
    """The packed call of CLAIM."""
    return pack("EVAL", CLAIM, "2", stream, epoch_key(stream), str(epoch), group, last)


def settle(stream: str, group: str, entries: Sequence[str]) -> bytes:
    """The packed call of SETTLE."""
    return pack("EVAL", SETTLE, "1", stream, group, *entries)
