"""The scripts that Redis runs for the writer; that of a beat and a release stands in `lease.py`.

Always true here: a script refuses before its first write, or writes all that it was told to.
"""

import hashlib

# KEYS: lease, meta. ARGV: token, number, seq, events here (-1: the whole state is written anew, so a gap is no fault),
# then any number of (command, key, n, n arguments).
COMMIT = b"""
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  if not held then return redis.error_reply('LOST the lease') end
  return redis.error_reply('FENCED ' .. held)
end
local meta = redis.call('HMGET', KEYS[2], 'number', 'seq')
local number, applied, fresh = tonumber(ARGV[2]), tonumber(meta[1]), tonumber(ARGV[4])
if number <= applied then return 0 end
if fresh >= 0 then
  if number > applied + 1 then return redis.error_reply('GAP ' .. meta[1]) end
  if tonumber(ARGV[3]) < meta[2] + fresh then return redis.error_reply('SEQ ' .. meta[2]) end
end
local i, last = 5, #ARGV
while i < last do
  local stop = i + 2 + ARGV[i + 2]
  redis.call(ARGV[i], ARGV[i + 1], unpack(ARGV, i + 3, stop))
  i = stop + 1
end
redis.call('HSET', KEYS[2], 'number', ARGV[2], 'seq', ARGV[3])
return 1
"""

COMMIT_SHA = hashlib.sha1(COMMIT, usedforsecurity=False).hexdigest()

# KEYS: lease, meta, heartbeat. ARGV: schema, journal id, started, holder; and lease, heartbeat and number, where they
# must still be so.
ACQUIRE = b"""
if #ARGV > 4 then
  local lease, heartbeat = redis.call('GET', KEYS[1]) or '', redis.call('GET', KEYS[3]) or ''
  local number = redis.call('HGET', KEYS[2], 'number') or ''
  if lease ~= ARGV[5] or heartbeat ~= ARGV[6] or number ~= ARGV[7] then return false end
end
redis.call('HSETNX', KEYS[2], 'schema', ARGV[1])
redis.call('HSETNX', KEYS[2], 'journal_id', ARGV[2])
redis.call('HSETNX', KEYS[2], 'number', '0')
redis.call('HSETNX', KEYS[2], 'seq', '0')
local epoch = redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('HSET', KEYS[2], 'started', ARGV[3], 'holder', ARGV[4])
local journal_id = redis.call('HGET', KEYS[2], 'journal_id')
redis.call('SET', KEYS[1], journal_id .. ':' .. epoch)
redis.call('SET', KEYS[3], '0')
return {epoch, journal_id}
"""

# KEYS: lease. ARGV: token, then any number of (command, key, n, n arguments), as above.
MEND = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local i, last = 2, #ARGV
while i < last do
  local stop = i + 2 + ARGV[i + 2]
  redis.call(ARGV[i], ARGV[i + 1], unpack(ARGV, i + 3, stop))
  i = stop + 1
end
return 1
"""
