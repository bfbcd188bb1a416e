-- Let a session that its device never took wait for the device once more, if it may be tried again. Safe to repeat.
-- KEYS  1 session   2 its events
-- ARGV  1 attempt that failed   2 '1' = only if its task was never sent   3 bound of the events
--       4 0   5 event (JSON)
-- reply {attempt} that begins, or {0} it may not be tried again, or waits for its device anyway
-- uses: _events
local there = redis.call('HMGET', KEYS[1], 'state', 'attempts', 'max_attempts', 'deadline_ms', 'queue_until_ms',
  'events')
local attempts = tonumber(there[2] or '1')
if attempts == ARGV[1] + 1 and there[1] == 'created' then return {attempts} end
if there[1] ~= 'created' and there[1] ~= 'dispatched' and there[1] ~= 'suspended' then return {0} end
if redis.call('HEXISTS', KEYS[1], 'started_ms') == 1 then return {0} end
if ARGV[2] == '1' and there[1] ~= 'created' then return {0} end
if attempts ~= tonumber(ARGV[1]) or attempts >= tonumber(there[3] or '1') then return {0} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(there[4] or '0') <= now then return {0} end
if there[1] == 'created' and tonumber(there[5] or '0') > now then return {0} end
redis.call('HSET', KEYS[1], 'state', 'created', 'attempts', attempts + 1, 'queue_until_ms', there[4],
  'events', note_events(4, 1, now, tonumber(there[6] or '0'), tonumber(ARGV[3])))
redis.call('HDEL', KEYS[1], 'dispatched_ms')
return {attempts + 1}
