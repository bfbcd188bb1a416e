-- Let a session that its device never took wait for the device once more, if it may be tried again. Safe to repeat.
-- KEYS  1 session   2 its events
-- ARGV  1 attempt that failed   2 '1' = only if its task was never sent   3 bound of the events
--       4 when, ms, 5 the event (JSON)
-- reply {attempt} that begins, or {0} it may not be tried again, or waits for its device anyway
-- uses: _events
local there = redis.call('HMGET', KEYS[1], 'deadline_ms', 'state', 'attempts', 'max_attempts', 'queue_until_ms', 'events',
  'started_ms')
if not there[1] then return {0} end
local state, attempts = there[2] or 'created', tonumber(there[3] or '1')
if attempts == ARGV[1] + 1 and state == 'created' then return {attempts} end
if state ~= 'created' and state ~= 'dispatched' and state ~= 'suspended' then return {0} end
if there[7] then return {0} end
if ARGV[2] == '1' and state ~= 'created' then return {0} end
if attempts ~= tonumber(ARGV[1]) or attempts >= tonumber(there[4] or '1') then return {0} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(there[1]) <= now then return {0} end
if state == 'created' and tonumber(there[5] or '0') > now then return {0} end
-- First, since it takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
redis.call('HDEL', KEYS[1], 'dispatched_ms')
redis.call('HSET', KEYS[1], 'more', '1', 'state', 'created', 'attempts', attempts + 1, 'queue_until_ms', there[1],
  'events', note_events(4, 1, tonumber(there[6] or '0'), tonumber(ARGV[3])))
return {attempts + 1}
