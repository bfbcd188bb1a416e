-- End a session; the first terminal state wins. Safe to repeat: the same end is answered the same. Wakes the nodes where
-- somebody waits for the end.
-- KEYS  1 session   2 its events   3 its journal
-- ARGV  1 state   2 result (JSON, '' = none)   3 error ('' = none)   4 retention, ms   5 event (JSON)
--       6 channel prefix ('' = the caller publishes)   7 session id   8 condition: '' = none, 'overdue' = only if its
--       deadline has passed, 'gone' = unless it waits for its device to come, 'untaken' = only if it has waited for that
--       long enough   9 id of this end   10 generation of the connection that ends it ('' = of none)
-- reply {1, owner, client id, task name, node ids of the watchers, of the followers, each in line breaks}; {0, state} it
--       had ended before, or the condition does not hold; {-1} no such session; {-2, state} a newer connection drives it
local there = redis.call('HMGET', KEYS[1], 'state', 'owner', 'client_id', 'task_name', 'watchers', 'deadline_ms',
  'followers', 'end_id', 'generation', 'queue_until_ms')
local state = there[1]
if not state then return {-1} end
if there[8] == ARGV[9] then return {1, there[2] or '', there[3] or '', there[4] or '', '', ''} end
if state == 'completed' or state == 'failed' or state == 'cancelled' or state == 'timed_out' then return {0, state} end
if ARGV[10] ~= '' and there[9] and tonumber(there[9]) > tonumber(ARGV[10]) then return {-2, state} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local queued = state == 'created' and tonumber(there[10] or '0') > now
if ARGV[8] == 'overdue' and tonumber(there[6] or '0') > now then return {0, state} end
if ARGV[8] == 'gone' and queued then return {0, state} end
if ARGV[8] == 'untaken' and (state ~= 'created' or queued) then return {0, state} end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'ended_ms', string.format('%d', now), 'end_id', ARGV[9])
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'result', ARGV[2]) end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'error', ARGV[3]) end
redis.call('HDEL', KEYS[1], 'watchers', 'followers', 'commands')
redis.call('DEL', KEYS[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('XADD', KEYS[2], '*', 'e', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if there[5] and ARGV[6] ~= '' then
  for node in string.gmatch(there[5], '[^\n]+') do
    redis.call('PUBLISH', ARGV[6] .. node, 'ended\n' .. ARGV[7])
  end
end
if there[7] and ARGV[6] ~= '' then
  for node in string.gmatch(there[7], '[^\n]+') do
    redis.call('PUBLISH', ARGV[6] .. node, 'event\n' .. ARGV[7])
  end
end
return {1, there[2] or '', there[3] or '', there[4] or '', there[5] or '', there[7] or ''}
