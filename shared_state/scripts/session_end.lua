-- End a session; the first terminal state wins. Safe to repeat: the same end is answered the same. Wakes the nodes where
-- somebody waits for the end.
-- KEYS  1 session   2 its events   3 its journal   4 active sessions of its device, 5 the device's inbox (only where they
--       live together: what was handed over is taken off, and the session is settled)
-- ARGV  1 state   2 result (JSON, '' = none)   3 error ('' = none)   4 retention, ms (a hundredth of it does not matter)
--       5 channel prefix ('' = the caller publishes)   6 session id   7 condition: '' = none, 'overdue' = only if its
--       deadline has passed, 'gone' = unless it waits for its device to come, 'untaken' = only if it has waited for that
--       long enough   8 id of this end   9 generation of the connection that ends it ('' = of none)
--       10 entry of the inbox that was handed over ('' = none)   11 how many stamps   12 how many events follow
--       13.. stamp: field, how long ago, ms, ...; event: how long ago, ms, JSON, ...; field, value, ...
-- reply {1, order ('' if the caller gave the device's keys and nobody else asked for the session), node ids of the
--       watchers, of the followers, each in line breaks}; {0, state} it had ended before, or the condition does not hold;
--       {-1} no such session; {-2, state} a newer connection drives it
-- uses: _events
local function settle()
  if KEYS[4] then
    redis.call('ZREM', KEYS[4], ARGV[6])
    if ARGV[10] ~= '' then redis.call('XDEL', KEYS[5], ARGV[10]) end
  end
end
local there = redis.call('HMGET', KEYS[1], 'state', 'owner', 'end_id', 'generation', 'watchers', 'followers', 'commands',
  'journaled', 'events', 'deadline_ms', 'queue_until_ms', 'dispatched_ms', 'started_ms')
local state = there[1]
if not state then
  settle()
  return {-1}
end
local order = ''
if there[2] or not KEYS[4] then order = redis.call('HGET', KEYS[1], 'order') end
if there[3] == ARGV[8] then return {1, order, '', ''} end
if state == 'completed' or state == 'failed' or state == 'cancelled' or state == 'timed_out' then
  settle()
  return {0, state}
end
if ARGV[9] ~= '' and there[4] and tonumber(there[4]) > tonumber(ARGV[9]) then return {-2, state} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[7] ~= '' then
  local queued = state == 'created' and tonumber(there[11] or '0') > now
  if ARGV[7] == 'overdue' and tonumber(there[10] or '0') > now then return {0, state} end
  if ARGV[7] == 'gone' and queued then return {0, state} end
  if ARGV[7] == 'untaken' and (state ~= 'created' or queued) then return {0, state} end
end
local fields = {'state', ARGV[1], 'ended_ms', now, 'end_id', ARGV[8]}
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
local at = 13
local stamped = {dispatched_ms = there[12], started_ms = there[13]}
for _ = 1, tonumber(ARGV[11]) do
  if not stamped[ARGV[at]] then set(ARGV[at], now - ARGV[at + 1]) end
  at = at + 2
end
local events, noted = tonumber(ARGV[12]), tonumber(there[9] or '0')
set('last_events', table.concat(numbered(at, events, now, noted), '\n'))
at = at + 2 * events
if ARGV[2] ~= '' then set('result', ARGV[2]) end
if ARGV[3] ~= '' then set('error', ARGV[3]) end
for i = at, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[1], unpack(fields))
if there[5] or there[6] or there[7] then redis.call('HDEL', KEYS[1], 'watchers', 'followers', 'commands') end
-- It lives until its deadline and the retention: cut to the retention where that is worth a command.
if tonumber(there[10] or '0') - now > ARGV[4] / 100 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
if noted > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
if there[8] then redis.call('DEL', KEYS[3]) end
settle()
if there[5] and ARGV[5] ~= '' then
  for node in string.gmatch(there[5], '[^\n]+') do
    redis.call('PUBLISH', ARGV[5] .. node, 'ended\n' .. ARGV[6])
  end
end
if there[6] and ARGV[5] ~= '' then
  for node in string.gmatch(there[6], '[^\n]+') do
    redis.call('PUBLISH', ARGV[5] .. node, 'event\n' .. ARGV[6])
  end
end
return {1, order, there[5] or '', there[6] or ''}
